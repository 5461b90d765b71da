/*
 * config_parts: how a JSON file is read into a moe_config_t, for the files
 * that do (config*.c).
 */

#ifndef MOE_CONFIG_PARTS_H
#define MOE_CONFIG_PARTS_H


#include <jansson.h>
#include <stddef.h>

#include "model/config.h"
#include "model/family.h"


/* one JSON file that is being read */
typedef struct {
    const char          *file;
    json_t              *root;
    moe_config_t        *cfg;
    const moe_family_t  *fam;
    moe_err_t           *err;
} moe_reader_t;

/* what a moe_key_*() found; an error is -1 */
enum {
    MOE_KEY_OK,
    MOE_KEY_ABSENT
};

typedef struct {
    const char  *key;
    size_t       offset;        /* of an int in moe_config_t */
    int          min;
    int          max;
} moe_int_key_t;


/*
 * A key of an object, or of the root: where it is absent or null, *out stays.
 * A wrong type or a value outside min..max is an error.
 */
int moe_key_int(moe_reader_t *r, json_t *obj, const char *key, int min,
    int max, int *out);
int moe_key_double(moe_reader_t *r, json_t *obj, const char *key, double min,
    double max, double *out);
int moe_key_bool(moe_reader_t *r, const char *key, int *out);
int moe_key_string(moe_reader_t *r, json_t *obj, const char *key,
    const char **out);

/* The same of the root, and an absent key is an error. */
int moe_key_need(moe_reader_t *r, const char *key, int min, int max,
    int *out);

/* All keys of a list that ends with key NULL; none may be absent. */
int moe_config_keys(moe_reader_t *r, const moe_int_key_t *k);

/* Notes what is well-formed but cannot be run. */
void moe_unsupported(moe_config_t *cfg, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


/* The parts of config.json, in the order in which they build on each other:
 * 0, or -1 and err. */

/* config_attn.c */
int moe_config_attention(moe_reader_t *r);
int moe_config_rope(moe_reader_t *r);
int moe_config_window(moe_reader_t *r);

/* config_ffn.c */
int moe_config_experts(moe_reader_t *r);
int moe_config_shared(moe_reader_t *r);
int moe_config_router(moe_reader_t *r);
int moe_config_layers(moe_reader_t *r);


#endif /* MOE_CONFIG_PARTS_H */
