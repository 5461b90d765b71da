#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "kernels/cpu/packed.h"
#include "model/packed.h"
#include "model/safetensors.h"


#define ST_SINGLE       "model.safetensors"
#define ST_INDEX        "model.safetensors.index.json"
#define ST_MAX_TENSORS  (1 << 22)

/* names in messages are cut, so that the rest of the line is still there */
#define NAME            "\"%.160s\""


typedef struct {
    moe_st_file_t   pub;
    char           *path;
    const uint8_t  *data;
    uint64_t        size;
    int             mapped;
    int             packed;
} st_file_t;

struct moe_st_s {
    st_file_t        *files;
    moe_st_tensor_t  *tensors;
    size_t            n_files;
    size_t            n_tensors;
    size_t            cap_tensors;

    void            (*release)(void *owner);    /* NULL: names are ours */
    void             *owner;
};

typedef struct {
    const char   *name;
    unsigned      bits;
    moe_dtype_e   dtype;
} st_dtype_t;


static int st_open_dir(moe_st_t *st, const char *dir, moe_err_t *err);
static int st_open_index(moe_st_t *st, const char *dir, const char *path,
    json_t *root, moe_err_t *err);
static int st_shard_name_ok(const char *name);
static int st_open_shard(moe_st_t *st, const char *dir, const char *name,
    moe_err_t *err);
static int st_check_map(const moe_st_t *st, const char *index, json_t *map,
    moe_err_t *err);
static st_file_t *st_add_file(moe_st_t *st, const char *path,
    moe_err_t *err);
static int st_map(st_file_t *f, moe_err_t *err);
static int st_map_fd(st_file_t *f, int fd, moe_err_t *err);
static int st_parse(moe_st_t *st, st_file_t *f, moe_err_t *err);
static int st_parse_header(moe_st_t *st, const st_file_t *f, json_t *root,
    uint64_t base, moe_err_t *err);
static int st_parse_tensor(moe_st_tensor_t *t, const st_file_t *f,
    const char *name, json_t *val, uint64_t base, moe_err_t *err);
static int st_size_is(const moe_st_tensor_t *t, uint64_t count,
    unsigned bits);
static int st_parse_shape(moe_st_tensor_t *t, const st_file_t *f,
    json_t *shape, uint64_t *count, moe_err_t *err);
static int st_check_layout(moe_st_tensor_t *t, size_t n, const st_file_t *f,
    uint64_t base, moe_err_t *err);
static moe_st_tensor_t *st_add_tensor(moe_st_t *st);
static int st_finish(moe_st_t *st, moe_err_t *err);
static int st_cmp_name(const void *a, const void *b);
static int st_cmp_offset(const void *a, const void *b);
static int st_cmp_key(const void *key, const void *tensor);
static int st_cmp_string(const void *a, const void *b);


static const st_dtype_t  st_dtypes[] = {
    { "F32", 32, MOE_DTYPE_F32 },
    { "F16", 16, MOE_DTYPE_F16 },
    { "BF16", 16, MOE_DTYPE_BF16 },
    { "F8_E4M3", 8, MOE_DTYPE_F8_E4M3 },
    { "I8_G32", 0, MOE_DTYPE_I8_G32 },
    { "I4_G32", 0, MOE_DTYPE_I4_G32 },
    { "MX4_G32", 0, MOE_DTYPE_MX4_G32 },
    { "F8_E5M2", 8, MOE_DTYPE_OTHER },
    { "F8_E8M0", 8, MOE_DTYPE_OTHER },
    { "F8_E4M3FNUZ", 8, MOE_DTYPE_OTHER },
    { "F8_E5M2FNUZ", 8, MOE_DTYPE_OTHER },
    { "F6_E2M3", 6, MOE_DTYPE_OTHER },
    { "F6_E3M2", 6, MOE_DTYPE_OTHER },
    { "F4", 4, MOE_DTYPE_OTHER },
    { "BOOL", 8, MOE_DTYPE_OTHER },
    { "U8", 8, MOE_DTYPE_OTHER },
    { "I8", 8, MOE_DTYPE_OTHER },
    { "U16", 16, MOE_DTYPE_OTHER },
    { "I16", 16, MOE_DTYPE_OTHER },
    { "U32", 32, MOE_DTYPE_OTHER },
    { "I32", 32, MOE_DTYPE_OTHER },
    { "U64", 64, MOE_DTYPE_OTHER },
    { "I64", 64, MOE_DTYPE_OTHER },
    { "F64", 64, MOE_DTYPE_OTHER },
    { "C64", 64, MOE_DTYPE_OTHER }
};


