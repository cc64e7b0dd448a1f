/* From the scenario's `load` to endpoints that are ready to be called. */
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "probe/engine.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define TIMEOUT_MAX (3600 * SQ_S)

static const struct sq_proto *const protocols[] = {
#define SQ_PROTOCOL(p) &p,
#include "probe/protocols.def"
#undef SQ_PROTOCOL
};

static int find_protocol(struct sq_endpoint *ep, const json_t *o, struct sq_err *e)
{
    static const struct sq_driver *const drivers[] = {
        [SQ_FLOW_STREAM] = &sq_driver_conn, [SQ_FLOW_MUX] = &sq_driver_mux, [SQ_FLOW_COMMAND] = &sq_driver_command};
    json_t *request;
    const char *url;
    int rc;

    if ((rc = sq_json_obj(o, "request", &request, e)) < 0 || (rc = sq_json_str(request, "url", &url, e)) < 0)
        return rc;
    for (size_t i = 0; i < SQ_COUNT(protocols); i++)
        if (protocols[i]->speaks(url, request)) {
            ep->proto = protocols[i];
            ep->driver = drivers[ep->proto->flow];
            return 0;
        }
    rc = sq_err_cls(e, SQ_C_INPUT, -EPROTONOSUPPORT, "url \"%.200s\": no protocol of the probe speaks it", url);
    sq_err_hint(e, "write http://host:port/path or unix:/path/to.sock:/path; `squall explain request` lists them all");
    return rc;
}

static int resolve_unix(struct sq_place *place)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&place->addr[0].sa;

    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, place->path, sizeof place->path);
    place->addr[0].len = sizeof *un;
    place->n = 1;
    return 0;
}

static int resolve(struct sq_place *place, struct sq_err *e)
{
    struct addrinfo hints = {.ai_socktype = place->datagram ? SOCK_DGRAM : SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int rc;

    if (place->path[0])
        return resolve_unix(place);
    rc = getaddrinfo(place->host, place->port, &hints, &list);
    if (rc != 0) {
        rc = sq_err_cls(e, SQ_C_INPUT, -ENOENT, "the host \"%s\" does not resolve: %s", place->host, gai_strerror(rc));
        sq_err_hint(e, "nothing was touched; write an address, or make the name known to this host");
        return rc;
    }
    for (const struct addrinfo *a = list; a && place->n < SQ_ADDRS_MAX; a = a->ai_next) {
        if (a->ai_addrlen > sizeof place->addr[0].sa)
            continue;
        memcpy(&place->addr[place->n].sa, a->ai_addr, a->ai_addrlen);
        place->addr[place->n++].len = a->ai_addrlen;
    }
    freeaddrinfo(list);
    return place->n > 0 ? 0 : sq_err_cls(e, SQ_C_INPUT, -ENOENT, "the host \"%s\" has no address", place->host);
}

/* What a thread gets of CONNECTIONS. */
static unsigned part_of(int64_t connections, size_t part, size_t parts)
{
    return (unsigned)((size_t)connections / parts + (part < (size_t)connections % parts));
}

unsigned sq_endpoint_threads(const json_t *o)
{
    int64_t n = sq_json_int_or(o, "threads", 1);

    return n < 1 ? 1 : n > SQ_THREADS_MAX ? SQ_THREADS_MAX : (unsigned)n;
}

static int read_limits(struct sq_endpoint *ep, const json_t *o, struct sq_err *e)
{
    const json_t *request = json_object_get(o, "request");
    int64_t n = sq_json_int_or(o, "connections", 100), threads = sq_json_int_or(o, "threads", 1);
    int64_t streams = sq_json_int_or(o, "streams", 100);
    const json_t *share = json_object_get(o, "share");
    int64_t host = json_integer_value(json_array_get(share, 0)), hosts = json_integer_value(json_array_get(share, 1));

    ep->timeout = sq_json_int_or(request, "timeout", 5 * SQ_S);
    ep->keep_alive = sq_json_bool_or(request, "keep_alive", true);
    ep->closed = strcmp(sq_json_str_or(o, "executor", ""), "constant-connections") == 0;
    if (n < 1 || n > SQ_CONNECTIONS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "connections: 1 to %d", SQ_CONNECTIONS_MAX);
    if (threads < 1 || threads > SQ_THREADS_MAX || threads > n)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "threads: 1 to %d, and each needs a connection", SQ_THREADS_MAX);
    if (streams < 1 || streams > 1000)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "streams: 1 to 1000 on a connection");
    if (share && (hosts < 1 || hosts > SQ_HOSTS_MAX || host < 0 || host >= hosts || threads * hosts > n))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "from: at most %d hosts, and each thread of each needs a connection",
                          SQ_HOSTS_MAX);
    /* Every thread of every host has its turn in one schedule: together they send it exactly. */
    ep->part += share ? (size_t)(host * threads) : 0;
    ep->parts = (size_t)(threads * (share ? hosts : 1));
    if (ep->timeout < SQ_MS || ep->timeout > TIMEOUT_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "timeout: 1ms to 1h");
    ep->limit = part_of(n, ep->part, ep->parts);
    ep->streams = (unsigned)streams;
    return 0;
}

