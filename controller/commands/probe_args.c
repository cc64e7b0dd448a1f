/* From the options of squall probe to a scenario with one endpoint. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commands/probe_args.h"
#include "run/adhoc.h"
#include "scenario/adhoc.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define STATUSES 100
#define BODY_MOST 65536

static int bad(struct sq_err *e, const char *option, const char *value, const char *want)
{
    (void)sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--%s: \"%.100s\" is not what it takes", option, value);
    sq_err_hint(e, "%s", want);
    return -EINVAL;
}

static int put_int(const struct sq_args *a, const char *option, json_t *o, const char *key, struct sq_err *e)
{
    const char *text = sq_args_value(a, option);
    char *end = NULL;
    long long n;

    if (!text)
        return 0;
    errno = 0;
    n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < 0)
        return bad(e, option, text, "a whole number");
    (void)json_object_set_new(o, key, json_integer(n));
    return 0;
}

static void put_text(const struct sq_args *a, const char *option, json_t *o, const char *key)
{
    if (sq_args_value(a, option))
        (void)json_object_set_new(o, key, json_string(sq_args_value(a, option)));
}

/* "30s:500/s,1m:500/s"; *ns: all of them together. */
static int put_stages(const char *text, json_t *o, int64_t *ns, struct sq_err *e)
{
    static const char how[] = "TIME:RATE, several between commas: 30s:500/s,1m:500/s";
    cleanup_free char *copy = strdup(text);
    json_t *list = json_array();
    char *rest = copy, *one;

    (void)json_object_set_new(o, "stages", list);
    *ns = 0;
    while (copy && (one = strsep(&rest, ","))) {
        char *colon = strchr(one, ':');
        int64_t length = 0;
        double rate;

        if (!colon)
            return bad(e, "ramp", text, how);
        *colon = '\0';
        if (sq_parse_duration(one, &length, NULL) < 0 || length <= 0 || *ns > INT64_MAX / 2 ||
            (strcmp(colon + 1, "0/s") != 0 && sq_parse_rate(colon + 1, &rate, NULL) < 0))
            return bad(e, "ramp", text, how);
        *ns += length;
        (void)json_array_append_new(list, json_pack("{s:s,s:s}", "for", one, "to", colon + 1));
    }
    return 0;
}

/* "1000" is so many a second, as in other tools. malloc'd. */
static char *rate_of(const char *text)
{
    bool bare = *text && strspn(text, "0123456789.") == strlen(text);
    char *out = NULL;

    return asprintf(&out, "%s%s", text, bare ? "/s" : "") < 0 ? NULL : out;
}

static int put_load(const struct sq_args *a, json_t *o, int64_t *ns, struct sq_err *e)
{
    const char *length = sq_args_value(a, "for"), *ramp = sq_args_value(a, "ramp");
    cleanup_free char *rate = rate_of(sq_args_value(a, "rate") ? sq_args_value(a, "rate") : "50/s");
    bool closed = sq_args_has(a, "closed-loop");
    double checked;
    int rc = 0;

    *ns = 10 * SQ_S;
    if (!rate)
        return sq_err(e, -ENOMEM, "no memory");
    if (sq_parse_rate(rate, &checked, NULL) < 0)
        return bad(e, "rate", sq_args_value(a, "rate"),
                   "so many per second, minute or hour: 1000/s, 300/m, 3600/h; at most 10000000/s");
    if (closed && (ramp || sq_args_has(a, "rate") || sq_args_has(a, "poisson")))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "--closed-loop has no rate: --rate, --ramp and --poisson do not go with it");
    (void)json_object_set_new(o, "executor",
                              json_string(closed ? "constant-connections"
                                          : ramp ? "ramping-arrival-rate"
                                                 : "constant-arrival-rate"));
    if (!closed)
        (void)json_object_set_new(o, ramp ? "start" : "rate", json_string(rate));
    if (ramp)
        rc = put_stages(ramp, o, ns, e);
    if (rc == 0 && length && (rc = sq_parse_duration(length, ns, e)) < 0)
        return sq_err_prefix(e, "--for"), rc;
    if (rc == 0 && (*ns < SQ_S || *ns % SQ_S != 0))
        return bad(e, ramp && !length ? "ramp" : "for", length ? length : ramp, "whole seconds, at least one");
    if (sq_args_has(a, "poisson"))
        (void)json_object_set_new(o, "arrivals", json_string("poisson"));
    return rc;
}

