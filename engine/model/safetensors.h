/*
 * safetensors: the weight files of a model directory, mapped read-only.
 *
 * A directory holds model.moeq (our own packed weights, see packed.h), or
 * model.safetensors, or shards with model.safetensors.index.json.  Everything
 * is checked at open: the header (at most 100 MB, JSON without duplicate
 * keys), each shape against its byte range, and that ranges neither overlap
 * nor leave gaps nor leave the file.
 * After that a tensor's data[0 .. size-1] may be read without further checks
 * for as long as the object lives and nobody truncates the file.
 */

#ifndef MOE_SAFETENSORS_H
#define MOE_SAFETENSORS_H


#include <stdint.h>
#include <stddef.h>

#include "base/err.h"
#include "kernels/kernels.h"


#define MOE_ST_MAX_DIMS    8
#define MOE_ST_MAX_HEADER  (100 * 1000 * 1000)
#define MOE_ST_MAX_FILES   4096


typedef enum {
    MOE_DTYPE_F32,
    MOE_DTYPE_F16,
    MOE_DTYPE_BF16,
    MOE_DTYPE_F8_E4M3,
    MOE_DTYPE_I8_G32,       /* these three in packed files alone, whose */
    MOE_DTYPE_I4_G32,       /* data is as kernels/cpu/packed.h has it */
    MOE_DTYPE_MX4_G32,
    MOE_DTYPE_MXFP4,        /* parts alone, see fused.h */
    MOE_DTYPE_OTHER         /* known to the format, not to the engine */
} moe_dtype_e;


typedef struct {
    const char      *name;
    const char      *file;      /* path of its shard, for messages */
    const char      *dtype_name;
    const uint8_t   *data;      /* not aligned to more than the file says */
    uint64_t         size;      /* bytes */
    uint64_t         offset;    /* of data in the file */
    moe_dtype_e      dtype;
    int              ndim;
    uint64_t         dims[MOE_ST_MAX_DIMS];

    /* a part of a tensor (fused.h): elements from a row to the next one and
     * from a column to the next one; else 0.  MXFP4: rows are blocks of 16
     * bytes, scales has one byte each, and row_step is in rows */
    uint64_t         row_step;
    uint64_t         col_step;
    const uint8_t   *scales;
} moe_st_tensor_t;

typedef struct moe_st_s  moe_st_t;


/* Opens and maps all weight files of DIR; NULL and err on any defect. */
moe_st_t *moe_st_open(const char *dir, moe_err_t *err);

/*
 * One file's bytes that are in memory already and stay there; label stands
 * for the path in messages.
 */
moe_st_t *moe_st_open_memory(const uint8_t *data, size_t size,
    const char *label, moe_err_t *err);

/* Unmaps; every pointer obtained from it dies.  NULL is allowed. */
void moe_st_close(moe_st_t *st);

/* NULL if there is no such tensor.  O(log n). */
const moe_st_tensor_t *moe_st_find(const moe_st_t *st, const char *name);

/* All tensors in order of name. */
size_t moe_st_count(const moe_st_t *st);
const moe_st_tensor_t *moe_st_at(const moe_st_t *st, size_t i);

typedef struct {
    const char      *path;
    const uint8_t   *header;        /* its JSON text */
    uint64_t         header_size;
    uint64_t         size;          /* of the whole file */
    const uint8_t   *digest;        /* SHA-256 over all of a packed file; NULL
                                     * for others */
} moe_st_file_t;

/* The files, in order of their names; NULL past the last. */
const moe_st_file_t *moe_st_file(const moe_st_t *st, size_t i);
size_t moe_st_files(const moe_st_t *st);

/*
 * Tensors that another format's reader found in its one file: a copy of the
 * list, in order of name.  Names, data and file stay the owner's until
 * release(owner), which is called at close, and also where this fails.
 */
moe_st_t *moe_st_adopt(const moe_st_file_t *file,
    const moe_st_tensor_t *tensors, size_t n, void (*release)(void *owner),
    void *owner, moe_err_t *err);

/*
 * Puts a list of tensors in place of those of a directory's files; names are
 * from malloc() and belong to st, also where this fails.
 */
int moe_st_replace(moe_st_t *st, const moe_st_tensor_t *tensors, size_t n,
    moe_err_t *err);

/* Whether what is read next lies here and there in the mapped files, where
 * reading ahead would be in vain.  Changes no byte. */
void moe_st_scattered(const moe_st_t *st, int scattered);

/* Bytes of all files together. */
uint64_t moe_st_file_bytes(const moe_st_t *st);

/* Bytes of an element (4, 2, 2, 1), 0 for packed ones and
 * MOE_DTYPE_OTHER. */
size_t moe_dtype_size(moe_dtype_e dtype);
const char *moe_dtype_name(moe_dtype_e dtype);
int moe_dtype_is_packed(moe_dtype_e dtype);

/* what the kernels call a packed type */
moe_wtype_e moe_dtype_packed(moe_dtype_e dtype);


#endif /* MOE_SAFETENSORS_H */
