#include "intercept/running.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "engine.h"
#include "intercept/attach_seccomp.h"
#include "intercept/existing.h"
#include "intercept/follow.h"
#include "select.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "target.h"

#define LOOK_MS 100 /* a cgroup that is made again is seen so much later */

struct one {
    struct sq_running *r;
    char instance[SQ_NAME_MAX];
    pid_t pid;
    uint64_t start;
    int pidfd; /* owned; -1: a cgroup, or it has ended */
    uv_poll_t *end;
    char cmd[256];
    size_t processes; /* by seccomp: when it was taken */
};

struct sq_running {
    struct sq_running *next;
    struct sq_intercept *ic;
    char run[SQ_NAME_MAX], service[SQ_NAME_MAX];
    char cgroup[SQ_CGROUP_MAX]; /* "": processes */
    ino_t ino;                  /* of the cgroup that the hooks are on; 0: gone */
    struct sq_follow *follow;   /* of processes */
    uint64_t told_lost;
    bool empty;
    bool seccomp;
    uv_timer_t *look;
    struct one *one;
    size_t n;
};

/* ---- what is asked ---- */

struct found {
    char cgroup[SQ_CGROUP_MAX];
    struct sq_victim *v;
    size_t n;
};

static void found_free(struct found *f)
{
    sq_victims_free(f->v, f->n);
}

static int by_processes(struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer, const json_t *select,
                        struct found *out, struct sq_err *e)
{
    cleanup_json json_t *target = json_deep_copy(select);
    struct sq_fault f = {.engine = eng, .run = run, .peer = *peer, .target = target, .hit = json_array()};
    int rc;

    if (!target || !f.hit || json_object_set_new(target, "count", json_string("all")) < 0) {
        json_decref(f.hit);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    rc = sq_target_resolve(&f, &out->v, &out->n, e);
    json_decref(f.hit);
    if (rc == 0 && out->n > SQ_RUNNING_MOST) {
        rc = sq_err_cls(e, SQ_C_INPUT, -E2BIG, "%zu processes match, %d are the most", out->n, SQ_RUNNING_MOST);
        sq_err_hint(e, "say more exactly which, or select their unit, cgroup or container");
    }
    return rc;
}

static int note_pid(pid_t pid, void *arg)
{
    *(pid_t *)arg = pid;
    return 1;
}

static int by_cgroup(const struct sq_peer *peer, const json_t *select, struct found *out, struct sq_err *e)
{
    pid_t any = 0, ours[] = {getpid(), getppid(), peer->pid};
    int rc = sq_select_cgroup(select, out->cgroup, sizeof out->cgroup, NULL, e);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < SQ_COUNT(ours); i++)
        if (ours[i] > 0 && sq_cgroup_has(out->cgroup, ours[i])) {
            sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "the cgroup %.200s holds Squall itself, or who asks (pid %d)",
                       out->cgroup, (int)ours[i]);
            sq_err_hint(e, "select the program by pid, pattern or port, or give it a cgroup of its own");
            return -EBUSY;
        }
    if (sq_cgroup_each(out->cgroup, note_pid, &any) == 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "there is no process in the cgroup %.200s", out->cgroup);
    return 0;
}

static int find(struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer, const json_t *select,
                struct found *out, struct sq_err *e)
{
    static const char *const ways[] = {"pid", "pattern", "port", "unit", "cgroup", "container"};
    size_t given = 0;

    for (size_t i = 0; i < SQ_COUNT(ways); i++)
        given += json_object_get(select, ways[i]) != NULL;
    if (given != 1 || json_object_size(select) != 1) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                   "\"select\" must be exactly one of pid, pattern, port, unit, cgroup and "
                   "container");
        return -EINVAL;
    }
    if (peer->uid != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "only root may intercept the calls of programs that run already");
        sq_err_hint(e, "let the scenario start the caller (command), or run squall as root");
        return -EPERM;
    }
    return sq_select_is_cgroup(select) ? by_cgroup(peer, select, out, e) : by_processes(eng, run, peer, select, out, e);
}

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
        if (ic->edge[i] && strcmp(ic->edge[i]->run, run) == 0 && strcmp(ic->edge[i]->from, name) == 0)
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
            if (r->one[i].pid == pid)
                return true;
        return false;
    }

    return r->follow ? sq_follow_has(r->follow, pid, &whose) : sq_cgroup_has(r->cgroup, pid);
}