moe_st_t *
moe_st_open(const char *dir, moe_err_t *err)
{
    moe_st_t  *st;

    st = calloc(1, sizeof(moe_st_t));
    if (st == NULL) {
        moe_err(err, "%s: no memory", dir);
        return NULL;
    }

    if (st_open_dir(st, dir, err) != 0) {
        moe_st_close(st);
        return NULL;
    }

    return st;
}


moe_st_t *
moe_st_open_memory(const uint8_t *data, size_t size, const char *label,
    moe_err_t *err)
{
    moe_st_t   *st;
    st_file_t  *f;

    st = calloc(1, sizeof(moe_st_t));
    if (st == NULL) {
        moe_err(err, "%s: no memory", label);
        return NULL;
    }

    f = st_add_file(st, label, err);
    if (f == NULL) {
        moe_st_close(st);
        return NULL;
    }

    f->data = data;
    f->size = size;

    if (st_parse(st, f, err) != 0 || st_finish(st, err) != 0) {
        moe_st_close(st);
        return NULL;
    }

    return st;
}


moe_st_t *
moe_st_adopt(const moe_st_file_t *file, const moe_st_tensor_t *tensors,
    size_t n, void (*release)(void *owner), void *owner, moe_err_t *err)
{
    moe_st_t   *st;
    st_file_t  *f;

    st = calloc(1, sizeof(moe_st_t));
    if (st == NULL) {
        moe_err(err, "%s: no memory", file->path);
        release(owner);
        return NULL;
    }

    st->release = release;
    st->owner = owner;

    f = st_add_file(st, file->path, err);
    if (f == NULL) {
        moe_st_close(st);
        return NULL;
    }

    f->size = file->size;
    f->pub = *file;
    f->pub.path = f->path;

    st->tensors = calloc(n + 1, sizeof(moe_st_tensor_t));
    if (st->tensors == NULL) {
        moe_err(err, "%s: no memory", file->path);
        moe_st_close(st);
        return NULL;
    }

    memcpy(st->tensors, tensors, n * sizeof(moe_st_tensor_t));
    st->n_tensors = n;

    if (st_finish(st, err) != 0) {
        moe_st_close(st);
        return NULL;
    }

    return st;
}


int
moe_st_replace(moe_st_t *st, const moe_st_tensor_t *tensors, size_t n,
    moe_err_t *err)
{
    size_t            i;
    moe_st_tensor_t  *list;

    list = calloc(n + 1, sizeof(moe_st_tensor_t));

    if (list == NULL) {
        for (i = 0; i < n; i++) {
            free((char *) tensors[i].name);
        }
        return moe_err(err, "weights: no memory");
    }

    for (i = 0; i < st->n_tensors; i++) {
        free((char *) st->tensors[i].name);
    }

    free(st->tensors);
    memcpy(list, tensors, n * sizeof(moe_st_tensor_t));
    st->tensors = list;
    st->n_tensors = n;
    st->cap_tensors = n + 1;

    return st_finish(st, err);
}


void
moe_st_close(moe_st_t *st)
{
    size_t  i;

    if (st == NULL) {
        return;
    }

    for (i = 0; st->release == NULL && i < st->n_tensors; i++) {
        free((char *) st->tensors[i].name);
    }

    if (st->release != NULL) {
        st->release(st->owner);
    }

    for (i = 0; i < st->n_files; i++) {
        if (st->files[i].mapped) {
            munmap((void *) st->files[i].data, st->files[i].size);
        }

        free(st->files[i].path);
    }

    free(st->tensors);
    free(st->files);
    free(st);
}


const moe_st_tensor_t *
moe_st_find(const moe_st_t *st, const char *name)
{
    if (st->n_tensors == 0) {
        return NULL;
    }

    return bsearch(name, st->tensors, st->n_tensors, sizeof(moe_st_tensor_t),
                   st_cmp_key);
}


size_t
moe_st_count(const moe_st_t *st)
{
    return st->n_tensors;
}


const moe_st_tensor_t *
moe_st_at(const moe_st_t *st, size_t i)
{
    return i < st->n_tensors ? &st->tensors[i] : NULL;
}


