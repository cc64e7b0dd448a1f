#include "squall/callkind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/json.h"

#define NAMES_MAX 32
#define TYPES_MAX 16
#define ADDRESSES_MAX 32 /* 16 of each family */

bool sq_protocol_dgram(const char *protocol)
{
    return strcmp(protocol, "udp") == 0 || strcmp(protocol, "dns") == 0;
}

static bool one_of(const char *s, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(s, list[i]) == 0)
            return true;
    return false;
}

/* A name as DNS has them, with "*." before it or not, or "*" alone. */
static bool name_ok(const char *s)
{
    size_t label = 0, n = strlen(s);

    if (strcmp(s, "*") == 0)
        return true;
    if (strncmp(s, "*.", 2) == 0)
        s += 2;
    if (n == 0 || n > 253 || !*s)
        return false;
    for (; *s; s++) {
        if (*s == '*' || *s <= ' ' || (*s == '.' && label == 0))
            return false;
        label = *s == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return true;
}

static bool type_ok(const char *s)
{
    static const char *const types[] = {"A",   "AAAA", "CNAME", "HTTPS", "MX",  "NS",
                                        "PTR", "SOA",  "SRV",   "SVCB",  "TXT", "ANY"};

    for (size_t i = 0; i < SQ_COUNT(types); i++)
        if (strcasecmp(s, types[i]) == 0)
            return true;
    return false;
}

static bool address_ok(const char *s)
{
    unsigned char a[16];

    return inet_pton(AF_INET, s, a) == 1 || inet_pton(AF_INET6, s, a) == 1;
}

static int list_ok(const json_t *with, const char *name, size_t max, bool (*ok)(const char *), const char *hint,
                   const char **key, struct sq_err *e)
{
    const json_t *list = json_object_get(with, name), *v;
    size_t i;

    *key = name;
    if (json_array_size(list) > max)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns: %s: at most %zu", name, max);
    json_array_foreach(list, i, v)
    {
        const char *s = json_string_value(v);

        if (!s || !ok(s)) {
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns: %s: '%.100s' is none", name, s ? s : "");
            sq_err_hint(e, "%s", hint);
            return -EINVAL;
        }
    }
    return 0;
}

static int dns_ok(const json_t *with, const char **key, struct sq_err *e)
{
    const char *answer = sq_json_str_or(with, "answer", "real");
    bool wrong = strcmp(answer, "wrong") == 0;
    int rc = list_ok(with, "names", NAMES_MAX, name_ok, "names: [db.example, \"*.example\"]", key, e);

    rc = rc ? rc : list_ok(with, "types", TYPES_MAX, type_ok, "types: [A, AAAA]", key, e);
    rc = rc ? rc : list_ok(with, "address", ADDRESSES_MAX, address_ok, "address: [192.0.2.1, 2001:db8::1]", key, e);
    if (rc < 0)
        return rc;
    *key = "address";
    if (wrong && json_array_size(json_object_get(with, "address")) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns: a wrong answer needs an address");
    if (!wrong && json_array_size(json_object_get(with, "address")) > 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns: only a wrong answer has an address");
    *key = "answer";
    if (strcmp(answer, "real") == 0 && sq_json_int_or(with, "delay", 0) <= 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns: the real answer without a delay is no fault");
    *key = "jitter";
    if (sq_json_int_or(with, "jitter", 0) > sq_json_int_or(with, "delay", 0))
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "call/dns: the jitter can't be larger than the delay");
    return 0;
}

static int stream_ok(const char *uses, const json_t *with, bool dgram, const char **key, struct sq_err *e)
{
    const char *stream = sq_json_str_or(with, "stream", "downstream");

    *key = "stream";
    if (!dgram && strcmp(stream, "both") == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: only datagrams (protocol: udp or dns) have stream: both", uses);
    if (!dgram && strcmp(uses, "call/latency") == 0 && strcmp(stream, "downstream") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/latency: only datagrams can be delayed upstream");
    if (dgram && sq_json_num_or(with, "correlation", 0.0) > 0.0) {
        *key = "correlation";
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: the loss of datagrams has no correlation here", uses);
    }
    return 0;
}

int sq_call_suits(const char *uses, const char *protocol, const json_t *with, const char **key, struct sq_err *e)
{
    static const char *const datagrams[] = {"call/latency", "call/loss", "call/duplicate", "call/blackhole"};
    const char *ignored;
    bool dgram = sq_protocol_dgram(protocol);
    bool dns = strcmp(uses, "call/dns") == 0;
    int rc;

    key = key ? key : &ignored;
    *key = "";
    if (strncmp(uses, "call/", 5) != 0)
        return 0;
    if (dns && strcmp(protocol, "dns") != 0) {
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/dns needs an edge with protocol: dns, this one has %s", protocol);
        sq_err_hint(e, "edges: {app->resolver: {from: app, to: resolvers, protocol: dns}}");
        return rc;
    }
    if (!dgram && strcmp(uses, "call/duplicate") == 0) {
        rc =
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "call/duplicate is for datagrams: this edge has protocol: %s", protocol);
        sq_err_hint(e, "protocol: udp");
        return rc;
    }
    if (dgram && !dns && !one_of(uses, datagrams, SQ_COUNT(datagrams))) {
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s makes no sense on datagrams (protocol: %s)", uses, protocol);
        sq_err_hint(e, "use call/latency, call/loss, call/duplicate or call/blackhole%s",
                    strcmp(protocol, "dns") == 0 ? ", or call/dns" : "");
        return rc;
    }
    rc = dns ? dns_ok(with, key, e) : stream_ok(uses, with, dgram, key, e);
    return rc;
}
