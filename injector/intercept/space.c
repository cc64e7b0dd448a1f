/* Callers in other network namespaces. 127.0.0.0/8 is another one there: so the proxy gets listeners that were made in
 * the namespace, and a process of nobody's in it ("squall-sockets", proxy/maker.h) makes its sockets to the
 * dependencies, which are reached as the caller would reach them. The hooks know a namespace by its cookie.
 *
 * Sockets keep a namespace alive: ours are closed with the last edge that is listened for there, but for those of
 * connections that the proxy still carries. */
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "intercept/running.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* Linux 5.14 */
#endif

#define EMPTY_TICKS 5 /* of a second */

struct sq_space {
    struct sq_intercept *ic;
    uint32_t id;
    uint64_t cookie;
    ino_t ino; /* of nsfs */
    char name[96];
    pid_t maker;
    int pidfd; /* of the maker */
    uv_poll_t *death;
    bool lost;
    bool deaf6;            /* sq_dgram_bind */
    bool lo_down;          /* when we came: there was no ::1 */
    bool hold6;            /* connects of sockets that can only speak IPv6 can be held there */
    struct sq_space *next; /* of those that are left, until their makers have ended */
    struct sq_space_ports at[SQ_EDGES];
};

uint64_t sq_space_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof(cookie);

    return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

static struct sq_space *find(const struct sq_intercept *ic, uint64_t cookie)
{
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (ic->space[i] && ic->space[i]->cookie == cookie)
            return ic->space[i];
    return NULL;
}

/* What the hooks know. All 0: there is nothing. */
static void tell_hooks(const struct sq_intercept *ic, uint64_t cookie, uint32_t slot, const struct sq_space_ports *at)
{
    const struct sq_space_key key = {.cookie = cookie, .slot = slot};

    if (ic->bpf.fd[SQ_M_SPACES] >= 0)
        (void)bpf_map_update_elem(ic->bpf.fd[SQ_M_SPACES], &key, at, BPF_ANY);
}

static void forget_hooks(const struct sq_intercept *ic, uint64_t cookie, uint32_t slot)
{
    const struct sq_space_key key = {.cookie = cookie, .slot = slot};

    if (ic->bpf.fd[SQ_M_SPACES] >= 0)
        (void)bpf_map_delete_elem(ic->bpf.fd[SQ_M_SPACES], &key);
}

/* Also of namespaces that were only seen. */
static void forget_slot(const struct sq_intercept *ic, uint32_t slot)
{
    struct sq_space_key key, next;
    int fd = ic->bpf.fd[SQ_M_SPACES];
    bool more = fd >= 0 && bpf_map_get_next_key(fd, NULL, &key) == 0;

    for (unsigned i = 0; more && i < SQ_SPACE_PORTS; i++, key = next) {
        more = bpf_map_get_next_key(fd, &key, &next) == 0;
        if (key.slot == slot)
            (void)bpf_map_delete_elem(fd, &key);
    }
}

/* ---- made there ---- */

struct sockets {
    bool dgram, hold6, deaf6;
    int fd[6]; /* of an edge: pass, gate, pass6, gate6, dgram, dgram6; of a namespace: diag, those of a held SYN */
    size_t n;  /* from the first, but for those of datagrams */
    struct sq_space_ports at;
};
#define NO_FDS                                                                                                         \
    {                                                                                                                  \
        -1, -1, -1, -1, -1, -1                                                                                         \
    }

static void close_sockets(struct sockets *s)
{
    for (size_t i = 0; i < SQ_COUNT(s->fd); i++)
        if (s->fd[i] >= 0)
            (void)close(s->fd[i]);
}

static int listen_here(void *arg, struct sq_err *e)
{
    struct sockets *s = arg;
    int rc = sq_listen_lo(false, &s->fd[0], &s->at.pass, e);

    rc = rc ? rc : sq_listen_lo(true, &s->fd[1], &s->at.gate, e);
    if (rc == 0)
        s->n = 2 + sq_listen_pair6(s->hold6, &s->fd[2], &s->at.pass6, &s->at.gate6);
    return rc == 0 && s->dgram ? sq_dgram_bind(&s->fd[4], &s->at.dgram, &s->at.dgram6, &s->deaf6, e) : rc;
}

