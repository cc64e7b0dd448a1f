#include "intercept/running.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "intercept/attach_seccomp.h"
#include "intercept/caches.h"
#include "intercept/follow.h"
#include "intercept/nft.h"
#include "intercept/running_int.h"
#include "select.h"
#include "squall/cleanup.h"
#include "squall/json.h"

/* ---- checks ---- */

int sq_running_check(struct sq_err *e)
{
    return sq_intercept_check_bpf(e);
}

int sq_running_check_processes(struct sq_err *e)
{
    int rc = sq_running_check(e);

    return rc < 0 ? rc : sq_follow_check(e);
}

static int check_name(const char *name, struct sq_err *e)
{
    bool ok = isalnum((unsigned char)name[0]) && strlen(name) < 64;

    for (const char *p = name; *p; p++)
        ok &= isalnum((unsigned char)*p) || strchr("._-", *p);
    return ok ? 0 : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.80s\" cannot be a service's name", name);
}

static int check_free(struct sq_intercept *ic, const char *run, const char *name, struct sq_err *e)
{
    int rc = check_name(name, e);

    if (rc < 0)
        return rc;
    if (sq_running_find(ic, run, name))
        return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "this run has a service \"%s\" already", name);
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (sq_edge_is_of(ic->edge[i], run, name))
            return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                              "edge %s is there already: a service that is selected comes "
                              "before its edges",
                              ic->edge[i]->name);
    return 0;
}

static bool covers(const struct sq_running *r, pid_t pid)
{
    struct sq_tgid whose;

    if (r->seccomp) {
        for (size_t i = 0; i < r->n; i++)
            if (r->one[i].pid == pid && r->one[i].pidfd >= 0)
                return true;
        return false;
    }

    return r->follow ? sq_follow_has(r->follow, pid, &whose) : sq_cgroup_has(r->cgroup, pid);
}

int sq_running_check_alone(struct sq_intercept *ic, const struct sq_found *f, struct sq_err *e)
{
    for (const struct sq_running *r = ic->running; r; r = r->next) {
        pid_t pid = 0;

        for (size_t i = 0; i < f->n && !pid; i++)
            pid = covers(r, f->v[i].pid) ? f->v[i].pid : 0;
        if (f->cgroup[0]) {
            cleanup_free pid_t *theirs = NULL;
            size_t n = 0;

            if (sq_running_processes(r, &theirs, &n, NULL) < 0)
                continue;
            for (size_t i = 0; i < n && !pid; i++)
                pid = sq_cgroup_has(f->cgroup, theirs[i]) ? theirs[i] : 0;
        }
        if (pid)
            return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "process %d is intercepted already, as service %s of run %s",
                              (int)pid, r->service, r->run);
    }
    return 0;
}

/* ---- events ---- */

void sq_running_tell(const struct sq_running_one *o, const char *state)
{
    sq_ic_event(o->r->ic, o->r->run,
                json_pack("{s:s,s:s,s:s,s:s,s:i}", "type", "service", "state", state, "service", o->r->service,
                          "instance", o->instance, "pid", (int)o->pid));
}

static void on_end(uv_poll_t *p, int status, int events)
{
    struct sq_running_one *o = p->data;

    (void)status;
    (void)events;
    sq_ic_unpoll(o->r->ic, &o->end);
    (void)close(o->pidfd);
    o->pidfd = -1;
    sq_running_tell(o, "exited");
    sq_ic_warn(o->r->ic, o->r->run, "%s (pid %d) has ended: of its service only what it forked is intercepted now",
               o->instance, (int)o->pid);
}

/* ---- taking ---- */

