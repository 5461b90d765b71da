#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/gguf.h"


#define ALIGNMENT      32
#define MAX_ALIGNMENT  (1 << 20)

/* the least that a key and a tensor take */
enum {
    MIN_KEY = 8 + 1 + 4 + 1,
    MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8
};


struct moe_gguf_s {
    char               *path;
    const uint8_t      *data;
    uint64_t            size;
    uint64_t            header;         /* bytes before the tensors' data */
    int                 mapped;

    moe_gguf_kv_t      *kv;             /* by key */
    moe_gguf_tensor_t  *tensors;        /* by name */
    size_t              nkv;
    size_t              ntensors;
};

/* reading the header */
typedef struct {
    moe_gguf_t  *g;
    moe_err_t   *err;
    uint64_t     at;
} reader_t;


static const uint8_t  widths[] = {
    1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8
};

static const char *const  names[] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array",
    "u64", "i64", "f64"
};

#define NTYPES  (sizeof(names) / sizeof(names[0]))


static int gguf_map(moe_gguf_t *g, moe_err_t *err);
static int gguf_parse(moe_gguf_t *g, moe_err_t *err);


static uint64_t
little(const uint8_t *p, int n)
{
    uint64_t  v;

    v = 0;

    while (n-- > 0) {
        v = v << 8 | p[n];
    }

    return v;
}


int
moe_gguf_is(const char *path)
{
    int          fd, rc;
    char         magic[4];
    struct stat  st;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd == -1) {
        return 0;
    }

    rc = fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
         && read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;

    close(fd);

    return rc;
}


static moe_gguf_t *
gguf_new(const char *path, moe_err_t *err)
{
    moe_gguf_t  *g;

    g = calloc(1, sizeof(moe_gguf_t));

    if (g != NULL) {
        g->path = strdup(path);
    }

    if (g == NULL || g->path == NULL) {
        moe_err(err, "%s: no memory", path);
        free(g);
        return NULL;
    }

    return g;
}


moe_gguf_t *
moe_gguf_open(const char *path, moe_err_t *err)
{
    moe_gguf_t  *g;

    g = gguf_new(path, err);

    if (g != NULL && (gguf_map(g, err) != 0 || gguf_parse(g, err) != 0)) {
        moe_gguf_close(g);
        return NULL;
    }

    return g;
}


moe_gguf_t *
moe_gguf_open_memory(const uint8_t *data, size_t size, const char *label,
    moe_err_t *err)
{
    moe_gguf_t  *g;

    g = gguf_new(label, err);
    if (g == NULL) {
        return NULL;
    }

    g->data = data;
    g->size = size;

    if (gguf_parse(g, err) != 0) {
        moe_gguf_close(g);
        return NULL;
    }

    return g;
}


void
moe_gguf_close(moe_gguf_t *g)
{
    size_t  i;

    if (g == NULL) {
        return;
    }

    for (i = 0; i < g->nkv; i++) {
        free((char *) g->kv[i].key);
    }

    for (i = 0; i < g->ntensors; i++) {
        free((char *) g->tensors[i].name);
    }

    if (g->mapped) {
        munmap((void *) g->data, (size_t) g->size);
    }

    free(g->kv);
    free(g->tensors);
    free(g->path);
    free(g);
}


static int
gguf_map(moe_gguf_t *g, moe_err_t *err)
{
    int          fd, rc;
    void        *p;
    struct stat  st;

    fd = open(g->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd == -1) {
        return moe_err(err, "%s: %s", g->path, strerror(errno));
    }

    rc = 0;
    p = MAP_FAILED;

    if (fstat(fd, &st) != 0) {
        rc = moe_err(err, "%s: %s", g->path, strerror(errno));

    } else if (!S_ISREG(st.st_mode) || st.st_size == 0) {
        rc = moe_err(err, "%s: not a regular file with something in it",
                     g->path);

    } else {
        p = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_SHARED, fd, 0);

        if (p == MAP_FAILED) {
            rc = moe_err(err, "%s: mmap: %s", g->path, strerror(errno));
        }
    }

    close(fd);

    if (rc == 0) {
        g->data = p;
        g->size = (uint64_t) st.st_size;
        g->mapped = 1;
    }

    return rc;
}