static int open_here(void *arg, struct sq_err *e)
{
    struct sockets *s = arg;
    int n;

    s->fd[0] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    if (s->fd[0] < 0)
        return sq_err_sys(e, -errno, "cannot ask about sockets (sock_diag)");
    n = sq_synhold_open(&s->fd[1], e);
    s->n = n < 0 ? 1 : 1 + (size_t)n;
    return n < 0 ? n : 0;
}

/* ---- a namespace ---- */

static void free_space(struct sq_space *s)
{
    siginfo_t si;

    sq_ic_unpoll(s->ic, &s->death);
    if (s->pidfd >= 0) {
        (void)waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED | WNOHANG);
        (void)close(s->pidfd);
    }
    for (struct sq_space **p = &s->ic->left_spaces; *p; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    free(s);
}

/* Its maker ends when the proxy has no use for it any more. */
static void drop(struct sq_space *s)
{
    struct sq_intercept *ic = s->ic;
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "unspace", "id", (json_int_t)s->id);

    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (s->at[i].pass)
            forget_hooks(ic, s->cookie, i);
    sq_exec_forget(ic, s->cookie);
    (void)sq_link_send(ic, msg, NULL, 0, NULL);
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (ic->space[i] == s)
            ic->space[i] = NULL;
    if (!s->death) {
        free_space(s);
        return;
    }
    s->lost = true;
    s->next = ic->left_spaces;
    ic->left_spaces = s;
}

/* Nobody makes sockets there any more: what is new goes direct. */
static void lose(struct sq_space *s)
{
    static const struct sq_space_ports none;

    if (s->lost)
        return;
    s->lost = true;
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        const struct sq_edge *edge = s->ic->edge[i];

        if (!s->at[i].pass)
            continue;
        tell_hooks(s->ic, s->cookie, i, &none);
        if (edge)
            sq_ic_warn(s->ic, edge->run,
                       "calls over edge %s from the network namespace of %s go past the proxy: its process there has "
                       "ended or hangs",
                       edge->name, s->name);
    }
}

static void on_death(uv_poll_t *p, int status, int events)
{
    struct sq_space *s = p->data;
    siginfo_t si;

    (void)status;
    (void)events;
    for (const struct sq_space *left = s->ic->left_spaces; left; left = left->next)
        if (left == s) {
            free_space(s);
            return;
        }
    sq_ic_unpoll(s->ic, &s->death);
    (void)waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED | WNOHANG);
    lose(s);
}

static int tell_proxy(struct sq_space *s, const struct sockets *made, int maker, struct sq_err *e)
{
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "space", "id", (json_int_t)s->id);
    int fds[1 + SQ_COUNT(made->fd)] = {maker};

    memcpy(fds + 1, made->fd, sizeof(made->fd));
    return sq_link_send(s->ic, msg, fds, 1 + made->n, e);
}