static void drop(struct sq_running *r)
{
    struct sq_intercept *ic = r->ic;

    for (struct sq_running **p = &ic->running; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    sq_ic_end_timer(&r->look);
    for (size_t i = r->n; i > 0; i--) { /* the first one has the hooks */
        struct sq_running_one *o = &r->one[i - 1];

        sq_ic_unpoll(ic, &o->end);
        if (o->pidfd >= 0)
            (void)close(o->pidfd);
        sq_intercept_disarm(ic, r->run, o->instance);
    }
    sq_follow_close(r->follow);
    free(r->one);
    free(r);
}

int sq_running_add_caller(struct sq_running *r, struct sq_running_one *o, size_t i, struct sq_caller **out,
                          struct sq_err *e)
{
    struct sq_intercept *ic = r->ic;
    struct sq_caller *c = NULL;
    int rc;

    o->r = r;
    (void)snprintf(o->instance, sizeof o->instance, "%.64s.%zu", r->service, i);
    rc = sq_ic_new_caller(ic, r->run, r->service, o->instance, &c, e);
    if (rc < 0) {
        free(c);
        return rc;
    }
    c->with_bpf = !r->seccomp && !r->nft;
    c->seccomp = r->seccomp;
    c->running = r;
    sq_ic_enter_caller(c);
    *out = c;
    return 0;
}

static bool has_ended(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return poll(&p, 1, 0) != 0;
}

static int watch_one(struct sq_running_one *o, struct sq_victim *v, struct sq_err *e)
{
    o->pid = v->pid;
    o->start = v->start;
    o->pidfd = SQ_TAKE_FD(v->pidfd);
    (void)snprintf(o->cmd, sizeof o->cmd, "%s", v->cmd);
    if (has_ended(o->pidfd))
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "process %d ended while it was taken", (int)o->pid);
    o->end = sq_ic_poll(o->r->ic, o->pidfd, UV_READABLE, on_end, o);
    return o->end ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static void say_attached(const struct sq_running_one *o, const struct sq_attached *got)
{
    if (got->no_new_privs)
        sq_ic_warn(o->r->ic, o->r->run,
                   "%s (pid %d) is under no_new_privs from now on: setuid programs that it starts "
                   "do not gain their rights",
                   o->instance, (int)o->pid);
    if (got->rings)
        sq_ic_warn(o->r->ic, o->r->run,
                   "%s (pid %d) has io_uring instances: connects through those that are there "
                   "already go past Squall",
                   o->instance, (int)o->pid);
    if (got->missed)
        sq_ic_warn(o->r->ic, o->r->run, "%zu processes below %s (pid %d) are not intercepted: %s", got->missed,
                   o->instance, (int)o->pid, got->why);
}

static int take_one(struct sq_running *r, struct sq_victim *v, size_t i, struct sq_caller **first, struct sq_err *e)
{
    struct sq_running_one *o = &r->one[i];
    struct sq_caller *c = NULL;
    int rc = sq_running_add_caller(r, o, i, &c, e);

    if (rc < 0)
        return rc;
    r->n = i + 1;
    rc = sq_follow_add(r->follow, v->pid, c->id, c->slot, e);
    rc = rc ? rc : watch_one(o, v, e);
    if (!*first)
        *first = c;
    else
        rc = rc ? rc : sq_ic_tell_caller(c, NULL, 0, e);
    return rc;
}

static int take_processes(struct sq_running *r, struct sq_found *f, struct sq_err *e)
{
    struct sq_caller *first = NULL;
    char root[SQ_CGROUP_MAX];
    cleanup_close int fd = -1;
    int rc = sq_cgroup_find("/", root, sizeof root, e);

    if (rc < 0)
        return rc;
    fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot open %s", root);
    rc = sq_follow_open(&r->follow, e);
    r->one = rc == 0 ? calloc(f->n, sizeof *r->one) : NULL;
    if (rc == 0 && !r->one)
        rc = sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < f->n && rc == 0; i++)
        rc = take_one(r, &f->v[i], i, &first, e);
    rc = rc ? rc : sq_bpf_attach(r->ic, first, fd, r->follow, e);
    if (rc == 0)
        sq_follow_unlink(r->follow); /* the proxy has them now, and when it dies they end */
    return rc ? rc : sq_follow_descendants(r->follow, e);
}