static int
short_of(reader_t *r, const char *what)
{
    return moe_err(r->err, "%s: %s at offset %llu is beyond the end of the "
                   "file", r->g->path, what, (unsigned long long) r->at);
}


static int
take(reader_t *r, int width, uint64_t *v, const char *what)
{
    *v = 0;

    if (r->g->size - r->at < (uint64_t) width) {
        return short_of(r, what);
    }

    *v = little(r->g->data + r->at, width);
    r->at += (uint64_t) width;

    return 0;
}


/* a key or a name, to be freed: characters that a line of text can show */
static char *
take_name(reader_t *r, const char *what)
{
    char      *s;
    size_t     i;
    uint64_t   n, at;

    at = r->at;

    if (take(r, 8, &n, what) != 0) {
        return NULL;
    }

    if (n == 0 || n > MOE_GGUF_MAX_NAME || n > r->g->size - r->at) {
        moe_err(r->err, "%s: %s at offset %llu has %llu bytes", r->g->path,
                what, (unsigned long long) at, (unsigned long long) n);
        return NULL;
    }

    s = malloc((size_t) n + 1);
    if (s == NULL) {
        moe_err(r->err, "%s: no memory", r->g->path);
        return NULL;
    }

    memcpy(s, r->g->data + r->at, (size_t) n);
    s[n] = '\0';
    r->at += n;

    for (i = 0; i < n; i++) {
        if ((uint8_t) s[i] <= ' ' || (uint8_t) s[i] >= 127) {
            moe_err(r->err, "%s: %s at offset %llu has a byte %u in it",
                    r->g->path, what, (unsigned long long) at,
                    (uint8_t) s[i]);
            free(s);
            return NULL;
        }
    }

    return s;
}


/* strings of an array, only to see that they are there */
static int
skip_strings(reader_t *r, const moe_gguf_kv_t *kv)
{
    uint64_t  i, n;

    for (i = 0; i < kv->count; i++) {

        if (take(r, 8, &n, "a string") != 0) {
            return moe_err_prefix(r->err, "%s", kv->key);
        }

        if (n > r->g->size - r->at) {
            return moe_err(r->err, "%s: %s: string %llu at offset %llu has "
                           "%llu bytes", r->g->path, kv->key,
                           (unsigned long long) i,
                           (unsigned long long) r->at - 8,
                           (unsigned long long) n);
        }

        r->at += n;
    }

    return 0;
}


static int
bad_type(reader_t *r, const moe_gguf_kv_t *kv, const char *what, uint64_t v)
{
    return moe_err(r->err, "%s: %s: %s %llu at offset %llu", r->g->path,
                   kv->key, what, (unsigned long long) v,
                   (unsigned long long) r->at - 4);
}


static int
take_array(reader_t *r, moe_gguf_kv_t *kv)
{
    uint64_t  v, width;

    if (take(r, 4, &v, kv->key) != 0) {
        return -1;
    }

    if (v >= NTYPES || v == MOE_GGUF_ARRAY) {
        return bad_type(r, kv, "an array of type", v);
    }

    kv->elem = (moe_gguf_type_e) v;

    if (take(r, 8, &kv->count, kv->key) != 0) {
        return -1;
    }

    kv->data = r->g->data + r->at;
    kv->offset = r->at;

    width = v == MOE_GGUF_STRING ? 8 : widths[v];

    if (kv->count > (r->g->size - r->at) / width) {
        return moe_err(r->err, "%s: %s: an array of %llu at offset %llu is "
                       "more than the file has", r->g->path, kv->key,
                       (unsigned long long) kv->count,
                       (unsigned long long) kv->offset);
    }

    if (v == MOE_GGUF_STRING) {
        return skip_strings(r, kv);
    }

    r->at += kv->count * width;

    return 0;
}


