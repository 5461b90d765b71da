/*
 * template: a model's chat template, rendered as Jinja2 renders it.
 *
 * The language is the part of Jinja2 that chat templates use, set up as
 * transformers does: trim_blocks, lstrip_blocks, break and continue, plain
 * Python values, its own tojson.  A template is data of the model's author
 * and is not trusted: it reaches nothing but the variables it is given, and
 * steps, depth, memory and output are bounded.
 *
 * Every byte that is rendered carries a mark: did it come from the template
 * (or from a variable that the caller vouches for), or from the request?
 * The tokenizer makes special tokens of marked bytes only, so that no user
 * can write one.
 */

#ifndef MOE_TEMPLATE_H
#define MOE_TEMPLATE_H


#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"


typedef struct moe_template_s  moe_template_t;


/* limits in force where the environment says 0 */
#define MOE_TEMPLATE_STEPS   (20u * 1000 * 1000)
#define MOE_TEMPLATE_DEPTH   400
#define MOE_TEMPLATE_OUTPUT  (32u << 20)
#define MOE_TEMPLATE_MEMORY  (256u << 20)

/* the longest source that compiles */
#define MOE_TEMPLATE_SOURCE  (1u << 20)


typedef struct {
    int64_t             now;         /* strftime_now: Unix seconds, in UTC */
    const char *const  *trusted;     /* names of variables that count as the
                                        template's own ("bos_token"), ended
                                        by NULL; NULL: none */
    size_t              max_steps;   /* nodes evaluated, and bytes handled
                                        in lots of 64 */
    size_t              max_depth;   /* nested calls, blocks, expressions */
    size_t              max_output;  /* bytes rendered */
    size_t              max_memory;  /* bytes of values while rendering */
} moe_template_env_t;


typedef enum {
    MOE_TEMPLATE_OK,
    MOE_TEMPLATE_RAISED,   /* the template called raise_exception: the
                              request is at fault, err is its message */
    MOE_TEMPLATE_FAILED,   /* undefined variable, wrong type, ... */
    MOE_TEMPLATE_LIMIT     /* steps, depth, output or memory */
} moe_template_status_e;


typedef struct {
    moe_template_status_e   status;
    char                   *text;    /* UTF-8, a zero byte after it */
    size_t                  len;
    uint8_t                *trust;   /* len bytes: 1 template, 0 request */
} moe_rendered_t;


/*
 * Compiles len bytes of UTF-8.  The template is immutable: any number of
 * threads may render it at once.  NULL: err names the line.
 */
moe_template_t *moe_template_compile(const char *src, size_t len,
    moe_err_t *err);

void moe_template_free(moe_template_t *t);

/*
 * Renders with the members of the object vars (messages, tools,
 * add_generation_prompt, bos_token, ...) as variables; vars is only read.
 * A member that is JSON null is None, an absent one undefined, as in Python.
 * The role of a message counts as the template's own if it is one of the
 * API's (system, developer, user, assistant, tool, function).  env may be
 * NULL.  0: out owns its text until moe_rendered_free.  -1: out->status
 * says why, its other members are empty, err has the line.
 */
int moe_template_render(const moe_template_t *t, const json_t *vars,
    const moe_template_env_t *env, moe_rendered_t *out, moe_err_t *err);

void moe_rendered_free(moe_rendered_t *r);


#endif /* MOE_TEMPLATE_H */