static int begin(struct sq_space *s, const struct sq_netns *ns, struct sq_err *e)
{
    struct sockets made = {.fd = NO_FDS};
    int sv[2], rc = sq_netns_call(ns, open_here, &made, e);

    if (rc == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
        rc = sq_err_sys(e, -errno, "cannot make a socket pair");
    if (rc == 0) {
        rc = sq_maker_spawn(s->ic->self, ns->fd, sv[1], &s->maker, &s->pidfd, e);
        (void)close(sv[1]);
        if (rc == 0)
            s->death = sq_ic_poll(s->ic, s->pidfd, UV_READABLE, on_death, s);
        if (rc == 0 && !s->death)
            rc = sq_err(e, -ENOMEM, "out of memory");
        rc = rc ? rc : tell_proxy(s, &made, sv[0], e);
        (void)close(sv[0]); /* the maker ends with the proxy's end */
        s->hold6 = made.n == 1 + SQ_SYNHOLD_FDS;
    }
    close_sockets(&made);
    return rc;
}

static ino_t netns_of(pid_t pid)
{
    char path[64];
    struct stat st;

    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

/* Whom nobody but its maker lives in any more, we don't keep. All processes are looked at: a caller that makes
 * namespaces as fast as it can does not make that more often than once a second. */
static void leave_empty(struct sq_intercept *ic)
{
    bool lives[SQ_SPACES] = {0};
    int64_t now = sq_mono_ns();
    DIR *d = ic->spaces_looked && now - ic->spaces_looked < SQ_S ? NULL : opendir("/proc");

    if (!d)
        return;
    ic->spaces_looked = now;
    for (const struct dirent *de; (de = readdir(d));) {
        pid_t pid = (pid_t)strtol(de->d_name, NULL, 10);
        ino_t ino = pid > 0 ? netns_of(pid) : 0;

        for (size_t i = 0; ino && i < SQ_SPACES; i++)
            if (ic->space[i] && ic->space[i]->ino == ino && ic->space[i]->maker != pid)
                lives[i] = true;
    }
    (void)closedir(d);
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (ic->space[i] && !lives[i])
            drop(ic->space[i]);
}

/* Namespaces that were seen when there was no room: their next calls are told again, for there may be some now. */
static void look_again(struct sq_intercept *ic)
{
    struct sq_space_key key, next;
    int fd = ic->bpf.fd[SQ_M_SPACES];
    bool more = fd >= 0 && bpf_map_get_next_key(fd, NULL, &key) == 0;

    for (unsigned i = 0; more && i < SQ_SPACE_PORTS; i++, key = next) {
        more = bpf_map_get_next_key(fd, &key, &next) == 0;
        if (find(ic, key.cookie))
            continue;
        (void)bpf_map_delete_elem(fd, &key);
        sq_exec_forget(ic, key.cookie);
    }
}

/* The namespace NS, which is not ours; a new one when it is not known yet. */
static int enter(struct sq_intercept *ic, const struct sq_netns *ns, struct sq_space **out, struct sq_err *e)
{
    struct sq_space *s = find(ic, ns->cookie);
    size_t i = 0;
    int rc;

    *out = s;
    if (s)
        return s->lost ? sq_err(e, -EPIPE, "the proxy's process there has ended") : 0;
    while (i < SQ_SPACES && ic->space[i])
        i++;
    if (i == SQ_SPACES) {
        leave_empty(ic);
        for (i = 0; i < SQ_SPACES && ic->space[i]; i++)
            ;
    }
    if (i == SQ_SPACES)
        return sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "the proxy is in %u others already, which is the most", SQ_SPACES);
    if (!ns->cookie)
        return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP,
                          "this kernel does not tell namespaces apart (Linux 5.14 does)");
    if (!ic->hold_ok)
        return sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "%.300s", ic->hold_why);
    s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    s->ic = ic;
    s->id = ++ic->next_space;
    s->cookie = ns->cookie;
    s->ino = ns->ino;
    s->pidfd = -1;
    (void)snprintf(s->name, sizeof(s->name), "%s", ns->name);
    ic->space[i] = s;
    rc = begin(s, ns, e);
    if (rc < 0)
        drop(s);
    else
        *out = s;
    return rc;
}

static int send_sockets(const struct sq_space *s, const struct sq_edge *edge, const struct sockets *made,
                        struct sq_err *e)
{
    cleanup_json json_t *msg =
        json_pack("{s:s,s:I,s:I}", "op", "listen", "edge", (json_int_t)edge->id, "space", (json_int_t)s->id);
    cleanup_json json_t *dgram =
        json_pack("{s:s,s:I,s:I}", "op", "dgram", "edge", (json_int_t)edge->id, "space", (json_int_t)s->id);
    int rc = sq_link_send(s->ic, msg, made->fd, made->n, e);

    return rc == 0 && edge->dgram ? sq_link_send(s->ic, dgram, &made->fd[4], made->fd[5] < 0 ? 1 : 2, e) : rc;
}

/* The edge is listened for there, too; by more listeners, if it is already. */
static int listen_there(struct sq_space *s, const struct sq_edge *edge, const struct sq_netns *ns, struct sq_err *e)
{
    struct sockets made = {.dgram = edge->dgram, .hold6 = s->hold6, .deaf6 = s->deaf6, .fd = NO_FDS};
    int rc = sq_netns_call(ns, listen_here, &made, e);

    s->deaf6 = made.deaf6;
    rc = rc ? rc : send_sockets(s, edge, &made, e);
    if (rc == 0) {
        s->at[edge->slot] = made.at;
        tell_hooks(s->ic, s->cookie, edge->slot, &made.at);
    }
    close_sockets(&made);
    return rc;
}

