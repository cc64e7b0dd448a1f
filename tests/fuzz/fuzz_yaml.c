/* Arbitrary bytes as a scenario: never a crash, and every refusal says where. What is accepted must keep its promises:
 * it can be written and read as JSON, has what every reader relies on, and each instance of each service can be made.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/scenario.h"
#include "squall/json.h"

static void must(int ok)
{
    if (!ok)
        abort();
}

static void check_accepted(const json_t *doc)
{
    static const char *const keys[] = {"services", "edges", "load", "lateness", "steps", "verify", "safety", "report"};
    const json_t *spec = json_object_get(doc, "spec");
    char *text = json_dumps(doc, JSON_COMPACT);
    json_t *again = NULL, *service;
    const char *name;

    must(text != NULL && sq_json_parse(text, strlen(text), &again, NULL) == 0 && json_equal(doc, again));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        must(json_object_get(spec, keys[i]) != NULL);
    must(json_array_size(json_object_get(spec, "steps")) > 0);
    json_object_foreach(json_object_get(spec, "services"), name, service)
    {
        json_t *instance = NULL;
        int r = sq_scenario_instance(doc, name, 0, &instance, NULL);

        must((r == 0) == (json_object_get(service, "command") != NULL));
        json_decref(instance);
    }
    json_decref(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sq_vars vars = {0};
    struct sq_diags d;
    json_t *doc = NULL;
    int r;

    must(sq_vars_add(&vars, "rate=60/s", NULL) == 0);
    sq_diags_init(&d, "/fuzz.yaml");
    r = sq_scenario_check_text((const char *)data, len, len % 2 ? &vars : NULL, &doc, &d);
    must((r == 0) == (doc != NULL) && (r == 0) == (d.errors == 0));
    for (size_t i = 0; i < d.n; i++)
        must(d.list[i].msg[0] != '\0' && d.list[i].pos.line <= len + 1);
    if (doc)
        check_accepted(doc);
    json_decref(doc);
    sq_diags_free(&d);
    sq_vars_free(&vars);
    return 0;
}