static int
take_value(reader_t *r, moe_gguf_kv_t *kv)
{
    uint64_t  v;

    if (take(r, 4, &v, kv->key) != 0) {
        return -1;
    }

    if (v >= NTYPES) {
        return bad_type(r, kv, "type", v);
    }

    kv->type = (moe_gguf_type_e) v;

    if (v == MOE_GGUF_ARRAY) {
        return take_array(r, kv);
    }

    if (v == MOE_GGUF_STRING) {

        if (take(r, 8, &kv->count, kv->key) != 0) {
            return -1;
        }

    } else {
        kv->count = widths[v];
    }

    if (kv->count > r->g->size - r->at) {
        return short_of(r, kv->key);
    }

    kv->data = r->g->data + r->at;
    kv->offset = r->at;
    r->at += kv->count;

    return 0;
}


static int
cmp_kv(const void *a, const void *b)
{
    const moe_gguf_kv_t  *x = a, *y = b;

    return strcmp(x->key, y->key);
}


static int
cmp_tensor(const void *a, const void *b)
{
    const moe_gguf_tensor_t  *x = a, *y = b;

    return strcmp(x->name, y->name);
}


static int
cmp_offset(const void *a, const void *b)
{
    const moe_gguf_tensor_t  *x = a, *y = b;

    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }

    return (x->size > y->size) - (x->size < y->size);
}


static int
parse_keys(reader_t *r, uint64_t n)
{
    size_t       i;
    moe_gguf_t  *g;

    g = r->g;

    if (n > MOE_GGUF_MAX_KEYS || n > (g->size - r->at) / MIN_KEY) {
        return moe_err(r->err, "%s: %llu keys in a file of %llu bytes",
                       g->path, (unsigned long long) n,
                       (unsigned long long) g->size);
    }

    g->kv = calloc((size_t) n + 1, sizeof(moe_gguf_kv_t));
    if (g->kv == NULL) {
        return moe_err(r->err, "%s: no memory", g->path);
    }

    for (i = 0; i < n; i++) {
        g->kv[i].key = take_name(r, "a key");

        if (g->kv[i].key == NULL) {
            return -1;
        }

        g->nkv++;

        if (take_value(r, &g->kv[i]) != 0) {
            return -1;
        }
    }

    qsort(g->kv, g->nkv, sizeof(moe_gguf_kv_t), cmp_kv);

    for (i = 1; i < n; i++) {
        if (cmp_kv(&g->kv[i], &g->kv[i - 1]) == 0) {
            return moe_err(r->err, "%s: key %s is there twice, at offsets "
                           "%llu and %llu", g->path, g->kv[i].key,
                           (unsigned long long) g->kv[i - 1].offset,
                           (unsigned long long) g->kv[i].offset);
        }
    }

    return 0;
}


/* dims and type, and from them the size in bytes */
static int
parse_shape(reader_t *r, moe_gguf_tensor_t *t)
{
    uint32_t  i;
    uint64_t  v, n;

    if (take(r, 4, &v, t->name) != 0) {
        return -1;
    }

    if (v == 0 || v > MOE_GGUF_MAX_DIMS) {
        return moe_err(r->err, "%s: tensor %s at offset %llu has %llu "
                       "dimensions", r->g->path, t->name,
                       (unsigned long long) r->at - 4,
                       (unsigned long long) v);
    }

    t->ndim = (uint32_t) v;
    n = 1;

    for (i = 0; i < MOE_GGUF_MAX_DIMS; i++) {
        t->dims[i] = 1;

        if (i < t->ndim && take(r, 8, &t->dims[i], t->name) != 0) {
            return -1;
        }

        if (t->dims[i] == 0 || t->dims[i] > INT64_MAX / n) {
            return moe_err(r->err, "%s: tensor %s: dimension %u at offset "
                           "%llu is %llu", r->g->path, t->name, i,
                           (unsigned long long) r->at - 8,
                           (unsigned long long) t->dims[i]);
        }

        n *= t->dims[i];
    }

    if (take(r, 4, &v, t->name) != 0) {
        return -1;
    }

    t->ggml = (uint32_t) v;
    t->type = moe_ggml_type(t->ggml);

    if (t->type == NULL) {
        return moe_err(r->err, "%s: tensor %s: type %u at offset %llu is not "
                       "known", r->g->path, t->name, t->ggml,
                       (unsigned long long) r->at - 4);
    }

    if (t->dims[0] % t->type->elems != 0) {
        return moe_err(r->err, "%s: tensor %s: rows of %llu are no blocks of "
                       "%s", r->g->path, t->name,
                       (unsigned long long) t->dims[0], t->type->name);
    }

    n /= t->type->elems;

    if (n > r->g->size / t->type->bytes) {
        return moe_err(r->err, "%s: tensor %s is larger than the file",
                       r->g->path, t->name);
    }

    t->size = n * t->type->bytes;

    return 0;
}


