/* SLO files against what tests/golden/slo expects of each: what `squall check` says, and the normalized form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/slo.h"
#include "squall/json.h"
#include "unit/golden.h"

#define GOLDEN "tests/golden/slo"

static char *outcome(const char *path)
{
    char *text = NULL, *doc_text;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct sq_diags d;
    json_t *doc = NULL;

    assert_non_null(f);
    sq_diags_init(&d, path);
    int rc = sq_slo_check(&doc, &d);
    assert_int_equal(rc == 0, doc != NULL);
    assert_true((doc != NULL) == (d.errors == 0));
    for (size_t i = 0; i < d.n; i++) {
        (void)fprintf(f, "%u:%u: %s%s\n", d.list[i].pos.line, d.list[i].pos.col, d.list[i].warning ? "warning: " : "",
                      d.list[i].msg);
        if (d.list[i].hint[0])
            (void)fprintf(f, "  hint: %s\n", d.list[i].hint);
    }
    (void)fprintf(f, "%u errors, %u warnings\n", d.errors, d.warnings);
    doc_text = doc ? json_dumps(doc, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(12)) : NULL;
    if (doc_text)
        (void)fprintf(f, "%s\n", doc_text);
    (void)fclose(f);
    free(doc_text);
    json_decref(doc);
    sq_diags_free(&d);
    return text;
}

static void golden(void **state)
{
    (void)state;
    golden_all(GOLDEN, outcome, 6);
}

/* What `squall check` takes for a file of SLOs, and what for a scenario. */
static void recognized(void **state)
{
    (void)state;
    assert_true(sq_slo_file_is(GOLDEN "/short.yaml"));
    assert_true(sq_slo_file_is(GOLDEN "/openslo.yaml"));
    assert_false(sq_slo_file_is(GOLDEN "/short-nothing.yaml"));
    assert_false(sq_slo_file_is("tests/golden/scenario/good.yaml"));
    assert_false(sq_slo_file_is(GOLDEN "/none.yaml"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(recognized)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
