/* Edges: declared with a run, each with its listeners in the proxy. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intercept/existing.h"
#include "intercept/nft.h"
#include "intercept/priv.h"
#include "intercept/running.h"
#include "net/netns.h"
#include "squall/callkind.h"
#include "squall/cleanup.h"
#include "squall/json.h"

void sq_edge_free(struct sq_edge *edge)
{
    if (!edge)
        return;
    sq_hole_close(&edge->hole);
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        json_decref(edge->fault[i].rule);
    json_decref(edge->ack_rules);
    json_decref(edge->failed);
    sq_hosts_free(edge);
    free(edge->dest);
    free(edge->except);
    sq_made_free(edge);
    free(edge);
}

#define GONE_MAX 256 /* edges whose names are kept for late calls */

static void edge_freep(struct sq_edge **edge)
{
    sq_edge_free(*edge);
}

struct sq_edge *sq_edge_find(struct sq_intercept *ic, const char *run_id, const char *name)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i] && strcmp(ic->edge[i]->run, run_id) == 0 && strcmp(ic->edge[i]->name, name) == 0)
            return ic->edge[i];
    return NULL;
}

struct sq_edge *sq_ic_edge(struct sq_intercept *ic, uint32_t id)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i] && ic->edge[i]->id == id)
            return ic->edge[i];
    for (struct sq_edge *edge = ic->gone_edges; edge; edge = edge->next)
        if (edge->id == id)
            return edge;
    return NULL;
}

const char *sq_edge_mode(const struct sq_edge *edge)
{
    if (edge->nft)
        return "nft";
    return edge->bpf && (edge->has_tcp || edge->dgram) ? "bpf" : "seccomp";
}

const char *sq_edge_protocol(const struct sq_edge *edge)
{
    return edge->protocol;
}

bool sq_edge_delays_connect(const struct sq_edge *edge)
{
    return edge->ic->hold_ok && edge->has_tcp && !edge->dgram && !edge->nft;
}

static int copy_name(char *out, size_t len, const char *in, const char *what, struct sq_err *e)
{
    if (!*in || strlen(in) >= len)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s must be 1 to %zu bytes long", what, len - 1);
    memcpy(out, in, strlen(in) + 1);
    return 0;
}

static int parse_list(const struct sq_edge *edge, const json_t *list, struct sq_dest **out, size_t *n, struct sq_err *e)
{
    const json_t *v;
    size_t i;

    if (json_array_size(list) > SQ_DESTS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s has more than %u destinations", edge->name, SQ_DESTS);
    *out = calloc(json_array_size(list) + 1, sizeof(**out));
    if (!*out)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: a destination is a string", edge->name);
        if (sq_dest_parse(json_string_value(v), &(*out)[i], e) < 0)
            return sq_err_prefix(e, "edge %s", edge->name);
        *n = i + 1;
    }
    return 0;
}

static int parse_dests(struct sq_edge *edge, const json_t *to, const json_t *except, struct sq_err *e)
{
    int rc;

    if (json_array_size(to) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s needs a destination", edge->name);
    if (except && !json_is_array(except))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: except is a list", edge->name);
    rc = parse_list(edge, to, &edge->dest, &edge->n_dest, e);
    rc = rc ? rc : parse_list(edge, except, &edge->except, &edge->n_except, e);
    for (size_t i = 0; rc == 0 && i < edge->n_except; i++)
        if (edge->except[i].kind == SQ_DEST_UNIX)
            rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: a Unix socket is not excepted but left out of \"to\"",
                            edge->name);
    for (size_t i = 0; rc == 0 && i < edge->n_dest; i++) {
        edge->has_unix = edge->has_unix || edge->dest[i].kind == SQ_DEST_UNIX;
        edge->has_tcp = edge->has_tcp || edge->dest[i].kind != SQ_DEST_UNIX;
    }
    return rc;
}

static int parse_edge(struct sq_intercept *ic, const char *run_id, const json_t *def, struct sq_edge *edge,
                      struct sq_err *e)
{
    const char *name, *from, *protocol = sq_json_str_or(def, "protocol", "auto");
    json_t *to;
    int rc = sq_json_str(def, "name", &name, e);