static int
parse_tensors(reader_t *r, uint64_t n)
{
    size_t              i;
    moe_gguf_t         *g;
    moe_gguf_tensor_t  *t;

    g = r->g;

    g->tensors = calloc((size_t) n + 1, sizeof(moe_gguf_tensor_t));
    if (g->tensors == NULL) {
        return moe_err(r->err, "%s: no memory", g->path);
    }

    for (i = 0; i < n; i++) {
        t = &g->tensors[i];
        t->name = take_name(r, "a tensor's name");

        if (t->name == NULL) {
            return -1;
        }

        g->ntensors++;

        if (parse_shape(r, t) != 0
            || take(r, 8, &t->offset, t->name) != 0)
        {
            return -1;
        }
    }

    return 0;
}


/* offsets count from the first aligned byte behind the header */
static int
place_tensors(reader_t *r, uint64_t align)
{
    size_t              i;
    uint64_t            base, room, end;
    moe_gguf_t         *g;
    moe_gguf_tensor_t  *t;

    g = r->g;
    g->header = r->at;
    base = (r->at + align - 1) / align * align;
    room = base < g->size ? g->size - base : 0;
    end = 0;

    qsort(g->tensors, g->ntensors, sizeof(moe_gguf_tensor_t), cmp_offset);

    for (i = 0; i < g->ntensors; i++) {
        t = &g->tensors[i];

        if (t->offset % align != 0 || t->offset > room
            || t->size > room - t->offset)
        {
            return moe_err(r->err, "%s: tensor %s: %llu bytes at offset %llu "
                           "of the data do not lie in its %llu bytes, "
                           "aligned to %llu", g->path, t->name,
                           (unsigned long long) t->size,
                           (unsigned long long) t->offset,
                           (unsigned long long) room,
                           (unsigned long long) align);
        }

        if (t->offset < end) {
            return moe_err(r->err, "%s: tensor %s at offset %llu of the data "
                           "lies in tensor %s", g->path, t->name,
                           (unsigned long long) t->offset,
                           g->tensors[i - 1].name);
        }

        end = t->offset + t->size;
        t->offset += base;
        t->data = g->data + t->offset;
    }

    qsort(g->tensors, g->ntensors, sizeof(moe_gguf_tensor_t), cmp_tensor);

    for (i = 1; i < g->ntensors; i++) {
        if (cmp_tensor(&g->tensors[i], &g->tensors[i - 1]) == 0) {
            return moe_err(r->err, "%s: tensor %s is there twice", g->path,
                           g->tensors[i].name);
        }
    }

    return 0;
}


