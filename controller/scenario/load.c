/* Load and abort conditions: what the tables of schema.c can't say about one of them alone. */
#include <stdio.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/json.h"
#include "squall/units.h"

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

void sq_finish_endpoint(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    static const char *const constant[] = {"rate", NULL}, *const ramping[] = {"start", "stages", NULL};
    const char *executor = sq_json_str_or(o, "executor", "");
    bool ramp = strcmp(executor, "ramping-arrival-rate") == 0;
    const char *const *wanted = ramp ? ramping : constant, *const *others = ramp ? constant : ramping;

    if (!*executor) /* reported already */
        return;
    for (; *wanted; wanted++)
        if (!sq_node_get(n, *wanted))
            sq_diag_error(c->d, n->pos, ramp ? "start: 10/s, stages: [{for: 10s, to: 100/s}]" : "rate: 60/s",
                          "%s: %s needs \"%s\"", label, executor, *wanted);
    for (; *others; others++)
        if (sq_node_get(n, *others))
            sq_diag_error(c->d, sq_node_key(n, *others)->pos, NULL, "%s: \"%s\" does not go with %s", label, *others,
                          executor);
    if (ramp && sq_node_get(n, "stages") && json_array_size(json_object_get(o, "stages")) == 0)
        sq_diag_error(c->d, at_value(n, "stages"), "stages: [{for: 10s, to: 100/s}]", "%s: \"stages\" is empty", label);
    if (!json_object_get(o, "expect"))
        (void)json_object_set_new(o, "expect", json_object());
}

static bool is_token(const char *s)
{
    /* RFC 9110, section 5.6.2 */
    return *s &&
           strspn(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == strlen(s);
}

static void check_headers(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *headers)
{
    static const char *const ours[] = {"traceparent", "content-length", "transfer-encoding", "expect", "upgrade"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)headers, key, value)
    {
        struct sq_pos at = at_value(sq_node_get(n, "headers"), key);

        if (!is_token(key))
            sq_diag_error(c->d, at, NULL, "%s: \"%.60s\" can't be the name of a header field", label, key);
        if (strpbrk(json_string_value(value), "\r\n"))
            sq_diag_error(c->d, at, NULL, "%s: header \"%.60s\" has a line break in it", label, key);
        for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
            if (strcasecmp(key, ours[i]) == 0)
                sq_diag_error(c->d, at, NULL, "%s: header \"%s\" is the probe's own", label, key);
    }
}

void sq_finish_request(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *url = sq_json_str_or(o, "url", NULL), *method = sq_json_str_or(o, "method", "GET");

    if (url && strncasecmp(url, "https://", 8) == 0)
        sq_diag_error(c->d, at_value(n, "url"), "http://host:port/path or unix:/path/to.sock:/path",
                      "%s: the probe speaks no TLS", label);
    else if (url &&
             ((strncasecmp(url, "http://", 7) != 0 || !url[7] || url[7] == '/') && strncmp(url, "unix:/", 6) != 0))
        sq_diag_error(c->d, at_value(n, "url"), "http://host:port/path or unix:/path/to.sock:/path",
                      "%s: \"%.80s\" is not a URL", label, url);
    else if (url && (strpbrk(url, " \t\r\n") || strlen(url) > 4096))
        sq_diag_error(c->d, at_value(n, "url"), "write a space as %20",
                      "%s: a URL has no spaces and at most 4096 bytes", label);
    if (!is_token(method) || strlen(method) > 32)
        sq_diag_error(c->d, at_value(n, "method"), "GET, POST, ...", "%s: \"%.60s\" can't be a method", label, method);
    if (!json_object_get(o, "headers"))
        (void)json_object_set_new(o, "headers", json_object());
    check_headers(c, label, n, json_object_get(o, "headers"));
}

void sq_finish_abort(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const struct sq_param percent[] = {
        {"over", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL, "for error_rate a percentage: 50%"}, SQ_PARAM_END};
    const struct sq_param duration[] = {
        {"over", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "for p50, p95, p99 a duration: 5s"}, SQ_PARAM_END};
    const char *metric = sq_json_str_or(o, "metric", NULL);
    struct sq_node *over = sq_node_get(n, "over"), *items[1], *keys[1];
    struct sq_node only = {.kind = SQ_N_MAP, .pos = n->pos, .n = 1, .keys = keys, .items = items};
    json_t *v;

    if (!metric || !over) /* reported already */
        return;
    items[0] = over;
    for (size_t i = 0; i < n->n; i++)
        if (n->items[i] == over)
            keys[0] = n->keys[i];
    v = sq_norm_params(c, label, strcmp(metric, "error_rate") == 0 ? percent : duration, &only, n->pos, NULL);
    (void)json_object_update(o, v);
    json_decref(v);
}
