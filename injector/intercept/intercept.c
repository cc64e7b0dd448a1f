/* The life of interception: its state, its handles, and arming. */
#include "intercept/intercept.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "intercept/existing.h"
#include "intercept/nft.h"
#include "intercept/priv.h"
#include "intercept/running.h"
#include "intercept/supervise.h"
#include "page.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

#define FLUSH_MS 50
#define GONE_MAX 1024 /* callers whose names are kept for late calls */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* Linux 5.14 */
#endif

void sq_ic_event(struct sq_intercept *ic, const char *run, json_t *obj)
{
    if (!obj)
        return;
    if (ic->o.event)
        ic->o.event(ic->o.arg, run, obj);
    else
        json_decref(obj);
}

void sq_ic_warn(struct sq_intercept *ic, const char *run, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    sq_ic_event(ic, run, json_pack("{s:s,s:s}", "type", "warning", "text", text));
}

static void free_all(struct sq_intercept *ic);

static void on_closed(uv_handle_t *h)
{
    struct sq_intercept *ic = h->data;

    free(h);
    if (--ic->handles == 0 && ic->freed)
        free_all(ic);
}

uv_poll_t *sq_ic_poll(struct sq_intercept *ic, int fd, int events, uv_poll_cb cb, void *data)
{
    uv_poll_t *p = calloc(1, sizeof(*p));

    if (!p || uv_poll_init(ic->o.loop, p, fd) < 0) {
        free(p);
        return NULL;
    }
    ic->handles++;
    p->data = data;
    if (uv_poll_start(p, events, cb) < 0)
        sq_ic_unpoll(ic, &p);
    return p;
}

void sq_ic_unpoll(struct sq_intercept *ic, uv_poll_t **p)
{
    if (!*p)
        return;
    (void)uv_poll_stop(*p);
    (*p)->data = ic;
    uv_close((uv_handle_t *)*p, on_closed);
    *p = NULL;
}

struct sq_caller *sq_ic_caller(struct sq_intercept *ic, uint32_t id)
{
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (ic->caller[i] && ic->caller[i]->id == id)
            return ic->caller[i];
    for (struct sq_caller *c = ic->gone; c; c = c->next)
        if (c->id == id)
            return c;
    return NULL;
}

/* Each run hears of it once; that it died is the engine's event (proxy_changed), this is why. */
static void tell_runs(struct sq_intercept *ic, const char *why)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        bool told = false;

        for (uint32_t k = 0; k < i && ic->edge[i] && !told; k++)
            told = ic->edge[k] && strcmp(ic->edge[k]->run, ic->edge[i]->run) == 0;
        if (ic->edge[i] && !told)
            sq_ic_warn(ic, ic->edge[i]->run, "the proxy is dead (%s): calls go direct, without faults and uncounted",
                       why);
    }
}

/* The BPF links went with it: new calls go direct. Not started again within a run: its faults are not in force any
 * more, and sq_edge_rule_read says so. */
void sq_ic_proxy_died(struct sq_intercept *ic, const char *why)
{
    if (ic->link.dead)
        return;
    ic->link.dead = true;
    sq_link_stop(ic, false);
    sq_nat_proxy_died(ic);
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        if (!ic->edge[i])
            continue;
        ic->cfg[i].pass = ic->cfg[i].dgram = 0;
        sq_hole_close(&ic->edge[i]->hole);
    }
    sq_space_drop_all(ic);
    tell_runs(ic, why);
    if (ic->o.proxy_changed)
        ic->o.proxy_changed(ic->o.arg, 0, 0);
}

/* Each reason once. */
static void tell_bypassed(struct sq_edge *edge, uint64_t why)
{
    static const struct {
        uint64_t bit;
        const char *text;
    } reasons[] = {
        {SQ_BY_DEVICE, "their sockets are bound to a device (SO_BINDTODEVICE), from which the proxy can't be reached"},
        {SQ_BY_V6, "their sockets can speak IPv6 only, and there is no ::1 here (yet)"},
        {SQ_BY_ONLY6, "their sockets are connected, and IPv6 only or bound to an IPv6 address"},
        {SQ_BY_SOURCE, "their sockets choose the source address of what they send (IPV6_PKTINFO)"},
        {SQ_BY_SCOPE, "they go to link-local addresses"},
        {SQ_BY_DGRAM6, "there is no ::1 here (yet), or a firewall drops what comes to it from 100::/64"},
        {SQ_BY_NETNS, "the caller was in a network namespace that the proxy was not in (yet)"},
        {SQ_BY_LO, "the loopback device of the caller's network namespace is down"},
        {SQ_BY_FLOW, "the table of flows could not be written"},
    };

    for (size_t i = 0; i < SQ_COUNT(reasons); i++)
        if (why & ~edge->told_why & reasons[i].bit)
            sq_ic_warn(edge->ic, edge->run, "calls over edge %s went past the proxy: %s", edge->name, reasons[i].text);
    edge->told_why |= why;
}