static int
gguf_parse(moe_gguf_t *g, moe_err_t *err)
{
    reader_t  r;
    uint32_t  align;
    uint64_t  magic, version, ntensors, nkv;

    r = (reader_t) { g, err, 0 };

    if (take(&r, 4, &magic, "the magic") != 0
        || take(&r, 4, &version, "the version") != 0)
    {
        return -1;
    }

    if (magic != 0x46554747) {
        return moe_err(err, "%s: not a GGUF file", g->path);
    }

    if (version != 2 && version != 3) {
        return moe_err(err, "%s: GGUF version %llu%s", g->path,
                       (unsigned long long) version,
                       (version & 0xffff) == 0
                       ? ", which is a big-endian file's" : "");
    }

    if (take(&r, 8, &ntensors, "the number of tensors") != 0
        || take(&r, 8, &nkv, "the number of keys") != 0)
    {
        return -1;
    }

    if (ntensors > MOE_GGUF_MAX_TENSORS
        || ntensors > (g->size - r.at) / MIN_TENSOR)
    {
        return moe_err(err, "%s: %llu tensors in a file of %llu bytes",
                       g->path, (unsigned long long) ntensors,
                       (unsigned long long) g->size);
    }

    align = ALIGNMENT;

    if (parse_keys(&r, nkv) != 0
        || moe_gguf_u32(g, "general.alignment", &align, err) < 0)
    {
        return -1;
    }

    if (align == 0 || align > MAX_ALIGNMENT || (align & (align - 1)) != 0) {
        return moe_err(err, "%s: general.alignment is %u", g->path, align);
    }

    if (parse_tensors(&r, ntensors) != 0) {
        return -1;
    }

    return place_tensors(&r, align);
}


const char *
moe_gguf_path(const moe_gguf_t *g)
{
    return g->path;
}


const uint8_t *
moe_gguf_header(const moe_gguf_t *g, uint64_t *size)
{
    *size = g->header;

    return g->data;
}


uint64_t
moe_gguf_size(const moe_gguf_t *g)
{
    return g->size;
}


void
moe_gguf_forget(const moe_gguf_t *g, const moe_gguf_tensor_t *t)
{
    uintptr_t  page, first, last;

    page = (uintptr_t) sysconf(_SC_PAGESIZE);
    first = (uintptr_t) t->data / page * page;
    last = (uintptr_t) t->data + t->size;

    if (g->mapped) {
        (void) madvise((void *) first, last - first, MADV_DONTNEED);
    }
}


const moe_gguf_kv_t *
moe_gguf_find(const moe_gguf_t *g, const char *key)
{
    moe_gguf_kv_t  want = { .key = key };

    return bsearch(&want, g->kv, g->nkv, sizeof(moe_gguf_kv_t), cmp_kv);
}


const moe_gguf_tensor_t *
moe_gguf_tensor(const moe_gguf_t *g, const char *name)
{
    moe_gguf_tensor_t  want = { .name = name };

    return bsearch(&want, g->tensors, g->ntensors, sizeof(moe_gguf_tensor_t),
                   cmp_tensor);
}


const moe_gguf_tensor_t *
moe_gguf_tensor_at(const moe_gguf_t *g, size_t i)
{
    return i < g->ntensors ? &g->tensors[i] : NULL;
}


static int
wrong_kind(const moe_gguf_t *g, const moe_gguf_kv_t *kv, const char *want,
    moe_err_t *err)
{
    return moe_err(err, "%s: %s at offset %llu is not %s (%s)", g->path,
                   kv->key, (unsigned long long) kv->offset, want,
                   names[kv->type]);
}


/* an integer or a boolean; 0: of another type, or too large */
static int
int_value(moe_gguf_type_e type, const uint8_t *p, int64_t *v)
{
    int       bits;
    uint64_t  u;

    u = little(p, widths[type]);
    bits = 64 - 8 * widths[type];

    switch (type) {

    case MOE_GGUF_I8:
    case MOE_GGUF_I16:
    case MOE_GGUF_I32:
    case MOE_GGUF_I64:
        *v = (int64_t) (u << bits) >> bits;
        return 1;

    case MOE_GGUF_F32:
    case MOE_GGUF_F64:
    case MOE_GGUF_STRING:
    case MOE_GGUF_ARRAY:
        return 0;

    default:
        *v = (int64_t) u;
        return u <= INT64_MAX;
    }
}


int
moe_gguf_u32(const moe_gguf_t *g, const char *key, uint32_t *out,
    moe_err_t *err)
{
    int64_t               v;
    const moe_gguf_kv_t  *kv;

    kv = moe_gguf_find(g, key);
    if (kv == NULL) {
        return 1;
    }

    if (!int_value(kv->type, kv->data, &v) || v < 0 || v > UINT32_MAX) {
        return wrong_kind(g, kv, "a number below 2^32", err);
    }

    *out = (uint32_t) v;

    return 0;
}


