/* Network namespaces by name, pid, container or path (network_namespaces(7), setns(2), ip-netns(8)). */
#include "net/netns.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#define NSFS 0x6e736673
#define NAMED "/run/netns"
#define ID_LEAST 6
#define CGROUP_MAX 8192 /* of /proc/PID/cgroup */

/* ---- identity ---- */

static uint64_t cookie_here(void)
{
    cleanup_close int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;

    return s >= 0 && getsockopt(s, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

static int note_cookie(void *arg, struct sq_err *e)
{
    (void)e;
    *(uint64_t *)arg = cookie_here();
    return 0;
}

static bool same_ns(const struct sq_netns *ns, uint64_t ino, uint64_t cookie)
{
    return ns->ino == ino && (!cookie || !ns->cookie || ns->cookie == cookie);
}

/* Fill fd (which it takes over), ino, cookie and path. -EINVAL when it is no network namespace. */
static int take_open(int open_fd, const char *path, struct sq_netns *ns, struct sq_err *e)
{
    cleanup_close int fd = open_fd;
    struct statfs fs;
    struct stat st;

    if (fstatfs(fd, &fs) < 0 || fs.f_type != NSFS || fstat(fd, &st) < 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%.200s is not a network namespace", path);
    ns->fd = fd;
    ns->ino = st.st_ino;
    (void)snprintf(ns->path, sizeof ns->path, "%s", path);
    int r = sq_netns_call(ns, note_cookie, &ns->cookie, NULL);
    if (r < 0) {
        ns->fd = -1;
        if (r == -EINVAL)
            return sq_err_cls(e, SQ_C_INPUT, r, "%.200s is not a network namespace", path);
        sq_err_cls(e, r == -EPERM ? SQ_C_UNSUPPORTED : SQ_C_INTERNAL, r,
                   "cannot enter the network namespace %.200s: %s", path, strerror(-r));
        sq_err_hint(e, "squalld needs root (CAP_SYS_ADMIN) for another network namespace");
        return r;
    }
    fd = -1;
    return 0;
}

/* -ENOENT when there is nothing. A record's path may be a user's, and a device by now: to open one may do something, so
 * it is looked at first. */
static int open_path(const char *path, struct sq_err *e)
{
    cleanup_close int at = open(path, O_PATH | O_CLOEXEC);
    struct statfs fs;
    char self[64];
    int fd = -1;

    if (at >= 0 && (fstatfs(at, &fs) < 0 || fs.f_type != NSFS))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%.200s is not a network namespace", path);
    if (at >= 0) {
        (void)snprintf(self, sizeof self, "/proc/self/fd/%d", at);
        fd = open(self, O_RDONLY | O_CLOEXEC);
    }
    if (fd >= 0)
        return fd;
    return errno == ENOENT || errno == ESRCH
               ? sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no network namespace at %.200s", path)
               : sq_err_sys(e, -errno, "cannot open the network namespace %.200s", path);
}

static int take(const char *path, struct sq_netns *ns, struct sq_err *e)
{
    int fd = open_path(path, e);

    return fd < 0 ? fd : take_open(fd, path, ns, e);
}

/* ---- by pid ---- */

static int by_pid(pid_t pid, struct sq_netns *ns, struct sq_err *e)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    int r = take(path, ns, NULL);
    if (r == -ENOENT)
        return sq_err_cls(e, SQ_C_NOTFOUND, r, "there is no process %d, so no network namespace of it", (int)pid);
    if (r < 0)
        return sq_err_sys(e, r, "cannot open the network namespace of process %d", (int)pid);
    /* Through its root: what its own /etc is, in a mount namespace too. */
    (void)snprintf(ns->resolv, sizeof ns->resolv, "/proc/%d/root/etc/resolv.conf", (int)pid);
    return 0;
}

static int spec_pid(const char *text, struct sq_netns *ns, struct sq_err *e)
{
    char *end;

    errno = 0;
    long pid = strtol(text, &end, 10);
    if (errno || end == text || *end || pid < 1 || pid > INT32_MAX || !isdigit((unsigned char)*text))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"pid:%.40s\" names no process id", text);
    int r = by_pid((pid_t)pid, ns, e);
    (void)snprintf(ns->name, sizeof ns->name, "pid %ld", pid);
    return r;
}

/* ---- by container ---- */

struct container {
    const char *id;
    char full[72]; /* the whole id of the first that matches */
    pid_t pid;
    bool many;
};

/* The id of the container in a cgroup path, if it begins with ID: a part of at least 32 hex digits, alone or after a
 * runtime's mark: docker-ID.scope, /docker/ID, cri-containerd-ID.scope, cri-containerd:ID
 * (k8s.io/...:cri-containerd:ID), crio-ID.scope, libpod-ID.scope. Conmon's own cgroup (crio-conmon-ID,
 * libpod-conmon-ID) is not the container's. */
static bool id_in(const char *cgroup, const char *id, char *full, size_t len)
{
    size_t n = strlen(id);

    for (const char *p = cgroup; *p;) {
        size_t hex = strspn(p, "0123456789abcdef");
        bool begins = p == cgroup || strchr("/-:_", p[-1]);
        bool conmon = p - cgroup >= 7 && strncmp(p - 7, "conmon-", 7) == 0;

        if (begins && !conmon && hex >= 32 && hex < len && hex >= n && strncmp(p, id, n) == 0 &&
            (!p[hex] || strchr("/.\n:", p[hex]))) {
            memcpy(full, p, hex);
            full[hex] = '\0';
            return true;
        }
        p += hex ? hex : 1;
    }
    return false;
}

static int find_container(pid_t pid, void *arg)
{
    struct container *c = arg;
    char path[64], text[CGROUP_MAX], full[sizeof c->full];
    struct sq_proc p;

    (void)snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
    if (sq_proc_slurp(path, text, sizeof text) <= 0 || !id_in(text, c->id, full, sizeof full))
        return 0;
    if (sq_proc_read(pid, &p, NULL) < 0 || p.state == 'Z' || p.state == 'X')
        return 0;
    if (!c->pid || pid < c->pid) /* the first one: entry points have children in namespaces of their own */
        c->pid = pid;
    if (!c->full[0])
        (void)snprintf(c->full, sizeof c->full, "%s", full);
    c->many |= strcmp(c->full, full) != 0;
    return 0;
}

int sq_container_find(const char *id, char *full, size_t len, pid_t *pid, struct sq_err *e)
{
    struct container c = {.id = id};
    size_t n = strlen(id);

    if (n < ID_LEAST || n > 64 || strspn(id, "0123456789abcdef") != n) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"container:%.70s\" is not the id of a container", id);
        sq_err_hint(e, "6 to 64 of its hex digits, lower case, as docker ps, crictl ps or podman ps show them");
        return -EINVAL;
    }
    (void)sq_proc_each(find_container, &c);
    if (c.many)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "more than one container has an id that begins with %s", id);
    if (!c.pid) {
        sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no running container with an id that begins with %s", id);
        sq_err_hint(e, "it is looked for in the cgroups of all processes that squalld sees");
        return -ENOENT;
    }
    (void)snprintf(full, len, "%s", c.full);
    *pid = c.pid;
    return 0;
}