static int look_at_lo(void *arg, struct sq_err *e)
{
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)e;
    *(bool *)arg = fd >= 0 && sq_lo_is_up(fd);
    return 0;
}

/* Its loopback may be up by now: then there is a ::1 to listen on. */
static void when_up(struct sq_space *s)
{
    struct sq_netns ns = {.fd = -1};
    bool up = false;

    if (sq_netns_open_pid(s->maker, &ns, NULL) < 0)
        return;
    if (ns.cookie == s->cookie)
        (void)sq_netns_call(&ns, look_at_lo, &up, NULL);
    s->deaf6 = s->deaf6 && !up;
    for (uint32_t i = 0; up && i < SQ_EDGES; i++)
        if (s->at[i].pass && s->ic->edge[i])
            (void)listen_there(s, s->ic->edge[i], &ns, NULL);
    s->lo_down = !up;
    sq_netns_close(&ns);
}

void sq_space_tick(struct sq_intercept *ic)
{
    bool any = false;

    for (size_t i = 0; i < SQ_SPACES; i++) {
        any = any || ic->space[i];
        if (ic->space[i] && ic->space[i]->lo_down && !ic->space[i]->lost)
            when_up(ic->space[i]);
    }
    if (!any || ++ic->space_ticks % EMPTY_TICKS != 0)
        return;
    leave_empty(ic);
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (!ic->space[i]) {
            look_again(ic);
            return;
        }
}

/* Calls of PID over EDGE, whatever namespace it is in. COOKIE: the one that it was seen in; 0: none. -ENOENT: it has
 * ended, or is elsewhere by now. */
static int follow(struct sq_edge *edge, pid_t pid, uint64_t cookie, struct sq_err *e)
{
    struct sq_intercept *ic = edge->ic;
    struct sq_netns ns = {.fd = -1};
    struct sq_space *s = NULL;
    bool up = true, fresh;
    int rc;

    rc = sq_netns_open_pid(pid, &ns, e);
    if (rc < 0)
        return rc;
    if (cookie && ns.cookie != cookie)
        rc = sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "process %d is in another network namespace by now", (int)pid);
    else if (ns.ino != ic->netns_ino)
        rc = enter(ic, &ns, &s, e);
    fresh = rc == 0 && s && !s->at[edge->slot].pass;
    if (fresh) {
        (void)sq_netns_call(&ns, look_at_lo, &up, NULL);
        s->lo_down = s->lo_down || !up;
        rc = listen_there(s, edge, &ns, e);
    }
    if (rc == 0 && !up)
        sq_ic_warn(ic, edge->run,
                   "the loopback device of the network namespace of %s is down: calls over edge %s go past the proxy "
                   "until somebody puts it up",
                   ns.name, edge->name);
    sq_netns_close(&ns);
    return rc;
}

static void warn(const struct sq_edge *edge, pid_t pid, const struct sq_err *why)
{
    sq_ic_warn(edge->ic, edge->run,
               "calls of process %d over edge %s go past the proxy, for it is in another network namespace: %s",
               (int)pid, edge->name, why->msg);
}

void sq_space_edge(struct sq_edge *edge)
{
    const struct sq_running *r = sq_running_find(edge->ic, edge->run, edge->from);
    ino_t known[SQ_SPACES + 1] = {edge->ic->netns_ino};
    cleanup_free pid_t *pid = NULL;
    size_t n = 0, n_known = 1;

    if (!r || (!edge->has_tcp && !edge->dgram) || sq_running_processes(r, &pid, &n, NULL) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        ino_t ino = netns_of(pid[i]);
        struct sq_err why = {0};
        bool seen = ino == 0; /* it has ended */
        int rc;

        for (size_t k = 0; k < n_known && !seen; k++)
            seen = known[k] == ino;
        if (seen)
            continue;
        rc = follow(edge, pid[i], 0, &why);
        if (rc < 0 && why.cls == SQ_C_NOTFOUND)
            continue;
        if (rc < 0)
            warn(edge, pid[i], &why);
        if (n_known == SQ_COUNT(known))
            return;
        known[n_known++] = ino;
    }
}

