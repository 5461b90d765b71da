/*
 * What chat templates see of messages: against transformers and Jinja2, by
 * t/golden/templates/messages.json (tools/templates/oracle.py messages).
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "front/messages.h"
#include "text/template.h"


#define GOLDEN  "t/golden/templates/messages.json"


static int
check_one(const char *list, const char *name, const char *source,
    json_t *messages, const char *want)
{
    int              bad;
    json_t          *vars;
    moe_err_t        err;
    moe_rendered_t   out;
    moe_template_t  *t;

    t = moe_template_compile(source, strlen(source), &err);

    if (t == NULL) {
        fail_msg("%s: %s", name, err.text);
    }

    vars = json_object();
    json_object_set(vars, "messages", messages);
    json_object_set_new(vars, "add_generation_prompt", json_true());

    if (moe_template_render(t, vars, NULL, &out, &err) == -1) {
        print_error("%s, %s: %s\n", list, name, err.text);
        json_decref(vars);
        moe_template_free(t);
        return 1;
    }

    bad = strlen(want) != out.len || memcmp(out.text, want, out.len) != 0;

    if (bad) {
        print_error("%s, %s: want\n%s\ngot\n%.*s\n", list, name, want,
                    (int) out.len, out.text);
    }

    moe_rendered_free(&out);
    json_decref(vars);
    moe_template_free(t);

    return bad;
}


static void
test_golden(void **unused)
{
    int           bad;
    size_t        i;
    json_t       *golden, *templates, *list, *messages, *want;
    moe_err_t     err;
    const char   *name, *template;
    json_error_t  je;

    golden = json_load_file(GOLDEN, JSON_ALLOW_NUL, &je);
    assert_non_null(golden);

    templates = json_object_get(golden, "templates");
    assert_int_equal(json_object_size(templates), 3);
    assert_true(json_array_size(json_object_get(golden, "lists")) >= 27);

    bad = 0;

    json_array_foreach(json_object_get(golden, "lists"), i, list) {
        name = json_string_value(json_object_get(list, "name"));
        messages = json_object_get(list, "messages");

        if (moe_messages_prepare(messages, &err) == -1) {
            fail_msg("%s: %s", name, err.text);
        }

        json_object_foreach(json_object_get(list, "renders"), template, want)
        {
            bad += check_one(name, template,
                       json_string_value(json_object_get(templates,
                                                         template)),
                       messages, json_string_value(want));
        }
    }

    assert_int_equal(bad, 0);
    json_decref(golden);
}


static void
test_wrong(void **unused)
{
    size_t        i;
    json_t       *messages;
    moe_err_t     err;
    json_error_t  je;

    static const char *const  wrong[][2] = {
        { "{}", "messages is not a list of messages" },
        { "[]", "messages is not a list of messages" },
        { "[1]", "messages[0] has no role" },
        { "[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": 1}]",
          "messages[1] has no role" },
        { "[{\"role\": \"user\", \"content\": [\"x\"]}]",
          "messages[0].content[0] is not text" },
        { "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\":"
          " \"a\"}, {\"type\": \"image_url\", \"text\": \"b\"}]}]",
          "messages[0].content[1] is not text" },
        { "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\":"
          " 1}]}]", "messages[0].content[0] is not text" },
        { "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": "
          "{\"arguments\": \"{\"}}]}]",
          "messages[0].tool_calls[0].function.arguments is not JSON" },
        { "[{\"role\": \"assistant\", \"tool_calls\": [{}, {\"function\": "
          "{\"arguments\": \"{} x\"}}]}]",
          "messages[0].tool_calls[1].function.arguments is not JSON" },
        { "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": "
          "{\"arguments\": 7}}]}]",
          "messages[0].tool_calls[0].function.arguments is neither an object "
          "nor text" },
    };

    static const char *const  odd[] = {
        "[{\"role\": \"assistant\", \"tool_calls\": 7}]",
        "[{\"role\": \"assistant\", \"tool_calls\": [7, null, {}]}]",
        "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": 1}]}]",
        "[{\"role\": \"assistant\", \"reasoning\": [1]}]",
    };

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        messages = json_loads(wrong[i][0], 0, &je);
        assert_non_null(messages);
        assert_int_equal(moe_messages_prepare(messages, &err), -1);
        assert_string_equal(err.text, wrong[i][1]);
        json_decref(messages);
    }

    /* what the template may make of it */

    for (i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        messages = json_loads(odd[i], 0, &je);
        assert_non_null(messages);
        assert_int_equal(moe_messages_prepare(messages, &err), 0);
        json_decref(messages);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_wrong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