/* --- what it sends --- */

/* The endpoint as if STEP, one of a mix or of a session, were all it sends; new reference, NULL: no memory. */
static json_t *as_endpoint(const json_t *o, const json_t *step)
{
    static const char *const own[] = {"method", "path", "body"};
    json_t *request = json_copy(json_object_get(o, "request")), *headers, *expect;
    json_t *made = NULL;

    if (!request)
        return NULL;
    for (size_t i = 0; step && i < SQ_COUNT(own); i++)
        if (json_object_get(step, own[i]))
            (void)json_object_set(request, own[i], json_object_get(step, own[i]));
    if (step && json_object_get(step, "headers")) {
        headers = json_object_get(request, "headers") ? json_copy(json_object_get(request, "headers")) : json_object();
        (void)json_object_update(headers, json_object_get(step, "headers"));
        (void)json_object_set_new(request, "headers", headers);
    }
    expect = step && json_object_size(json_object_get(step, "expect")) > 0 ? json_object_get(step, "expect")
                                                                           : json_object_get(o, "expect");
    made = json_pack("{s:O}", "request", request);
    if (made && expect)
        (void)json_object_set(made, "expect", expect);
    json_decref(request);
    return made;
}

static bool holes_anywhere(const json_t *o)
{
    char *text = json_dumps(o, JSON_ENCODE_ANY);
    bool any = sq_has_holes(text);

    free(text);
    return any;
}

/* Statuses of HTTP have three digits; other protocols begin at 0. */
static int check_status(const struct sq_proto *proto, const json_t *expect, struct sq_err *e)
{
    const json_t *list = json_object_get(expect, "status"), *v;
    size_t i;

    if (proto->good_from < 100)
        return 0;
    if (json_is_integer(list) && json_integer_value(list) < 100)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "status: one of HTTP is 100 to 999");
    json_array_foreach(list, i, v) if (json_is_integer(v) && json_integer_value(v) < 100) return sq_err_cls(
        e, SQ_C_INPUT, -EINVAL, "status: one of HTTP is 100 to 999");
    return 0;
}

static int add_variant(struct sq_endpoint *ep, const json_t *o, const json_t *step, const json_t *matchers,
                       struct sq_names *names, struct sq_err *e)
{
    struct sq_variant *v = &ep->variant[ep->n_variants++];
    cleanup_json json_t *as = as_endpoint(o, step);
    const double before = ep->n_variants > 1 ? (v - 1)->share : 0;
    int rc;

    if (!as)
        return sq_err(e, -ENOMEM, "no memory");
    if (!ep->proto->holes && holes_anywhere(as))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "${data.x} and ${session.x}: only requests of HTTP may differ");
    if ((rc = check_status(ep->proto, json_object_get(as, "expect"), e)) < 0 ||
        (rc = sq_rules_init(&v->rules, ep->name, json_object_get(as, "expect"), matchers, e)) < 0)
        return rc;
    sq_rules_default(&v->rules, (unsigned)ep->proto->good_from, (unsigned)ep->proto->good_to);
    v->share = before + sq_json_num_or(step, "weight", 1);
    v->think = sq_json_int_or(step, "think", 0);
    if (!(v->share > before) || v->think < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "weight: above 0; think: not below");
    if ((rc = ep->proto->prepare(as, names, &v->rules, &v->plan, &ep->place, e)) < 0)
        return rc;
    v->repeatable = ep->proto->repeatable(v->plan);
    return 0;
}

