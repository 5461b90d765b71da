
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * The engine's events out, as OpenAI's objects.  Deltas gather in their
 * choice until they are rendered, so that a client that reads slowly gets
 * fewer and larger frames, and a reply that is not streamed is the same text
 * rendered once, at its end.
 */


#include "ngx_http_moe_dialect.h"


#define NGX_HTTP_MOE_LOGPROB_MIN  -9999.0


static ngx_int_t ngx_http_moe_chat_logprobs(ngx_http_moe_choice_t *ch,
    const moe_delta_t *delta);
static ngx_int_t ngx_http_moe_completion_logprobs(ngx_http_moe_choice_t *ch,
    const moe_delta_t *delta);
static ngx_int_t ngx_http_moe_chunk(ngx_http_moe_api_t *api,
    ngx_http_moe_choice_t *ch, ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_usage(ngx_http_moe_api_t *api,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_object(ngx_http_moe_api_t *api,
    ngx_http_moe_out_t *out);


static const char  *ngx_http_moe_finishes[] = {
    "null", "\"stop\"", "\"length\"", "\"stop\"", "\"stop\""
};


#define ngx_http_moe_out_literal(out, text)                                  \
    ngx_http_moe_out_add(out, text, sizeof(text) - 1)


ngx_int_t
ngx_http_moe_api_started(ngx_http_moe_api_t *api, ngx_str_t *model,
    u_char *fingerprint, moe_started_t *started)
{
    u_char              hex[16];
    ngx_str_t          *name;
    ngx_uint_t          i;
    ngx_http_moe_out_t  out;

    static const char  *objects[] = {
        "chat.completion", "text_completion", "", ""
    };

    api->usage = *started;

    if (api->choices == NULL) {
        api->choices = ngx_pcalloc(api->pool, api->nchoices
                                              * sizeof(ngx_http_moe_choice_t));
        if (api->choices == NULL) {
            return NGX_ERROR;
        }
    }

    /* the role chunk goes out with the header */

    for (i = 0; i < api->nchoices; i++) {
        api->choices[i].dirty = (api->endpoint == NGX_HTTP_MOE_API_CHAT);
    }

    name = api->model.len ? &api->model : model;

    ngx_hex_dump(hex, fingerprint, sizeof(hex) / 2);
    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));

    if (ngx_http_moe_out_printf(&out, "{\"id\":\"%V\",\"object\":\"%s%s\","
                                "\"created\":%T,\"model\":\"",
                                &api->id, objects[api->endpoint],
                                (api->stream && api->endpoint
                                                == NGX_HTTP_MOE_API_CHAT)
                                ? ".chunk" : "", api->created)
           != NGX_OK
        || ngx_http_moe_out_json(&out, name->data, name->len) != NGX_OK
        || ngx_http_moe_out_printf(&out, "\",\"system_fingerprint\":"
                                   "\"fp_%*s\",\"choices\":[",
                                   sizeof(hex), hex)
           != NGX_OK)
    {
        ngx_http_moe_out_free(&out);
        return NGX_ERROR;
    }

    api->prefix.len = out.len;
    api->prefix.data = ngx_pnalloc(api->pool, out.len);

    if (api->prefix.data) {
        ngx_memcpy(api->prefix.data, out.data, out.len);
    }

    ngx_http_moe_out_free(&out);

    return api->prefix.data ? NGX_OK : NGX_ERROR;
}


void
ngx_http_moe_api_again(ngx_http_moe_api_t *api)
{
    ngx_uint_t              i;
    ngx_http_moe_choice_t  *ch;

    api->nids = 0;
    api->pending = 0;
    api->completion_tokens = 0;

    for (i = 0; api->choices && i < api->nchoices; i++) {
        ch = &api->choices[i];

        ch->text.len = 0;
        ch->logprobs.len = 0;
        ch->tops.len = 0;
        ch->values.len = 0;
        ch->offsets.len = 0;
        ch->offset = 0;
        ch->finish = MOE_FINISH_NONE;
        ch->begun = 0;
        ch->ended = 0;
    }
}


