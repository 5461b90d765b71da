/*
 * prompt: a job's messages or prompts become token ids.
 *
 * It runs in the loop or in the thread of prepare.c, and so touches nothing
 * but its task and what never changes; what is wrong is noted in the task.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "front/front.h"
#include "front/messages.h"


static void moe_prompt_error(moe_task_t *t, uint32_t status,
    const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));


static void
moe_prompt_error(moe_task_t *t, uint32_t status, const char *code,
    const char *param, const char *fmt, ...)
{
    va_list  args;

    if (t->wrong.status) {
        return;
    }

    t->wrong.status = status;
    t->wrong.code = code;
    t->wrong.param = param;

    va_start(args, fmt);
    vsnprintf(t->wrong.message, sizeof(t->wrong.message), fmt, args);
    va_end(args);
}


static void
moe_prompt_memory(moe_task_t *t)
{
    moe_prompt_error(t, 500, NULL, NULL, "the engine is out of memory");
}


static json_t *
moe_prompt_json(moe_task_t *t, const moe_str_t *str, const char *param)
{
    json_t        *json;
    json_error_t   je;

    json = json_loadb(str->data, str->len, JSON_ALLOW_NUL, &je);

    if (json == NULL) {
        moe_prompt_error(t, 400, NULL, param, "%s: %s", param, je.text);
    }

    return json;
}


static json_t *
moe_prompt_messages(moe_task_t *t)
{
    json_t     *messages;
    moe_err_t   err;

    messages = moe_prompt_json(t, &t->job.messages, "messages");

    if (messages && moe_messages_prepare(messages, &err) == -1) {
        moe_prompt_error(t, 400, NULL, "messages", "%s", err.text);
        json_decref(messages);
        return NULL;
    }

    return messages;
}


/* chat_template_kwargs may not name what counts as the template's own, nor
 * what the request has given already */

static int
moe_prompt_kwargs(moe_task_t *t, json_t *vars)
{
    json_t      *kwargs, *value;
    const char  *key;

    if (t->job.kwargs.len == 0) {
        return 0;
    }

    kwargs = moe_prompt_json(t, &t->job.kwargs, "chat_template_kwargs");

    if (kwargs == NULL) {
        return -1;
    }

    json_object_foreach(kwargs, key, value) {

        if (json_object_get(vars, key)
            && strcmp(key, "add_generation_prompt") != 0)
        {
            moe_prompt_error(t, 400, NULL, "chat_template_kwargs",
                             "chat_template_kwargs: \"%.100s\" cannot be set.",
                             key);
            json_decref(kwargs);
            return -1;
        }

        json_object_set(vars, key, value);
    }

    if (!json_is_object(kwargs)) {
        moe_prompt_error(t, 400, NULL, "chat_template_kwargs",
                         "chat_template_kwargs: not an object.");
    }

    json_decref(kwargs);

    return t->wrong.status ? -1 : 0;
}


static json_t *
moe_prompt_vars(moe_task_t *t)
{
    json_t  *vars, *messages, *tools;

    messages = moe_prompt_messages(t);
    if (messages == NULL) {
        return NULL;
    }

    vars = json_copy(t->front->text.tokens);
    json_object_set_new(vars, "messages", messages);
    json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "add_generation_prompt",
                        json_boolean(!(t->job.flags
                                       & MOE_JOB_NO_GEN_PROMPT)));

    tools = json_null();

    if (t->job.tools.len) {
        tools = moe_prompt_json(t, &t->job.tools, "tools");
    }

    json_object_set_new(vars, "tools", tools);

    if (tools == NULL || moe_prompt_kwargs(t, vars) == -1) {
        json_decref(vars);
        return NULL;
    }

    return vars;
}


static int
moe_prompt_chat(moe_task_t *t, moe_ids_t *ids)
{
    int                  rc;
    json_t              *vars;
    moe_err_t            err;
    moe_rendered_t       out;
    const moe_text_t    *text;
    moe_template_env_t   env;

    text = &t->front->text;

    if (text->template == NULL) {
        moe_prompt_error(t, 400, NULL, "messages",
                         "This model has no chat template: use "
                         "/v1/completions.");
        return -1;
    }

    vars = moe_prompt_vars(t);
    if (vars == NULL) {
        return -1;
    }

    memset(&env, 0, sizeof(moe_template_env_t));
    env.now = time(NULL);
    env.trusted = text->trusted;

    rc = moe_template_render(text->template, vars, &env, &out, &err);
    json_decref(vars);

    if (rc == -1) {
        moe_prompt_error(t, 400, NULL, "messages",
                         out.status == MOE_TEMPLATE_RAISED
                         ? "%s" : "The chat template cannot render these "
                                  "messages: %s", err.text);
        return -1;
    }

    rc = moe_tokenizer_encode(text->tokenizer, out.text, out.len, out.trust,
                              MOE_TOK_SPECIAL, ids, &err);
    moe_rendered_free(&out);

    if (rc == -1) {
        moe_prompt_error(t, 400, NULL, "messages", "messages: %s", err.text);
    }

    return rc;
}


