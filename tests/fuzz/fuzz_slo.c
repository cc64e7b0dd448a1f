/* Arbitrary bytes as an SLO file, in either form: never a crash, every refusal says where, and what is accepted has
 * what verify relies on: a target that leaves a budget, a window, an indicator with a source that is known. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/arena.h"
#include "scenario/slo.h"
#include "squall/json.h"

static void must(int ok)
{
    if (!ok)
        abort();
}

static void check_indicator(const json_t *o)
{
    const char *source = sq_json_str_or(o, "source", "");

    if (strcmp(source, "probe") == 0) {
        must(sq_json_str_or(o, "endpoint", "")[0] != '\0');
        must(sq_json_int_or(o, "below", 1000) >= 0);
        return;
    }
    must(strcmp(source, "prometheus") == 0);
    must(json_object_get(o, "raw") || json_object_get(o, "query") ||
         (json_object_get(o, "total") && !json_object_get(o, "good") != !json_object_get(o, "bad")));
}

static void check_accepted(const json_t *doc)
{
    char *text = json_dumps(doc, JSON_COMPACT);
    json_t *again = NULL, *o;
    const char *name;

    must(text != NULL && sq_json_parse(text, strlen(text), &again, NULL) == 0 && json_equal(doc, again));
    json_object_foreach(json_object_get(doc, "slos"), name, o)
    {
        double target = sq_json_num_or(o, "target", 0);

        must(target > 0 && target < 100 && sq_json_int_or(o, "window", 0) > 0);
        must(json_is_string(json_object_get(o, "at")));
        check_indicator(json_object_get(o, "indicator"));
    }
    json_object_foreach(json_object_get(doc, "budgets"), name, o)
    {
        must(json_is_string(json_object_get(o, "on_budget_exceed")));
    }
    json_decref(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sq_diags d;
    json_t *doc = NULL;
    int r;

    sq_diags_init(&d, "/fuzz.yaml");
    r = sq_slo_check_text((const char *)data, len, &doc, &d);
    must((r == 0) == (doc != NULL) && (r == 0) == (d.errors == 0));
    for (size_t i = 0; i < d.n; i++)
        must(d.list[i].msg[0] != '\0' && d.list[i].pos.line <= len + 1);
    if (doc)
        check_accepted(doc);
    json_decref(doc);
    sq_diags_free(&d);
    arena_end();
    return 0;
}
