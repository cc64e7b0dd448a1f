/* From a target ({"pid"}, {"pattern"}, {"port"}, {"unit"}, {"cgroup"}, {"container"}, {"service"}) to the processes
 * that it names, each pinned by a pidfd. */
#include "target.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "engine.h"
#include "select.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/pattern.h"
#include "squall/proc.h"
#include "squall/units.h"

#define MAX_MATCHES 4096
#define MAX_ANCESTORS 128
#define MAX_LISTENERS 64
#define MATCHING_NS SQ_S
#define CMDLINE_MAX 131072

enum how { BY_SERVICE, BY_PID, BY_PATTERN, BY_PORT, BY_UNIT, BY_CGROUP, BY_CONTAINER };

struct scan {
    struct sq_fault *f;
    enum how how;
    struct sq_pattern *pattern;
    int64_t deadline; /* of all matching for one request: the loop stands still meanwhile */
    char *cmdline;    /* CMDLINE_MAX, scratch */
    const char *want_instance;
    unsigned long inodes[MAX_LISTENERS];
    size_t ninodes;
    char cgroup[SQ_CGROUP_MAX];  /* of a unit, a container, or itself */
    bool excluded;               /* a process of Squall's own would match */
    bool unreadable;             /* a process's descriptors could not be read */
    pid_t family[MAX_ANCESTORS]; /* the peer's and our own ancestors */
    size_t nfamily;
    struct stat self;
    struct sq_victim *v;
    size_t n, cap;
    struct sq_err *e;
};

void sq_victims_free(struct sq_victim *v, size_t n)
{
    for (size_t i = 0; v && i < n; i++)
        if (v[i].pidfd >= 0)
            close(v[i].pidfd);
    free(v);
}

/* ---- who is never meant ---- */

static void add_ancestors(struct scan *s, pid_t pid)
{
    struct sq_proc p;
    while (pid > 1 && s->nfamily < MAX_ANCESTORS && sq_proc_read(pid, &p, NULL) == 0) {
        s->family[s->nfamily++] = pid;
        pid = p.ppid;
    }
}

static bool is_family(const struct scan *s, pid_t pid)
{
    for (size_t i = 0; i < s->nfamily; i++)
        if (s->family[i] == pid)
            return true;
    return false;
}

/* squalld, its keeper, its proxy, launchers that have not become their command yet, and squall. */
bool sq_target_is_squall(const struct sq_proc *p, const struct stat *self)
{
    char path[64], exe[512];
    struct stat st;
    (void)snprintf(path, sizeof path, "/proc/%d/exe", (int)p->pid);
    if (self->st_ino && stat(path, &st) == 0 && st.st_dev == self->st_dev && st.st_ino == self->st_ino)
        return true;
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    const char *base = p->comm;
    if (n > 0) {
        exe[n] = '\0';
        char *gone = strstr(exe, " (deleted)");
        if (gone)
            *gone = '\0';
        base = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
    }
    return strcmp(base, "squall") == 0 || strcmp(base, "squalld") == 0;
}

static bool is_squall(const struct scan *s, const struct sq_proc *p)
{
    return sq_target_is_squall(p, &s->self);
}

static bool is_kthread(const struct sq_proc *p)
{
    return p->pid == 2 || p->ppid == 2;
}

static bool is_dead(const struct sq_proc *p)
{
    return p->state == 'Z' || p->state == 'X';
}

/* ---- matches ---- */

static int add(struct scan *s, const struct sq_proc *p, const char *instance, const char *cgroup)
{
    if (s->n == MAX_MATCHES)
        return sq_err_cls(s->e, SQ_C_INPUT, -E2BIG, "more than %d processes match: say more exactly which",
                          MAX_MATCHES);
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct sq_victim *v = realloc(s->v, cap * sizeof *v);
        if (!v)
            return sq_err(s->e, -ENOMEM, "out of memory");
        s->v = v;
        s->cap = cap;
    }
    struct sq_victim *v = &s->v[s->n++];
    memset(v, 0, sizeof *v);
    v->pid = p->pid;
    v->start = p->start;
    v->pidfd = -1;
    (void)snprintf(v->instance, sizeof v->instance, "%s", instance ? instance : "");
    (void)snprintf(v->cgroup, sizeof v->cgroup, "%s", cgroup ? cgroup : "");
    (void)sq_proc_cmdline(p->pid, v->cmd, sizeof v->cmd);
    return 0;
}

/* 1, 0, or -ETIMEDOUT. */
static int matches_pattern(const struct scan *s, pid_t pid)
{
    return sq_proc_cmdline(pid, s->cmdline, CMDLINE_MAX) == 0 ? sq_pattern_match(s->pattern, s->cmdline, s->deadline)
                                                              : 0;
}

