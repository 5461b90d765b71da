/*
 * tokenizer.json's chains of steps: normalizer, pre-tokenizer, decoder,
 * post-processor.  What is not written here is refused by its name.
 */

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_load.h"
#include "text/utf8.h"


/* ByteLevel's own pattern, for use_regex */
#define STEPS_BYTE_LEVEL                                                      \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"       \
    "|\\s+(?!\\S)|\\s+"

/* Rust's \w has the joiners besides */
#define STEPS_WHITESPACE                                                      \
    "[\\w\\u200c\\u200d]+|[^\\w\\s\\u200c\\u200d]+"

#define STEPS_PUNCTUATION  "[\\p{P}!-/:-@\\[-`{-~]"


typedef int (*steps_load_t)(moe_tok_load_t *l, json_t *step, int depth);


static int
steps_refuse(moe_tok_load_t *l, const char *path, const char *what)
{
    return moe_err(l->err, "%s: %s: \"%.60s\" is not supported", l->file,
                   path, what);
}


/* the steps of a Sequence, each by load */

static int
steps_sequence(moe_tok_load_t *l, json_t *step, const char *path,
    const char *key, steps_load_t load, int depth)
{
    size_t   i;
    json_t  *list;

    list = moe_tok_get(step, key);

    if (!json_is_array(list)) {
        return moe_err(l->err, "%s: %s.%s is not an array", l->file, path,
                       key);
    }

    if (depth >= MOE_TOK_MAX_NESTING) {
        return moe_err(l->err, "%s: %s nests too deep", l->file, path);
    }

    for (i = 0; i < json_array_size(list); i++) {
        if (load(l, json_array_get(list, i), depth + 1) == -1) {
            return -1;
        }
    }

    return 0;
}


/* {"String": "..."} or {"Regex": "..."}, or a plain string */

static int
steps_pattern(moe_tok_load_t *l, json_t *step, const char *path,
    const char **s, size_t *len, int *literal)
{
    json_t  *pattern;

    pattern = moe_tok_get(step, "pattern");
    *literal = 1;

    if (json_is_string(pattern)) {
        *s = json_string_value(pattern);
        *len = json_string_length(pattern);
        return 0;
    }

    if (moe_tok_get(pattern, "String") != NULL) {
        return moe_tok_string(l, pattern, path, "String", s, len);
    }

    *literal = 0;

    return moe_tok_string(l, pattern, path, "Regex", s, len);
}


static int
steps_compile(moe_tok_load_t *l, moe_onig_t *re, const char *s, size_t len,
    int literal, const char *path)
{
    if (literal && len == 0) {
        return moe_err(l->err, "%s: %s.pattern is empty", l->file, path);
    }

    if (moe_onig_compile(re, s, len, literal, l->err) == -1) {
        return moe_err_prefix(l->err, "%s: %s", l->file, path);
    }

    return 0;
}


static int
steps_normal_text(moe_tok_load_t *l, moe_normal_step_t *n, json_t *step,
    const char *key)
{
    const char  *s;

    if (moe_tok_string(l, step, "normalizer", key, &s, &n->len) == -1) {
        return -1;
    }

    if (n->len > MOE_TOK_MAX_PIECE) {
        return moe_err(l->err, "%s: normalizer.%s is too long", l->file, key);
    }

    n->content = malloc(n->len + 1);
    if (n->content == NULL) {
        return moe_err(l->err, "%s: out of memory", l->file);
    }

    memcpy(n->content, s, n->len);

    return 0;
}


