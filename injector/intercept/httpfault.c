#include "intercept/httpfault.h"

#include <errno.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"

int sq_http_rule(const char *name, const json_t *target, const json_t *with, json_t *rule, struct sq_err *e)
{
    static const char *const keys[] = {"status", "grpc_status", "body",    "headers",  "of",
                                       "set",    "remove",      "replace", "truncate", "patch"};
    const json_t *match = json_object_get(target, "match");
    json_t *http = json_object();

    if (!sq_is_http_fault(name)) {
        json_decref(http);
        return 0;
    }
    for (size_t i = 0; http && i < SQ_COUNT(keys); i++)
        if (json_object_get(with, keys[i]))
            (void)json_object_set(http, keys[i], json_object_get(with, keys[i]));
    if (!http || json_object_set_new(rule, "http", http) < 0 ||
        json_object_set_new(rule, "match", match ? json_deep_copy(match) : json_object()) < 0)
        return sq_err(e, -ENOMEM, "out of memory");
    return 0;
}

int sq_http_same(const json_t *rule, const json_t *have, struct sq_err *e)
{
    static const char *const keys[] = {"http", "match", "delay", "jitter"};

    for (size_t i = 0; i < SQ_COUNT(keys); i++)
        if (!json_equal(json_object_get(rule, keys[i]), json_object_get(have, keys[i])))
            return sq_err(e, -EBADE, "another %s is in force than was asked for", keys[i]);
    return 0;
}