/* Does PID hold one of the listening sockets? */
static bool listens(struct scan *s, pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    if (!d) {
        s->unreadable |= errno == EACCES;
        return false;
    }
    bool found = false;
    for (const struct dirent *de; !found && (de = readdir(d));) {
        char link[64];
        ssize_t n =
            isdigit((unsigned char)de->d_name[0]) ? readlinkat(dirfd(d), de->d_name, link, sizeof link - 1) : -1;
        if (n <= 8 || memcmp(link, "socket:[", 8) != 0)
            continue;
        link[n] = '\0';
        unsigned long inode = strtoul(link + 8, NULL, 10);
        for (size_t i = 0; i < s->ninodes; i++)
            found |= s->inodes[i] == inode;
    }
    closedir(d);
    return found;
}

static int too_slow(struct scan *s)
{
    sq_err_cls(s->e, SQ_C_INPUT, -ETIMEDOUT, "the pattern takes more than a second to look for");
    sq_err_hint(s->e, "write it without nested repetitions, or name a pid, a port or a service");
    return -ETIMEDOUT;
}

static int consider(pid_t pid, void *arg)
{
    struct scan *s = arg;
    struct sq_proc p;
    if (pid <= 1 || sq_proc_read(pid, &p, NULL) < 0 || is_dead(&p) || is_kthread(&p))
        return 0;
    if (s->how == BY_PATTERN) {
        int r = is_family(s, pid) ? 0 : matches_pattern(s, pid);
        if (r < 0)
            return too_slow(s);
        if (r == 0)
            return 0;
    }
    if (s->how == BY_PORT && !listens(s, pid))
        return 0;
    if (is_squall(s, &p) || (s->how >= BY_UNIT && is_family(s, pid))) {
        s->excluded = true;
        return 0;
    }
    return add(s, &p, NULL, NULL);
}

static int add_instance(const char *instance, pid_t pid, uint64_t start, const char *cgroup, void *arg)
{
    struct scan *s = arg;
    struct sq_proc p;
    if (s->want_instance && strcmp(instance, s->want_instance) != 0)
        return 0;
    if (sq_proc_read(pid, &p, NULL) < 0 || p.start != start || is_dead(&p))
        return 0;
    return add(s, &p, instance, cgroup);
}

static int gather_service(struct scan *s)
{
    const char *service = sq_json_str_or(s->f->target, "service", "");
    int64_t index = sq_json_int_or(s->f->target, "instance", -1);
    char name[128];
    (void)snprintf(name, sizeof name, "%s.%lld", service, (long long)index);
    s->want_instance = json_object_get(s->f->target, "instance") ? name : NULL;
    int r = sq_service_each(sq_engine_services(s->f->engine), sq_run_id(s->f->run), service, add_instance, s);
    s->want_instance = NULL;
    if (r < 0)
        return r;
    if (s->n == 0 && json_object_get(s->f->target, "instance"))
        return sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "instance %lld of service \"%s\" is not running",
                          (long long)index, service);
    return s->n
               ? 0
               : sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "service \"%s\" has no running instance in this run", service);
}

static int gather_pid(struct scan *s)
{
    int64_t pid = sq_json_int_or(s->f->target, "pid", 0);
    struct sq_proc p;
    if (pid <= 0 || pid > INT32_MAX)
        return sq_err_cls(s->e, SQ_C_INPUT, -EINVAL, "%lld is not a process id", (long long)pid);
    if (sq_proc_read((pid_t)pid, &p, NULL) < 0 || is_dead(&p))
        return sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "there is no process %lld", (long long)pid);
    if (pid == 1 || is_kthread(&p))
        return sq_err_cls(s->e, SQ_C_INPUT, -EINVAL, "process %lld (%s) is %s: it is never a target", (long long)pid,
                          p.comm, pid == 1 ? "the init process" : "a kernel thread");
    if (is_squall(s, &p))
        return sq_err_cls(s->e, SQ_C_INPUT, -EINVAL, "process %lld (%s) belongs to Squall itself: it is never a target",
                          (long long)pid, p.comm);
    return add(s, &p, NULL, NULL);
}

static int gather_pattern(struct scan *s)
{
    const char *pattern = sq_json_str_or(s->f->target, "pattern", "");
    int r;
    if (!s->pattern) {
        r = sq_pattern_compile(pattern, &s->pattern, s->e);
        if (r < 0)
            return r;
        s->deadline = sq_mono_ns() + MATCHING_NS;
        s->cmdline = malloc(CMDLINE_MAX);
        if (!s->cmdline)
            return sq_err(s->e, -ENOMEM, "out of memory");
    }
    r = sq_proc_each(consider, s);
    if (r < 0)
        return r;
    return s->n ? 0 : sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "no process's command line matches \"%s\"", pattern);
}

