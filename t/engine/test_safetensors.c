#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/safetensors.h"


#define GOOD                                                                  \
    "{\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],"                       \
    "\"data_offsets\":[4,28]},"                                               \
    "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[2],"                         \
    "\"data_offsets\":[0,4]},"                                                \
    "\"__metadata__\":{\"format\":\"pt\"}}  "


static moe_err_t  err;
static char       dir[64];


/* header and so many bytes of data 0, 1, 2 ...; the caller frees */
static uint8_t *
file_of(const char *header, size_t data, size_t *size)
{
    size_t    i, n;
    uint8_t  *buf;

    n = strlen(header);
    *size = 8 + n + data;
    buf = malloc(*size);
    assert_non_null(buf);

    for (i = 0; i < 8; i++) {
        buf[i] = (uint8_t) (n >> (8 * i));
    }

    memcpy(buf + 8, header, n);

    for (i = 0; i < data; i++) {
        buf[8 + n + i] = (uint8_t) i;
    }

    return buf;
}


static void
refuses(const char *header, size_t data, const char *message)
{
    size_t     size;
    uint8_t   *buf;
    moe_st_t  *st;

    buf = file_of(header, data, &size);
    st = moe_st_open_memory(buf, size, "x.safetensors", &err);

    if (st != NULL) {
        fail_msg("%s is accepted", header);
    }

    if (strstr(err.text, message) == NULL
        || strncmp(err.text, "x.safetensors: ", 15) != 0)
    {
        fail_msg("\"%s\" does not say \"%s\"", err.text, message);
    }

    free(buf);
}


static void
write_file(const char *name, const void *data, size_t size)
{
    char   path[256];
    FILE  *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}


static void
write_shard(const char *name, const char *header, size_t data)
{
    size_t    size;
    uint8_t  *buf;

    buf = file_of(header, data, &size);
    write_file(name, buf, size);
    free(buf);
}


static void
refuses_dir(const char *message)
{
    moe_st_t  *st;

    st = moe_st_open(dir, &err);

    if (st != NULL) {
        fail_msg("the directory is accepted, not \"%s\"", message);
    }

    if (strstr(err.text, message) == NULL || strstr(err.text, dir) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, message);
    }
}


static int
make_dir(void **state)
{
    strcpy(dir, "/tmp/test_safetensors.XXXXXX");

    return mkdtemp(dir) != NULL ? 0 : -1;
}


static int
remove_dir(void **state)
{
    char  command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", dir);

    return system(command);
}


static void
test_good(void **state)
{
    size_t                  size;
    uint8_t                *buf;
    moe_st_t               *st;
    const moe_st_tensor_t  *t;

    buf = file_of(GOOD, 28, &size);
    st = moe_st_open_memory(buf, size, "x", &err);
    assert_non_null(st);

    assert_int_equal(moe_st_count(st), 2);
    assert_string_equal(moe_st_at(st, 0)->name, "a.weight");
    assert_string_equal(moe_st_at(st, 1)->name, "b.weight");
    assert_null(moe_st_at(st, 2));
    assert_null(moe_st_find(st, "c"));
    assert_null(moe_st_find(st, "__metadata__"));

    t = moe_st_find(st, "b.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, MOE_DTYPE_F32);
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->size, 24);
    assert_int_equal(t->data[0], 4);
    assert_ptr_equal(t->data, buf + t->offset);

    t = moe_st_find(st, "a.weight");
    assert_int_equal(t->dtype, MOE_DTYPE_BF16);
    assert_int_equal(t->data[3], 3);

    assert_int_equal(moe_st_files(st), 1);
    assert_int_equal(moe_st_file_bytes(st), size);
    assert_int_equal(moe_st_file(st, 0)->header_size, strlen(GOOD));
    assert_memory_equal(moe_st_file(st, 0)->header, GOOD, strlen(GOOD));
    assert_null(moe_st_file(st, 1));

    moe_st_close(st);
    moe_st_close(NULL);
    free(buf);
}