    rc = rc ? rc : sq_json_str(def, "from", &from, e);
    rc = rc ? rc : sq_json_arr(def, "to", &to, e);
    rc = rc ? rc : copy_name(edge->name, sizeof(edge->name), name, "the name of an edge", e);
    rc = rc ? rc : copy_name(edge->from, sizeof(edge->from), from, "the caller of an edge", e);
    rc = rc ? rc : copy_name(edge->run, sizeof(edge->run), run_id, "the run of an edge", e);
    if (rc < 0)
        return rc;
    if (strcmp(protocol, "auto") != 0 && strcmp(protocol, "http") != 0 && strcmp(protocol, "tcp") != 0 &&
        strcmp(protocol, "udp") != 0 && strcmp(protocol, "dns") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: protocol must be auto, http, tcp, udp or dns", name);
    (void)snprintf(edge->protocol, sizeof(edge->protocol), "%s", protocol);
    if (sq_edge_find(ic, run_id, name))
        return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "edge %s is there already", name);
    edge->dgram = sq_protocol_dgram(protocol);
    rc = parse_dests(edge, to, json_object_get(def, "except"), e);
    if (rc == 0 && edge->dgram && edge->has_unix)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: a Unix socket can't have protocol %s", name, protocol);
    if (strcmp(protocol, "udp") == 0)
        edge->has_tcp = false;
    return rc;
}

static int parse_existing(struct sq_edge *edge, const json_t *def, struct sq_err *e)
{
    static const char *const names[] = {"leave", "reset", "wait"};
    const char *how = sq_json_str_or(def, "existing", "leave");
    size_t i = 0;

    while (i < SQ_COUNT(names) && strcmp(how, names[i]) != 0)
        i++;
    if (i == SQ_COUNT(names))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: existing must be leave, reset or wait", edge->name);
    edge->existing = (enum sq_existing_how)i;
    if (edge->dgram && sq_running_by_nft(edge->ic, edge->run, edge->from)) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                   "edge %s: datagrams of a program that runs already are taken by cgroup-BPF only, not by nftables",
                   edge->name);
        sq_err_hint(e, "let the scenario start the caller (command)");
        return -EOPNOTSUPP;
    }
    if (edge->dgram && !sq_running_datagrams(edge->ic, edge->run, edge->from)) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "edge %s: %s was attached to without datagrams", edge->name,
                   edge->from);
        sq_err_hint(e, "cgroup-BPF takes them (root); attach: seccomp does when \"datagrams\" was said with it");
        return -EOPNOTSUPP;
    }
    if (sq_running_find(edge->ic, edge->run, edge->from)) {
        if (!edge->has_unix || sq_running_by_seccomp(edge->ic, edge->run, edge->from))
            return 0;
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                   "edge %s: calls of a running program to a Unix socket can't be taken "
                   "by cgroup-BPF",
                   edge->name);
        sq_err_hint(e, "let the scenario start the caller (command), or attach: seccomp, which can't be undone");
        return -EOPNOTSUPP;
    }
    if (edge->existing == SQ_EXISTING_LEAVE)
        return 0;
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s: %s has no connections yet that could be %s", edge->name, edge->from,
               edge->existing == SQ_EXISTING_RESET ? "reset" : "waited for");
    sq_err_hint(e, "`existing` is for callers that are selected, and declared before their edges");
    return -EINVAL;
}

/* Is BPF there? Asked once. Without it the edges' rules live in memory of our own. */
int sq_edge_choose(struct sq_intercept *ic, struct sq_err *e)
{
    struct sq_err why = {0};

    if (ic->bpf_asked)
        return ic->tallies ? 0 : sq_err(e, -ENOMEM, "there is no memory to count calls in");
    ic->bpf_asked = true;
    ic->bpf_ok = sq_intercept_check_bpf(&why) == 0 && sq_bpf_open(ic, &why) == 0;
    if (ic->bpf_ok)
        return 0;
    (void)snprintf(ic->bpf_why, sizeof(ic->bpf_why), "%.250s%s%.250s", why.msg, why.hint[0] ? "; " : "", why.hint);
    ic->cfg = calloc(SQ_EDGES, sizeof(*ic->cfg));
    ic->counts = calloc(SQ_EDGES, sizeof(*ic->counts));
    ic->cfg_len = ic->counts_len = 0;
    return ic->cfg && ic->counts ? sq_tally_open(ic, e) : sq_err(e, -ENOMEM, "out of memory");
}