static int spec_container(const char *id, struct sq_netns *ns, struct sq_err *e)
{
    char full[72];
    pid_t pid = 0;
    int r = sq_container_find(id, full, sizeof full, &pid, e);

    if (r < 0)
        return r;
    r = by_pid(pid, ns, e);
    (void)snprintf(ns->name, sizeof ns->name, "container %.12s", full);
    return r;
}

/* ---- by name and by path ---- */

static int spec_name(const char *name, struct sq_netns *ns, struct sq_err *e)
{
    char path[sizeof ns->path];

    if (!*name || strchr(name, '/') || name[0] == '.' || strlen(name) > 90)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" can't be the name of a network namespace", name);
    (void)snprintf(path, sizeof path, NAMED "/%s", name);
    int r = take(path, ns, NULL);
    if (r == -ENOENT || r == -EINVAL) { /* the file that a namespace was mounted on stays an ordinary one */
        sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no network namespace \"%s\"", name);
        sq_err_hint(e, "ip netns list shows those with a name; or write pid:N, container:ID or a path");
        return -ENOENT;
    }
    if (r < 0)
        return sq_err_sys(e, r, "cannot open the network namespace \"%s\"", name);
    (void)snprintf(ns->name, sizeof ns->name, "%s", name);
    (void)snprintf(ns->resolv, sizeof ns->resolv, "/etc/netns/%s/resolv.conf", name);
    return 0;
}

static bool fits(const char *path, struct sq_err *e)
{
    if (strlen(path) < sizeof((struct sq_netns *)NULL)->path)
        return true;
    sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the path of the network namespace is too long");
    return false;
}

int sq_netns_adopt(int fd, const char *path, struct sq_netns *ns, struct sq_err *e)
{
    long pid = 0;

    *ns = (struct sq_netns){.fd = -1};
    if (!fits(path, e)) {
        (void)close(fd);
        return -ENAMETOOLONG;
    }
    int r = take_open(fd, path, ns, e);
    (void)snprintf(ns->name, sizeof ns->name, "%.90s", path);
    if (sscanf(path, "/proc/%ld/", &pid) == 1)
        (void)snprintf(ns->resolv, sizeof ns->resolv, "/proc/%ld/root/etc/resolv.conf", pid);
    else
        (void)snprintf(ns->resolv, sizeof ns->resolv, "/etc/resolv.conf");
    return r;
}

