/*
 * capacity: how long a step takes and how much fits, in closed form.
 *
 * A decode step of DeepSeek-shaped models on a fleet, in one of three ways:
 *
 *     tensor   every device has a slice of all weights; the latent KV cache
 *              is on every one of them, as it has no heads to be cut by
 *     hybrid   experts cut as above, attention data-parallel: a device keeps
 *              the KV of its own requests alone
 *     expert   expert parallel: attention data-parallel, experts spread over
 *              the devices, rows exchanged in every layer
 *
 * Times of a layer are the larger of what memory and arithmetic ask for, at
 * efficiencies that fit published measurements (plan/calibrate.c).  Two-batch
 * overlap hides a part of the shorter of exchange and computing.
 *
 * Seconds, bytes, rows.  Pure functions.
 */

#ifndef MOE_PLAN_CAPACITY_H
#define MOE_PLAN_CAPACITY_H


#include "plan/hardware.h"
#include "plan/shape.h"


typedef enum {
    MOE_PLAN_TENSOR,
    MOE_PLAN_HYBRID,
    MOE_PLAN_EXPERT
} moe_plan_way_e;


typedef struct {
    moe_plan_shape_t     model;
    moe_plan_hardware_t  hw;
    moe_plan_way_e       way;
    double               devices;
    double               spare;      /* replicas of experts beyond one each */
    double               context;    /* tokens of KV a sequence */
    double               drafts;     /* tokens of a sequence in a step, >= 1 */
    double               accepted;   /* of which so many come out, >= 1 */
    double               skew;       /* largest load of a rank over the mean */
    double               kernels;    /* of the kernels' efficiency, tensor and
                                      * hybrid only: 1 is as good as ours */
    double               overlap;    /* part of the shorter of exchange and
                                      * computing that is hidden; 0: one
                                      * batch after the other */
    double               w_bytes;    /* of a parameter of the layers */
    double               head_bytes; /* of embedding and head */
    double               kv_bytes;   /* of a value of KV */
} moe_plan_t;


/* a layer with experts, of one device, one batch and not overlapped */
typedef struct {
    double               attention;
    double               projections;
    double               experts;
    double               shared;
    double               rest;
    double               exchange;
} moe_plan_layer_t;


/*
 * What one device does in one pass, counted or expected.  Keys of a sequence
 * are read once for all its rows.
 */
typedef struct {
    double               rows;
    double               keys;       /* of KV that are read */
    double               pairs;      /* of rows that decode with keys */
    double               prompts;    /* of rows of prompts with keys; these
                                      * are expanded first */
} moe_plan_rows_t;

/* the same of a layer's experts */
typedef struct {
    double               touched;    /* experts whose weights are read */
    double               rows;       /* that they compute in all */
    double               each;       /* rows of one, that its speed hangs on */
} moe_plan_experts_t;


/* what a fleet does at its best within a time a token */
typedef struct {
    double               kv;         /* bytes left for KV, a device; negative
                                      * where weights alone do not fit */
    double               fit;        /* sequences a device that fit in it */
    double               batch;      /* sequences a device that are run */
    double               step;       /* seconds */
    double               rate;       /* tokens a second and device */
    double               user;       /* tokens a second and sequence */
} moe_plan_point_t;


/* Zeroes p and sets what is usual: one token a step, skew 1.2, overlap 0.6,
 * weights in 8 bits, head and KV in 16. */
void moe_plan_defaults(moe_plan_t *p);

/* Spare replicas as DeepSeek takes them: an eighth of the experts from 32
 * devices on, rounded up so that every device has as many slots. */
double moe_plan_spare(double experts, double devices);

/* Seconds of one decode step with so many sequences a device. */
double moe_plan_step(const moe_plan_t *p, double batch);

/* of one layer, expert parallel, for a table of where time goes */
void moe_plan_layer(const moe_plan_t *p, double batch,
    moe_plan_layer_t *layer);

/*
 * The parts of a step of expert parallelism, for one device, in seconds: of a
 * layer attention, projections and the rest; routed experts and the shared
 * one for so many rows; and the exchange, where the busiest device computes
 * top_k experts each for so many rows.  Last what is not in layers with
 * experts: dense ones, head, sampling.
 */
double moe_plan_attend(const moe_plan_t *p, const moe_plan_rows_t *rows);
double moe_plan_expert(const moe_plan_t *p, const moe_plan_experts_t *e);
double moe_plan_shared(const moe_plan_t *p, double rows);
double moe_plan_exchange(const moe_plan_t *p, double rows);
double moe_plan_outside(const moe_plan_t *p, const moe_plan_rows_t *rows,
    double logits);

/* A layer as one batch or, where that is shorter, as two halves that overlap:
 * computing and exchange of the whole, and of each half. */
double moe_plan_overlapped(const moe_plan_t *p, double compute, double move,
    double half_compute, double half_move);

/* Bytes of one device that weights take, and that are left for KV. */
double moe_plan_weights(const moe_plan_t *p);
double moe_plan_kv(const moe_plan_t *p);

/* bytes of KV a token, all layers */
double moe_plan_kv_token(const moe_plan_t *p);

/* The most sequences whose step stays within tpot seconds a token. */
void moe_plan_solve(const moe_plan_t *p, double tpot, moe_plan_point_t *out);

/*
 * Prompt tokens a second and device, expert parallel or hybrid: arithmetic
 * and exchange of long batches.  len is a prompt's length.
 */
double moe_plan_prefill(const moe_plan_t *p, double len);

/* Experts of n that rows touch, each row top_k of all. */
double moe_plan_distinct(const moe_plan_shape_t *s, double n, double rows);


#endif /* MOE_PLAN_CAPACITY_H */