/* scalars, empty tensors and types that are only known */
static void
test_odd_but_good(void **state)
{
    size_t     size;
    uint8_t   *buf;
    moe_st_t  *st;

    buf = file_of("{\"s\":{\"dtype\":\"F16\",\"shape\":[],"
                  "\"data_offsets\":[0,2]},"
                  "\"e\":{\"dtype\":\"F32\",\"shape\":[0,5],"
                  "\"data_offsets\":[2,2]},"
                  "\"q\":{\"dtype\":\"F4\",\"shape\":[4],"
                  "\"data_offsets\":[2,4]}}", 4, &size);
    st = moe_st_open_memory(buf, size, "x", &err);
    assert_non_null(st);
    assert_int_equal(moe_st_find(st, "s")->ndim, 0);
    assert_int_equal(moe_st_find(st, "e")->size, 0);
    assert_int_equal(moe_st_find(st, "q")->dtype, MOE_DTYPE_OTHER);
    assert_string_equal(moe_st_find(st, "q")->dtype_name, "F4");
    moe_st_close(st);
    free(buf);

    buf = file_of("{}", 0, &size);
    st = moe_st_open_memory(buf, size, "x", &err);
    assert_non_null(st);
    assert_int_equal(moe_st_count(st), 0);
    assert_null(moe_st_find(st, ""));
    moe_st_close(st);
    free(buf);
}


#define ONE(dtype, shape, offsets)                                            \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":"       \
    offsets "}}"

#define F32  "\"F32\""


static void
test_bad_headers(void **state)
{
    refuses("", 0, "header byte");
    refuses("[]", 0, "not an object");
    refuses("{\"t\":1}", 0, "tensor \"t\": no dtype");
    refuses("{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets");
    refuses("{\"t\":{}, \"t\":{}}", 0, "header byte");
    refuses("{\"t\\u0000\":{}}", 0, "header byte");
    refuses("{\"t\":", 0, "header byte");

    refuses(ONE("\"F99\"", "[1]", "[0,4]"), 4, "unknown dtype \"F99\"");
    refuses(ONE("7", "[1]", "[0,4]"), 4, "no dtype");

    refuses(ONE(F32, "3", "[0,4]"), 4, "shape is not a list");
    refuses(ONE(F32, "[-1]", "[0,4]"), 4, "shape[0]");
    refuses(ONE(F32, "[1, 1.5]", "[0,4]"), 4, "shape[1]");
    refuses(ONE(F32, "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "at most 8");
    refuses(ONE(F32, "[4294967296,4294967296]", "[0,0]"), 0, "absurdly");
    refuses(ONE(F32, "[9223372036854775807,9]", "[0,0]"), 0, "absurdly");
    refuses(ONE(F32, "[4611686018427387904]", "[0,0]"), 0, "absurdly");
    refuses(ONE(F32, "[99999999999999999999]", "[0,0]"), 0, "header byte");

    refuses(ONE(F32, "[1]", "[4,0]"), 4, "ascending");
    refuses(ONE(F32, "[1]", "[-4,0]"), 4, "ascending");
    refuses(ONE(F32, "[1]", "[0]"), 4, "ascending");
    refuses(ONE(F32, "[1]", "[0,4,8]"), 8, "ascending");
    refuses(ONE(F32, "[1]", "[0,4.0]"), 4, "ascending");
    refuses(ONE(F32, "[1]", "[0,8]"), 4, "outside the 4 bytes");
    refuses(ONE(F32, "[1]", "[9223372036854775803,9223372036854775807]"), 4,
            "outside the 4 bytes");
    refuses(ONE(F32, "[2]", "[0,4]"), 4, "2 elements of F32");
    refuses(ONE(F32, "[1]", "[0,8]"), 8, "1 elements of F32");
    refuses(ONE("\"F4\"", "[3]", "[0,1]"), 1, "3 elements of F4");
    refuses(ONE(F32, "[0]", "[0,4]"), 4, "0 elements");

    /* gaps and overlaps */
    refuses(ONE(F32, "[1]", "[4,8]"), 8, "past offset");
    refuses(ONE(F32, "[1]", "[0,4]"), 8, "tensors end at offset");
    refuses("{}", 1, "tensors end at offset");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
            12, "tensor \"b\" begins at offset");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
            12, "tensor \"b\" begins at offset");
}