/* What a step captures is known to those behind it. */
static int add_captures(struct sq_variant *v, const json_t *capture, const char **known, size_t *n, struct sq_err *e)
{
    const char *name;
    json_t *how;

    json_object_foreach((json_t *)(uintptr_t)capture, name, how)
    {
        size_t i = 0;

        while (i < *n && strcmp(known[i], name) != 0)
            i++;
        if (i == SQ_CAPTURES_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "capture: at most %d values in a session", SQ_CAPTURES_MAX);
        if (i == *n)
            known[(*n)++] = name;
    }
    return sq_captures_init(&v->captures, capture, known, *n, e);
}

static int read_variants(struct sq_endpoint *ep, const json_t *o, const json_t *matchers, struct sq_err *e)
{
    const json_t *mix = json_object_get(o, "mix"), *session = json_object_get(o, "session"), *list, *step;
    const char *known[SQ_CAPTURES_MAX];
    struct sq_names names = {.n_columns = ep->data.n_columns, .column = ep->data.column, .session = known};
    size_t n, i;
    int rc = 0;

    if (mix && session)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "mix and session do not go together");
    ep->is_session = session != NULL;
    list = session ? session : mix;
    n = list ? json_array_size(list) : 1;
    if (n < 1 || n > SQ_VARIANTS_MAX || (list && !json_is_array(list)))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "mix, session: a list of 1 to %d requests", SQ_VARIANTS_MAX);
    ep->variant = calloc(n, sizeof *ep->variant);
    if (!ep->variant)
        return sq_err(e, -ENOMEM, "no memory");
    for (i = 0; rc == 0 && i < n; i++) {
        step = json_array_get(list, i);
        rc = add_variant(ep, o, step, matchers, &names, e);
        if (rc == 0 && session)
            rc = add_captures(&ep->variant[i], json_object_get(step, "capture"), known, &names.n_session, e);
    }
    ep->sessions.n_values = names.n_session;
    return rc;
}

static int read_tls(struct sq_endpoint *ep, const json_t *o, struct sq_err *e)
{
    const json_t *options = json_object_get(json_object_get(o, "request"), "tls");

    if (!ep->place.tls)
        return options && json_object_size(options) > 0
                   ? sq_err_cls(e, SQ_C_INPUT, -EINVAL, "tls: this URL has none; write https://, grpcs://, rediss://")
                   : 0;
    return sq_tls_new(options, ep->place.host, ep->place.alpn, &ep->tls, e);
}

static uint64_t mixed(uint64_t seed, const char *name)
{
    for (; *name; name++)
        seed = (seed ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return seed;
}

int sq_endpoint_init(struct sq_endpoint *ep, const char *name, const json_t *o, const json_t *matchers, size_t part,
                     uint64_t seed, struct sq_err *e)
{
    const char *data = sq_json_str_or(o, "data", NULL);
    int rc;

    ep->retry_at = ep->next_planned = SQ_NEVER;
    ep->part = part;
    ep->name = strdup(name);
    ep->window = sq_window_new(ep->probe->window_s);
    if (!ep->name || !ep->window)
        return sq_err(e, -ENOMEM, "no memory");
    if ((rc = read_limits(ep, o, e)) < 0 || (!ep->closed && (rc = sq_schedule_init(&ep->schedule, o, name, e)) < 0) ||
        (rc = find_protocol(ep, o, e)) < 0 || (data && (rc = sq_data_read(data, &ep->data, e)) < 0) ||
        (rc = read_variants(ep, o, matchers, e)) < 0 ||
        (ep->proto->flow != SQ_FLOW_COMMAND && (rc = resolve(&ep->place, e)) < 0) || (rc = read_tls(ep, o, e)) < 0)
        return rc;
    sq_schedule_seed(&ep->schedule, mixed(seed, name));
    sq_rng_seed(&ep->rng, mixed(seed + 1 + ep->part, name));
    return 0;
}

void sq_endpoint_clear(struct sq_endpoint *ep)
{
    for (size_t i = 0; i < ep->n_variants; i++) {
        if (ep->variant[i].plan)
            ep->proto->release(ep->variant[i].plan);
        sq_rules_clear(&ep->variant[i].rules);
        sq_captures_clear(&ep->variant[i].captures);
    }
    free(ep->variant);
    sq_sessions_clear(&ep->sessions);
    sq_data_free(&ep->data);
    sq_schedule_clear(&ep->schedule);
    sq_tls_free(ep->tls);
    sq_window_free(ep->window);
    free(ep->name);
}