int sq_edge_need_hooks(struct sq_intercept *ic, struct sq_err *e)
{
    int rc = sq_edge_choose(ic, e);

    if (rc < 0 || ic->bpf_ok)
        return rc;
    rc = sq_nat_check(e);
    return rc < 0
               ? sq_err_prefix(e, "calls of programs that run already are taken by cgroup-BPF (%.200s) or", ic->bpf_why)
               : 0;
}

static int open_edge(struct sq_edge *edge, const char *protocol, struct sq_err *e)
{
    struct sq_intercept *ic = edge->ic;
    cleanup_json json_t *msg = NULL;
    struct sq_edge_cfg *cfg = &ic->cfg[edge->slot];
    struct sq_space_ports at = {0};
    int fds[4] = {-1, -1, -1, -1}, rc;
    size_t n = 2;

    rc = sq_listen_lo(false, &fds[0], &at.pass, e);
    if (rc == 0)
        rc = ic->hold_ok ? sq_listen_lo(true, &fds[1], &at.gate, e) : sq_hole_open(&edge->hole, &fds[1], &at.gate, e);
    if (rc == 0) {
        n += sq_listen_pair6(ic->hold6_ok, &fds[2], &at.pass6, &at.gate6);
        msg = json_pack("{s:s,s:I,s:s,s:s}", "op", "edge", "id", (json_int_t)edge->id, "name", edge->name, "protocol",
                        protocol);
        rc = sq_link_send(ic, msg, fds, n, e);
    }
    /* All are closed here: when the proxy dies, connects must be refused and not queue up. */
    for (size_t i = 0; i < SQ_COUNT(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    if (rc < 0)
        return rc;
    memset(&ic->counts[edge->slot], 0, sizeof(ic->counts[0]));
    memset(&ic->tallies[SQ_RULE_TALLIES + edge->slot], 0, sizeof(ic->tallies[0]));
    memset(cfg->slot, 0, sizeof(cfg->slot));
    cfg->epoch = 1;
    cfg->id = edge->id;
    cfg->gate = at.gate;
    cfg->pass6 = at.pass6;
    cfg->gate6 = at.gate6;
    __atomic_store_n(&cfg->pass, at.pass, __ATOMIC_RELEASE);
    return edge->dgram ? sq_dgram_open(edge, e) : 0;
}

/* Nothing goes to it any more, and the proxy forgets it. */
static void shut_edge(const struct sq_edge *edge)
{
    struct sq_intercept *ic = edge->ic;
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "unedge", "id", (json_int_t)edge->id);

    __atomic_store_n(&ic->cfg[edge->slot].pass, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&ic->cfg[edge->slot].dgram, 0, __ATOMIC_RELEASE);
    memset(ic->cfg[edge->slot].slot, 0, sizeof(ic->cfg[edge->slot].slot));
    (void)sq_link_send(ic, msg, NULL, 0, NULL);
}

static json_t *describe(const struct sq_edge *edge)
{
    const struct sq_intercept *ic = edge->ic;
    char why[1200] = "";

    if ((edge->has_tcp || edge->dgram) && !edge->bpf)
        (void)snprintf(why, sizeof(why), "%s%s",
                       edge->dgram ? "datagrams by seccomp: a socket that waits in recvfrom "
                                     "sees 127.4.x.y; "
                                   : "",
                       ic->bpf_ok ? "attach: seccomp" : ic->bpf_why);
    else if (!edge->has_tcp && !edge->dgram)
        (void)snprintf(why, sizeof(why), "Unix sockets are always taken by seccomp");
    if (edge->nft)
        (void)snprintf(why + strlen(why), sizeof(why) - strlen(why),
                       "; by nftables latency and black holes begin behind the connect");
    else if (edge->has_tcp && !ic->hold_ok)
        (void)snprintf(why + strlen(why), sizeof(why) - strlen(why), "%s%s", *why ? "; " : "", ic->hold_why);
    return json_pack("{s:s,s:s,s:b,s:s,s:o}", "edge", edge->name, "mode", sq_edge_mode(edge), "delays_connect",
                     sq_edge_delays_connect(edge), "why", why, "names", sq_hosts_json(edge));
}

bool sq_edge_is_of(const struct sq_edge *edge, const char *run, const char *service)
{
    return edge && strcmp(edge->run, run) == 0 && strcmp(edge->from, service) == 0;
}

bool sq_edge_calls(const struct sq_caller *c, const struct sq_edge *edge)
{
    return c && sq_edge_is_of(edge, c->run, c->service);
}

static size_t rules_of(const struct sq_edge *edge, struct sq_table_rule *out)
{
    size_t n = 0;

    for (size_t i = 0; i < edge->n_dest + edge->n_except; i++) {
        const struct sq_dest *d = i < edge->n_dest ? &edge->dest[i] : &edge->except[i - edge->n_dest];

        if (d->kind != SQ_DEST_ADDRESS)
            continue;
        out[n++] = (struct sq_table_rule){.addr = d->addr,
                                          .bits = d->bits,
                                          .from = d->from,
                                          .to = d->to,
                                          .edge = (uint16_t)edge->slot,
                                          .except = i >= edge->n_dest,
                                          .order = edge->id};
    }
    return n + sq_hosts_rules(edge, out + n);
}

static bool counts_in(const struct sq_edge *edge, const char *run, const char *service, bool dgram)
{
    return sq_edge_is_of(edge, run, service) && (dgram ? edge->dgram : edge->has_tcp);
}

/* The table of the callers of SERVICE, for streams or for datagrams; EXTRA (may be NULL) is an edge that is about to be
 * theirs. */
static int make_table(const struct sq_intercept *ic, const char *run, const char *service, bool dgram,
                      const struct sq_edge *extra, struct sq_table *out, struct sq_err *e)
{
    cleanup_free struct sq_table_rule *rules = NULL;
    size_t room = 1, n = 0;

    for (uint32_t i = 0; i <= SQ_EDGES; i++) {
        const struct sq_edge *edge = i < SQ_EDGES ? ic->edge[i] : extra;

        if (counts_in(edge, run, service, dgram))
            room += edge->n_dest + edge->n_except + sq_hosts_count(edge);
    }
    rules = calloc(room, sizeof(*rules));
    if (!rules)
        return sq_err(e, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i <= SQ_EDGES; i++) {
        const struct sq_edge *edge = i < SQ_EDGES ? ic->edge[i] : extra;

        if (counts_in(edge, run, service, dgram))
            n += rules_of(edge, rules + n);
    }
    return sq_table_build(rules, n, out, e);
}

/* The network that the callers live in: of one that runs already its own, with its resolv.conf and hosts. */
static int open_netns(const struct sq_edge *edge, struct sq_netns *ns, struct sq_err *e)
{
    const struct sq_running *r = sq_running_find(edge->ic, edge->run, edge->from);
    cleanup_free pid_t *pid = NULL;
    size_t n = 0;
    int rc = r ? sq_running_processes(r, &pid, &n, e) : 0;

    if (rc < 0)
        return rc;
    if (n == 0)
        return sq_netns_open(NULL, ns, e);
    return sq_netns_open_pid(pid[0], ns, e);
}

/* What the host names of the edge mean, and the table with it, when it has its place. */
static int look_up(struct sq_edge *edge, struct sq_table *out, struct sq_err *e)
{
    struct sq_netns ns = {.fd = -1};
    int rc = sq_hosts_any(edge) ? open_netns(edge, &ns, e) : 0;

    if (rc < 0)
        return rc;
    rc = sq_hosts_new(edge, &ns, e);
    sq_netns_close(&ns);
    if (rc == 0 && edge->dgram)
        rc = make_table(edge->ic, edge->run, edge->from, true, edge, out, e);
    rc = rc ? rc : make_table(edge->ic, edge->run, edge->from, false, edge, out, e);
    return rc < 0 ? sq_err_prefix(e, "edge %s", edge->name) : 0;
}

int sq_edge_table(struct sq_caller *c, bool dgram, struct sq_tables *to, struct sq_err *e)
{
    cleanup_free struct sq_table *t = malloc(sizeof(*t));
    int rc = t ? make_table(c->ic, c->run, c->service, dgram, NULL, t, e) : sq_err(e, -ENOMEM, "out of memory");

    if (rc == 0)
        sq_tables_switch(to, t);
    return rc;
}

int sq_edge_table_of(struct sq_intercept *ic, const json_t *to, const json_t *except, struct sq_table *out,
                     struct sq_err *e)
{
    __attribute__((cleanup(edge_freep))) struct sq_edge *edge = calloc(1, sizeof(*edge));
    int rc;

    if (!edge)
        return sq_err(e, -ENOMEM, "out of memory");
    edge->ic = ic;
    edge->hole.fd = edge->hole.fill = -1;
    (void)snprintf(edge->name, sizeof(edge->name), "planned");
    rc = parse_dests(edge, to, except, e);
    return rc ? rc : look_up(edge, out, e);
}

int sq_edge_own_table(const struct sq_edge *edge, struct sq_table *out, struct sq_err *e)
{
    return make_table(edge->ic, edge->run, edge->from, false, NULL, out, e);
}

int sq_edge_retable(struct sq_edge *edge, struct sq_err *e)
{
    struct sq_intercept *ic = edge->ic;
    int rc = 0;

    for (uint32_t i = 0; i < SQ_CALLERS && rc == 0; i++) {
        struct sq_caller *c = ic->caller[i];

        if (!sq_edge_calls(c, edge))
            continue;
        if (c->tables)
            rc = sq_edge_table(c, false, c->tables, e);
        if (rc == 0 && c->dgram)
            rc = sq_dgram_table(c, e);
        if (rc == 0 && c->dtables)
            rc = sq_edge_table(c, true, c->dtables, e);
        if (rc == 0 && c->nat)
            rc = sq_nat_push(c, e);
    }
    return rc;
}

/* Understood, and its names looked up; nothing is touched yet. */
static int prepare(struct sq_intercept *ic, const char *run_id, uid_t uid, const json_t *def, bool plan,
                   struct sq_edge **out, struct sq_err *e)
{
    __attribute__((cleanup(edge_freep))) struct sq_edge *edge = calloc(1, sizeof(*edge));
    cleanup_free struct sq_table *t = malloc(sizeof(*t));
    uint32_t slot = 0;
    int rc;

    if (!edge || !t)
        return sq_err(e, -ENOMEM, "out of memory");
    edge->ic = ic;
    edge->uid = uid;
    edge->hole.fd = edge->hole.fill = -1;
    rc = parse_edge(ic, run_id, def, edge, e);
    rc = rc || plan ? rc : parse_existing(edge, def, e); /* in a plan nobody is attached yet */
    if (rc < 0)
        return rc;
    while (slot < SQ_EDGES && ic->edge[slot])
        slot++;
    if (slot == SQ_EDGES)
        return sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "there are %u edges already, which is the most", SQ_EDGES);
    edge->slot = slot;
    edge->id = ic->next_edge + 1;
    rc = look_up(edge, t, e);
    if (rc == 0)
        *out = SQ_TAKE(edge);
    return rc;
}

