/*
 * libFuzzer: a chat template, rendered with a fixed request and, behind the
 * first byte 0xff, with variables as JSON.  What comes out is UTF-8 within
 * its limits, the same twice, and no byte of the user's counts as the
 * template's.  An empty corpus is begun with the cases of the unit test.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utf8proc.h>

#include "text/template.h"


#define CASES   "t/golden/templates/cases.json"
#define OUTPUT  (1u << 20)


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* what the user types holds a character that no template has */
#define MARK  "\xee\x80\x80"

static const char  request[] =
    "{\"messages\": ["
    "{\"role\": \"system\", \"content\": \"" MARK "one <two>\\nthree \"},"
    "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \""
    MARK "\"}]}, {\"role\": \"assistant\", \"content\": null,"
    " \"reasoning_content\": \"a" MARK "</think>b" MARK "\", \"tool_calls\":"
    " [{\"id\": \"c\", \"function\": {\"name\": \"" MARK "f\","
    " \"arguments\": {\"x\": [1, 2.5, true, null, \"" MARK "\"]}}}]}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"" MARK
    "\", \"parameters\": {\"properties\": {\"" MARK "k\": {}}}}}],"
    " \"add_generation_prompt\": true, \"s\": \"Hello, " MARK " World\","
    " \"u\": \"\xc3\x9cn\xc3\xaf " MARK " \xf0\x9f\x98\x80\", \"n\": 7,"
    " \"neg\": -7, \"z\": 0, \"f\": 2.5, \"t\": true, \"nil\": null,"
    " \"list\": [3, 1, 2], \"words\": [\"b\", \"A\", \"" MARK "\"],"
    " \"dict\": {\"b\": 1, \"a\": [1, {\"c\": null}]},"
    " \"users\": [{\"name\": \"" MARK "Ada\", \"age\": 36},"
    " {\"name\": \"bob\", \"age\": 17}],"
    " \"json\": \"{\\\"a\\\": [1, 2.0, \\\"" MARK "\\\"]}\","
    " \"html\": \"<a>" MARK "&'\", \"lines\": \"one\\ntwo" MARK "\\r\\n\"}";

static json_t  *fixed;


static void
check(int ok)
{
    if (!ok) {
        abort();
    }
}


static void
seed(const char *dir)
{
    FILE        *f;
    size_t       i;
    json_t      *golden, *c, *src;
    char         path[4096];

    golden = json_load_file(CASES, JSON_ALLOW_NUL, NULL);

    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        snprintf(path, sizeof(path), "%s/case-%04zu", dir, i);
        f = access(path, F_OK) == 0 ? NULL : fopen(path, "wb");
        if (f != NULL) {
            src = json_array_get(c, 0);
            fwrite(json_string_value(src), 1, json_string_length(src), f);
            fclose(f);
        }
    }

    json_decref(golden);
}


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fixed = json_loads(request, 0, NULL);
    check(fixed != NULL);

    if (*argc > 1 && (*argv)[*argc - 1][0] != '-') {
        seed((*argv)[*argc - 1]);
    }

    return 0;
}


/* clean: the template cannot have written the mark itself */
static void
check_output(const moe_rendered_t *r, int clean)
{
    size_t               i;
    const char          *p;
    utf8proc_int32_t     cp;
    utf8proc_ssize_t     n;

    check(r->len <= OUTPUT);

    for (i = 0; i < r->len; i += (size_t) n) {
        n = utf8proc_iterate((const uint8_t *) r->text + i,
                             (utf8proc_ssize_t) (r->len - i), &cp);
        check(n > 0);
    }

    for (i = 0; i < r->len; i++) {
        check(r->trust[i] <= 1);
    }

    for (i = 0; clean && i < r->len; i++) {
        p = memmem(r->text + i, r->len - i, MARK, 3);
        if (p == NULL) {
            break;
        }
        i = (size_t) (p - r->text);
        check(r->trust[i] == 0 && r->trust[i + 1] == 0
              && r->trust[i + 2] == 0);
    }
}


static void
render(const moe_template_t *t, const json_t *vars, int clean)
{
    int                 rc;
    moe_err_t           err;
    moe_rendered_t      a, b;
    moe_template_env_t  env = {
        .max_steps = 300000, .max_output = OUTPUT, .max_memory = 32u << 20
    };

    rc = moe_template_render(t, vars, &env, &a, &err);
    check(rc == 0 ? a.status == MOE_TEMPLATE_OK
                  : a.status != MOE_TEMPLATE_OK && a.text == NULL);

    if (rc == 0) {
        check_output(&a, clean);
    }

    check(moe_template_render(t, vars, &env, &b, &err) == rc);
    check(a.len == b.len && a.status == b.status);
    check(a.len == 0 || (memcmp(a.text, b.text, a.len) == 0
                         && memcmp(a.trust, b.trust, a.len) == 0));

    moe_rendered_free(&a);
    moe_rendered_free(&b);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int              clean;
    char            *src;
    size_t           len;
    json_t          *vars;
    moe_err_t        err;
    const uint8_t   *sep;
    moe_template_t  *t;

    sep = size > 0 ? memchr(data, 0xff, size) : NULL;
    len = sep != NULL ? (size_t) (sep - data) : size;

    /* on the heap, at its exact size: a read beyond it is seen */
    src = malloc(len > 0 ? len : 1);
    if (len > 0) {
        memcpy(src, data, len);
    }

    clean = memmem(src, len, MARK, 3) == NULL
            && memmem(src, len, "\\", 1) == NULL
            && memmem(src, len, "%c", 2) == NULL;

    t = moe_template_compile(src, len, &err);
    free(src);

    if (t == NULL) {
        check(strlen(err.text) > 0);
        return 0;
    }

    render(t, fixed, clean);

    if (sep != NULL) {
        vars = json_loadb((const char *) sep + 1, size - len - 1,
                          JSON_ALLOW_NUL, NULL);
        if (json_is_object(vars)) {
            render(t, vars, 0);
        }
        json_decref(vars);
    }

    moe_template_free(t);
    return 0;
}
