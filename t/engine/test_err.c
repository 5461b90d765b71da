#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"


static void
test_err_formats(void **state)
{
    moe_err_t  err;

    assert_int_equal(moe_err(&err, "tensor \"%s\" at %d", "a.b", 7), -1);
    assert_string_equal(err.text, "tensor \"a.b\" at 7");

    assert_int_equal(moe_err_prefix(&err, "%s", "model.safetensors"), -1);
    assert_string_equal(err.text, "model.safetensors: tensor \"a.b\" at 7");

    moe_err(&err, "%s", "a\nb\x1b[1m\x7f");
    assert_string_equal(err.text, "a?b?[1m?");
}


static void
test_err_is_cut(void **state)
{
    char       big[2048];
    moe_err_t  err;

    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = '\0';

    moe_err(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);

    moe_err_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_err_formats),
        cmocka_unit_test(test_err_is_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
