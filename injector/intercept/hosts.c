/* Host names among the destinations of an edge. All their addresses are looked up before the edge is armed, and again
 * every few seconds: a name may mean other machines by then. Addresses that a name once had stay in force until the run
 * ends: pools and resolvers of the caller (a JVM caches for ever) go on using them, and a call that the name once stood
 * for must not slip past the fault. The same for exceptions: what was spared once stays spared. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/priv.h"
#include "net/lookup.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/units.h"

#define AGAIN_NS (5 * SQ_S)
#define KEPT 256     /* addresses of one name; the ones that it had the longest ago go first */
#define AT_ONCE 4    /* processes that look up, of the whole injector */
#define SHOWN_MAX 64 /* addresses of one name in an event */

struct name {
    const struct sq_dest *dest;
    bool except;
    struct {
        struct in6_addr addr;
        uint32_t seen; /* the last lookup that gave it */
    } kept[KEPT];
    size_t n;
};

struct sq_hosts {
    struct sq_edge *edge;
    struct sq_lookup *ask;
    struct name *name;
    size_t n;
    json_t *where; /* record of the network namespace */
    uint32_t round;
    int64_t at;
    uv_poll_t *poll; /* NULL: nobody looks up */
    bool failing, full;
};

static int add(struct sq_hosts *names, const struct sq_dest *d, bool except, struct sq_err *e)
{
    struct name *name = &names->name[names->n];
    int rc = sq_lookup_add(names->ask, d->name, e);

    name->dest = d;
    name->except = except;
    names->n += rc == 0;
    return rc;
}

static int list_names(struct sq_hosts *names, const struct sq_edge *edge, struct sq_err *e)
{
    int rc = 0;

    names->ask = sq_lookup_new();
    names->name = calloc(edge->n_dest + edge->n_except, sizeof(*names->name));
    if (!names->ask || !names->name)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < edge->n_dest; i++)
        if (edge->dest[i].kind == SQ_DEST_NAME)
            rc = add(names, &edge->dest[i], false, e);
    for (size_t i = 0; rc == 0 && i < edge->n_except; i++)
        if (edge->except[i].kind == SQ_DEST_NAME)
            rc = add(names, &edge->except[i], true, e);
    return rc;
}

static size_t oldest(const struct name *name)
{
    size_t found = 0;

    for (size_t i = 1; i < name->n; i++)
        if (name->kept[i].seen < name->kept[found].seen)
            found = i;
    return found;
}

/* True: it is new. */
static bool keep(struct name *name, const struct in6_addr *addr, uint32_t round)
{
    size_t i = 0;

    while (i < name->n && memcmp(&name->kept[i].addr, addr, sizeof(*addr)) != 0)
        i++;
    if (i < name->n) {
        name->kept[i].seen = round;
        return false;
    }
    i = name->n < KEPT ? name->n++ : oldest(name);
    name->kept[i].addr = *addr;
    name->kept[i].seen = round;
    return true;
}

static bool take_answers(struct sq_hosts *names)
{
    bool fresh = false;

    names->round++;
    for (size_t i = 0; i < names->n; i++) {
        const struct in6_addr *a;

        for (size_t k = 0; k < KEPT && (a = sq_lookup_get(names->ask, i, k)); k++)
            fresh = keep(&names->name[i], a, names->round) || fresh;
    }
    return fresh;
}

static json_t *text_of(const struct in6_addr *a)
{
    char text[INET6_ADDRSTRLEN];

    if (IN6_IS_ADDR_V4MAPPED(a))
        (void)inet_ntop(AF_INET, &a->s6_addr[12], text, sizeof(text));
    else
        (void)inet_ntop(AF_INET6, a, text, sizeof(text));
    return json_string(text);
}

json_t *sq_hosts_json(const struct sq_edge *edge)
{
    const struct sq_hosts *names = edge->hosts;
    json_t *out = json_object();

    for (size_t i = 0; names && i < names->n; i++) {
        const struct name *name = &names->name[i];
        json_t *list = json_array();

        for (size_t k = 0; k < name->n && json_array_size(list) < SHOWN_MAX; k++)
            if (name->kept[k].seen == names->round)
                (void)json_array_append_new(list, text_of(&name->kept[k].addr));
        (void)json_object_set_new(out, name->dest->name, list);
    }
    return out;
}

size_t sq_hosts_count(const struct sq_edge *edge)
{
    size_t n = 0;

    for (size_t i = 0; edge->hosts && i < edge->hosts->n; i++)
        n += edge->hosts->name[i].n;
    return n;
}