static int
moe_prompt_text(moe_task_t *t, const moe_prompt_t *p, moe_ids_t *ids)
{
    unsigned    flags;
    moe_err_t   err;

    flags = MOE_TOK_SPECIAL;

    if (!(t->job.flags & MOE_JOB_NO_SPECIAL)) {
        flags |= MOE_TOK_ADD_BOS;
    }

    if (moe_tokenizer_encode(t->front->text.tokenizer, p->data, p->n, NULL,
                             flags, ids, &err)
        == -1)
    {
        moe_prompt_error(t, 400, NULL, "prompt", "prompt: %s", err.text);
        return -1;
    }

    return 0;
}


static int
moe_prompt_given(moe_task_t *t, const moe_prompt_t *p, moe_ids_t *ids)
{
    ids->ids = malloc((p->n ? p->n : 1) * sizeof(uint32_t));

    if (ids->ids == NULL) {
        moe_prompt_memory(t);
        return -1;
    }

    if (p->n) {
        memcpy(ids->ids, p->data, p->n * sizeof(uint32_t));
    }

    ids->n = p->n;
    ids->cap = p->n;

    return 0;
}


/* nothing at all is the beginning of a text */

static int
moe_prompt_begin(moe_task_t *t, moe_ids_t *ids)
{
    uint32_t           *p;
    const moe_text_t   *text;

    text = &t->front->text;

    if (ids->n || t->job.kind != MOE_JOB_COMPLETION) {
        return 0;
    }

    if (text->bos == MOE_TOK_NONE && text->neos == 0) {
        moe_prompt_error(t, 400, NULL, "prompt", "prompt: it is empty.");
        return -1;
    }

    p = realloc(ids->ids, sizeof(uint32_t));

    if (p == NULL) {
        moe_prompt_memory(t);
        return -1;
    }

    p[0] = text->bos != MOE_TOK_NONE ? text->bos : text->eos[0];

    ids->ids = p;
    ids->n = 1;
    ids->cap = 1;

    return 0;
}


/* a tokenizer may have more tokens than its model has rows */

static int
moe_prompt_check(moe_task_t *t, const moe_ids_t *ids)
{
    size_t       i;
    uint32_t     vocab;
    const char  *name;

    name = t->job.messages.len ? "messages"
           : t->job.kind == MOE_JOB_DETOKENIZE ? "tokens" : "prompt";

    vocab = (uint32_t) t->front->text.config.vocab;

    for (i = 0; i < ids->n; i++) {
        if (ids->ids[i] >= vocab) {
            moe_prompt_error(t, 400, NULL, name, "%s: there is no token %u.",
                             name, ids->ids[i]);
            return -1;
        }
    }

    return 0;
}


static int
moe_prompt_one(moe_task_t *t, uint32_t i)
{
    int                  rc;
    moe_ids_t           *ids;
    const moe_prompt_t  *p;

    ids = &t->prompts[i];

    if (t->job.messages.len) {
        rc = moe_prompt_chat(t, ids);

    } else {
        p = &t->job.prompts[i];

        rc = p->is_ids ? moe_prompt_given(t, p, ids)
                       : moe_prompt_text(t, p, ids);

        if (rc == 0) {
            rc = moe_prompt_begin(t, ids);
        }
    }

    return rc == 0 ? moe_prompt_check(t, ids) : rc;
}


void
moe_prompt_make(moe_task_t *t)
{
    uint32_t  i, n;

    n = t->job.messages.len ? 1 : t->job.nprompts;

    if (n == 0 || (t->job.kind == MOE_JOB_CHAT) != (t->job.messages.len != 0))
    {
        if (t->job.kind != MOE_JOB_TOKENIZE || n == 0) {
            moe_prompt_error(t, 400, NULL, NULL, "There is no prompt.");
            return;
        }
    }

    t->prompts = calloc(n, sizeof(moe_ids_t));
    t->cached = calloc(n, sizeof(uint32_t));

    if (t->prompts == NULL || t->cached == NULL) {
        moe_prompt_memory(t);
        return;
    }

    t->nprompts = n;

    for (i = 0; i < n; i++) {
        if (moe_prompt_one(t, i) == -1) {
            return;
        }
    }

    if (t->job.kind == MOE_JOB_CHAT && t->prompts[0].n == 0) {
        moe_prompt_error(t, 400, NULL, "messages",
                         "messages: they render to nothing.");
        return;
    }
}