/* Inodes of the listening sockets on PORT (proc(5): state 0A, local address HEX:PORT, inode the tenth field). */
static void listening_inodes(struct scan *s, const char *file, unsigned port)
{
    cleanup_fclose FILE *f = fopen(file, "re");
    cleanup_free char *line = NULL;
    size_t cap = 0;
    while (f && s->ninodes < MAX_LISTENERS && getline(&line, &cap, f) > 0) {
        char addr[64];
        unsigned local = 0, state = 0;
        unsigned long inode = 0;
        int n = sscanf(line, " %*u: %63[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %lu", addr, &local,
                       &state, &inode);
        if (n == 4 && state == 0x0A && local == port && inode)
            s->inodes[s->ninodes++] = inode;
    }
}

static int gather_port(struct scan *s)
{
    int64_t port = sq_json_int_or(s->f->target, "port", 0);
    if (port < 1 || port > 65535)
        return sq_err_cls(s->e, SQ_C_INPUT, -ERANGE, "%lld is not a port (1 to 65535)", (long long)port);
    s->ninodes = 0;
    listening_inodes(s, "/proc/net/tcp", (unsigned)port);
    listening_inodes(s, "/proc/net/tcp6", (unsigned)port);
    if (!s->ninodes)
        return sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "nobody listens on TCP port %lld", (long long)port);
    int r = sq_proc_each(consider, s);
    if (r < 0 || s->n)
        return r;
    if (s->unreadable && !s->excluded) {
        sq_err_cls(s->e, SQ_C_DENIED, -EACCES, "whoever listens on TCP port %lld is another user's process",
                   (long long)port);
        sq_err_hint(s->e, "use a squalld that runs as root or as that user");
        return -EACCES;
    }
    return sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "%s listens on TCP port %lld",
                      s->excluded ? "only Squall itself" : "no process that can be seen", (long long)port);
}

static int gather_cgroup(struct scan *s)
{
    int r = sq_select_cgroup(s->f->target, s->cgroup, sizeof s->cgroup, NULL, s->e);
    r = r ? r : sq_cgroup_each(s->cgroup, consider, s);
    if (r < 0 || s->n)
        return r;
    return sq_err_cls(s->e, SQ_C_NOTFOUND, -ESRCH, "%s in the cgroup %.200s",
                      s->excluded ? "there is only Squall itself, or who asks," : "there is no process", s->cgroup);
}

static int by_pid(const void *a, const void *b)
{
    pid_t x = ((const struct sq_victim *)a)->pid, y = ((const struct sq_victim *)b)->pid;
    return x < y ? -1 : x > y;
}

static int gather(struct scan *s)
{
    int r = 0;
    s->n = 0;
    switch (s->how) {
    case BY_SERVICE:
        return gather_service(s); /* already in the order of their numbers */
    case BY_PID:
        return gather_pid(s);
    case BY_PATTERN:
        r = gather_pattern(s);
        break;
    case BY_PORT:
        r = gather_port(s);
        break;
    case BY_UNIT:
    case BY_CGROUP:
    case BY_CONTAINER:
        r = gather_cgroup(s);
        break;
    }
    if (r == 0)
        qsort(s->v, s->n, sizeof *s->v, by_pid);
    return r;
}

/* ---- choice ---- */

/* Pin first, then look again: whatever had the number a moment ago, this is the process that matches now. */
static int pin(struct scan *s, struct sq_victim *v)
{
    cleanup_close int fd = sq_proc_pidfd(v->pid, v->start, NULL);
    if (fd < 0)
        return -EAGAIN;
    int match = s->how == BY_PATTERN ? matches_pattern(s, v->pid) : 1;
    if (match < 0)
        return too_slow(s);
    if (match == 0)
        return -EAGAIN;
    if (s->how == BY_PORT && !listens(s, v->pid))
        return -EAGAIN;
    if (s->how >= BY_UNIT && !sq_cgroup_has(s->cgroup, v->pid))
        return -EAGAIN;
    v->pidfd = SQ_TAKE_FD(fd);
    return 0;
}

static json_t *text(const char *s)
{
    json_t *j = json_string(s);
    if (j)
        return j;
    char clean[256]; /* not UTF-8 */
    (void)snprintf(clean, sizeof clean, "%s", s);
    for (char *p = clean; *p; p++)
        if (*p & 0x80)
            *p = '?';
    return json_string(clean);
}

static json_t *describe(const struct sq_victim *v)
{
    json_t *o = json_pack("{s:i,s:I,s:o*,s:b}", "pid", (int)v->pid, "start", (json_int_t)v->start, "cmd", text(v->cmd),
                          "chosen", v->pidfd >= 0);
    if (o && v->instance[0])
        json_object_set_new(o, "instance", json_string(v->instance));
    return o;
}

