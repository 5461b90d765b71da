/*
 * shape: of a model, what decides how fast a fleet can serve it.
 *
 * Taken from its config alone; no weights are read.  Parameters are counts of
 * numbers, not of bytes: how many bytes one takes is the fleet's choice.
 */

#ifndef MOE_PLAN_SHAPE_H
#define MOE_PLAN_SHAPE_H


#include "base/err.h"
#include "model/config.h"


typedef struct {
    double  layers;
    double  moe_layers;
    double  hidden;
    double  vocab;
    double  heads;
    double  kv_heads;       /* 1 for a latent cache */
    double  kv_width;       /* values a token keeps in a layer */
    double  attn_ops;       /* multiplications of a head with one key: its
                             * score and its value, as they are stored */
    double  experts;        /* routed, of a layer */
    double  top_k;
    double  groups;         /* of experts; 1: none */
    double  expert_ffn;     /* width of one */

    double  w_attn;         /* parameters of a layer's attention */
    double  w_expert;       /* of one routed expert */
    double  w_shared;       /* of a layer's shared experts; 0: none */
    double  w_dense;        /* of a dense layer's feed-forward */
    double  w_total;        /* all of them, embedding and head too */
    double  w_active;       /* those that a token passes, without embedding */
} moe_plan_shape_t;


void moe_plan_shape(const moe_config_t *cfg, moe_plan_shape_t *s);

/* DeepSeek-V3 and R1: what the measurements are of that the model is
 * calibrated on. */
void moe_plan_shape_v3(moe_plan_shape_t *s);


#endif /* MOE_PLAN_SHAPE_H */
