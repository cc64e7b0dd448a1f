/* What the schemas of call/http_* can't say. Both programs ask. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "squall/json.h"
#include "squall/spec.h"

#define RULE_MAX 3000 /* bytes of the parameters of one fault as JSON: 16 of them fit into one message to the proxy */

static const char TOKEN[] =
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"; /* RFC 9110 */

struct at {
    char *where; /* for whoever knows positions */
    size_t size;
};

static int wrong(struct sq_err *e, const struct at *at, const char *key, const char *why)
{
    (void)snprintf(at->where, at->size, "with/%s", key);
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s %s", key, why);
}

static bool is_name(const char *s)
{
    return *s && strlen(s) < 128 && strspn(s, TOKEN) == strlen(s);
}

static bool is_value(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' && *s != '\t')
            return false;
    return true;
}

/* Where a message begins and ends, and who it is for, is not a fault's business: it would break more than one call. */
static bool is_framing(const char *s)
{
    static const char *const all[] = {
        "content-length", "transfer-encoding", "connection",       "upgrade",       "trailer", "te",
        "expect",         "keep-alive",        "proxy-connection", "http2-settings"};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (strcasecmp(s, all[i]) == 0)
            return true;
    return false;
}

static int check_name(const char *name, struct sq_err *e)
{
    if (!is_name(name))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" is no name of a header field", name);
    if (is_framing(name))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the field %.60s frames the message and can't be changed", name);
    return 0;
}

static int check_fields(const json_t *set, struct sq_err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)set, name, v)
    {
        int rc = check_name(name, e);
        if (rc < 0)
            return rc;
        if (!json_is_string(v) || !is_value(json_string_value(v)))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the value of %.60s must be a text without control characters",
                              name);
    }
    return 0;
}

static int check_status(const json_t *with, const struct at *at, struct sq_err *e)
{
    int64_t status = sq_json_int_or(with, "status", 503), grpc = sq_json_int_or(with, "grpc_status", 0);
    if (status < 200 || status > 599)
        return wrong(e, at, "status", "must be 200 to 599");
    if (grpc < 0 || grpc > 16)
        return wrong(e, at, "grpc_status", "must be 0 to 16");
    return check_fields(json_object_get(with, "headers"), e);
}

static int check_header(const json_t *with, const struct at *at, struct sq_err *e)
{
    const json_t *set = json_object_get(with, "set"), *remove = json_object_get(with, "remove"), *v;
    size_t i;
    if (json_object_size(set) + json_array_size(remove) == 0)
        return wrong(e, at, "set", "or remove is needed");
    json_array_foreach(remove, i, v)
    {
        int rc = check_name(json_string_value(v), e);
        if (rc < 0)
            return rc;
    }
    return check_fields(set, e);
}

static int check_body(const json_t *with, const struct at *at, struct sq_err *e)
{
    int64_t n = sq_json_int_or(with, "truncate", 0);
    int given = (json_object_get(with, "replace") != NULL) + (json_object_get(with, "truncate") != NULL) +
                (json_object_get(with, "patch") != NULL);
    if (given != 1)
        return wrong(e, at, "replace", "or truncate or patch: exactly one of them");
    if (n < 0 || n > (INT64_C(1) << 40))
        return wrong(e, at, "truncate", "must be 0 or more bytes");
    return 0;
}

static int check_match(const json_t *match, struct sq_err *e)
{
    const json_t *v;
    const char *name;
    json_t *field;
    size_t i;
    json_array_foreach(json_object_get(match, "method"), i, v)
    {
        if (!is_name(json_string_value(v)))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "match: \"%.60s\" is no method", json_string_value(v));
    }
    json_object_foreach(json_object_get(match, "header"), name, field)
    {
        if (!is_name(name))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "match: \"%.60s\" is no name of a header field", name);
        if (!json_is_string(field) && !json_is_boolean(field))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "match: header %.60s must be a text, true or false", name);
    }
    return 0;
}

bool sq_is_http_fault(const char *name)
{
    return strncmp(name, "call/http_", 10) == 0;
}

int sq_http_check(const char *name, const json_t *target, const json_t *with, char *where, size_t size,
                  struct sq_err *e)
{
    const json_t *match = json_object_get(target, "match");
    struct at at = {where, size};
    (void)snprintf(where, size, "target/match");
    int rc = check_match(match, e);
    if (rc < 0)
        return rc;
    if (!sq_is_http_fault(name)) {
        if (!match)
            return 0;
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s hits calls whatever they carry: it takes no match", name);
        sq_err_hint(e, "match belongs to call/http_*");
        return rc;
    }
    (void)snprintf(where, size, "with");
    if (strcmp(name, "call/http_status") == 0)
        rc = check_status(with, &at, e);
    else if (strcmp(name, "call/http_header") == 0)
        rc = check_header(with, &at, e);
    else if (strcmp(name, "call/http_body") == 0)
        rc = check_body(with, &at, e);
    else if (sq_json_int_or(with, "jitter", 0) > sq_json_int_or(with, "delay", 0))
        rc = wrong(e, &at, "jitter", "can't be larger than delay");
    if (rc == 0 && json_dumpb(with, NULL, 0, JSON_COMPACT) + json_dumpb(match, NULL, 0, JSON_COMPACT) > RULE_MAX)
        rc =
            sq_err_cls(e, SQ_C_INPUT, -E2BIG, "what is matched and written may take at most %d bytes in all", RULE_MAX);
    return rc;
}