int sq_edge_plan(struct sq_intercept *ic, const char *run_id, uid_t uid, const json_t *def, json_t **answer,
                 struct sq_err *e)
{
    __attribute__((cleanup(edge_freep))) struct sq_edge *edge = NULL;
    int rc = prepare(ic, run_id, uid, def, true, &edge, e);

    *answer = rc == 0 ? json_pack("{s:s,s:o}", "edge", edge->name, "names", sq_hosts_json(edge)) : NULL;
    return rc == 0 && !*answer ? sq_err(e, -ENOMEM, "out of memory") : rc;
}

/* Callers that run already are there before their edges. */
static int stand_in(const struct sq_edge *edge, struct sq_err *e)
{
    int rc = 0;

    for (uint32_t i = 0; i < SQ_CALLERS && rc == 0; i++) {
        struct sq_caller *c = edge->ic->caller[i];

        if (!sq_edge_calls(c, edge) || !c->running)
            continue;
        if (c->nat)
            rc = sq_nat_edge(c, edge, e);
        if (!c->seccomp)
            continue;
        for (size_t k = 0; k < edge->n_dest && rc == 0; k++)
            if (edge->dest[k].kind == SQ_DEST_UNIX)
                rc = sq_ic_stand_in(c, edge, k, e);
    }
    return rc;
}