/* the decimal of fewest digits that is this float32 */
static double
shortest(float f)
{
    int     digits;
    char    text[32];

    if (!isfinite(f)) {
        return (double) f;
    }

    for (digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double) f);

        if (strtof(text, NULL) == f) {
            break;
        }
    }

    snprintf(text, sizeof(text), "%.*g", digits, (double) f);

    return strtod(text, NULL);
}


int
moe_gguf_double(const moe_gguf_t *g, const char *key, double *out,
    moe_err_t *err)
{
    int64_t               v;
    const moe_gguf_kv_t  *kv;

    kv = moe_gguf_find(g, key);
    if (kv == NULL) {
        return 1;
    }

    if (kv->type == MOE_GGUF_F32) {
        float  f;

        memcpy(&f, kv->data, sizeof(f));
        *out = shortest(f);

    } else if (kv->type == MOE_GGUF_F64) {
        memcpy(out, kv->data, sizeof(*out));

    } else if (kv->type != MOE_GGUF_BOOL
               && int_value(kv->type, kv->data, &v))
    {
        *out = (double) v;

    } else {
        return wrong_kind(g, kv, "a number", err);
    }

    return isfinite(*out) ? 0 : wrong_kind(g, kv, "a finite number", err);
}


int
moe_gguf_bool(const moe_gguf_t *g, const char *key, int *out, moe_err_t *err)
{
    const moe_gguf_kv_t  *kv;

    kv = moe_gguf_find(g, key);
    if (kv == NULL) {
        return 1;
    }

    if (kv->type != MOE_GGUF_BOOL || kv->data[0] > 1) {
        return wrong_kind(g, kv, "a boolean", err);
    }

    *out = kv->data[0];

    return 0;
}


int
moe_gguf_string(const moe_gguf_t *g, const char *key, const char **out,
    size_t *len, moe_err_t *err)
{
    const moe_gguf_kv_t  *kv;

    kv = moe_gguf_find(g, key);
    if (kv == NULL) {
        return 1;
    }

    if (kv->type != MOE_GGUF_STRING) {
        return wrong_kind(g, kv, "a string", err);
    }

    *out = (const char *) kv->data;
    *len = (size_t) kv->count;

    return 0;
}


const char *
moe_gguf_show(const char *s, size_t len, char out[MOE_GGUF_SHOW])
{
    size_t  i;

    for (i = 0; i < len && i < MOE_GGUF_SHOW - 1; i++) {
        out[i] = (uint8_t) s[i] >= ' ' && (uint8_t) s[i] < 127 ? s[i] : '?';
    }

    out[i] = '\0';

    return out;
}


int
moe_gguf_array(const moe_gguf_t *g, const char *key,
    const moe_gguf_kv_t **out, moe_err_t *err)
{
    const moe_gguf_kv_t  *kv;

    kv = moe_gguf_find(g, key);
    if (kv == NULL) {
        return 1;
    }

    if (kv->type != MOE_GGUF_ARRAY) {
        return wrong_kind(g, kv, "an array", err);
    }

    *out = kv;

    return 0;
}


const char *
moe_gguf_next(const moe_gguf_kv_t *kv, uint64_t *at, size_t *len)
{
    const uint8_t  *p;

    p = kv->data + *at;
    *len = (size_t) little(p, 8);
    *at += 8 + *len;

    return (const char *) p + 8;
}


int
moe_gguf_int_at(const moe_gguf_kv_t *kv, uint64_t i, int64_t *out)
{
    return int_value(kv->elem, kv->data + i * widths[kv->elem], out) ? 0 : -1;
}


float
moe_gguf_float_at(const moe_gguf_kv_t *kv, uint64_t i)
{
    float  f;

    memcpy(&f, kv->data + i * sizeof(f), sizeof(f));

    return f;
}