static void on_tick(uv_timer_t *t)
{
    struct sq_intercept *ic = t->data;

    sq_running_tick(ic);
    sq_hosts_tick(ic);
    sq_space_tick(ic);
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        struct sq_edge *edge = ic->edge[i];

        if (!edge)
            continue;
        if (ic->counts[i].lost > edge->told_lost)
            sq_ic_warn(ic, edge->run, "%llu failed connects over edge %s are missing in the evidence",
                       (unsigned long long)(ic->counts[i].lost - edge->told_lost), edge->name);
        tell_bypassed(edge, ic->counts[i].why);
        edge->told_lost = ic->counts[i].lost;
    }
}

static int make_flows(struct sq_intercept *ic, struct sq_err *e)
{
    void *p;
    int rc = sq_page_new(2 * SQ_FLOWS * sizeof(struct sq_flow), &p, &ic->flows_fd, e);

    if (rc == 0)
        ic->flows = p;
    rc = rc ? rc : sq_page_new(SQ_FLOWS * sizeof(struct sq_flow), &p, &ic->dflows_fd, e);
    if (rc == 0)
        ic->dflows = p;
    return rc;
}

static void learn_netns(struct sq_intercept *ic)
{
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(ic->netns_cookie);
    struct stat st;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &ic->netns_cookie, &len) < 0)
        ic->netns_cookie = 0;
    if (stat("/proc/self/ns/net", &st) == 0) {
        ic->netns_dev = st.st_dev;
        ic->netns_ino = st.st_ino;
    }
}

void sq_ic_flush(struct sq_intercept *ic)
{
    sq_bpf_drain(ic);
    sq_natlog_drain(ic);
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i])
            sq_incoming_flush(ic->edge[i]);
    for (struct sq_edge *edge = ic->gone_edges; edge; edge = edge->next)
        sq_incoming_flush(edge);
}

static void on_flush(uv_timer_t *t)
{
    sq_ic_flush(t->data);
}

void sq_ic_flush_soon(struct sq_intercept *ic)
{
    if (ic->flush && !uv_is_active((uv_handle_t *)ic->flush))
        (void)uv_timer_start(ic->flush, on_flush, FLUSH_MS, 0);
}

uv_timer_t *sq_ic_new_timer(struct sq_intercept *ic)
{
    uv_timer_t *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    (void)uv_timer_init(ic->o.loop, t);
    ic->handles++;
    t->data = ic;
    return t;
}

void sq_ic_end_timer(uv_timer_t **t)
{
    if (*t)
        uv_close((uv_handle_t *)*t, on_closed);
    *t = NULL;
}

static int start_timers(struct sq_intercept *ic, struct sq_err *e)
{
    ic->tick = sq_ic_new_timer(ic);
    ic->flush = sq_ic_new_timer(ic);
    ic->look = sq_ic_new_timer(ic);
    if (!ic->tick || !ic->flush || !ic->look)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)uv_timer_start(ic->tick, on_tick, 1000, 1000);
    uv_unref((uv_handle_t *)ic->tick);
    return 0;
}

static void nobody_waits(void *arg)
{
    (void)arg;
}