int sq_edge_declare(struct sq_intercept *ic, const char *run_id, uid_t uid, const json_t *def, json_t **answer,
                    struct sq_err *e)
{
    __attribute__((cleanup(edge_freep))) struct sq_edge *edge = NULL;
    uint32_t slot;
    int rc;

    *answer = NULL;
    rc = prepare(ic, run_id, uid, def, false, &edge, e);
    rc = rc ? rc : sq_edge_choose(ic, e);
    rc = rc ? rc : sq_link_start(ic, e);
    if (rc < 0)
        return rc;
    ic->next_edge = edge->id;
    edge->bpf = ic->bpf_ok && !sq_running_by_seccomp(ic, run_id, edge->from);
    edge->nft = sq_running_by_nft(ic, run_id, edge->from);
    rc = open_edge(edge, sq_json_str_or(def, "protocol", "auto"), e);
    rc = rc ? rc : stand_in(edge, e);
    if (rc < 0) {
        shut_edge(edge); /* what it has in the proxy already */
        return rc;
    }
    *answer = describe(edge);
    slot = edge->slot;
    ic->edge[slot] = SQ_TAKE(edge);
    sq_space_edge(ic->edge[slot]);
    /* Armed callers get it, too, as far as their arming reaches. */
    rc = sq_edge_retable(ic->edge[slot], ic->edge[slot]->nft ? e : NULL);
    if (rc < 0 && ic->edge[slot]->nft) {
        sq_edge_drop(ic->edge[slot]);
        json_decref(*answer);
        *answer = NULL;
        return rc;
    }
    return *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

/* The proxy reports its open calls when it is told to forget an edge: the name is kept for those. */
static void keep_name(struct sq_intercept *ic, struct sq_edge *edge)
{
    struct sq_edge **p = &ic->gone_edges;

    edge->next = ic->gone_edges;
    ic->gone_edges = edge;
    for (size_t n = 0; *p; n++) {
        struct sq_edge *old = *p;

        if (n < GONE_MAX) {
            p = &old->next;
            continue;
        }
        *p = old->next;
        sq_edge_free(old);
    }
}

void sq_edge_drop(struct sq_edge *edge)
{
    struct sq_intercept *ic = edge->ic;

    sq_nat_unedge(edge);
    shut_edge(edge);
    sq_space_unedge(edge);
    sq_hosts_free(edge);
    ic->edge[edge->slot] = NULL;
    sq_hole_close(&edge->hole);
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule)
            sq_tally_give(ic, edge->fault[i].tally);
    /* Its callers may live on, and the slot will be another edge's, maybe of other callers: theirs must not mean it. */
    (void)sq_edge_retable(edge, NULL);
    keep_name(ic, edge);
}

int sq_edge_drop_run(struct sq_intercept *ic, const char *run_id, struct sq_err *e)
{
    (void)e;
    sq_ic_flush(ic);
    sq_existing_cancel(ic, run_id);
    sq_running_drop_run(ic, run_id);
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (ic->caller[i] && strcmp(ic->caller[i]->run, run_id) == 0)
            sq_intercept_disarm(ic, run_id, ic->caller[i]->instance);
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i] && strcmp(ic->edge[i]->run, run_id) == 0)
            sq_edge_drop(ic->edge[i]);
    return 0;
}