ngx_int_t
ngx_http_moe_api_delta(ngx_http_moe_api_t *api, const moe_delta_t *delta)
{
    ngx_int_t               rc;
    ngx_uint_t              i;
    ngx_http_moe_choice_t  *ch;

    if (delta->choice >= api->nchoices) {
        return NGX_DECLINED;
    }

    ch = &api->choices[delta->choice];

    if (ch->finish) {
        return NGX_DECLINED;
    }

    if (api->endpoint == NGX_HTTP_MOE_API_TOKENIZE) {

        for (i = 0; i < delta->nids; i++) {
            if (ngx_http_moe_out_printf(&ch->text, "%s%uD",
                                        api->nids++ ? "," : "",
                                        delta->ids[i])
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        return NGX_OK;
    }

    if (ngx_http_moe_out_add(&ch->text, delta->text, delta->ntext)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (api->logprobs && delta->nlp) {

        rc = (api->endpoint == NGX_HTTP_MOE_API_CHAT)
             ? ngx_http_moe_chat_logprobs(ch, delta)
             : ngx_http_moe_completion_logprobs(ch, delta);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    ch->finish = delta->finish;
    ch->dirty = 1;

    api->completion_tokens = delta->total_tokens;
    api->pending += delta->ntext + delta->lp_size;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_logprob(ngx_http_moe_out_t *out, float value)
{
    int     n;
    char    buf[32];
    double  v;

    if (value != value) {
        return ngx_http_moe_out_literal(out, "null");
    }

    v = (value < NGX_HTTP_MOE_LOGPROB_MIN) ? NGX_HTTP_MOE_LOGPROB_MIN : value;
    v = (v > 0) ? 0 : v;

    n = snprintf(buf, sizeof(buf), "%.9g", v);

    return ngx_http_moe_out_add(out, buf, n);
}


static ngx_int_t
ngx_http_moe_quoted(ngx_http_moe_out_t *out, const void *data, size_t len)
{
    if (ngx_http_moe_out_literal(out, "\"") != NGX_OK
        || ngx_http_moe_out_json(out, data, len) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_literal(out, "\"");
}


/* {"token":...,"logprob":...,"bytes":[...] and no end */

static ngx_int_t
ngx_http_moe_chat_token(ngx_http_moe_out_t *out, moe_lp_t *lp)
{
    ngx_uint_t  i;

    if (ngx_http_moe_out_literal(out, "{\"token\":") != NGX_OK
        || ngx_http_moe_quoted(out, lp->bytes, lp->len) != NGX_OK
        || ngx_http_moe_out_literal(out, ",\"logprob\":") != NGX_OK
        || ngx_http_moe_logprob(out, lp->logprob) != NGX_OK
        || ngx_http_moe_out_literal(out, ",\"bytes\":[") != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < lp->len; i++) {
        if (ngx_http_moe_out_printf(out, "%s%d", i ? "," : "",
                                    (int) (u_char) lp->bytes[i])
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_literal(out, "]");
}


static ngx_int_t
ngx_http_moe_chat_logprobs(ngx_http_moe_choice_t *ch,
    const moe_delta_t *delta)
{
    ngx_uint_t           i, k, n;
    moe_lp_t             lp, top;
    const void          *p, *end;
    ngx_http_moe_out_t  *out;

    out = &ch->logprobs;
    p = delta->lp;
    end = (const u_char *) delta->lp + delta->lp_size;

    for (i = 0; i < delta->nlp; i++) {

        if (moe_lp_read(&lp, &p, end) != MOE_JOBQ_OK) {
            return NGX_DECLINED;
        }

        if ((out->len && ngx_http_moe_out_literal(out, ",") != NGX_OK)
            || ngx_http_moe_chat_token(out, &lp) != NGX_OK
            || ngx_http_moe_out_literal(out, ",\"top_logprobs\":[") != NGX_OK)
        {
            return NGX_ERROR;
        }

        n = lp.ntop;

        for (k = 0; k < n; k++) {

            if (moe_lp_read(&top, &p, end) != MOE_JOBQ_OK) {
                return NGX_DECLINED;
            }

            if ((k && ngx_http_moe_out_literal(out, ",") != NGX_OK)
                || ngx_http_moe_chat_token(out, &top) != NGX_OK
                || ngx_http_moe_out_literal(out, "}") != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        if (ngx_http_moe_out_literal(out, "]}") != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* the alternatives of one token as an object of their texts */

static ngx_int_t
ngx_http_moe_completion_tops(ngx_http_moe_out_t *out, moe_lp_t *lp,
    const void **p, const void *end)
{
    moe_lp_t    top;
    ngx_uint_t  k, n;

    if (lp->logprob != lp->logprob) {
        return ngx_http_moe_out_literal(out, "null");
    }

    n = lp->ntop;

    if (ngx_http_moe_out_literal(out, "{") != NGX_OK) {
        return NGX_ERROR;
    }

    for (k = 0; k < n; k++) {

        if (moe_lp_read(&top, p, end) != MOE_JOBQ_OK) {
            return NGX_DECLINED;
        }

        if ((k && ngx_http_moe_out_literal(out, ",") != NGX_OK)
            || ngx_http_moe_quoted(out, top.bytes, top.len) != NGX_OK
            || ngx_http_moe_out_literal(out, ":") != NGX_OK
            || ngx_http_moe_logprob(out, top.logprob) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_literal(out, "}");
}


static ngx_int_t
ngx_http_moe_completion_logprobs(ngx_http_moe_choice_t *ch,
    const moe_delta_t *delta)
{
    moe_lp_t      lp;
    ngx_int_t     rc;
    ngx_uint_t    i, k;
    const char   *comma;
    const void   *p, *end;

    p = delta->lp;
    end = (const u_char *) delta->lp + delta->lp_size;

    for (i = 0; i < delta->nlp; i++) {

        if (moe_lp_read(&lp, &p, end) != MOE_JOBQ_OK) {
            return NGX_DECLINED;
        }

        comma = ch->logprobs.len ? "," : "";

        if (ngx_http_moe_out_printf(&ch->logprobs, "%s", comma) != NGX_OK
            || ngx_http_moe_quoted(&ch->logprobs, lp.bytes, lp.len) != NGX_OK
            || ngx_http_moe_out_printf(&ch->values, "%s", comma) != NGX_OK
            || ngx_http_moe_logprob(&ch->values, lp.logprob) != NGX_OK
            || ngx_http_moe_out_printf(&ch->offsets, "%s%uz", comma,
                                       ch->offset)
               != NGX_OK
            || ngx_http_moe_out_printf(&ch->tops, "%s", comma) != NGX_OK)
        {
            return NGX_ERROR;
        }

        /* offsets count characters */

        for (k = 0; k < lp.len; k++) {
            ch->offset += ((u_char) lp.bytes[k] & 0xc0) != 0x80;
        }

        rc = ngx_http_moe_completion_tops(&ch->tops, &lp, &p, end);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


/* "logprobs":... of what is pending, and clears it */

static ngx_int_t
ngx_http_moe_logprobs(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    ngx_http_moe_out_t *out)
{
    ngx_int_t  rc;

    if (!api->logprobs || (ch->logprobs.len == 0 && api->stream)) {
        return ngx_http_moe_out_literal(out, ",\"logprobs\":null");
    }

    if (api->endpoint == NGX_HTTP_MOE_API_CHAT) {
        rc = ngx_http_moe_out_literal(out, ",\"logprobs\":{\"content\":[")
             || ngx_http_moe_out_add(out, ch->logprobs.data, ch->logprobs.len)
             || ngx_http_moe_out_literal(out, "],\"refusal\":null}");

    } else {
        rc = ngx_http_moe_out_literal(out, ",\"logprobs\":{\"tokens\":[")
             || ngx_http_moe_out_add(out, ch->logprobs.data, ch->logprobs.len)
             || ngx_http_moe_out_literal(out, "],\"token_logprobs\":[")
             || ngx_http_moe_out_add(out, ch->values.data, ch->values.len)
             || ngx_http_moe_out_literal(out, "],\"top_logprobs\":[")
             || ngx_http_moe_out_add(out, ch->tops.data, ch->tops.len)
             || ngx_http_moe_out_literal(out, "],\"text_offset\":[")
             || ngx_http_moe_out_add(out, ch->offsets.data, ch->offsets.len)
             || ngx_http_moe_out_literal(out, "]}");
    }

    ch->logprobs.len = 0;
    ch->values.len = 0;
    ch->tops.len = 0;
    ch->offsets.len = 0;

    return rc ? NGX_ERROR : NGX_OK;
}


/* an SSE frame from data: to the choice's index */

static ngx_int_t
ngx_http_moe_frame(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    ngx_http_moe_out_t *out)
{
    if (ngx_http_moe_out_literal(out, "data: ") != NGX_OK
        || ngx_http_moe_out_add(out, api->prefix.data, api->prefix.len)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_printf(out, "{\"index\":%ui",
                                   (ngx_uint_t) (ch - api->choices));
}


static ngx_int_t
ngx_http_moe_frame_end(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    unsigned finish, ngx_http_moe_out_t *out)
{
    return ngx_http_moe_out_printf(out, ",\"finish_reason\":%s}]%s}\n\n",
                                   ngx_http_moe_finishes[finish],
                                   api->include_usage ? ",\"usage\":null"
                                                      : "");
}


static ngx_int_t
ngx_http_moe_role(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    ngx_http_moe_out_t *out)
{
    if (ngx_http_moe_frame(api, ch, out) != NGX_OK
        || ngx_http_moe_out_literal(out, ",\"delta\":{\"role\":\"assistant\","
                                    "\"content\":\"\",\"refusal\":null},"
                                    "\"logprobs\":null")
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_frame_end(api, ch, MOE_FINISH_NONE, out);
}


static ngx_int_t
ngx_http_moe_content(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    unsigned finish, ngx_http_moe_out_t *out)
{
    ngx_uint_t  chat;

    chat = (api->endpoint == NGX_HTTP_MOE_API_CHAT);

    if (ngx_http_moe_frame(api, ch, out) != NGX_OK
        || (chat ? ngx_http_moe_out_literal(out, ",\"delta\":{\"content\":\"")
                 : ngx_http_moe_out_literal(out, ",\"text\":\""))
           != NGX_OK
        || ngx_http_moe_out_json(out, ch->text.data, ch->text.len) != NGX_OK
        || (chat ? ngx_http_moe_out_literal(out, "\"}")
                 : ngx_http_moe_out_literal(out, "\""))
           != NGX_OK
        || ngx_http_moe_logprobs(api, ch, out) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ch->text.len = 0;

    return ngx_http_moe_frame_end(api, ch, finish, out);
}


/* the finish chunk of a chat has an empty delta; a completion's last text
 * carries the reason itself */

static ngx_int_t
ngx_http_moe_chunk(ngx_http_moe_api_t *api, ngx_http_moe_choice_t *ch,
    ngx_http_moe_out_t *out)
{
    ch->dirty = 0;

    if (api->endpoint == NGX_HTTP_MOE_API_COMPLETION) {

        if ((ch->text.len || ch->logprobs.len || (ch->finish && !ch->ended))
            && ngx_http_moe_content(api, ch, ch->finish, out) != NGX_OK)
        {
            return NGX_ERROR;
        }

        ch->ended = (ch->finish != 0);

        return NGX_OK;
    }

    if (!ch->begun) {
        ch->begun = 1;

        if (ngx_http_moe_role(api, ch, out) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if ((ch->text.len || ch->logprobs.len)
        && ngx_http_moe_content(api, ch, MOE_FINISH_NONE, out) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ch->finish == MOE_FINISH_NONE || ch->ended) {
        return NGX_OK;
    }

    ch->ended = 1;

    if (ngx_http_moe_frame(api, ch, out) != NGX_OK
        || ngx_http_moe_out_literal(out, ",\"delta\":{},\"logprobs\":null")
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_frame_end(api, ch, ch->finish, out);
}


ngx_int_t
ngx_http_moe_api_flush(ngx_http_moe_api_t *api, ngx_http_moe_out_t *out)
{
    ngx_uint_t              i;
    ngx_http_moe_choice_t  *ch;

    api->pending = 0;

    for (i = 0; i < api->nchoices; i++) {
        ch = &api->choices[i];

        if (ch->dirty && ngx_http_moe_chunk(api, ch, out) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_usage(ngx_http_moe_api_t *api, ngx_http_moe_out_t *out)
{
    return ngx_http_moe_out_printf(out, "\"usage\":{\"prompt_tokens\":%uD,"
                                   "\"completion_tokens\":%ui,"
                                   "\"total_tokens\":%ui,"
                                   "\"prompt_tokens_details\":"
                                   "{\"cached_tokens\":%uD}}",
                                   api->usage.prompt_tokens,
                                   api->completion_tokens,
                                   api->usage.prompt_tokens
                                   + api->completion_tokens,
                                   api->usage.cached_tokens);
}


ngx_int_t
ngx_http_moe_api_finish(ngx_http_moe_api_t *api, const moe_end_t *end,
    ngx_uint_t context, ngx_http_moe_out_t *out)
{
    ngx_http_moe_choice_t  *ch;

    api->usage.prompt_tokens = end->prompt_tokens;
    api->usage.cached_tokens = end->cached_tokens;
    api->completion_tokens = end->completion_tokens;

    ch = api->choices;

    switch (api->endpoint) {

    case NGX_HTTP_MOE_API_TOKENIZE:
        if (ngx_http_moe_out_printf(out, "{\"count\":%ui,"
                                    "\"max_model_len\":%ui,\"tokens\":[",
                                    api->nids, context)
               != NGX_OK
            || ngx_http_moe_out_add(out, ch->text.data, ch->text.len)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        return ngx_http_moe_out_literal(out, "]}");

    case NGX_HTTP_MOE_API_DETOKENIZE:
        if (ngx_http_moe_out_literal(out, "{\"prompt\":") != NGX_OK
            || ngx_http_moe_quoted(out, ch->text.data, ch->text.len)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        return ngx_http_moe_out_literal(out, "}");

    default:
        break;
    }

    if (!api->stream) {
        return ngx_http_moe_object(api, out);
    }

    if (ngx_http_moe_api_flush(api, out) != NGX_OK) {
        return NGX_ERROR;
    }

    if (api->include_usage) {
        if (ngx_http_moe_out_literal(out, "data: ") != NGX_OK
            || ngx_http_moe_out_add(out, api->prefix.data, api->prefix.len)
               != NGX_OK
            || ngx_http_moe_out_literal(out, "],") != NGX_OK
            || ngx_http_moe_usage(api, out) != NGX_OK
            || ngx_http_moe_out_literal(out, "}\n\n") != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_literal(out, "data: [DONE]\n\n");
}


/* the reply that is not streamed */

static ngx_int_t
ngx_http_moe_object(ngx_http_moe_api_t *api, ngx_http_moe_out_t *out)
{
    ngx_uint_t              i, chat;
    ngx_http_moe_choice_t  *ch;

    chat = (api->endpoint == NGX_HTTP_MOE_API_CHAT);

    if (ngx_http_moe_out_add(out, api->prefix.data, api->prefix.len)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < api->nchoices; i++) {
        ch = &api->choices[i];

        if (ngx_http_moe_out_printf(out, "%s{\"index\":%ui,%s",
                                    i ? "," : "", i,
                                    chat ? "\"message\":{\"role\":"
                                           "\"assistant\",\"content\":\""
                                         : "\"text\":\"")
               != NGX_OK
            || ngx_http_moe_out_json(out, ch->text.data, ch->text.len)
               != NGX_OK
            || ngx_http_moe_out_printf(out, "%s", chat
                                       ? "\",\"refusal\":null}" : "\"")
               != NGX_OK
            || ngx_http_moe_logprobs(api, ch, out) != NGX_OK
            || ngx_http_moe_out_printf(out, ",\"finish_reason\":%s}",
                                       ngx_http_moe_finishes[ch->finish])
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        ngx_http_moe_out_free(&ch->text);
    }

    if (ngx_http_moe_out_literal(out, "],") != NGX_OK
        || ngx_http_moe_usage(api, out) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_literal(out, "}");
}