/* For good: nothing is touched before all of them are known to be possible. */
static int take_by_seccomp(struct sq_running *r, struct sq_found *f, struct sq_err *e)
{
    cleanup_free pid_t *all = calloc(f->n, sizeof *all);
    int rc = 0;

    r->one = calloc(f->n, sizeof *r->one);
    if (!r->one || !all)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        all[i] = f->v[i].pid;
        rc = sq_attach_look(r->ic, f->v[i].pid, f->v[i].start, r->dgram, e);
    }
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        struct sq_caller *c = NULL;
        struct sq_attached got = {0};

        rc = sq_running_add_caller(r, &r->one[i], i, &c, e);
        if (rc < 0)
            break;
        r->n = i + 1;
        c->tables = calloc(1, sizeof(*c->tables));
        rc = c->tables ? sq_edge_table(c, false, c->tables, e) : sq_err(e, -ENOMEM, "out of memory");
        if (rc == 0 && r->dgram) {
            c->dtables = calloc(1, sizeof(*c->dtables));
            rc = c->dtables ? sq_edge_table(c, true, c->dtables, e) : sq_err(e, -ENOMEM, "out of memory");
        }
        rc = rc ? rc : watch_one(&r->one[i], &f->v[i], e);
        rc = rc ? rc : sq_ic_tell_caller(c, NULL, 0, e);
        rc = rc ? rc : sq_attach_tree(c, all[i], f->v[i].start, all, f->n, &got, e);
        r->one[i].processes = got.processes;
        say_attached(&r->one[i], &got);
    }
    return rc;
}

/* One that is the only process in its cgroup, or the cgroup. */
static int take_by_nft(struct sq_running *r, struct sq_found *f, struct sq_err *e)
{
    struct sq_found whole = {0};
    int rc = sq_nat_cgroup(f, whole.cgroup, sizeof whole.cgroup, e);

    rc = rc ? rc : sq_running_take_cgroup(r, &whole, e);
    return rc || !f->n ? rc : watch_one(&r->one[0], &f->v[0], e);
}

/* Datagrams are everybody's packets: nobody's pass a hook for nothing. */
int sq_running_edge(struct sq_edge *edge, struct sq_err *e)
{
    const struct sq_running *r = sq_running_find(edge->ic, edge->run, edge->from);
    char root[SQ_CGROUP_MAX];
    cleanup_close int fd = -1;
    int rc = r && r->follow ? sq_cgroup_find("/", root, sizeof root, e) : 0;

    if (!r || !edge->dgram || rc < 0)
        return rc;
    for (uint32_t i = 0; i < SQ_CALLERS; i++) {
        struct sq_caller *c = edge->ic->caller[i];

        if (!c || c->running != r || !c->bpf) /* the one that has the hooks */
            continue;
        fd = open(r->follow ? root : r->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return sq_err_sys(e, -errno, "cannot open the cgroup of %s", c->instance);
        return c->dgram ? sq_caches_attach(c, fd, r->follow, e) : sq_dgram_attach(edge->ic, c, fd, r->follow, e);
    }
    return 0;
}

int sq_running_parse_attach(const json_t *def, bool *seccomp, struct sq_err *e)
{
    const char *how = sq_json_str_or(def, "attach", "auto");

    *seccomp = strcmp(how, "seccomp") == 0;
    if (!*seccomp && strcmp(how, "auto") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"attach\" must be auto or seccomp");
    if (!*seccomp || !sq_select_is_cgroup(json_object_get(def, "select")))
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "attach: seccomp takes processes, not all that ever are in a cgroup");
    sq_err_hint(e, "select it by pid, pattern or port");
    return -EOPNOTSUPP;
}