/* A process has one caller, or its calls would be those of whose hook comes first. */
static int check_alone(struct sq_intercept *ic, const struct found *f, struct sq_err *e)
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

static void tell(const struct one *o, const char *state)
{
    sq_ic_event(o->r->ic, o->r->run,
                json_pack("{s:s,s:s,s:s,s:s,s:i}", "type", "service", "state", state, "service", o->r->service,
                          "instance", o->instance, "pid", (int)o->pid));
}

static void on_end(uv_poll_t *p, int status, int events)
{
    struct one *o = p->data;

    (void)status;
    (void)events;
    sq_ic_unpoll(o->r->ic, &o->end);
    (void)close(o->pidfd);
    o->pidfd = -1;
    tell(o, "exited");
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
        struct one *o = &r->one[i - 1];

        sq_ic_unpoll(ic, &o->end);
        if (o->pidfd >= 0)
            (void)close(o->pidfd);
        sq_intercept_disarm(ic, r->run, o->instance);
    }
    sq_follow_close(r->follow);
    free(r->one);
    free(r);
}

static int add_caller(struct sq_running *r, struct one *o, size_t i, struct sq_caller **out, struct sq_err *e)
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
    c->with_bpf = !r->seccomp;
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

static int watch_one(struct one *o, struct sq_victim *v, struct sq_err *e)
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

static void say_attached(const struct one *o, const struct sq_attached *got)
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
    struct one *o = &r->one[i];
    struct sq_caller *c = NULL;
    int rc = add_caller(r, o, i, &c, e);

    if (rc < 0)
        return rc;
    r->n = i + 1;
    rc = sq_follow_add(r->follow, v->pid, c->id, c->slot, e);
    rc = rc ? rc : watch_one(o, v, e);
    if (!*first)
        *first = c;
    else
        rc = rc ? rc : sq_ic_tell_caller(c, e);
    return rc;
}

static int take_processes(struct sq_running *r, struct found *f, struct sq_err *e)
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
static int take_by_seccomp(struct sq_running *r, struct found *f, struct sq_err *e)
{
    cleanup_free pid_t *all = calloc(f->n, sizeof *all);
    int rc = 0;

    r->one = calloc(f->n, sizeof *r->one);
    if (!r->one || !all)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        all[i] = f->v[i].pid;
        rc = sq_attach_check(r->ic, f->v[i].pid, f->v[i].start, e);
    }
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        struct sq_caller *c = NULL;
        struct sq_attached got = {0};

        rc = add_caller(r, &r->one[i], i, &c, e);
        if (rc < 0)
            break;
        r->n = i + 1;
        c->tables = calloc(1, sizeof(*c->tables));
        rc = c->tables ? sq_edge_table(c, false, c->tables, e) : sq_err(e, -ENOMEM, "out of memory");
        rc = rc ? rc : watch_one(&r->one[i], &f->v[i], e);
        rc = rc ? rc : sq_ic_tell_caller(c, e);
        rc = rc ? rc : sq_attach_tree(c, all[i], f->v[i].start, all, f->n, &got, e);
        r->one[i].processes = got.processes;
        say_attached(&r->one[i], &got);
    }
    return rc;
}

