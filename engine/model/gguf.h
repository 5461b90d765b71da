/*
 * gguf: a GGUF file (versions 2 and 3, little-endian), mapped read-only.
 *
 * Everything is checked at open: counts against what is left of the file,
 * lengths of keys and strings, types, arrays, duplicate keys and names, the
 * alignment, and that every tensor's bytes lie in the file and in no other
 * tensor.  Memory in use is a small multiple of the number of keys and
 * tensors, which the file must have bytes for.  After that what is found here
 * may be read without further checks for as long as the object lives and
 * nobody truncates the file.
 */

#ifndef MOE_GGUF_H
#define MOE_GGUF_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/ggml_quants.h"


#define MOE_GGUF_MAX_DIMS     4
#define MOE_GGUF_MAX_KEYS     65536
#define MOE_GGUF_MAX_TENSORS  (1 << 20)
#define MOE_GGUF_MAX_NAME     255
#define MOE_GGUF_SHOW         41


typedef enum {
    MOE_GGUF_U8,
    MOE_GGUF_I8,
    MOE_GGUF_U16,
    MOE_GGUF_I16,
    MOE_GGUF_U32,
    MOE_GGUF_I32,
    MOE_GGUF_F32,
    MOE_GGUF_BOOL,
    MOE_GGUF_STRING,
    MOE_GGUF_ARRAY,
    MOE_GGUF_U64,
    MOE_GGUF_I64,
    MOE_GGUF_F64
} moe_gguf_type_e;


typedef struct {
    const char       *key;
    moe_gguf_type_e   type;
    moe_gguf_type_e   elem;     /* of an array; never an array itself */
    uint64_t          count;    /* elements of an array, bytes of a string */
    const uint8_t    *data;     /* not aligned, not terminated */
    uint64_t          offset;   /* of data in the file */
} moe_gguf_kv_t;


typedef struct {
    const char             *name;
    const moe_ggml_type_t  *type;
    uint32_t                ggml;       /* moe_ggml_type_e, or another */
    uint32_t                ndim;
    uint64_t                dims[MOE_GGUF_MAX_DIMS];    /* innermost first,
                                                         * 1 behind ndim */
    const uint8_t          *data;
    uint64_t                size;       /* bytes */
    uint64_t                offset;     /* of data in the file */
} moe_gguf_tensor_t;


typedef struct moe_gguf_s  moe_gguf_t;


/* Whether path is a regular file that begins as a GGUF file does. */
int moe_gguf_is(const char *path);

/* Opens and maps; NULL and err on any defect. */
moe_gguf_t *moe_gguf_open(const char *path, moe_err_t *err);

/* The same of bytes that stay in memory; label stands for the path. */
moe_gguf_t *moe_gguf_open_memory(const uint8_t *data, size_t size,
    const char *label, moe_err_t *err);

/* Unmaps; every pointer obtained from it dies.  NULL is allowed. */
void moe_gguf_close(moe_gguf_t *g);

const char *moe_gguf_path(const moe_gguf_t *g);
const uint8_t *moe_gguf_header(const moe_gguf_t *g, uint64_t *size);
uint64_t moe_gguf_size(const moe_gguf_t *g);

/* Gives back the memory that a tensor's part of the file takes here; it can be
 * read again. */
void moe_gguf_forget(const moe_gguf_t *g, const moe_gguf_tensor_t *t);

/* By name, O(log n), and all in order of name; NULL: there is none. */
const moe_gguf_kv_t *moe_gguf_find(const moe_gguf_t *g, const char *key);
const moe_gguf_tensor_t *moe_gguf_tensor(const moe_gguf_t *g,
    const char *name);
const moe_gguf_tensor_t *moe_gguf_tensor_at(const moe_gguf_t *g, size_t i);

/*
 * Values by key.  0; 1 where there is no such key, and then *out is as it was;
 * -1 and a line in err where it is of another kind.  Any integer or float
 * type is taken where the value is one of out's; a float gives the shortest
 * decimal that stands for it, so that 0.1 is 0.1.  A string is not terminated.
 */
int moe_gguf_u32(const moe_gguf_t *g, const char *key, uint32_t *out,
    moe_err_t *err);
int moe_gguf_double(const moe_gguf_t *g, const char *key, double *out,
    moe_err_t *err);
int moe_gguf_bool(const moe_gguf_t *g, const char *key, int *out,
    moe_err_t *err);
int moe_gguf_string(const moe_gguf_t *g, const char *key, const char **out,
    size_t *len, moe_err_t *err);
int moe_gguf_array(const moe_gguf_t *g, const char *key,
    const moe_gguf_kv_t **out, moe_err_t *err);

/* The beginning of a string as a message can have it; returns out. */
const char *moe_gguf_show(const char *s, size_t len, char out[MOE_GGUF_SHOW]);

/*
 * Elements of an array: strings in order (at: 0 to begin with, moves on), one
 * of an array of integers as *out, of float32 as a float.
 */
const char *moe_gguf_next(const moe_gguf_kv_t *kv, uint64_t *at, size_t *len);
int moe_gguf_int_at(const moe_gguf_kv_t *kv, uint64_t i, int64_t *out);
float moe_gguf_float_at(const moe_gguf_kv_t *kv, uint64_t i);


#endif /* MOE_GGUF_H */
