/*
 * messages: a request's messages as chat templates expect them.
 *
 * Text parts of a content become one string, one under the other.  A message's
 * reasoning has the names "reasoning_content" and "thinking", whichever of
 * "reasoning_content", "thinking" and "reasoning" it came as.  Arguments of an
 * assistant's tool calls that are JSON text are what that text says; without
 * any they are an empty object, and a list of no calls is none.
 */

#ifndef MOE_MESSAGES_H
#define MOE_MESSAGES_H


#include <jansson.h>

#include "base/err.h"


/* Changes the parsed list in place.  -1: it is none, or a line in err that
 * names the message. */
int moe_messages_prepare(json_t *messages, moe_err_t *err);


#endif /* MOE_MESSAGES_H */