uint64_t
moe_st_file_bytes(const moe_st_t *st)
{
    size_t    i;
    uint64_t  sum;

    sum = 0;

    for (i = 0; i < st->n_files; i++) {
        sum += st->files[i].size;
    }

    return sum;
}


const moe_st_file_t *
moe_st_file(const moe_st_t *st, size_t i)
{
    return i < st->n_files ? &st->files[i].pub : NULL;
}


size_t
moe_st_files(const moe_st_t *st)
{
    return st->n_files;
}


void
moe_st_scattered(const moe_st_t *st, int scattered)
{
    size_t            i;
    const st_file_t  *f;

    for (i = 0; i < st->n_files; i++) {
        f = &st->files[i];

        if (f->mapped) {
            (void) madvise((void *) f->data, (size_t) f->size,
                           scattered ? MADV_RANDOM : MADV_NORMAL);
        }
    }
}


size_t
moe_dtype_size(moe_dtype_e dtype)
{
    static const size_t  sizes[] = { 4, 2, 2, 1, 0, 0, 0, 0, 0 };

    return sizes[dtype];
}


const char *
moe_dtype_name(moe_dtype_e dtype)
{
    static const char *const  names[] = {
        "F32", "F16", "BF16", "F8_E4M3", "I8_G32", "I4_G32", "MX4_G32",
        "MXFP4", "other"
    };

    return names[dtype];
}


int
moe_dtype_is_packed(moe_dtype_e dtype)
{
    return dtype == MOE_DTYPE_I8_G32 || dtype == MOE_DTYPE_I4_G32
           || dtype == MOE_DTYPE_MX4_G32;
}


moe_wtype_e
moe_dtype_packed(moe_dtype_e dtype)
{
    return dtype == MOE_DTYPE_I8_G32 ? MOE_W_I8_G32
           : dtype == MOE_DTYPE_I4_G32 ? MOE_W_I4_G32 : MOE_W_MX4_G32;
}


static int
st_open_dir(moe_st_t *st, const char *dir, moe_err_t *err)
{
    int           rc, absent;
    char          path[4096], *text;
    size_t        len;
    json_t       *root;
    json_error_t  je;

    rc = snprintf(path, sizeof(path), "%s/%s", dir, MOE_PACKED_FILE);

    if (rc > 0 && (size_t) rc < sizeof(path) && access(path, F_OK) == 0) {
        return st_open_shard(st, dir, MOE_PACKED_FILE, err) != 0
               ? -1 : st_finish(st, err);
    }

    rc = snprintf(path, sizeof(path), "%s/%s", dir, ST_INDEX);

    if (rc < 0 || (size_t) rc >= sizeof(path)) {
        return moe_err(err, "%.200s...: path too long", dir);
    }

    text = moe_file_read(path, MOE_ST_MAX_HEADER, &len, &absent, err);

    if (text == NULL) {
        if (!absent || st_open_shard(st, dir, ST_SINGLE, err) != 0) {
            return -1;
        }

        return st_finish(st, err);
    }

    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    free(text);

    if (root == NULL) {
        return moe_err(err, "%s: byte %d: %s", path, je.position, je.text);
    }

    rc = st_open_index(st, dir, path, root, err);
    json_decref(root);

    return rc;
}


/* opens every file that the index names, in the order of their names */
static int
st_open_index(moe_st_t *st, const char *dir, const char *path, json_t *root,
    moe_err_t *err)
{
    int          rc;
    size_t       i, n;
    json_t      *map, *val;
    const char  *key, **names;

    map = json_object_get(root, "weight_map");

    if (!json_is_object(map) || json_object_size(map) == 0) {
        return moe_err(err, "%s: weight_map is missing or not an object",
                       path);
    }

    names = malloc(json_object_size(map) * sizeof(char *));
    if (names == NULL) {
        return moe_err(err, "%s: no memory", path);
    }

    rc = 0;
    n = 0;

    json_object_foreach(map, key, val) {
        if (!json_is_string(val) || !st_shard_name_ok(json_string_value(val)))
        {
            rc = moe_err(err, "%s: weight_map: tensor " NAME " is not in a "
                         "plain file name", path, key);
            break;
        }

        names[n++] = json_string_value(val);
    }

    if (rc == 0) {
        qsort(names, n, sizeof(char *), st_cmp_string);
    }

    for (i = 0; rc == 0 && i < n; i++) {
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0) {
            rc = st_open_shard(st, dir, names[i], err);
        }
    }

    free(names);

    if (rc != 0 || st_finish(st, err) != 0) {
        return -1;
    }

    return st_check_map(st, path, map, err);
}