size_t sq_hosts_rules(const struct sq_edge *edge, struct sq_table_rule *out)
{
    size_t n = 0;

    for (size_t i = 0; edge->hosts && i < edge->hosts->n; i++) {
        const struct name *name = &edge->hosts->name[i];

        for (size_t k = 0; k < name->n; k++)
            out[n++] = (struct sq_table_rule){.addr = name->kept[k].addr,
                                              .bits = 128,
                                              .from = name->dest->from,
                                              .to = name->dest->to,
                                              .edge = (uint16_t)edge->slot,
                                              .except = name->except,
                                              .order = edge->id};
    }
    return n;
}

bool sq_hosts_any(const struct sq_edge *edge)
{
    bool any = false;

    for (size_t i = 0; i < edge->n_dest; i++)
        any = any || edge->dest[i].kind == SQ_DEST_NAME;
    for (size_t i = 0; i < edge->n_except; i++)
        any = any || edge->except[i].kind == SQ_DEST_NAME;
    return any;
}

int sq_hosts_new(struct sq_edge *edge, const struct sq_netns *ns, struct sq_err *e)
{
    struct sq_hosts *names;
    int rc;

    if (!sq_hosts_any(edge))
        return 0;
    edge->hosts = names = calloc(1, sizeof(*names));
    if (!names)
        return sq_err(e, -ENOMEM, "out of memory");
    names->edge = edge;
    names->where = sq_netns_record(ns);
    rc = names->where ? list_names(names, edge, e) : sq_err(e, -ENOMEM, "out of memory");
    rc = rc ? rc : sq_lookup_now(names->ask, ns, e);
    if (rc < 0)
        return rc;
    (void)take_answers(names);
    names->at = sq_mono_ns();
    return 0;
}

static void end_work(struct sq_hosts *names)
{
    if (names->poll)
        sq_ic_unpoll(names->edge->ic, &names->poll);
    if (names->ask)
        sq_lookup_stop(names->ask);
    names->at = sq_mono_ns();
}

void sq_hosts_free(struct sq_edge *edge)
{
    struct sq_hosts *names = edge->hosts;

    if (!names)
        return;
    end_work(names);
    sq_lookup_free(names->ask);
    json_decref(names->where);
    free(names->name);
    free(names);
    edge->hosts = NULL;
}

static void in_force(struct sq_hosts *names)
{
    struct sq_edge *edge = names->edge;
    struct sq_err e = {0};

    if (sq_edge_retable(edge, &e) < 0) {
        if (!names->full)
            sq_ic_warn(edge->ic, edge->run, "edge %s: new addresses of its names are not taken: %s", edge->name, e.msg);
        names->full = true;
        return;
    }
    sq_ic_event(edge->ic, edge->run,
                json_pack("{s:s,s:s,s:I,s:o}", "type", "hosts", "edge", edge->name, "addresses",
                          (json_int_t)sq_hosts_count(edge), "names", sq_hosts_json(edge)));
}

static void on_answers(uv_poll_t *p, int status, int events)
{
    struct sq_hosts *names = p->data;
    struct sq_edge *edge = names->edge;
    struct sq_err e = {0};
    int rc;

    (void)status;
    (void)events;
    rc = sq_lookup_end(names->ask, &e);
    if (rc == -EAGAIN)
        return;
    end_work(names);
    if (rc < 0 && !names->failing)
        sq_ic_warn(edge->ic, edge->run,
                   "edge %s: names could not be looked up again, what they meant before counts: %s", edge->name, e.msg);
    names->failing = rc < 0;
    if (take_answers(names)) /* names that could be looked up have their new addresses also when another could not */
        in_force(names);
}

static void begin(struct sq_hosts *names)
{
    struct sq_netns ns = {.fd = -1};
    int fd = -1;

    names->at = sq_mono_ns();
    if (sq_netns_find(names->where, &ns, NULL) < 0)
        return; /* it is gone, and who lived in it, too */
    if (sq_lookup_begin(names->ask, &ns, &fd, NULL) == 0)
        names->poll = sq_ic_poll(names->edge->ic, fd, UV_READABLE, on_answers, names);
    if (!names->poll)
        end_work(names);
    sq_netns_close(&ns);
}

void sq_hosts_tick(struct sq_intercept *ic)
{
    int64_t now = sq_mono_ns();
    size_t busy = 0;

    for (uint32_t i = 0; i < SQ_EDGES; i++)
        busy += ic->edge[i] && ic->edge[i]->hosts && ic->edge[i]->hosts->poll;
    for (uint32_t k = 0; k < SQ_EDGES && busy < AT_ONCE; k++) {
        struct sq_edge *edge = ic->edge[(ic->hosts_turn + k) % SQ_EDGES];

        if (!edge || !edge->hosts || edge->hosts->poll || now - edge->hosts->at < AGAIN_NS)
            continue;
        begin(edge->hosts);
        busy += edge->hosts->poll ? 1 : 0;
        ic->hosts_turn = edge->slot + 1;
    }
}