int
moe_tok_load_normalizer(moe_tok_load_t *l, json_t *step, int depth)
{
    int                 literal;
    size_t              i, len;
    const char         *type, *s;
    moe_normal_t       *list = &l->t->normal;
    moe_normal_step_t  *n;

    static const struct {
        const char        *name;
        moe_normal_kind_t  kind;
    } kinds[] = {
        { "NFC", MOE_NORMAL_NFC },
        { "NFD", MOE_NORMAL_NFD },
        { "NFKC", MOE_NORMAL_NFKC },
        { "NFKD", MOE_NORMAL_NFKD },
        { "Prepend", MOE_NORMAL_PREPEND },
        { "Replace", MOE_NORMAL_REPLACE },
    };

    if (step == NULL) {
        return 0;
    }

    if (moe_tok_string(l, step, "normalizer", "type", &type, &len) == -1) {
        return -1;
    }

    if (strcmp(type, "Sequence") == 0) {
        return steps_sequence(l, step, "normalizer", "normalizers",
                              moe_tok_load_normalizer, depth);
    }

    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(type, kinds[i].name) == 0) {
            break;
        }
    }

    if (i == sizeof(kinds) / sizeof(kinds[0])) {
        return steps_refuse(l, "normalizer", type);
    }

    if (list->nsteps == MOE_NORMAL_MAX_STEPS) {
        return moe_err(l->err, "%s: normalizer has too many steps", l->file);
    }

    /* counted at once, so that whatever it comes to own is freed */

    n = &list->steps[list->nsteps++];
    memset(n, 0, sizeof(*n));
    n->kind = kinds[i].kind;

    if (n->kind == MOE_NORMAL_PREPEND) {
        return steps_normal_text(l, n, step, "prepend");
    }

    if (n->kind == MOE_NORMAL_REPLACE) {
        if (steps_pattern(l, step, "normalizer.pattern", &s, &len, &literal)
            == -1
            || steps_compile(l, &n->re, s, len, literal, "normalizer") == -1)
        {
            return -1;
        }

        return steps_normal_text(l, n, step, "content");
    }

    return 0;
}


static moe_pretok_stage_t *
steps_stage(moe_tok_load_t *l, moe_pretok_kind_t kind)
{
    moe_pretok_t        *p = &l->t->pretok;
    moe_pretok_stage_t  *st;

    if (p->nstages == MOE_PRETOK_MAX_STAGES) {
        moe_err(l->err, "%s: pre_tokenizer has too many steps", l->file);
        return NULL;
    }

    st = &p->stages[p->nstages++];
    memset(st, 0, sizeof(*st));
    st->kind = kind;

    return st;
}


/* tiktoken fails beyond, so the model's own class cuts text before it */

int
moe_tok_load_runs(moe_tok_load_t *l)
{
    moe_pretok_stage_t  *st;

    st = steps_stage(l, MOE_PRETOK_RUNS);
    if (st == NULL) {
        return -1;
    }

    st->max_run = 25000;
    st->max_text = 400000;

    return 0;
}


static int
steps_split(moe_tok_load_t *l, const char *s, size_t len, int literal,
    moe_pretok_behavior_t behavior, int invert)
{
    moe_pretok_stage_t  *st;

    st = steps_stage(l, MOE_PRETOK_SPLIT);
    if (st == NULL) {
        return -1;
    }

    st->behavior = behavior;
    st->invert = invert;

    return steps_compile(l, &st->re, s, len, literal, "pre_tokenizer");
}


static int
steps_behavior(moe_tok_load_t *l, json_t *step, moe_pretok_behavior_t *value)
{
    size_t       i, len;
    const char  *s;

    static const char *const  names[] = {
        "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
        "Contiguous"
    };

    if (moe_tok_string(l, step, "pre_tokenizer", "behavior", &s, &len) == -1) {
        return -1;
    }

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(s, names[i]) == 0) {
            *value = (moe_pretok_behavior_t) i;
            return 0;
        }
    }

    return steps_refuse(l, "pre_tokenizer.behavior", s);
}


static int
steps_split_step(moe_tok_load_t *l, json_t *step)
{
    int                    literal, invert;
    size_t                 len;
    const char            *s;
    moe_pretok_behavior_t  behavior;

    if (steps_pattern(l, step, "pre_tokenizer.pattern", &s, &len, &literal)
        == -1
        || steps_behavior(l, step, &behavior) == -1
        || moe_tok_bool(l, step, "pre_tokenizer", "invert", 0, &invert) == -1)
    {
        return -1;
    }

    return steps_split(l, s, len, literal, behavior, invert);
}