static int
st_shard_name_ok(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL
           && strlen(name) < 256;
}


static int
st_open_shard(moe_st_t *st, const char *dir, const char *name, moe_err_t *err)
{
    int         n;
    char        path[4096];
    st_file_t  *f;

    n = snprintf(path, sizeof(path), "%s/%s", dir, name);

    if (n < 0 || (size_t) n >= sizeof(path)) {
        return moe_err(err, "%.200s...: path too long", dir);
    }

    f = st_add_file(st, path, err);

    if (f == NULL || st_map(f, err) != 0) {
        return -1;
    }

    return st_parse(st, f, err);
}


/* each tensor of the index must lie in the file that the index says */
static int
st_check_map(const moe_st_t *st, const char *index, json_t *map,
    moe_err_t *err)
{
    json_t                 *val;
    const char             *key, *base;
    const moe_st_tensor_t  *t;

    json_object_foreach(map, key, val) {
        t = moe_st_find(st, key);
        base = t != NULL ? strrchr(t->file, '/') : NULL;

        if (base == NULL || strcmp(base + 1, json_string_value(val)) != 0) {
            return moe_err(err, "%s: tensor " NAME " is not in %.160s", index,
                           key, json_string_value(val));
        }
    }

    return 0;
}


static st_file_t *
st_add_file(moe_st_t *st, const char *path, moe_err_t *err)
{
    st_file_t  *f;

    if (st->n_files == MOE_ST_MAX_FILES) {
        moe_err(err, "%s: more than %d weight files", path, MOE_ST_MAX_FILES);
        return NULL;
    }

    f = realloc(st->files, (st->n_files + 1) * sizeof(st_file_t));
    if (f == NULL) {
        moe_err(err, "%s: no memory", path);
        return NULL;
    }

    st->files = f;
    f += st->n_files;
    memset(f, 0, sizeof(st_file_t));

    f->path = strdup(path);
    if (f->path == NULL) {
        moe_err(err, "%s: no memory", path);
        return NULL;
    }

    st->n_files++;

    return f;
}


static int
st_map(st_file_t *f, moe_err_t *err)
{
    int  fd, rc;

    fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return moe_err(err, "%s: %s", f->path, strerror(errno));
    }

    rc = st_map_fd(f, fd, err);
    close(fd);

    return rc;
}


static int
st_map_fd(st_file_t *f, int fd, moe_err_t *err)
{
    void         *p;
    struct stat   sb;

    if (fstat(fd, &sb) != 0) {
        return moe_err(err, "%s: %s", f->path, strerror(errno));
    }

    if (!S_ISREG(sb.st_mode)) {
        return moe_err(err, "%s: not a regular file", f->path);
    }

    if (sb.st_size < 8) {
        return moe_err(err, "%s: %lld bytes are too few for a header",
                       f->path, (long long) sb.st_size);
    }

    p = mmap(NULL, (size_t) sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        return moe_err(err, "%s: mmap: %s", f->path, strerror(errno));
    }

    /* weights are read from end to end; no matter where a system cannot */
    (void) madvise(p, (size_t) sb.st_size, MADV_HUGEPAGE);

    f->data = p;
    f->size = (uint64_t) sb.st_size;
    f->mapped = 1;

    return 0;
}


static int
st_parse(moe_st_t *st, st_file_t *f, moe_err_t *err)
{
    int           i, rc;
    json_t       *root;
    uint64_t      n, at;
    json_error_t  je;

    at = 0;

    if (moe_packed_is(f->data, f->size)) {
        if (moe_packed_check(f->data, f->size, f->path, err) != 0) {
            return -1;
        }

        f->packed = 1;
        f->pub.digest = f->data + MOE_PACKED_SUM;
        at = MOE_PACKED_PREAMBLE;
    }

    if (f->size < at + 8) {
        return moe_err(err, "%s: %llu bytes are too few for a header",
                       f->path, (unsigned long long) f->size);
    }

    n = 0;

    for (i = 7; i >= 0; i--) {
        n = n << 8 | f->data[at + (size_t) i];
    }

    at += 8;

    if (n > MOE_ST_MAX_HEADER || n > f->size - at) {
        return moe_err(err, "%s: header of %llu bytes in a file of %llu",
                       f->path, (unsigned long long) n,
                       (unsigned long long) f->size);
    }

    f->pub.path = f->path;
    f->pub.header = f->data + at;
    f->pub.header_size = n;
    f->pub.size = f->size;

    root = json_loadb((const char *) f->pub.header, (size_t) n,
                      JSON_REJECT_DUPLICATES, &je);

    if (root == NULL) {
        return moe_err(err, "%s: header byte %d: %s", f->path, je.position,
                       je.text);
    }

    rc = st_parse_header(st, f, root, at + n, err);
    json_decref(root);

    return rc;
}