static int choose(struct scan *s, struct sq_count count, struct sq_victim **out, size_t *n)
{
    size_t k = sq_count_of(&count, s->n);
    cleanup_free size_t *pick = calloc(k, sizeof *pick);
    struct sq_victim *chosen = calloc(k, sizeof *chosen);
    json_t *hit = json_array();
    int r = pick && chosen && hit ? 0 : sq_err(s->e, -ENOMEM, "out of memory");
    if (r == 0)
        sq_rng_choose(&s->f->rng, s->n, k, pick);
    for (size_t i = 0; r == 0 && i < k; i++)
        r = pin(s, &s->v[pick[i]]);
    for (size_t i = 0; r == 0 && i < s->n; i++)
        if (json_array_append_new(hit, describe(&s->v[i])) < 0)
            r = sq_err(s->e, -ENOMEM, "out of memory");
    for (size_t i = 0; chosen && pick && i < k; i++) {
        struct sq_victim *v = &s->v[pick[i]];
        if (r == 0)
            chosen[i] = *v;
        else if (v->pidfd >= 0)
            close(v->pidfd);
        v->pidfd = -1;
    }
    if (r < 0) {
        free(chosen);
        json_decref(hit);
        return r;
    }
    json_decref(s->f->hit);
    s->f->hit = hit;
    *out = chosen;
    *n = k;
    return 0;
}

static int selector(const json_t *target, enum how *how, struct sq_err *e)
{
    static const char *const keys[] = {
        [BY_SERVICE] = "service", [BY_PID] = "pid",       [BY_PATTERN] = "pattern",    [BY_PORT] = "port",
        [BY_UNIT] = "unit",       [BY_CGROUP] = "cgroup", [BY_CONTAINER] = "container"};
    int given = 0;
    for (size_t i = 0; i < SQ_COUNT(keys); i++)
        if (json_object_get(target, keys[i])) {
            given++;
            *how = (enum how)i;
        }
    if (given != 1) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                   given ? "the target names its processes in %d ways" : "the target names no process", given);
        sq_err_hint(e, "give exactly one of service, pid, pattern, port, unit, cgroup and container");
        return -EINVAL;
    }
    if (json_object_get(target, "instance") && *how != BY_SERVICE)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"instance\" goes with \"service\" only");
    return 0;
}

static int count_of(const struct scan *s, struct sq_count *count, struct sq_err *e)
{
    const json_t *c = json_object_get(s->f->target, "count");
    char number[32];
    const char *how_many = s->how == BY_PID ? "all" : "1";
    if (json_is_integer(c)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(c));
        how_many = number;
    } else if (json_is_string(c)) {
        how_many = json_string_value(c);
    }
    return sq_parse_count(how_many, count, e);
}

int sq_target_resolve(struct sq_fault *f, struct sq_victim **out, size_t *n, struct sq_err *e)
{
    cleanup_free struct scan *s = calloc(1, sizeof *s);
    struct sq_count count;
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    s->f = f;
    s->e = e;
    int r = selector(f->target, &s->how, e);
    if (r == 0)
        r = count_of(s, &count, e);
    if (r < 0)
        return r;
    if (stat("/proc/self/exe", &s->self) < 0)
        s->self.st_ino = 0;
    add_ancestors(s, getpid());
    add_ancestors(s, f->peer.pid);

    const struct sq_rng seed = f->rng;
    r = -EAGAIN;
    for (int attempt = 0; r == -EAGAIN && attempt < 3; attempt++) {
        f->rng = seed; /* the same choice among the same matches, however often it took */
        r = gather(s);
        if (r == 0)
            r = choose(s, count, out, n);
    }
    if (r == -EAGAIN)
        sq_err(e, r, "the processes that match come and go too fast to pick one");
    sq_pattern_free(s->pattern);
    free(s->cmdline);
    free(s->v);
    return r;
}

int sq_target_check(struct sq_engine *eng, struct sq_err *e)
{
    (void)eng;
    cleanup_close int fd = sq_pidfd_open(getpid());
    if (fd < 0) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, fd, "this kernel has no pidfd_open: %s", strerror(-fd));
        sq_err_hint(e, "Linux 5.3 has it; a container's seccomp profile may forbid it");
        return fd;
    }
    return 0;
}

int sq_target_dose(const struct sq_fault *f, bool *control, struct sq_err *e)
{
    double dose = sq_json_num_or(f->with, "dose", 100.0);

    *control = dose <= 0.0;
    if (*control || dose >= 100.0)
        return 0;
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: a process can't be hit by half: the dose is 0%% or 100%%", f->spec->name);
    sq_err_hint(e, "count: 50%% chooses half of the processes");
    return -EINVAL;
}