static int
steps_byte_level(moe_tok_load_t *l, json_t *step)
{
    int  prefix, regex;

    if (moe_tok_bool(l, step, "pre_tokenizer", "add_prefix_space", 1, &prefix)
        == -1
        || moe_tok_bool(l, step, "pre_tokenizer", "use_regex", 1, &regex)
           == -1)
    {
        return -1;
    }

    if (prefix && steps_stage(l, MOE_PRETOK_PREFIX) == NULL) {
        return -1;
    }

    l->t->bpe.byte_level = 1;

    if (!regex) {
        return 0;
    }

    return steps_split(l, STEPS_BYTE_LEVEL, sizeof(STEPS_BYTE_LEVEL) - 1, 0,
                       MOE_PRETOK_ISOLATED, 0);
}


/* the one character of a Metaspace, here and in the decoder */

static int
steps_mark(moe_tok_load_t *l, json_t *step, const char *path, char *mark)
{
    size_t       len;
    const char  *s;

    if (moe_tok_string(l, step, path, "replacement", &s, &len) == -1) {
        return -1;
    }

    if (len == 0 || len != moe_utf8_len(s[0]) || s[0] == '\0') {
        return moe_err(l->err, "%s: %s.replacement is not one character",
                       l->file, path);
    }

    memcpy(mark, s, len);
    mark[len] = '\0';

    return 0;
}


static int
steps_scheme(moe_tok_load_t *l, json_t *step, const char *path,
    moe_pretok_scheme_t *scheme)
{
    int          prefix;
    size_t       i, len;
    const char  *s;

    static const char *const  names[] = { "never", "first", "always" };

    if (moe_tok_bool(l, step, path, "add_prefix_space", 1, &prefix) == -1) {
        return -1;
    }

    *scheme = prefix ? MOE_PRETOK_ALWAYS : MOE_PRETOK_NEVER;

    if (moe_tok_get(step, "prepend_scheme") == NULL) {
        return 0;
    }

    if (moe_tok_string(l, step, path, "prepend_scheme", &s, &len) == -1) {
        return -1;
    }

    for (i = 0; i < 3; i++) {
        if (strcmp(s, names[i]) == 0) {
            *scheme = (moe_pretok_scheme_t) i;
            return 0;
        }
    }

    return steps_refuse(l, path, s);
}


static int
steps_metaspace(moe_tok_load_t *l, json_t *step)
{
    int                  split;
    moe_pretok_stage_t  *st;

    st = steps_stage(l, MOE_PRETOK_METASPACE);

    if (st == NULL
        || steps_mark(l, step, "pre_tokenizer", st->mark) == -1
        || steps_scheme(l, step, "pre_tokenizer", &st->scheme) == -1
        || moe_tok_bool(l, step, "pre_tokenizer", "split", 1, &split) == -1)
    {
        return -1;
    }

    if (!split) {
        return 0;
    }

    return steps_split(l, st->mark, strlen(st->mark), 1, MOE_PRETOK_WITH_NEXT,
                       0);
}


static int
steps_digits(moe_tok_load_t *l, json_t *step)
{
    int  single;

    if (moe_tok_bool(l, step, "pre_tokenizer", "individual_digits", 0,
                     &single) == -1)
    {
        return -1;
    }

    return steps_split(l, "\\p{N}", 5, 0, single ? MOE_PRETOK_ISOLATED
                                                 : MOE_PRETOK_CONTIGUOUS, 0);
}


static int
steps_punctuation(moe_tok_load_t *l, json_t *step)
{
    moe_pretok_behavior_t  behavior = MOE_PRETOK_ISOLATED;

    if (moe_tok_get(step, "behavior") != NULL
        && steps_behavior(l, step, &behavior) == -1)
    {
        return -1;
    }

    return steps_split(l, STEPS_PUNCTUATION, sizeof(STEPS_PUNCTUATION) - 1, 0,
                       behavior, 0);
}