/* base: offset of the data section in the file */
static int
st_parse_header(moe_st_t *st, const st_file_t *f, json_t *root,
    uint64_t base, moe_err_t *err)
{
    size_t            first;
    json_t           *val;
    const char       *name;
    moe_st_tensor_t  *t;

    if (!json_is_object(root)) {
        return moe_err(err, "%s: header is not an object", f->path);
    }

    first = st->n_tensors;

    json_object_foreach(root, name, val) {

        if (strcmp(name, "__metadata__") == 0) {
            continue;
        }

        t = st_add_tensor(st);
        if (t == NULL) {
            return moe_err(err, "%s: no memory, or too many tensors",
                           f->path);
        }

        if (st_parse_tensor(t, f, name, val, base, err) != 0) {
            return -1;
        }
    }

    t = st->tensors != NULL ? st->tensors + first : NULL;

    return st_check_layout(t, st->n_tensors - first, f, base, err);
}


static int
st_parse_tensor(moe_st_tensor_t *t, const st_file_t *f, const char *name,
    json_t *val, uint64_t base, moe_err_t *err)
{
    size_t       i, n;
    json_t      *offs, *b, *e;
    uint64_t     count, begin, end;
    const char  *dtype;

    t->file = f->path;
    t->name = strdup(name);
    if (t->name == NULL) {
        return moe_err(err, "%s: no memory", f->path);
    }

    dtype = json_string_value(json_object_get(val, "dtype"));
    if (dtype == NULL) {
        return moe_err(err, "%s: tensor " NAME ": no dtype", f->path, name);
    }

    n = sizeof(st_dtypes) / sizeof(st_dtypes[0]);

    for (i = 0; i < n && strcmp(dtype, st_dtypes[i].name) != 0; i++) {
        /* void */
    }

    if (i == n || (moe_dtype_is_packed(st_dtypes[i].dtype) && !f->packed)) {
        return moe_err(err, "%s: tensor " NAME ": unknown dtype \"%.40s\"",
                       f->path, name, dtype);
    }

    count = 0;
    t->dtype = st_dtypes[i].dtype;
    t->dtype_name = st_dtypes[i].name;

    if (st_parse_shape(t, f, json_object_get(val, "shape"), &count, err) != 0)
    {
        return -1;
    }

    offs = json_object_get(val, "data_offsets");
    b = json_array_get(offs, 0);
    e = json_array_get(offs, 1);

    if (json_array_size(offs) != 2 || !json_is_integer(b)
        || !json_is_integer(e) || json_integer_value(b) < 0
        || json_integer_value(e) < json_integer_value(b))
    {
        return moe_err(err, "%s: tensor " NAME ": data_offsets are not two "
                       "ascending integers", f->path, name);
    }

    begin = (uint64_t) json_integer_value(b);
    end = (uint64_t) json_integer_value(e);

    if (end > f->size - base) {
        return moe_err(err, "%s: tensor " NAME ": bytes %llu..%llu lie "
                       "outside the %llu bytes of data", f->path, name,
                       (unsigned long long) begin, (unsigned long long) end,
                       (unsigned long long) (f->size - base));
    }

    t->size = end - begin;

    if (!st_size_is(t, count, st_dtypes[i].bits)) {
        return moe_err(err, "%s: tensor " NAME " at offset %llu: %llu bytes, "
                       "but its shape has %llu elements of %s", f->path, name,
                       (unsigned long long) (base + begin),
                       (unsigned long long) (end - begin),
                       (unsigned long long) count, dtype);
    }

    t->offset = base + begin;
    t->data = f->data + t->offset;

    return 0;
}


