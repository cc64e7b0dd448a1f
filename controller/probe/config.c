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
    json_t *request;
    const char *url;
    int rc;

    if ((rc = sq_json_obj(o, "request", &request, e)) < 0 || (rc = sq_json_str(request, "url", &url, e)) < 0)
        return rc;
    for (size_t i = 0; i < SQ_COUNT(protocols); i++)
        if (protocols[i]->speaks(url)) {
            ep->proto = protocols[i];
            return 0;
        }
    rc = sq_err_cls(e, SQ_C_INPUT, -EPROTONOSUPPORT, "url \"%.200s\": no protocol of the probe speaks it", url);
    sq_err_hint(e, "write http://host:port/path or unix:/path/to.sock:/path");
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
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
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

static int read_limits(struct sq_endpoint *ep, const json_t *o, struct sq_err *e)
{
    int64_t n = sq_json_int_or(o, "connections", 100);

    ep->timeout = sq_json_int_or(json_object_get(o, "request"), "timeout", 5 * SQ_S);
    if (n < 1 || n > SQ_CONNECTIONS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "connections: 1 to %d", SQ_CONNECTIONS_MAX);
    if (ep->timeout < SQ_MS || ep->timeout > TIMEOUT_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "timeout: 1ms to 1h");
    ep->limit = (unsigned)n;
    return 0;
}

int sq_endpoint_init(struct sq_endpoint *ep, const char *name, const json_t *o, const json_t *matchers,
                     struct sq_err *e)
{
    int rc;

    ep->retry_at = ep->next_planned = SQ_NEVER;
    ep->name = strdup(name);
    ep->window = sq_window_new(ep->probe->window_s);
    if (!ep->name || !ep->window)
        return sq_err(e, -ENOMEM, "no memory");
    if ((rc = read_limits(ep, o, e)) < 0 || (rc = sq_schedule_init(&ep->schedule, o, e)) < 0 ||
        (rc = sq_rules_init(&ep->rules, name, json_object_get(o, "expect"), matchers, e)) < 0 ||
        (rc = find_protocol(ep, o, e)) < 0 || (rc = ep->proto->prepare(o, &ep->rules, &ep->plan, &ep->place, e)) < 0 ||
        (rc = resolve(&ep->place, e)) < 0)
        return rc;
    ep->repeatable = ep->proto->repeatable(ep->plan);
    return 0;
}

void sq_endpoint_clear(struct sq_endpoint *ep)
{
    if (ep->plan)
        ep->proto->release(ep->plan);
    sq_rules_clear(&ep->rules);
    sq_window_free(ep->window);
    free(ep->name);
}