int
moe_tok_load_pretok(moe_tok_load_t *l, json_t *step, int depth)
{
    size_t       len;
    const char  *type;

    if (step == NULL) {
        return 0;
    }

    if (moe_tok_string(l, step, "pre_tokenizer", "type", &type, &len) == -1) {
        return -1;
    }

    if (strcmp(type, "Sequence") == 0) {
        return steps_sequence(l, step, "pre_tokenizer", "pretokenizers",
                              moe_tok_load_pretok, depth);
    }

    /* behind ByteLevel the text is no longer text */

    if (l->t->bpe.byte_level) {
        return moe_err(l->err, "%s: pre_tokenizer: ByteLevel is not the last "
                       "step", l->file);
    }

    if (strcmp(type, "Split") == 0) {
        return steps_split_step(l, step);
    }

    if (strcmp(type, "ByteLevel") == 0) {
        return steps_byte_level(l, step);
    }

    if (strcmp(type, "Metaspace") == 0) {
        return steps_metaspace(l, step);
    }

    if (strcmp(type, "Digits") == 0) {
        return steps_digits(l, step);
    }

    if (strcmp(type, "Punctuation") == 0) {
        return steps_punctuation(l, step);
    }

    if (strcmp(type, "Whitespace") == 0) {
        return steps_split(l, STEPS_WHITESPACE, sizeof(STEPS_WHITESPACE) - 1,
                           0, MOE_PRETOK_REMOVED, 1);
    }

    if (strcmp(type, "WhitespaceSplit") == 0) {
        return steps_split(l, "\\s", 2, 0, MOE_PRETOK_REMOVED, 0);
    }

    return steps_refuse(l, "pre_tokenizer", type);
}


static int
steps_decode_replace(moe_tok_load_t *l, json_t *step)
{
    int                 literal;
    moe_tok_replace_t  *r;

    if (l->t->decoder.byte_fallback || l->has_fuse || l->t->decoder.mark[0]) {
        return moe_err(l->err, "%s: decoder: Replace is not the first step",
                       l->file);
    }

    if (l->nreplaces == MOE_TOK_MAX_REPLACES) {
        return moe_err(l->err, "%s: decoder has too many steps", l->file);
    }

    r = &l->replaces[l->nreplaces++];

    if (steps_pattern(l, step, "decoder.pattern", &r->from, &r->from_len,
                      &literal) == -1
        || moe_tok_string(l, step, "decoder", "content", &r->to, &r->to_len)
           == -1)
    {
        return -1;
    }

    if (!literal || r->from_len == 0) {
        return moe_err(l->err, "%s: decoder.pattern is not a string", l->file);
    }

    return 0;
}


static int
steps_decode_strip(moe_tok_load_t *l, json_t *step)
{
    size_t              len;
    json_t             *start, *stop;
    const char         *s;
    moe_tok_decoder_t  *d = &l->t->decoder;

    if (moe_tok_string(l, step, "decoder", "content", &s, &len) == -1) {
        return -1;
    }

    start = moe_tok_get(step, "start");
    stop = moe_tok_get(step, "stop");

    /* only what is stripped at the beginning can be known token by token */

    if (!l->has_fuse || l->has_strip || len == 0 || s[0] == '\0'
        || len != moe_utf8_len(s[0])
        || !json_is_integer(start) || json_integer_value(start) < 0
        || json_integer_value(start) > UINT8_MAX
        || !json_is_integer(stop) || json_integer_value(stop) != 0)
    {
        return moe_err(l->err, "%s: decoder: this Strip is not supported",
                       l->file);
    }

    memcpy(d->strip, s, len);
    d->nstrip = (uint8_t) json_integer_value(start);
    l->has_strip = 1;

    return 0;
}


static int
steps_decode_metaspace(moe_tok_load_t *l, json_t *step)
{
    moe_tok_decoder_t   *d = &l->t->decoder;
    moe_pretok_scheme_t  scheme;

    if (d->byte_fallback || l->has_fuse || l->nreplaces > 0 || d->mark[0]) {
        return moe_err(l->err, "%s: decoder: Metaspace is not the first step",
                       l->file);
    }

    if (steps_mark(l, step, "decoder", d->mark) == -1
        || steps_scheme(l, step, "decoder", &scheme) == -1)
    {
        return -1;
    }

    d->drop_marks = scheme != MOE_PRETOK_NEVER;

    return 0;
}