static int hook_cgroup(struct sq_running *r, struct sq_caller *c, struct sq_err *e)
{
    cleanup_close int fd = open(r->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    int rc;

    if (fd < 0 || fstat(fd, &st) < 0)
        return sq_err_sys(e, -errno, "cannot open %s", r->cgroup);
    rc = sq_bpf_attach(r->ic, c, fd, NULL, e);
    r->ino = rc < 0 ? 0 : st.st_ino;
    return rc;
}

static struct sq_caller *caller_of(const struct sq_running *r)
{
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (r->ic->caller[i] && r->ic->caller[i]->running == r)
            return r->ic->caller[i];
    return NULL;
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
        if (c->dgram)
            return 0;
        fd = open(r->follow ? root : r->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return sq_err_sys(e, -errno, "cannot open the cgroup of %s", c->instance);
        return sq_dgram_attach(edge->ic, c, fd, r->follow, e);
    }
    return 0;
}

/* A unit or container that is started again has another cgroup by the same name. */
static void on_look(uv_timer_t *t)
{
    struct sq_intercept *ic = t->data;
    struct sq_running *r = ic->running;
    struct sq_caller *c;
    struct stat st;

    while (r && r->look != t)
        r = r->next;
    c = r ? caller_of(r) : NULL;
    if (!c || ic->link.dead)
        return;
    if (stat(r->cgroup, &st) == 0 && st.st_ino != r->ino) {
        cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "uncaller", "id", (json_int_t)c->id);
        struct sq_err e = {0};

        (void)sq_link_send(ic, msg, NULL, 0, NULL);
        sq_bpf_detach(c);
        if (hook_cgroup(r, c, &e) < 0)
            return; /* being removed again, or next time */
        r->empty = false;
        tell(&r->one[0], "restarted");
        sq_ic_warn(ic, r->run, "the cgroup %s was made anew: calls of its first %d ms may have gone past Squall",
                   r->cgroup, LOOK_MS);
    }
    if (sq_cgroup_empty(r->cgroup) != r->empty) {
        r->empty = !r->empty;
        tell(&r->one[0], r->empty ? "exited" : "restarted");
    }
}

static int take_cgroup(struct sq_running *r, const struct found *f, struct sq_err *e)
{
    struct sq_caller *c = NULL;
    int rc;

    memcpy(r->cgroup, f->cgroup, sizeof r->cgroup);
    r->one = calloc(1, sizeof *r->one);
    if (!r->one)
        return sq_err(e, -ENOMEM, "out of memory");
    r->one->pidfd = -1;
    rc = add_caller(r, r->one, 0, &c, e);
    if (rc < 0)
        return rc;
    r->n = 1;
    (void)sq_cgroup_each(r->cgroup, note_pid, &r->one->pid);
    rc = hook_cgroup(r, c, e);
    if (rc < 0)
        return rc;
    r->look = sq_ic_new_timer(r->ic);
    if (!r->look)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)uv_timer_start(r->look, on_look, LOOK_MS, LOOK_MS);
    uv_unref((uv_handle_t *)r->look);
    return 0;
}

/* ---- saying ---- */

struct tally {
    const struct sq_running *r;
    size_t *n; /* by instance */
};

static void count_one(pid_t pid, const struct sq_tgid *whose, void *arg)
{
    struct tally *t = arg;
    const struct sq_caller *c = whose->slot < SQ_CALLERS ? t->r->ic->caller[whose->slot] : NULL;

    (void)pid;
    for (size_t i = 0; c && i < t->r->n; i++)
        if (strcmp(t->r->one[i].instance, c->instance) == 0)
            t->n[i]++;
}

static int count_member(pid_t pid, void *arg)
{
    (void)pid;
    ++*(size_t *)arg;
    return 0;
}

static json_t *describe(const struct sq_running *r)
{
    cleanup_free size_t *n = calloc(r->n, sizeof *n);
    json_t *list = json_array();

    if (n && r->follow)
        sq_follow_each(r->follow, count_one, &(struct tally){r, n});
    else if (n && !r->seccomp)
        (void)sq_cgroup_each(r->cgroup, count_member, &n[0]);
    for (size_t i = 0; n && i < r->n; i++) {
        const struct one *o = &r->one[i];

        if (r->seccomp)
            n[i] = o->processes;
        json_t *j = json_pack("{s:s,s:i,s:I}", "name", o->instance, "pid", (int)o->pid, "processes", (json_int_t)n[i]);

        if (r->cgroup[0])
            (void)json_object_set_new(j, "cgroup", json_string(r->cgroup));
        if (json_object_set_new(j, "cmd", json_string(o->cmd)) < 0) /* not UTF-8 */
            (void)json_object_set_new(j, "cmd", json_string(""));
        (void)json_array_append_new(list, j);
    }
    return list;
}