void sq_space_seen(struct sq_intercept *ic, const struct sq_hook_event *ev)
{
    const struct sq_caller *c = sq_ic_caller(ic, ev->caller);
    bool told = false;

    if (!c || !c->armed || ic->link.dead)
        return;
    for (uint32_t i = 0; i < SQ_EDGES; i++) { /* whichever its next call is over */
        struct sq_edge *edge = ic->edge[i];
        struct sq_err why = {0};
        int rc;

        if (!sq_edge_calls(c, edge) || !edge->bpf)
            continue;
        rc = follow(edge, (pid_t)ev->pid, ev->netns, &why);
        if (rc < 0 && why.cls == SQ_C_NOTFOUND) {
            const struct sq_space *s = find(ic, ev->netns);

            if (s && s->at[i].pass) /* another process was seen there before, and the hooks know where to go */
                continue;
            forget_hooks(ic, ev->netns, i); /* the next process that is seen may live longer */
            sq_exec_forget(ic, ev->netns);
        } else if (rc < 0 && !told)
            warn(edge, (pid_t)ev->pid, &why);
        told = told || (rc < 0 && why.cls != SQ_C_NOTFOUND);
    }
}

const struct sq_space_ports *sq_space_ports(struct sq_edge *edge, pid_t pid, uint64_t cookie, char *why, size_t len)
{
    struct sq_space *s = find(edge->ic, cookie);
    struct sq_err e = {0};

    if (!s || (!s->lost && !s->at[edge->slot].pass)) {
        (void)follow(edge, pid, cookie, &e);
        s = find(edge->ic, cookie);
    }
    if (s && !s->lost && s->at[edge->slot].pass)
        return &s->at[edge->slot];
    (void)snprintf(why, len, "it is in another network namespace, where the proxy has no sockets%s%.200s",
                   e.msg[0] ? ": " : "", e.msg);
    return NULL;
}

void sq_space_unedge(const struct sq_edge *edge)
{
    struct sq_intercept *ic = edge->ic;

    forget_slot(ic, edge->slot);
    for (size_t i = 0; i < SQ_SPACES; i++) {
        struct sq_space *s = ic->space[i];
        bool used = false;

        if (!s)
            continue;
        memset(&s->at[edge->slot], 0, sizeof(s->at[0]));
        for (uint32_t k = 0; k < SQ_EDGES && !used; k++)
            used = s->at[k].pass != 0;
        if (!used)
            drop(s);
    }
}

void sq_space_lost(struct sq_intercept *ic, uint32_t id)
{
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (ic->space[i] && ic->space[i]->id == id)
            lose(ic->space[i]);
}

void sq_space_drop_all(struct sq_intercept *ic)
{
    for (size_t i = 0; i < SQ_SPACES; i++)
        if (ic->space[i])
            drop(ic->space[i]);
}

void sq_space_free(struct sq_intercept *ic)
{
    sq_space_drop_all(ic);
    while (ic->left_spaces)
        free_space(ic->left_spaces);
}

void sq_space_plan(const struct sq_intercept *ic, const pid_t *pid, size_t n, json_t *notes)
{
    ino_t known[SQ_SPACES + 1] = {ic->netns_ino};
    size_t n_known = 1;

    for (size_t i = 0; i < n && n_known < SQ_COUNT(known); i++) {
        ino_t ino = netns_of(pid[i]);
        struct sq_netns ns = {.fd = -1};
        char text[256];
        bool seen = ino == 0, up = true;

        for (size_t k = 0; k < n_known && !seen; k++)
            seen = known[k] == ino;
        if (seen || sq_netns_open_pid(pid[i], &ns, NULL) < 0)
            continue;
        known[n_known++] = ino;
        (void)sq_netns_call(&ns, look_at_lo, &up, NULL);
        sq_netns_close(&ns);
        (void)snprintf(text, sizeof(text), "process %d is in another network namespace: %s", (int)pid[i],
                       up ? "its calls are taken there, and its dependencies reached from there"
                          : "its loopback device is down, and until somebody puts it up its calls go past the proxy");
        (void)json_array_append_new(notes, json_string(text));
    }
}