static int put_headers(const struct sq_args *a, json_t *request, struct sq_err *e)
{
    json_t *headers = json_object();

    for (size_t i = 0; i < a->n_given; i++) {
        const char *text = a->given[i].value, *colon;
        char name[128];

        if (strcmp(a->given[i].option->name, "header") != 0)
            continue;
        colon = strchr(text, ':');
        if (!colon || colon == text || (size_t)(colon - text) >= sizeof name) {
            json_decref(headers);
            return bad(e, "header", text, "'Name: value'");
        }
        (void)snprintf(name, sizeof name, "%.*s", (int)(colon - text), text);
        for (colon++; *colon == ' '; colon++)
            ;
        (void)json_object_set_new(headers, name, json_string(colon));
    }
    if (json_object_size(headers) > 0)
        (void)json_object_set(request, "headers", headers);
    json_decref(headers);
    return 0;
}

/* TEXT, or what is in the file behind an @. */
static int put_body(const char *text, json_t *request, const char *key, struct sq_err *e)
{
    cleanup_free char *room = NULL;
    FILE *f;
    size_t n;

    if (*text != '@') {
        (void)json_object_set_new(request, key, json_string(text));
        return 0;
    }
    room = malloc(BODY_MOST + 1);
    f = fopen(text + 1, "re");
    if (!f || !room) {
        int rc = f ? -ENOMEM : -errno;

        if (f)
            (void)fclose(f);
        return sq_err_cls(e, SQ_C_INPUT, rc, "--body: cannot read %s: %s", text + 1, strerror(-rc));
    }
    n = fread(room, 1, BODY_MOST + 1, f);
    (void)fclose(f);
    if (n > BODY_MOST)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "--body: %s is larger than %d bytes", text + 1, BODY_MOST);
    if (json_object_set_new(request, key, json_stringn(room, n)) < 0 || memchr(room, 0, n))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--body: %s is no text in UTF-8", text + 1);
    return 0;
}

static void put_tls(const struct sq_args *a, json_t *request)
{
    json_t *tls = json_object();

    put_text(a, "ca", tls, "ca");
    put_text(a, "cert", tls, "cert");
    put_text(a, "key", tls, "key");
    put_text(a, "server-name", tls, "server_name");
    if (sq_args_has(a, "insecure"))
        (void)json_object_set_new(tls, "verify", json_false());
    if (sq_args_has(a, "no-resume"))
        (void)json_object_set_new(tls, "resume", json_false());
    if (sq_args_has(a, "http2"))
        (void)json_object_set_new(tls, "alpn", json_pack("[s]", "h2"));
    if (json_object_size(tls) > 0)
        (void)json_object_set(request, "tls", tls);
    json_decref(tls);
}

/* As curl does: what has no scheme is http. */
static json_t *url_of(const char *text)
{
    bool scheme = strstr(text, "://") || strstr(text, "+unix:/") || strncmp(text, "unix:/", 6) == 0 ||
                  strncmp(text, "exec:", 5) == 0;

    return scheme ? json_string(text) : json_sprintf("http://%s", text);
}

static int put_request(const struct sq_args *a, json_t *o, struct sq_err *e)
{
    const char *body = sq_args_value(a, "body"), *url = a->argv[0];
    bool bytes = strncmp(url, "tcp", 3) == 0 || strncmp(url, "udp", 3) == 0;
    json_t *request = json_object(), *args = json_array();
    int rc;

    (void)json_object_set_new(o, "request", request);
    if (json_object_set_new(request, "url", url_of(url)) < 0) {
        json_decref(args);
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the URL is not UTF-8");
    }
    put_text(a, "method", request, "method");
    put_text(a, "timeout", request, "timeout");
    put_text(a, "password-env", request, "password_env");
    put_tls(a, request);
    if (body && !bytes && !sq_args_has(a, "method"))
        (void)json_object_set_new(request, "method", json_string("POST"));
    if (sq_args_has(a, "no-keepalive"))
        (void)json_object_set_new(request, "keep_alive", json_false());
    for (size_t i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].option->name, "arg") == 0)
            (void)json_array_append_new(args, json_string(a->given[i].value));
    if (json_array_size(args) > 0)
        (void)json_object_set(request, "args", args);
    json_decref(args);
    rc = put_headers(a, request, e);
    return rc < 0 || !body ? rc : put_body(body, request, bytes ? "send" : "body", e);
}

/* "200,300-399" */
static int put_statuses(const char *text, json_t *expect, struct sq_err *e)
{
    static const char how[] = "200, or several: 200-299,404 (at most 100 of them)";
    json_t *list = json_array();
    const char *s = text;

    (void)json_object_set_new(expect, "status", list);
    while (*s) {
        char *end = NULL;
        long from = strtol(s, &end, 10), to = from;

        if (end == s || from < 0)
            return bad(e, "expect-status", text, how);
        if (*end == '-') {
            s = end + 1;
            to = strtol(s, &end, 10);
        }
        if (end == s || to < from || to - from >= STATUSES || (*end && (*end != ',' || !end[1])))
            return bad(e, "expect-status", text, how);
        for (; from <= to; from++)
            (void)json_array_append_new(list, json_integer(from));
        s = *end ? end + 1 : end;
    }
    return 0;
}