int sq_intercept_new(const struct sq_intercept_opts *o, struct sq_intercept **out, struct sq_err *e)
{
    struct sq_intercept *ic = calloc(1, sizeof(*ic));
    int rc;

    if (!ic)
        return sq_err(e, -ENOMEM, "out of memory");
    ic->o = *o;
    ic->parent = getppid();
    ic->link.fd = ic->link.pidfd = ic->flows_fd = ic->dflows_fd = ic->tallies_fd = ic->diag = -1;
    TAILQ_INIT(&ic->holed);
    for (size_t i = 0; i < SQ_MAPS; i++)
        ic->bpf.fd[i] = -1;
    ic->waits = calloc(1, sizeof(*ic->waits));
    if (ic->waits)
        ic->waits->n = 1;
    ic->dir = strdup(o->dir);
    ic->self = strdup(o->self);
    rc = ic->dir && ic->self && ic->waits ? make_flows(ic, e) : sq_err(e, -ENOMEM, "out of memory");
    if (rc == 0)
        learn_netns(ic);
    rc = rc ? rc : start_timers(ic, e);
    if (rc < 0) {
        bool open = ic->handles > 0; /* then the last handle to close frees it */

        sq_ic_end_timer(&ic->tick);
        sq_ic_end_timer(&ic->flush);
        sq_ic_end_timer(&ic->look);
        ic->freed = nobody_waits;
        if (!open)
            free_all(ic);
        return rc;
    }
    *out = ic;
    return 0;
}

void sq_ic_caller_free(struct sq_caller *c)
{
    if (!c)
        return;
    sq_bpf_detach(c);
    sq_nat_detach(c);
    free(c->tables);
    free(c->dtables);
    free(c->unix_edge);
    free(c);
}

static void free_memory(struct sq_intercept *ic)
{
    if (ic->cfg_len) {
        (void)munmap(ic->cfg, ic->cfg_len);
        (void)munmap(ic->counts, ic->counts_len);
    } else {
        free(ic->cfg);
        free(ic->counts);
    }
    sq_tally_close(ic);
    if (ic->flows)
        (void)munmap(ic->flows, 2 * SQ_FLOWS * sizeof(struct sq_flow));
    if (ic->flows_fd >= 0)
        (void)close(ic->flows_fd);
    if (ic->dflows)
        (void)munmap(ic->dflows, SQ_FLOWS * sizeof(struct sq_flow));
    if (ic->dflows_fd >= 0)
        (void)close(ic->dflows_fd);
}

static void free_all(struct sq_intercept *ic)
{
    void (*done)(void *) = ic->freed;
    void *arg = ic->freed_arg;

    while (ic->gone) {
        struct sq_caller *c = ic->gone;

        ic->gone = c->next;
        sq_ic_caller_free(c);
    }
    while (ic->gone_edges) {
        struct sq_edge *edge = ic->gone_edges;

        ic->gone_edges = edge->next;
        sq_edge_free(edge);
    }
    sq_holed_free(ic);
    free_memory(ic);
    sq_wait_leave(ic->waits);
    free(ic->dir);
    free(ic->self);
    free(ic);
    if (done)
        done(arg);
}

void sq_intercept_free(struct sq_intercept *ic, void (*done)(void *arg), void *arg)
{
    ic->freed = done;
    ic->freed_arg = arg;
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i])
            (void)sq_edge_drop_run(ic, ic->edge[i]->run, NULL);
    sq_existing_cancel(ic, NULL);
    sq_running_drop_run(ic, NULL);
    sq_supervise_end_all(ic);
    sq_space_free(ic);
    sq_link_stop(ic, true);
    sq_bpf_close(ic);
    sq_natlog_close(ic);
    sq_ic_end_timer(&ic->flush);
    sq_ic_end_timer(&ic->look);
    sq_ic_end_timer(&ic->tick);
}

static struct sq_caller *find_caller(struct sq_intercept *ic, const char *run, const char *instance)
{
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (ic->caller[i] && strcmp(ic->caller[i]->run, run) == 0 && strcmp(ic->caller[i]->instance, instance) == 0)
            return ic->caller[i];
    return NULL;
}

/* A caller came or went: rules that name its instance say so to the hooks and to the proxy. */
static void refresh_rules(struct sq_intercept *ic, const struct sq_caller *c)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        bool any = false;

        for (size_t k = 0; sq_edge_calls(c, ic->edge[i]) && k < SQ_EDGE_FAULTS; k++)
            any = any || ic->edge[i]->fault[k].rule;
        if (any)
            (void)sq_edge_push(ic->edge[i], SQ_PUSH_QUIET, NULL);
    }
}

