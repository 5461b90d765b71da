/*
 * expert_places: where the weights of a rank's experts are on its device, and
 * how others come there while steps go on.
 *
 * Every layer has as many places as the rank has experts of it at a time, each
 * as large as the layer's largest expert.  Beside them are as many places of
 * the model's largest, taken at load as all of it: a thread copies the experts
 * that a layer is to have into those, from the mapped files and without a word
 * to the operations, and once they are all there, between two steps, they are
 * moved within the device to places of the layer that are no longer needed.  So
 * nothing is allocated, and a step never waits for a file.
 */

#ifndef MOE_EXPERT_PLACES_H
#define MOE_EXPERT_PLACES_H


#include "model/decoder.h"


/*
 * Of a model whose layers point to what is mapped yet, and whose exchange has
 * places.  NULL and a line in err without memory.
 */
moe_expert_places_t *moe_expert_places_create(moe_model_t *m, moe_err_t *err);

/* Ends the thread. */
void moe_expert_places_free(moe_expert_places_t *p);

/* Bytes of all places of a layer; 0: it has none.  And of those beside
 * them. */
size_t moe_expert_places_bytes(const moe_expert_places_t *p, uint32_t layer);
size_t moe_expert_places_aside(const moe_expert_places_t *p);

/* Where in the layer's bytes the next expert goes, at load, in the order of
 * experts. */
size_t moe_expert_places_add(moe_expert_places_t *p, uint32_t layer,
    uint32_t expert);

/* Where on the device they are, as far as they have bytes. */
void moe_expert_places_are(moe_expert_places_t *p, uint32_t layer, void *mem);
void moe_expert_places_aside_is(moe_expert_places_t *p, void *mem);

/* Once all weights are there: tells the exchange, if experts are to move. */
int moe_expert_places_start(moe_expert_places_t *p, moe_err_t *err);


#endif /* MOE_EXPERT_PLACES_H */