static int parse_attach(const json_t *def, bool *seccomp, struct sq_err *e)
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
    __attribute__((cleanup(found_free))) struct found f = {0};
    const json_t *select = json_object_get(def, "select");
    struct sq_running *r;
    const char *name = "";
    int rc = sq_json_str(def, "name", &name, e);

    *answer = NULL;
    bool seccomp = false;

    if (rc == 0 && json_object_size(def) != 2 + (json_object_get(def, "attach") != NULL))
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                        "a service that is selected has \"name\", \"select\" and \"attach\", nothing else");
    rc = rc ? rc : parse_attach(def, &seccomp, e);
    rc = rc ? rc : check_free(ic, sq_run_id(run), name, e);
    rc = rc ? rc : find(eng, run, peer, select, &f, e);
    rc = rc ? rc : check_alone(ic, &f, e);
    rc = rc ? rc : seccomp ? sq_intercept_check_seccomp(e) : 0;
    rc = rc ? rc : seccomp ? sq_edge_choose(ic, e) : sq_edge_need_bpf(ic, e);
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
    ic->running = r;
    rc = seccomp ? take_by_seccomp(r, &f, e) : f.cgroup[0] ? take_cgroup(r, &f, e) : take_processes(r, &f, e);
    if (rc < 0) {
        drop(r);
        return rc;
    }
    for (size_t i = 0; i < r->n; i++)
        tell(&r->one[i], "attached");
    *answer = json_pack("{s:s,s:s,s:o}", "service", r->service, "mode", seccomp ? "seccomp" : "bpf", "instances",
                        describe(r));
    return *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

struct sq_running *sq_running_find(struct sq_intercept *ic, const char *run, const char *service)
{
    struct sq_running *r = ic->running;

    while (r && (strcmp(r->run, run) != 0 || strcmp(r->service, service) != 0))
        r = r->next;
    return r;
}

bool sq_running_by_seccomp(struct sq_intercept *ic, const char *run, const char *service)
{
    const struct sq_running *r = sq_running_find(ic, run, service);

    return r && r->seccomp;
}

static const char *state_of(const struct sq_running *r, const struct one *o)
{
    struct sq_proc p;

    if (r->cgroup[0])
        return sq_cgroup_empty(r->cgroup) ? "exited" : "running";
    if (o->pidfd < 0 || sq_proc_read(o->pid, &p, NULL) < 0 || p.start != o->start)
        return "exited";
    return p.state == 'T' ? "stopped" : "running";
}

void sq_running_list(struct sq_intercept *ic, const char *run, json_t *instances)
{
    for (const struct sq_running *r = ic->running; r; r = r->next) {
        json_t *list, *v;
        size_t i;

        if (strcmp(r->run, run) != 0)
            continue;
        list = describe(r);
        json_array_foreach(list, i, v)
        {
            (void)json_object_set_new(v, "service", json_string(r->service));
            (void)json_object_set_new(v, "state", json_string(state_of(r, &r->one[i])));
            (void)json_object_set_new(v, "restarts", json_integer(0));
            (void)json_object_set_new(v, "exit", json_null());
            (void)json_array_append(instances, v);
        }
        json_decref(list);
    }
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

struct pids {
    pid_t *pid;
    size_t n, cap;
};

static int push(struct pids *p, pid_t pid)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        pid_t *more = realloc(p->pid, cap * sizeof *more);

        if (!more)
            return -ENOMEM;
        p->pid = more;
        p->cap = cap;
    }
    p->pid[p->n++] = pid;
    return 0;
}

static void push_followed(pid_t pid, const struct sq_tgid *whose, void *arg)
{
    (void)whose;
    (void)push(arg, pid);
}

static int push_member(pid_t pid, void *arg)
{
    return push(arg, pid);
}

/* ---- the plan ---- */

/* The processes and all their descendants as they are now, without asking BPF. */
struct family {
    struct pids p;
    struct stat self;
    size_t found;
};

static bool in(const struct pids *p, pid_t pid)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->pid[i] == pid)
            return true;
    return false;
}

static int adopt(pid_t pid, void *arg)
{
    struct family *f = arg;
    struct sq_proc p;

    if (in(&f->p, pid) || sq_proc_read(pid, &p, NULL) < 0 || p.state == 'Z' || p.state == 'X' || !in(&f->p, p.ppid) ||
        sq_target_is_squall(&p, &f->self))
        return 0;
    f->found++;
    return push(&f->p, pid);
}