/* "self,east=/run/east.sock": into FROM their names, into HOSTS where each is. */
static int put_hosts(const char *text, json_t *o, json_t *hosts, struct sq_err *e)
{
    static const char how[] = "NAME=SOCKET, several between commas, self for this host: self,east=/run/east.sock";
    cleanup_free char *copy = strdup(text);
    json_t *from = json_array();
    char *rest = copy, *one;

    (void)json_object_set_new(o, "from", from);
    while (copy && (one = strsep(&rest, ","))) {
        char *socket = strchr(one, '=');
        size_t i, n = socket ? (size_t)(socket - one) : strlen(one);
        const json_t *other;

        if (socket)
            *socket++ = '\0';
        if (n == 0 || n > 63 || strspn(one, "abcdefghijklmnopqrstuvwxyz0123456789._-") != n ||
            (strcmp(one, "self") == 0) != !socket || (socket && !*socket))
            return bad(e, "from", text, how);
        json_array_foreach(from, i, other)
        {
            if (strcmp(json_string_value(other), one) == 0)
                return bad(e, "from", text, "each host once");
        }
        if (json_array_append_new(from, json_string(one)) < 0 ||
            (socket && json_object_set_new(hosts, one, json_pack("{s:s}", "injector", socket)) < 0))
            return bad(e, "from", text, how);
    }
    return 0;
}

static int endpoint_of(const struct sq_args *a, json_t *o, json_t *hosts, int64_t *ns, struct sq_err *e)
{
    const char *statuses = sq_args_value(a, "expect-status"), *from = sq_args_value(a, "from");
    json_t *expect = json_object();
    int rc;

    put_text(a, "data", o, "data");
    put_text(a, "expect-body", expect, "body");
    rc = statuses ? put_statuses(statuses, expect, e) : 0;
    if (rc == 0 && from)
        rc = put_hosts(from, o, hosts, e);
    if (json_object_size(expect) > 0)
        (void)json_object_set(o, "expect", expect);
    json_decref(expect);
    if (rc < 0 || (rc = put_load(a, o, ns, e)) < 0 || (rc = put_request(a, o, e)) < 0 ||
        (rc = put_int(a, "connections", o, "connections", e)) < 0 || (rc = put_int(a, "threads", o, "threads", e)) < 0)
        return rc;
    return put_int(a, "streams", o, "streams", e);
}

int sq_probe_scenario(const struct sq_args *a, const struct sq_term *t, json_t **doc, struct sq_err *e)
{
    cleanup_json json_t *endpoint = json_object();
    cleanup_json json_t *hosts = json_object();
    cleanup_json json_t *thresholds = json_array();
    cleanup_json json_t *warnings = NULL;
    const char *name = sq_args_value(a, "name"), *sure = sq_args_value(a, "confidence");
    const char *late = sq_args_value(a, "lateness");
    double confidence = 95;
    int64_t ns = 0, over = 0;
    const json_t *w;
    size_t i;
    int rc = endpoint_of(a, endpoint, hosts, &ns, e);

    for (i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].option->name, "threshold") == 0)
            (void)json_array_append_new(thresholds, json_string(a->given[i].value));
    if (rc == 0 && sure && (sq_parse_percent(sure, &confidence, NULL) < 0 || confidence <= 50 || confidence >= 100))
        rc = bad(e, "confidence", sure, "over 50% and under 100%");
    if (rc == 0 && late && (sq_parse_duration(late, &over, NULL) < 0 || over <= 0))
        rc = bad(e, "lateness", late, "a time: 5ms, 20ms");
    if (rc == 0 && name &&
        (!isalnum((unsigned char)*name) || strlen(name) > 63 ||
         strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != strlen(name)))
        rc = bad(e, "name", name, "a-z 0-9 . _ -, at most 63, beginning with a letter or digit");
    if (rc == 0)
        rc = sq_scenario_adhoc(endpoint, hosts, name ? name : "probe", SQ_ADHOC_STEP, ns, thresholds, confidence, doc,
                               &warnings, e);
    if (rc == 0 && late)
        (void)json_object_set_new(json_object_get(json_object_get(*doc, "spec"), "lateness"), "over",
                                  json_integer(over));
    json_array_foreach(warnings, i, w)
    {
        (void)fprintf(t->err, "%swarning:%s %s\n", sq_term_err(t, SQ_YELLOW), sq_term_err(t, SQ_PLAIN),
                      json_string_value(w));
    }
    return rc;
}
