/* Endpoints of the load: what the tables of schema.c can't say about one of them alone. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "scenario/normalize.h"
#include "squall/cleanup.h"
#include "squall/json.h"

enum kind { HTTP = 1, BYTES = 2, LOGIN = 4, COMMAND = 8, OTHER = 16, TLS = 32 };

static const struct {
    const char *scheme;
    unsigned kind;
} schemes[] = {
    {"http", HTTP},         {"https", HTTP | TLS},   {"h2c", HTTP},       {"grpc", OTHER},
    {"grpcs", OTHER | TLS}, {"tcp", BYTES | TLS},    {"udp", BYTES},      {"dns", OTHER},
    {"redis", LOGIN},       {"rediss", LOGIN | TLS}, {"postgres", LOGIN}, {"postgresql", LOGIN},
};

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

/* 0: no URL of ours. */
static unsigned kind_of(const char *url)
{
    if (strncmp(url, "unix:/", 6) == 0)
        return HTTP;
    if (strncmp(url, "exec:", 5) == 0)
        return url[5] ? COMMAND : 0;
    for (size_t i = 0; i < SQ_COUNT(schemes); i++) {
        size_t n = strlen(schemes[i].scheme);
        const char *rest = url + n;

        if (strncasecmp(url, schemes[i].scheme, n) != 0)
            continue;
        if ((strncmp(rest, "://", 3) == 0 && rest[3] && rest[3] != '/') || strncmp(rest, "+unix:/", 7) == 0)
            return schemes[i].kind;
    }
    return 0;
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
        for (size_t i = 0; i < SQ_COUNT(ours); i++)
            if (strcasecmp(key, ours[i]) == 0)
                sq_diag_error(c->d, at, NULL, "%s: header \"%s\" is the probe's own", label, key);
    }
}

static void check_method(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o)
{
    const char *method = sq_json_str_or(o, "method", "GET");

    if (!is_token(method) || strlen(method) > 32)
        sq_diag_error(c->d, at_value(n, "method"), "GET, POST, ...", "%s: \"%.60s\" can't be a method", label, method);
}

/* Keys that only some protocols know what to do with. */
static void check_keys(struct sq_norm *c, const char *label, const struct sq_node *n, unsigned kind)
{
    static const struct {
        const char *key;
        unsigned kind;
        const char *whose;
    } keys[] = {{"method", HTTP, "HTTP"},
                {"headers", HTTP | OTHER, "HTTP and gRPC"},
                {"body", HTTP, "HTTP"},
                {"send", BYTES, "tcp:// and udp://"},
                {"args", COMMAND, "exec:"},
                {"password_env", LOGIN, "redis:// and postgres://"},
                {"tls", TLS, "https://, grpcs://, rediss:// and tcp://"}};

    for (size_t i = 0; i < SQ_COUNT(keys); i++)
        if (sq_node_get(n, keys[i].key) && !(kind & keys[i].kind))
            sq_diag_error(c->d, sq_node_key(n, keys[i].key)->pos, NULL, "%s: \"%s\" is for %s", label, keys[i].key,
                          keys[i].whose);
}

void sq_finish_request(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *url = sq_json_str_or(o, "url", NULL);
    unsigned kind = url ? kind_of(url) : 0;

    if (url && kind == 0)
        sq_diag_error(c->d, at_value(n, "url"),
                      "http://host:port/path or unix:/path/to.sock:/path; squall explain "
                      "request lists the others",
                      "%s: \"%.80s\" is not a URL", label, url);
    else if (url && (strpbrk(url, "\t\r\n") || (kind != COMMAND && strchr(url, ' ')) || strlen(url) > 4096))
        sq_diag_error(c->d, at_value(n, "url"), "write a space as %20",
                      "%s: a URL has no spaces and at most 4096 bytes", label);
    else if (url)
        check_keys(c, label, n, kind);
    check_method(c, label, n, o);
    if (!json_object_get(o, "headers"))
        (void)json_object_set_new(o, "headers", json_object());
    check_headers(c, label, n, json_object_get(o, "headers"));
}

/* As seen from the scenario's file. */
static void make_absolute(struct sq_norm *c, json_t *o, const char *key)
{
    const char *path = sq_json_str_or(o, key, NULL);
    cleanup_free char *absolute = path ? sq_norm_path(c->folder, path) : NULL;

    if (absolute)
        (void)json_object_set_new(o, key, json_string(absolute));
}

void sq_finish_tls(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    if (json_object_get(o, "key") && !json_object_get(o, "cert"))
        sq_diag_error(c->d, at_value(n, "key"), NULL, "%s: a key without its \"cert\"", label);
    if (!sq_json_bool_or(o, "verify", true))
        sq_diag_warn(c->d, at_value(n, "verify"), "ca: says whom to trust",
                     "%s: any server's certificate will do, so a wrong one goes unnoticed", label);
    make_absolute(c, o, "ca");
    make_absolute(c, o, "cert");
    make_absolute(c, o, "key");
}