static void
test_truncated(void **state)
{
    size_t     i, size;
    uint8_t   *buf, *cut;
    moe_st_t  *st;

    buf = file_of(GOOD, 28, &size);

    /* an exact copy each, so that the sanitizer sees one byte too many */
    for (i = 0; i < size; i++) {
        cut = malloc(i + 1);
        assert_non_null(cut);
        cut[i] = '{';
        memcpy(cut, buf, i);
        st = moe_st_open_memory(cut, i, "x", &err);
        assert_null(st);
        free(cut);
    }

    for (i = 0; i < 8; i++) {
        buf[i] = 0xff;
    }

    assert_null(moe_st_open_memory(buf, size, "x", &err));
    assert_non_null(strstr(err.text, "header of 18446744073709551615 bytes"));
    free(buf);
}


static void
test_single_file(void **state)
{
    moe_st_t  *st;

    refuses_dir("model.safetensors: No such file");

    write_shard("model.safetensors", GOOD, 28);
    st = moe_st_open(dir, &err);
    assert_non_null(st);
    assert_int_equal(moe_st_find(st, "b.weight")->data[0], 4);
    moe_st_close(st);

    write_file("model.safetensors", "1234567", 7);
    refuses_dir("7 bytes are too few");
    write_file("model.safetensors", "", 0);
    refuses_dir("0 bytes are too few");
    write_shard("model.safetensors", GOOD, 27);
    refuses_dir("outside the 27 bytes");
}


static void
index_says(const char *text)
{
    write_file("model.safetensors.index.json", text, strlen(text));
}


static void
test_shards(void **state)
{
    char       path[256];
    moe_st_t  *st;

    write_shard("s1", ONE(F32, "[1]", "[0,4]"), 4);
    write_shard("s2", "{\"u\":{\"dtype\":\"F32\",\"shape\":[2],"
                "\"data_offsets\":[0,8]}}", 8);

    index_says("{\"metadata\":{},\"weight_map\":{\"u\":\"s2\",\"t\":\"s1\"}}");
    st = moe_st_open(dir, &err);
    assert_non_null(st);
    assert_int_equal(moe_st_files(st), 2);
    assert_int_equal(moe_st_count(st), 2);
    assert_int_equal(moe_st_find(st, "u")->size, 8);
    assert_non_null(strstr(moe_st_find(st, "t")->file, "/s1"));
    assert_non_null(strstr(moe_st_file(st, 1)->path, "/s2"));
    moe_st_close(st);

    index_says("{\"weight_map\":{\"u\":\"s1\",\"t\":\"s1\"}}");
    refuses_dir("tensor \"u\" is not in s1");
    index_says("{\"weight_map\":{\"u\":\"s1\",\"t\":\"s2\"}}");
    refuses_dir("tensor \"u\" is not in s1");
    index_says("{\"weight_map\":{\"u\":\"s2\",\"v\":\"s1\"}}");
    refuses_dir("tensor \"v\" is not in s1");
    index_says("{\"weight_map\":{\"u\":\"s9\"}}");
    refuses_dir("s9: No such file");
    index_says("{\"weight_map\":{\"u\":\"../s2\"}}");
    refuses_dir("plain file name");
    index_says("{\"weight_map\":{\"u\":\"/etc/passwd\"}}");
    refuses_dir("plain file name");
    index_says("{\"weight_map\":{\"u\":\"..\"}}");
    refuses_dir("plain file name");
    index_says("{\"weight_map\":{\"u\":\"\"}}");
    refuses_dir("plain file name");
    index_says("{\"weight_map\":{\"u\":7}}");
    refuses_dir("plain file name");
    index_says("{\"weight_map\":{}}");
    refuses_dir("weight_map is missing");
    index_says("{\"weight_map\":[\"s1\"]}");
    refuses_dir("weight_map is missing");
    index_says("[]");
    refuses_dir("weight_map is missing");
    index_says("");
    refuses_dir("index.json: byte");

    /* the same name in two files */
    write_shard("s3", ONE(F32, "[1]", "[0,4]"), 4);
    index_says("{\"weight_map\":{\"u\":\"s3\",\"t\":\"s1\"}}");
    refuses_dir("tensor \"t\" is also in");

    /* what is not a file must not block */
    snprintf(path, sizeof(path), "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    index_says("{\"weight_map\":{\"u\":\"fifo\"}}");
    refuses_dir("fifo: not a regular file");

    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refuses_dir("not a regular file");
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_odd_but_good),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test_setup_teardown(test_single_file, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(test_shards, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