static int family_of(const struct found *found, struct pids *out, struct sq_err *e)
{
    struct family f = {0};
    int rc = 0;

    if (stat("/proc/self/exe", &f.self) < 0)
        f.self.st_ino = 0;
    for (size_t i = 0; i < found->n && rc == 0; i++)
        rc = push(&f.p, found->v[i].pid);
    do {
        f.found = 0;
        rc = rc ? rc : found->cgroup[0] ? sq_cgroup_each(found->cgroup, push_member, &f.p) : sq_proc_each(adopt, &f);
    } while (rc == 0 && f.found);
    *out = f.p;
    return rc < 0 ? sq_err(e, rc, "out of memory") : 0;
}

int sq_running_processes(const struct sq_running *r, pid_t **out, size_t *n, struct sq_err *e)
{
    struct found now = {0};
    struct pids p = {0};
    int rc = 0;

    if (r->follow)
        sq_follow_each(r->follow, push_followed, &p);
    else if (!r->seccomp)
        (void)sq_cgroup_each(r->cgroup, push_member, &p);
    else
        now.v = calloc(r->n + 1, sizeof *now.v);
    for (size_t i = 0; now.v && i < r->n; i++)
        if (r->one[i].pidfd >= 0)
            now.v[now.n++].pid = r->one[i].pid;
    if (r->seccomp)
        rc = now.v ? family_of(&now, &p, e) : sq_err(e, -ENOMEM, "out of memory");
    free(now.v);
    if (rc == 0 && !p.pid)
        p.pid = calloc(1, sizeof *p.pid);
    if (rc < 0 || !p.pid)
        return rc < 0 ? rc : sq_err(e, -ENOMEM, "out of memory");
    *out = p.pid;
    *n = p.n;
    return 0;
}

/* What can't be undone is said before. */
static int plan_seccomp(struct sq_intercept *ic, const struct found *f, json_t *notes, struct sq_err *e)
{
    for (size_t i = 0; i < f->n; i++) {
        int rc = sq_attach_check(ic, f->v[i].pid, f->v[i].start, e);

        if (rc < 0)
            return rc;
    }
    (void)json_array_append_new(
        notes, json_string("attach: seccomp can't be undone: the filter stays for as long as these processes and what "
                           "they start live, and so does a process of Squall's that lets their calls go"));
    (void)json_array_append_new(notes, json_string("they may not make new io_uring instances from then on, and those "
                                                   "without CAP_SYS_ADMIN get no_new_privs: setuid programs that they "
                                                   "start do not gain their rights"));
    return 0;
}

static json_t *hit_of(const struct found *f)
{
    json_t *hit = json_array();

    for (size_t i = 0; i < f->n; i++) {
        json_t *cmd = json_string(f->v[i].cmd);

        (void)json_array_append_new(hit, json_pack("{s:i,s:I,s:o}", "pid", (int)f->v[i].pid, "start",
                                                   (json_int_t)f->v[i].start, "cmd", cmd ? cmd : json_string("")));
    }
    if (f->cgroup[0])
        (void)json_array_append_new(hit, json_pack("{s:s}", "cgroup", f->cgroup));
    return hit;
}

int sq_running_plan(struct sq_intercept *ic, struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer,
                    const json_t *def, json_t **answer, struct sq_err *e)
{
    __attribute__((cleanup(found_free))) struct found f = {0};
    const json_t *to = json_object_get(def, "to");
    struct pids p = {0};
    int64_t open = 0;
    cleanup_json json_t *notes = json_array();
    bool seccomp = false;
    int rc = parse_attach(def, &seccomp, e);

    *answer = NULL;
    rc = rc ? rc : find(eng, run, peer, json_object_get(def, "select"), &f, e);
    rc = rc ? rc : check_alone(ic, &f, e);
    rc = rc            ? rc
         : seccomp     ? plan_seccomp(ic, &f, notes, e)
         : f.cgroup[0] ? sq_running_check(e)
                       : sq_running_check_processes(e);
    rc = rc ? rc : family_of(&f, &p, e);
    rc = rc || !to ? rc : sq_existing_count(ic, to, json_object_get(def, "except"), p.pid, p.n, &open, e);
    if (rc == 0) {
        *answer = json_pack("{s:o,s:I,s:I,s:O}", "hit", hit_of(&f), "processes", (json_int_t)p.n, "connections",
                            (json_int_t)open, "notes", notes);
        rc = *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
    }
    free(p.pid);
    return rc;
}