int sq_ic_stand_in(struct sq_caller *c, const struct sq_edge *edge, size_t dest, struct sq_err *e)
{
    struct sq_stand_in *grown = realloc(c->unix_edge, (c->n_unix + 1) * sizeof(*grown));
    cleanup_json json_t *msg = NULL;
    int fd = -1, rc;

    if (!grown)
        return sq_err(e, -ENOMEM, "out of memory");
    c->unix_edge = grown;
    grown += c->n_unix;
    grown->edge = edge->id;
    grown->dest = (uint32_t)dest;
    (void)snprintf(grown->path, sizeof(grown->path), "e%u-%zu-c%u.sock", edge->id, dest, c->id);
    rc = sq_listen_unix(c->ic->dir, grown->path, &fd, e);
    if (rc < 0)
        return rc;
    c->n_unix++;
    msg = json_pack("{s:s,s:I,s:I,s:I}", "op", "unix", "edge", (json_int_t)edge->id, "caller", (json_int_t)c->id,
                    "dest", (json_int_t)dest);
    rc = sq_link_send(c->ic, msg, &fd, 1, e);
    (void)close(fd);
    return rc;
}

static void drop_stand_ins(struct sq_caller *c)
{
    cleanup_close int dir = open(c->ic->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    for (size_t i = 0; i < c->n_unix; i++)
        (void)unlinkat(dir, c->unix_edge[i].path, 0);
    c->n_unix = 0;
}

int sq_ic_tell_caller(struct sq_caller *c, const int *links, size_t n, struct sq_err *e)
{
    cleanup_json json_t *msg =
        json_pack("{s:s,s:I,s:s}", "op", "caller", "id", (json_int_t)c->id, "instance", c->instance);

    return sq_link_send(c->ic, msg, links, n, e);
}

/* What this caller's edges need: BPF when any TCP destination may use it, seccomp for the rest and for Unix sockets. */
static int arm(struct sq_caller *c, int cgroup_fd, struct sq_arming *out, struct sq_err *e)
{
    struct sq_intercept *ic = c->ic;
    bool tcp = false, by_bpf = false, dgram = false;
    int rc = 0;

    for (uint32_t i = 0; i < SQ_EDGES && rc == 0; i++) {
        const struct sq_edge *edge = ic->edge[i];

        if (!sq_edge_calls(c, edge))
            continue;
        tcp = tcp || edge->has_tcp;
        by_bpf = by_bpf || ((edge->has_tcp || edge->dgram) && edge->bpf);
        dgram = dgram || edge->dgram;
        c->seccomp = c->seccomp || edge->has_unix;
        for (size_t k = 0; k < edge->n_dest && rc == 0; k++)
            if (edge->dest[k].kind == SQ_DEST_UNIX)
                rc = sq_ic_stand_in(c, edge, k, e);
    }
    c->with_bpf = by_bpf && cgroup_fd >= 0;
    c->seccomp = c->seccomp || ((tcp || dgram) && !c->with_bpf);
    if (by_bpf && cgroup_fd < 0)
        sq_ic_warn(ic, c->run, "%s has no cgroup of its own: its calls are taken by seccomp", c->instance);
    if (rc == 0)
        rc = c->with_bpf ? sq_bpf_attach(ic, c, cgroup_fd, NULL, e) : sq_ic_tell_caller(c, NULL, 0, e);
    if (rc == 0 && tcp && !c->with_bpf) {
        c->tables = calloc(1, sizeof(*c->tables));
        rc = c->tables ? sq_edge_table(c, false, c->tables, e) : sq_err(e, -ENOMEM, "out of memory");
    }
    if (rc == 0 && dgram && !c->with_bpf) {
        c->dtables = calloc(1, sizeof(*c->dtables));
        rc = c->dtables ? sq_edge_table(c, true, c->dtables, e) : sq_err(e, -ENOMEM, "out of memory");
    }
    if (rc == 0 && c->seccomp) {
        rc = sq_filter_build(c->dtables, &out->filter, &out->filter_len, e);
        out->seccomp = rc == 0;
        out->key = c->id;
    }
    return rc;
}

static bool has_edges(const struct sq_intercept *ic, const struct sq_caller *c)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (sq_edge_calls(c, ic->edge[i]))
            return true;
    return false;
}