int
moe_tok_load_decoder(moe_tok_load_t *l, json_t *step, int depth)
{
    size_t              len;
    const char         *type;
    moe_tok_decoder_t  *d = &l->t->decoder;

    if (moe_tok_string(l, step, "decoder", "type", &type, &len) == -1) {
        return -1;
    }

    if (strcmp(type, "Sequence") == 0) {
        return steps_sequence(l, step, "decoder", "decoders",
                              moe_tok_load_decoder, depth);
    }

    if (d->byte_level) {
        return moe_err(l->err, "%s: decoder: ByteLevel is not alone", l->file);
    }

    if (strcmp(type, "Replace") == 0) {
        return steps_decode_replace(l, step);
    }

    if (strcmp(type, "Metaspace") == 0) {
        return steps_decode_metaspace(l, step);
    }

    if (strcmp(type, "Strip") == 0) {
        return steps_decode_strip(l, step);
    }

    if (strcmp(type, "Fuse") == 0) {
        l->has_fuse = 1;
        return 0;
    }

    if (strcmp(type, "ByteFallback") == 0 && !l->has_fuse) {
        d->byte_fallback = 1;
        return 0;
    }

    if (strcmp(type, "ByteLevel") == 0 && !d->byte_fallback && !l->has_fuse
        && l->nreplaces == 0 && d->mark[0] == '\0')
    {
        d->byte_level = 1;
        return 0;
    }

    return steps_refuse(l, "decoder", type);
}


/* the ids that a template's special token stands for */

static int
steps_template_ids(moe_tok_load_t *l, json_t *step, json_t *token,
    uint32_t *ids, unsigned *n)
{
    size_t       i, len;
    json_t      *list, *id;
    json_int_t   value;
    const char  *name;

    if (moe_tok_string(l, token, "post_processor.single", "id", &name, &len)
        == -1)
    {
        return -1;
    }

    list = moe_tok_get(moe_tok_get(moe_tok_get(step, "special_tokens"), name),
                       "ids");

    if (!json_is_array(list)) {
        return moe_err(l->err, "%s: post_processor.special_tokens has no ids "
                       "for \"%.60s\"", l->file, name);
    }

    for (i = 0; i < json_array_size(list); i++) {
        id = json_array_get(list, i);
        value = json_integer_value(id);

        if (!json_is_integer(id) || value < 0
            || value >= (json_int_t) l->t->names.nids)
        {
            return moe_err(l->err, "%s: post_processor.special_tokens: bad id "
                           "for \"%.60s\"", l->file, name);
        }

        if (*n == MOE_TOK_MAX_AROUND) {
            return moe_err(l->err, "%s: post_processor adds too many tokens",
                           l->file);
        }

        ids[(*n)++] = (uint32_t) value;
    }

    return 0;
}


static int
steps_template(moe_tok_load_t *l, json_t *step)
{
    int               rc, seen = 0;
    size_t            i;
    json_t           *list, *item, *token;
    moe_tokenizer_t  *t = l->t;

    list = moe_tok_get(step, "single");

    if (!json_is_array(list) || l->has_template) {
        return moe_err(l->err, "%s: post_processor: this template is not "
                       "supported", l->file);
    }

    l->has_template = 1;

    for (i = 0; i < json_array_size(list); i++) {
        item = json_array_get(list, i);
        token = moe_tok_get(item, "SpecialToken");

        if (token == NULL) {
            if (!json_is_object(moe_tok_get(item, "Sequence")) || seen) {
                return moe_err(l->err, "%s: post_processor.single[%zu] is not "
                               "supported", l->file, i);
            }

            seen = 1;
            continue;
        }

        rc = seen ? steps_template_ids(l, step, token, t->after, &t->nafter)
                  : steps_template_ids(l, step, token, t->before,
                                       &t->nbefore);

        if (rc == -1) {
            return -1;
        }
    }

    if (!seen) {
        return moe_err(l->err, "%s: post_processor.single has no text",
                       l->file);
    }

    return 0;
}


int
moe_tok_load_post(moe_tok_load_t *l, json_t *step, int depth)
{
    size_t       len;
    const char  *type;

    if (step == NULL) {
        return 0;
    }

    if (moe_tok_string(l, step, "post_processor", "type", &type, &len) == -1) {
        return -1;
    }

    if (strcmp(type, "Sequence") == 0) {
        return steps_sequence(l, step, "post_processor", "processors",
                              moe_tok_load_post, depth);
    }

    if (strcmp(type, "TemplateProcessing") == 0) {
        return steps_template(l, step);
    }

    /* it moves offsets, nothing else */

    if (strcmp(type, "ByteLevel") == 0) {
        return 0;
    }

    return steps_refuse(l, "post_processor", type);
}