int sq_running_attach(struct sq_intercept *ic, struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer,
                      const json_t *def, json_t **answer, struct sq_err *e)
{
    __attribute__((cleanup(sq_found_free))) struct sq_found f = {0};
    const json_t *select = json_object_get(def, "select");
    struct sq_running *r;
    const char *name = "";
    int rc = sq_json_str(def, "name", &name, e);

    *answer = NULL;
    bool seccomp = false;
    size_t more = 2u + (json_object_get(def, "attach") ? 1u : 0u) + (json_object_get(def, "datagrams") ? 1u : 0u);

    if (rc == 0 && json_object_size(def) != more)
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                        "a service that is selected has \"name\", \"select\", \"attach\" and \"datagrams\", nothing "
                        "else");
    rc = rc ? rc : sq_running_parse_attach(def, &seccomp, e);
    rc = rc ? rc : check_free(ic, sq_run_id(run), name, e);
    rc = rc ? rc : sq_found_by(eng, run, peer, select, &f, e);
    rc = rc ? rc : sq_running_check_alone(ic, &f, e);
    rc = rc ? rc : seccomp ? sq_intercept_check_seccomp(e) : 0;
    rc = rc ? rc : seccomp ? sq_edge_choose(ic, e) : sq_edge_need_hooks(ic, e);
    rc = rc ? rc : sq_link_start(ic, e);
    if (rc < 0)
        return rc;
    r = calloc(1, sizeof *r);
    if (!r)
        return sq_err(e, -ENOMEM, "out of memory");
    r->ic = ic;
    (void)snprintf(r->run, sizeof r->run, "%s", sq_run_id(run));
    (void)snprintf(r->service, sizeof r->service, "%s", name);
    r->next = ic->running;
    r->seccomp = seccomp;
    r->nft = !seccomp && !ic->bpf_ok;
    r->dgram = seccomp && sq_json_bool_or(def, "datagrams", false);
    ic->running = r;
    rc = seccomp       ? take_by_seccomp(r, &f, e)
         : r->nft      ? take_by_nft(r, &f, e)
         : f.cgroup[0] ? sq_running_take_cgroup(r, &f, e)
                       : take_processes(r, &f, e);
    if (rc < 0) {
        drop(r);
        return rc;
    }
    for (size_t i = 0; i < r->n; i++)
        sq_running_tell(&r->one[i], "attached");
    *answer = json_pack("{s:s,s:s,s:o}", "service", r->service, "mode",
                        seccomp  ? "seccomp"
                        : r->nft ? "nft"
                                 : "bpf",
                        "instances", sq_running_describe(r));
    return *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

struct sq_running *sq_running_find(struct sq_intercept *ic, const char *run, const char *service)
{
    struct sq_running *r = ic->running;

    while (r && (strcmp(r->run, run) != 0 || strcmp(r->service, service) != 0))
        r = r->next;
    return r;
}

bool sq_running_datagrams(struct sq_intercept *ic, const char *run, const char *service)
{
    const struct sq_running *r = sq_running_find(ic, run, service);

    return !r || (r->seccomp ? r->dgram : !r->nft);
}

bool sq_running_by_seccomp(struct sq_intercept *ic, const char *run, const char *service)
{
    const struct sq_running *r = sq_running_find(ic, run, service);

    return r && r->seccomp;
}

bool sq_running_by_nft(struct sq_intercept *ic, const char *run, const char *service)
{
    const struct sq_running *r = sq_running_find(ic, run, service);

    return r && r->nft;
}

int sq_running_detach(struct sq_intercept *ic, const char *run, const char *service)
{
    struct sq_running *r = sq_running_find(ic, run, service);

    if (!r)
        return -ENOENT;
    drop(r);
    return 0;
}

void sq_running_drop_run(struct sq_intercept *ic, const char *run)
{
    struct sq_running *r = ic->running;

    while (r) {
        struct sq_running *next = r->next;

        if (!run || strcmp(r->run, run) == 0)
            drop(r);
        r = next;
    }
}

void sq_running_tick(struct sq_intercept *ic)
{
    for (struct sq_running *r = ic->running; r; r = r->next) {
        uint64_t lost = r->follow ? sq_follow_lost(r->follow) : 0;

        if (lost > r->told_lost)
            sq_ic_warn(ic, r->run, "%llu processes that %s forked are not intercepted: there are more than %u",
                       (unsigned long long)(lost - r->told_lost), r->service, SQ_TGIDS);
        r->told_lost = lost;
    }
}