/* count <= 2^57, so count * 64 bits fit, and padded blocks too */
static int
st_size_is(const moe_st_tensor_t *t, uint64_t count, unsigned bits)
{
    if (moe_dtype_is_packed(t->dtype)) {
        return t->ndim == 2 && count != 0
               && t->size == moe_packed_size(moe_dtype_packed(t->dtype),
                                             t->dims[0], t->dims[1]);
    }

    return count * bits % 8 == 0 && count * bits / 8 == t->size;
}


static int
st_parse_shape(moe_st_tensor_t *t, const st_file_t *f, json_t *shape,
    uint64_t *count, moe_err_t *err)
{
    size_t     i, n;
    json_t    *d;
    uint64_t   dim;

    n = json_array_size(shape);

    if (!json_is_array(shape) || n > MOE_ST_MAX_DIMS) {
        return moe_err(err, "%s: tensor " NAME ": shape is not a list of at "
                       "most %d sizes", f->path, t->name, MOE_ST_MAX_DIMS);
    }

    *count = 1;

    for (i = 0; i < n; i++) {
        d = json_array_get(shape, i);

        if (!json_is_integer(d) || json_integer_value(d) < 0) {
            return moe_err(err, "%s: tensor " NAME ": shape[%zu] is not a "
                           "size", f->path, t->name, i);
        }

        dim = (uint64_t) json_integer_value(d);

        if (dim != 0 && *count > ((uint64_t) 1 << 57) / dim) {
            return moe_err(err, "%s: tensor " NAME ": shape is absurdly "
                           "large", f->path, t->name);
        }

        *count *= dim;
        t->dims[i] = dim;
    }

    t->ndim = (int) n;

    return 0;
}


/* the format demands that tensors cover the data section exactly */
static int
st_check_layout(moe_st_tensor_t *t, size_t n, const st_file_t *f,
    uint64_t base, moe_err_t *err)
{
    size_t    i;
    uint64_t  at;

    if (n != 0) {
        qsort(t, n, sizeof(moe_st_tensor_t), st_cmp_offset);
    }

    at = base;

    for (i = 0; i < n; i++) {
        if (t[i].offset != at) {
            return moe_err(err, "%s: tensor " NAME " begins at offset %llu, "
                           "%s offset %llu where the one before ends",
                           f->path, t[i].name,
                           (unsigned long long) t[i].offset,
                           t[i].offset < at ? "overlapping" : "past",
                           (unsigned long long) at);
        }

        at += t[i].size;
    }

    if (at != f->size) {
        return moe_err(err, "%s: tensors end at offset %llu of %llu bytes",
                       f->path, (unsigned long long) at,
                       (unsigned long long) f->size);
    }

    return 0;
}


static moe_st_tensor_t *
st_add_tensor(moe_st_t *st)
{
    size_t            cap;
    moe_st_tensor_t  *t;

    if (st->n_tensors == st->cap_tensors) {
        cap = st->cap_tensors ? st->cap_tensors * 2 : 64;

        if (cap > ST_MAX_TENSORS) {
            return NULL;
        }

        t = realloc(st->tensors, cap * sizeof(moe_st_tensor_t));
        if (t == NULL) {
            return NULL;
        }

        st->tensors = t;
        st->cap_tensors = cap;
    }

    t = &st->tensors[st->n_tensors++];
    memset(t, 0, sizeof(moe_st_tensor_t));

    return t;
}


static int
st_finish(moe_st_t *st, moe_err_t *err)
{
    size_t            i;
    moe_st_tensor_t  *t;

    t = st->tensors;

    if (st->n_tensors != 0) {
        qsort(t, st->n_tensors, sizeof(moe_st_tensor_t), st_cmp_name);
    }

    for (i = 1; i < st->n_tensors; i++) {
        if (strcmp(t[i].name, t[i - 1].name) == 0) {
            return moe_err(err, "%s: tensor " NAME " is also in %s",
                           t[i].file, t[i].name, t[i - 1].file);
        }
    }

    return 0;
}


static int
st_cmp_name(const void *a, const void *b)
{
    const moe_st_tensor_t  *x = a, *y = b;

    return strcmp(x->name, y->name);
}


static int
st_cmp_offset(const void *a, const void *b)
{
    const moe_st_tensor_t  *x = a, *y = b;

    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }

    return (x->size > y->size) - (x->size < y->size);
}


static int
st_cmp_key(const void *key, const void *tensor)
{
    const moe_st_tensor_t  *t = tensor;

    return strcmp(key, t->name);
}


static int
st_cmp_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}