static int spec_path(const char *path, struct sq_netns *ns, struct sq_err *e)
{
    if (!fits(path, e))
        return -ENAMETOOLONG;
    int fd = open_path(path, e);
    return fd < 0 ? fd : sq_netns_adopt(fd, path, ns, e);
}

int sq_netns_open(const char *spec, struct sq_netns *ns, struct sq_err *e)
{
    struct stat st;

    *ns = (struct sq_netns){.fd = -1};
    if (!spec) {
        if (stat("/proc/thread-self/ns/net", &st) < 0)
            return sq_err_sys(e, -errno, "cannot see our own network namespace");
        ns->ino = st.st_ino;
        ns->cookie = cookie_here();
        (void)snprintf(ns->name, sizeof ns->name, "squalld's own");
        (void)snprintf(ns->resolv, sizeof ns->resolv, "/etc/resolv.conf");
        return 0;
    }
    if (strncmp(spec, "pid:", 4) == 0)
        return spec_pid(spec + 4, ns, e);
    if (strncmp(spec, "container:", 10) == 0)
        return spec_container(spec + 10, ns, e);
    return spec[0] == '/' ? spec_path(spec, ns, e) : spec_name(spec, ns, e);
}

int sq_netns_open_pid(pid_t pid, struct sq_netns *ns, struct sq_err *e)
{
    char spec[32];

    (void)snprintf(spec, sizeof(spec), "pid:%d", (int)pid);
    return sq_netns_open(spec, ns, e);
}

void sq_netns_close(struct sq_netns *ns)
{
    if (ns->fd >= 0)
        (void)close(ns->fd);
    ns->fd = -1;
}

/* ---- again, later ---- */

json_t *sq_netns_record(const struct sq_netns *ns)
{
    return json_pack("{s:s,s:s,s:I,s:I,s:s}", "path", ns->path, "name", ns->name, "ino", (json_int_t)ns->ino, "cookie",
                     (json_int_t)ns->cookie, "resolv", ns->resolv);
}

struct search {
    struct sq_netns *ns;
    uint64_t ino, cookie;
};

/* Is it the one behind PATH? Then it is left open in s->ns. */
static bool is_it(struct search *s, const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || st.st_ino != s->ino || take(path, s->ns, NULL) < 0)
        return false;
    if (same_ns(s->ns, s->ino, s->cookie))
        return true;
    sq_netns_close(s->ns);
    return false;
}

static int in_process(pid_t pid, void *arg)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    return is_it(arg, path) ? 1 : 0;
}

static bool in_named(struct search *s)
{
    DIR *d = opendir(NAMED);
    bool found = false;

    for (const struct dirent *de; d && !found && (de = readdir(d));) {
        char path[sizeof s->ns->path];

        if (de->d_name[0] == '.' || strlen(de->d_name) > 200)
            continue;
        (void)snprintf(path, sizeof path, NAMED "/%s", de->d_name);
        found = is_it(s, path);
    }
    if (d)
        closedir(d);
    return found;
}

int sq_netns_find(const json_t *record, struct sq_netns *ns, struct sq_err *e)
{
    const char *path = sq_json_str_or(record, "path", ""), *name = sq_json_str_or(record, "name", "?");
    struct search s = {.ns = ns,
                       .ino = (uint64_t)sq_json_int_or(record, "ino", 0),
                       .cookie = (uint64_t)sq_json_int_or(record, "cookie", 0)};

    int r = sq_netns_open(NULL, ns, e);
    if (r < 0)
        return r;
    bool found = same_ns(ns, s.ino, s.cookie);
    if (!found)
        *ns = (struct sq_netns){.fd = -1};
    found = found || (*path && is_it(&s, path)) || in_named(&s) || sq_proc_each(in_process, &s) == 1;
    if (!found)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "the network namespace of %s is gone", name);
    (void)snprintf(ns->name, sizeof ns->name, "%s", name);
    (void)snprintf(ns->resolv, sizeof ns->resolv, "%s", sq_json_str_or(record, "resolv", "/etc/resolv.conf"));
    return 0;
}

/* ---- inside ---- */

int sq_netns_call(const struct sq_netns *ns, int (*fn)(void *arg, struct sq_err *e), void *arg, struct sq_err *e)
{
    if (ns->fd < 0)
        return fn(arg, e);
    cleanup_close int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return sq_err_sys(e, -errno, "cannot open our own network namespace");
    if (setns(ns->fd, CLONE_NEWNET) < 0) {
        int r = -errno;
        sq_err_cls(e, r == -EPERM ? SQ_C_UNSUPPORTED : SQ_C_INTERNAL, r, "cannot enter the network namespace of %s: %s",
                   ns->name, strerror(-r));
        return r;
    }
    int r = fn(arg, e);
    /* Whoever stayed there would do the next thing to the wrong network: the keeper takes everything back instead. */
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
    return r;
}