int sq_ic_new_caller(struct sq_intercept *ic, const char *run_id, const char *service, const char *instance,
                     struct sq_caller **out, struct sq_err *e)
{
    struct sq_caller *c = calloc(1, sizeof(*c));
    uint32_t slot;

    *out = c;
    if (!c)
        return sq_err(e, -ENOMEM, "out of memory");
    if (strlen(run_id) >= sizeof(c->run) || strlen(service) >= sizeof(c->service) ||
        strlen(instance) >= sizeof(c->instance))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the name of instance %s is too long", instance);
    slot = sq_tally_slot(ic, run_id, instance);
    if (slot == SQ_CALLERS)
        return sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "%u instances are intercepted already, which is the most",
                          SQ_CALLERS);
    c->ic = ic;
    c->slot = slot;
    (void)snprintf(c->run, sizeof(c->run), "%s", run_id);
    (void)snprintf(c->service, sizeof(c->service), "%s", service);
    (void)snprintf(c->instance, sizeof(c->instance), "%s", instance);
    return 0;
}

void sq_ic_enter_caller(struct sq_caller *c)
{
    c->id = (++c->ic->next_caller * SQ_CALLERS) | c->slot;
    c->armed = true;
    c->ic->slot_last[c->slot] = c->id;
    c->ic->caller[c->slot] = c;
}

int sq_intercept_arm(struct sq_intercept *ic, const char *run_id, const char *service, const char *instance,
                     int cgroup_fd, struct sq_arming *out, struct sq_err *e)
{
    struct sq_caller *c = NULL;
    int rc;

    memset(out, 0, sizeof(*out));
    sq_intercept_disarm(ic, run_id, instance);
    rc = sq_ic_new_caller(ic, run_id, service, instance, &c, e);
    if (rc < 0 || !has_edges(ic, c) || ic->link.dead) {
        free(c);
        return rc; /* a dead proxy: calls go direct */
    }
    sq_ic_enter_caller(c);
    rc = arm(c, cgroup_fd, out, e);
    if (rc < 0) {
        free(out->filter);
        memset(out, 0, sizeof(*out));
        sq_intercept_disarm(ic, run_id, instance);
        return rc;
    }
    refresh_rules(ic, c);
    return 0;
}

int sq_intercept_supervise(struct sq_intercept *ic, uint64_t key, pid_t pid, int listener, struct sq_err *e)
{
    struct sq_caller *c = key <= UINT32_MAX ? sq_ic_caller(ic, (uint32_t)key) : NULL;
    struct sq_proc p = {0};

    (void)sq_proc_read(pid, &p, NULL);
    if (!c) {
        (void)close(listener);
        return sq_err(e, -ENOENT, "no armed instance has the key %llu", (unsigned long long)key);
    }
    return sq_supervise(ic, c->armed ? c : NULL, key, pid, p.start, listener, e);
}

static void keep_name(struct sq_intercept *ic, struct sq_caller *c)
{
    struct sq_caller **p = &ic->gone;

    c->armed = false;
    c->next = ic->gone;
    ic->gone = c;
    for (size_t n = 0; *p; n++) {
        struct sq_caller *old = *p;

        if (n < GONE_MAX) {
            p = &old->next;
            continue;
        }
        sq_ic_flush(ic); /* may be about it */
        *p = old->next;
        sq_ic_caller_free(old);
    }
}

void sq_intercept_disarm(struct sq_intercept *ic, const char *run_id, const char *instance)
{
    struct sq_caller *c = find_caller(ic, run_id, instance);
    cleanup_json json_t *msg = NULL;

    if (!c)
        return;
    sq_ic_flush(ic);
    msg = json_pack("{s:s,s:I}", "op", "uncaller", "id", (json_int_t)c->id);
    (void)sq_link_send(ic, msg, NULL, 0, NULL);
    for (struct sq_supervisor *s = ic->sups; s; s = s->next)
        if (s->caller == c)
            s->caller = NULL;
    sq_bpf_detach(c);
    sq_nat_detach(c);
    free(c->tables); /* of BPF it is the map's, and no more ours to free */
    c->tables = NULL;
    free(c->dtables);
    c->dtables = NULL;
    drop_stand_ins(c);
    sq_made_leave(ic, c);
    ic->caller[c->slot] = NULL;
    refresh_rules(ic, c);
    keep_name(ic, c);
}