void sq_finish_capture(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const json_t *between = json_object_get(o, "between");

    if (json_object_size(o) != 1)
        sq_diag_error(c->d, n->pos, "{header: x-token}, {between: [\"id=\", \"&\"]} or {json: /items/0/id}",
                      "%s: exactly one of header, between, json", label);
    else if (between && (json_array_size(between) != 2 || !json_string_length(json_array_get(between, 0)) ||
                         !json_string_length(json_array_get(between, 1))))
        sq_diag_error(c->d, at_value(n, "between"), "between: [\"id=\", \"&\"]", "%s: two texts, none of them empty",
                      label);
}

void sq_finish_step_request(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *path = sq_json_str_or(o, "path", NULL);

    if (path && (*path != '/' || strpbrk(path, " \t\r\n#")))
        sq_diag_error(c->d, at_value(n, "path"), "path: /cart?item=3", "%s: a path begins with / and has no spaces",
                      label);
    check_method(c, label, n, o);
    check_headers(c, label, n, json_object_get(o, "headers"));
}

/* What each executor takes. */
static void check_executor(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o,
                           const char *executor)
{
    static const struct {
        const char *executor, *key, *hint;
        bool required;
    } keys[] = {
        {"constant-arrival-rate", "rate", "rate: 60/s", true},
        {"ramping-arrival-rate", "start", "start: 10/s, stages: [{for: 10s, to: 100/s}]", true},
        {"ramping-arrival-rate", "stages", "start: 10/s, stages: [{for: 10s, to: 100/s}]", true},
        {"black-friday", "baseline", "baseline: squall-runs/20261101-120000-shop-1a2b, multiply: 5", true},
        {"black-friday", "baseline_endpoint", NULL, false},
        {"black-friday", "multiply", NULL, false},
    };

    for (size_t i = 0; i < SQ_COUNT(keys); i++) {
        bool mine = strcmp(keys[i].executor, executor) == 0, there = sq_node_get(n, keys[i].key) != NULL;

        if (mine && keys[i].required && !there)
            sq_diag_error(c->d, n->pos, keys[i].hint, "%s: %s needs \"%s\"", label, executor, keys[i].key);
        if (!mine && there)
            sq_diag_error(c->d, sq_node_key(n, keys[i].key)->pos, NULL, "%s: \"%s\" does not go with %s", label,
                          keys[i].key, executor);
    }
    if (sq_node_get(n, "stages") && strcmp(executor, "ramping-arrival-rate") == 0 &&
        json_array_size(json_object_get(o, "stages")) == 0)
        sq_diag_error(c->d, at_value(n, "stages"), "stages: [{for: 10s, to: 100/s}]", "%s: \"stages\" is empty", label);
    if (strcmp(executor, "constant-connections") != 0)
        return;
    if (sq_node_get(n, "arrivals"))
        sq_diag_error(c->d, sq_node_key(n, "arrivals")->pos, NULL, "%s: \"arrivals\" does not go with %s", label,
                      executor);
    sq_diag_warn(
        c->d, at_value(n, "executor"), "constant-arrival-rate sees them",
        "%s: a closed loop waits with the server, so its percentiles do not show stalls; no slo can be decided "
        "by it",
        label);
}

static bool http_status(const json_t *expect)
{
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(expect, "status"), i, v)
    {
        if (json_integer_value(v) < 100)
            return false;
    }
    return true;
}

static void check_status(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o)
{
    if (!http_status(json_object_get(o, "expect")))
        sq_diag_error(c->d, at_value(sq_node_get(n, "expect"), "status"), "write 200, or [200, 204]",
                      "%s: not an HTTP status (100 to 599)", label);
}

static void check_steps(struct sq_norm *c, const char *label, const struct sq_node *n, const json_t *o, const char *key)
{
    const struct sq_node *list = sq_node_get(n, key);
    const json_t *step;
    size_t i;

    if (list && json_array_size(json_object_get(o, key)) == 0)
        sq_diag_error(c->d, list->pos, "squall explain mix, squall explain session", "%s: \"%s\" is empty", label, key);
    json_array_foreach(json_object_get(o, key), i, step)
    {
        check_status(c, label, list->items[i], step);
    }
}

void sq_finish_endpoint(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *executor = sq_json_str_or(o, "executor", "");
    unsigned kind = kind_of(sq_json_str_or(json_object_get(o, "request"), "url", ""));

    if (!*executor) /* reported already */
        return;
    check_executor(c, label, n, o, executor);
    if (sq_node_get(n, "mix") && sq_node_get(n, "session"))
        sq_diag_error(c->d, sq_node_key(n, "session")->pos, NULL, "%s: \"mix\" and \"session\" do not go together",
                      label);
    if (kind & HTTP)
        check_status(c, label, n, o);
    else if (sq_node_get(n, "mix") || sq_node_get(n, "session") || sq_node_get(n, "data"))
        sq_diag_error(c->d, n->pos, NULL, "%s: \"mix\", \"session\" and \"data\" are for HTTP", label);
    check_steps(c, label, n, o, "mix");
    check_steps(c, label, n, o, "session");
    if (sq_json_int_or(o, "threads", 1) > sq_json_int_or(o, "connections", 100))
        sq_diag_error(c->d, at_value(n, "threads"), NULL, "%s: each thread needs a connection", label);
    make_absolute(c, o, "data");
    make_absolute(c, o, "baseline");
    if (!json_object_get(o, "expect"))
        (void)json_object_set_new(o, "expect", json_object());
}
