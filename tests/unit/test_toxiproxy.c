/* Toxiproxy's API without a process that carries anything: bounds of what comes in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "squall/cleanup.h"
#include "toxiproxy.h"

static unsigned started;

static int op_start(void *arg, struct sq_toxi_proxy *p, struct sq_err *e)
{
    (void)arg, (void)p, (void)e;
    started++;
    return 0;
}

static void op_stop(void *arg, struct sq_toxi_proxy *p)
{
    (void)arg, (void)p;
}

/* Each starts and stops something, and squalld waits for it: so many and no more in one request. */
static void a_populate_is_bounded(void **state)
{
    static const struct sq_toxi_ops ops = {.start = op_start, .stop = op_stop};
    static const unsigned counts[] = {SQ_TOXI_PROXIES, SQ_TOXI_PROXIES + 1};
    struct sq_toxi t;

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(counts); i++) {
        size_t cap = 64 * (counts[i] + 1), len = 0;
        cleanup_free char *body = malloc(cap);
        struct sq_toxi_answer a;

        assert_non_null(body);
        for (unsigned k = 0; k < counts[i]; k++) /* the same one, each time for another upstream */
            len += (size_t)snprintf(body + len, cap - len, "%c{\"name\":\"a\",\"upstream\":\"u:%u\"}", k ? ',' : '[',
                                    k + 1);
        body[len++] = ']';
        started = 0;
        sq_toxi_init(&t, &ops, NULL);
        sq_toxi_handle(&t, "POST", "/populate", body, len, &a);
        assert_int_equal(a.status, i ? 400 : 201);
        assert_int_equal(started, i ? 0 : counts[i]);
        free(a.body);
        sq_toxi_clear(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_populate_is_bounded)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
