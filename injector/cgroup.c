/* cgroup2 directories of services: made, entered, frozen, killed and removed through cgroupfs files only. */
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/paths.h"
#include "squall/proc.h"
#include "squall/units.h"

#define MAX_DEPTH 16 /* of cgroups a service may have made below its own */
#define MARK "squall-"

static void nap(int64_t ns)
{
    struct timespec t = {.tv_sec = ns / SQ_S, .tv_nsec = ns % SQ_S};
    (void)nanosleep(&t, NULL);
}

static int put(const char *dir, const char *file, const char *value, struct sq_err *e)
{
    char path[PATH_MAX];
    int r = sq_path_join(path, sizeof path, dir, file, e);
    if (r < 0)
        return r;
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot open %s", path);
    size_t len = strlen(value);
    ssize_t n;
    do
        n = write(fd, value, len);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)len)
        return sq_err_sys(e, n < 0 ? -errno : -EIO, "cannot write \"%s\" to %s", value, path);
    return 0;
}

/* Undo the \ooo escapes of mountinfo (proc(5)) in place. */
static void unescape(char *s)
{
    char *w = s;
    for (const char *r = s; *r; r++) {
        bool octal =
            r[0] == '\\' && r[1] >= '0' && r[1] <= '3' && r[2] >= '0' && r[2] <= '7' && r[3] >= '0' && r[3] <= '7';
        if (octal) {
            *w++ = (char)(((r[1] - '0') << 6) | ((r[2] - '0') << 3) | (r[3] - '0'));
            r += 3;
        } else {
            *w++ = *r;
        }
    }
    *w = '\0';
}

/* A line of mountinfo, if it is a cgroup2 mount: which cgroup is mounted (root) and where (point). */
static bool cgroup2_mount(char *line, char **root, char **point)
{
    char *type = strstr(line, " - ");
    if (!type || strncmp(type + 3, "cgroup2 ", 8) != 0)
        return false;
    char *save = NULL;
    char *field = strtok_r(line, " ", &save);
    for (int i = 0; field && i < 3; i++)
        field = strtok_r(NULL, " ", &save);
    *root = field;
    *point = strtok_r(NULL, " ", &save);
    if (!*root || !*point)
        return false;
    unescape(*root);
    unescape(*point);
    return true;
}

/* The directory of the cgroup CG (as /proc/PID/cgroup names it) under any cgroup2 mount. */
static int reach(const char *cg, char *buf, size_t len, struct sq_err *e)
{
    cleanup_fclose FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return sq_err_sys(e, -errno, "cannot read /proc/self/mountinfo");
    cleanup_free char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0) {
        char *root = NULL, *point = NULL;
        if (!cgroup2_mount(line, &root, &point))
            continue;
        size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(cg, root, n) != 0 || (cg[n] != '/' && cg[n] != '\0'))
            continue;
        const char *rest = cg + n;
        while (*rest == '/')
            rest++;
        int r = *rest ? snprintf(buf, len, "%s/%s", point, rest) : snprintf(buf, len, "%s", point);
        struct stat st;
        if (r > 0 && (size_t)r < len && stat(buf, &st) == 0 && S_ISDIR(st.st_mode))
            return 0;
    }
    sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOENT, "no cgroup2 mount shows the cgroup %s", cg);
    sq_err_hint(e, "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    return -ENOENT;
}

int sq_cgroup_of(pid_t pid, char *buf, size_t len, struct sq_err *e)
{
    char path[64], text[8192];
    if (pid)
        (void)snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
    else
        (void)snprintf(path, sizeof path, "/proc/self/cgroup");
    ssize_t n = sq_proc_slurp(path, text, sizeof text);
    if (n < 0)
        return sq_err_sys(e, (int)n, "cannot read %s", path);
    char *save = NULL;
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
        if (strncmp(l, "0::/", 4) == 0)
            return strstr(l, "/../")
                       ? sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOENT, "%s is outside of this cgroup namespace", l + 3)
                       : reach(l + 3, buf, len, e);
    return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOENT, "this kernel has no cgroup2 (no 0:: line in %s)", path);
}

/* The path from the root of the hierarchy of the directory PATH. */
static int from_root(const char *path, char *buf, size_t len, struct sq_err *e)
{
    cleanup_fclose FILE *f = fopen("/proc/self/mountinfo", "re");
    cleanup_free char *line = NULL;
    size_t cap = 0;

    while (f && getline(&line, &cap, f) > 0) {
        char *root = NULL, *point = NULL;
        if (!cgroup2_mount(line, &root, &point))
            continue;
        size_t n = strlen(point);
        if (strncmp(path, point, n) != 0 || (path[n] != '/' && path[n] != '\0'))
            continue;
        int r = snprintf(buf, len, "%s%s", strcmp(root, "/") == 0 ? "" : root, path + n);
        return r < 0 || (size_t)r >= len ? sq_err(e, -ENAMETOOLONG, "the path of %s is too long", path) : 0;
    }
    return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "%s is in no cgroup2 mount", path);
}

/* No part of it is "." or "..": with those it could be another cgroup than it looks like, or no cgroup at all. */
static bool is_plain(const char *path)
{
    for (size_t n; *path; path += n) {
        path += strspn(path, "/");
        n = strcspn(path, "/");
        if ((n == 1 || n == 2) && strspn(path, ".") >= n)
            return false;
    }
    return true;
}

int sq_cgroup_find(const char *name, char *buf, size_t len, struct sq_err *e)
{
    char cg[PATH_MAX], full[PATH_MAX];

    if (!is_plain(name) || strlen(name) >= SQ_CGROUP_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.200s\" is no plain path of a cgroup", name);
    (void)snprintf(cg, sizeof cg, "%s%s", name[0] == '/' ? "" : "/", name);
    for (size_t n = strlen(cg); n > 1 && cg[n - 1] == '/'; n--)
        cg[n - 1] = '\0';
    if (from_root(cg, full, sizeof full, NULL) == 0 && access(cg, F_OK) == 0) {
        (void)snprintf(buf, len, "%s", cg);
        return 0;
    }
    if (reach(cg, buf, len, NULL) == 0)
        return 0;
    sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no cgroup2 \"%.200s\"", name);
    sq_err_hint(e, "write it as /proc/PID/cgroup does, for example /system.slice/nginx.service");
    return -ENOENT;
}

int sq_cgroup_id(const char *path, uint64_t *id, uint32_t *level, struct sq_err *e)
{
    struct {
        struct file_handle h;
        uint64_t id;
    } handle = {.h = {.handle_bytes = sizeof handle.id}};
    char full[PATH_MAX];
    struct stat st;
    int mount_id, r = from_root(path, full, sizeof full, e);

    if (r < 0)
        return r;
    /* In a cgroup namespace of our own, what is above it, and so the depth, can't be seen (PROC_CGROUP_INIT_INO). */
    if (stat("/proc/self/ns/cgroup", &st) == 0 && st.st_ino != 0xEFFFFFFBu)
        return sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                          "squalld is in a cgroup namespace: it can't tell cgroups apart");
    if (name_to_handle_at(AT_FDCWD, path, &handle.h, &mount_id, 0) < 0)
        return sq_err_sys(e, -errno, "cannot find the id of the cgroup %s", path);
    memcpy(id, handle.h.f_handle, sizeof *id);
    *level = 0;
    for (const char *p = full; *p; p++)
        *level += p[0] == '/' && p[1] && p[1] != '/';
    if (*level == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the root cgroup is everybody");
    return 0;
}

bool sq_cgroup_has(const char *path, pid_t pid)
{
    char dir[PATH_MAX];
    size_t n = strlen(path);
    return n && sq_cgroup_of(pid, dir, sizeof dir, NULL) == 0 && strncmp(dir, path, n) == 0 &&
           (dir[n] == '\0' || dir[n] == '/');
}

int sq_cgroup_root(char *buf, size_t len, struct sq_err *e)
{
    int r = sq_cgroup_of(0, buf, len, e);
    if (r < 0)
        return r;
    /* A moved squalld would be inside its own: never nest. */
    char *ours = strstr(buf, "/" MARK);
    if (ours)
        *ours = '\0';
    char procs[PATH_MAX];
    r = sq_path_join(procs, sizeof procs, buf, "cgroup.procs", e);
    if (r < 0)
        return r;
    if (faccessat(AT_FDCWD, buf, W_OK | X_OK, AT_EACCESS) < 0 || faccessat(AT_FDCWD, procs, W_OK, AT_EACCESS) < 0) {
        r = -errno;
        sq_err_cls(e, SQ_C_UNSUPPORTED, r, "may not make cgroups in %s: %s", buf, strerror(-r));
        sq_err_hint(e, "run squalld as root, or in a cgroup delegated to this user");
        return r;
    }
    return 0;
}

/* Of two injectors whose directories differ in all but their names: a lock on a byte that stands for the name, of a
 * file that both see wherever else they are (namespaces of networks and mounts). FNV-1a. */
int sq_cgroup_claim(const char *injector, struct sq_err *e)
{
    char root[SQ_CGROUP_MAX], path[PATH_MAX];
    uint64_t h = 14695981039346656037u;
    int r = sq_cgroup_root(root, sizeof root, e);
    if (r == 0)
        r = sq_path_join(path, sizeof path, root, "cgroup.procs", e);
    if (r < 0)
        return r;
    for (const char *p = injector; *p; p++)
        h = (h ^ (uint8_t)*p) * 1099511628211u;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(h >> 2), .l_len = 1};
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot open %s", path);
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return SQ_TAKE_FD(fd);
    if (errno != EAGAIN && errno != EACCES)
        return sq_err_sys(e, -errno, "cannot lock %s", path);
    /* Whoever may read the file can lock it for reading: that is no injector, and must not keep one from its work. */
    if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK)
        return sq_err(e, -EACCES, "somebody who is no injector locks %s", path);
    sq_err_cls(e, SQ_C_CONFLICT, -EBUSY,
               "another injector that is called \"%s\" uses the cgroups %s/" MARK "%s already", injector, root,
               injector);
    sq_err_hint(e, "give this one a directory with another name: squalld --dir .../NAME");
    return -EBUSY;
}

static bool name_ok(const char *s)
{
    return *s && s[0] != '.' && strlen(s) < 128 && !strpbrk(s, "/\n");
}

int sq_cgroup_path(const char *injector, const char *run, const char *instance, char *path, size_t len,
                   struct sq_err *e)
{
    if (!name_ok(injector) || !name_ok(run) || !name_ok(instance))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s/%s/%s\" cannot be the name of a cgroup", injector, run,
                          instance);
    char root[SQ_CGROUP_MAX];
    int r = sq_cgroup_root(root, sizeof root, e);
    if (r < 0)
        return r;
    int n = snprintf(path, len, "%s/" MARK "%s/%s/%s", root, injector, run, instance);
    if (n < 0 || (size_t)n >= len)
        return sq_err(e, -ENAMETOOLONG, "the path of the cgroup of %s is too long", instance);
    return 0;
}

int sq_cgroup_make(const char *injector, const char *run, const char *instance, char *path, size_t len,
                   struct sq_err *e)
{
    int r = sq_cgroup_path(injector, run, instance, path, len, e);
    if (r < 0)
        return r;
    /* The path's last three parts are ours to make; a sweep may remove an empty parent at the same time: try again. */
    for (int attempt = 0; attempt < 5; attempt++) {
        char *end = path + strlen(path);
        char *cut[3] = {NULL, NULL, end};
        for (char *p = end; p > path && !cut[0]; p--)
            if (*p == '/') {
                if (!cut[1])
                    cut[1] = p;
                else
                    cut[0] = p;
            }
        for (int i = 0; i < 3; i++) {
            char keep = *cut[i];
            *cut[i] = '\0';
            r = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
            *cut[i] = keep;
            if (r < 0)
                break;
        }
        if (r != -ENOENT)
            break;
    }
    return r < 0 ? sq_err_sys(e, r, "cannot make the cgroup %s", path) : 0;
}

int sq_cgroup_enter(const char *path, pid_t pid, struct sq_err *e)
{
    char text[16];
    (void)snprintf(text, sizeof text, "%d", (int)pid);
    return put(path, "cgroup.procs", text, e);
}

static int each_depth(const char *path, int depth, int (*fn)(pid_t, void *), void *arg)
{
    char file[PATH_MAX];
    if (depth > MAX_DEPTH || sq_path_join(file, sizeof file, path, "cgroup.procs", NULL) < 0)
        return 0;
    int r = 0;
    {
        cleanup_fclose FILE *f = fopen(file, "re");
        int pid;
        while (f && r == 0 && fscanf(f, "%d", &pid) == 1)
            if (pid > 0) /* 0: not visible in this pid namespace */
                r = fn((pid_t)pid, arg);
    }
    DIR *d = r == 0 ? opendir(path) : NULL;
    if (!d)
        return r;
    for (const struct dirent *de; r == 0 && (de = readdir(d));) {
        if (de->d_type != DT_DIR || de->d_name[0] == '.')
            continue;
        if (sq_path_join(file, sizeof file, path, de->d_name, NULL) == 0)
            r = each_depth(file, depth + 1, fn, arg);
    }
    closedir(d);
    return r;
}

int sq_cgroup_each(const char *path, int (*fn)(pid_t pid, void *arg), void *arg)
{
    return each_depth(path, 0, fn, arg);
}

/* A "key 0|1" line of cgroup.events. */
static int event_flag(const char *path, const char *key, bool *on, struct sq_err *e)
{
    char file[PATH_MAX], text[256];
    int r = sq_path_join(file, sizeof file, path, "cgroup.events", e);
    if (r < 0)
        return r;
    ssize_t n = sq_proc_slurp(file, text, sizeof text);
    if (n < 0)
        return sq_err_sys(e, (int)n, "cannot read %s", file);
    size_t len = strlen(key);
    for (const char *l = text; l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
        if (strncmp(l, key, len) == 0 && l[len] == ' ') {
            *on = l[len + 1] == '1';
            return 0;
        }
    return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP, "%s has no \"%s\": this kernel's cgroup2 is too old (5.2 has it)",
                      file, key);
}

int sq_cgroup_frozen(const char *path, bool *on, struct sq_err *e)
{
    return event_flag(path, "frozen", on, e);
}

int sq_cgroup_freeze(const char *path, bool on, struct sq_err *e)
{
    int r = put(path, "cgroup.freeze", on ? "1" : "0", e);
    if (r < 0)
        return r;
    char file[PATH_MAX];
    r = sq_path_join(file, sizeof file, path, "cgroup.events", e);
    if (r < 0)
        return r;
    /* cgroup.events wakes poll(2) with POLLPRI when it changed since it was last read through this descriptor. */
    cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot open %s", file);
    int64_t end = sq_mono_ns() + SQ_S;
    for (;;) {
        char text[256];
        (void)!pread(fd, text, sizeof text, 0);
        bool now = !on;
        r = sq_cgroup_frozen(path, &now, e);
        if (r < 0 || now == on)
            return r;
        int64_t left = end - sq_mono_ns();
        if (left <= 0)
            return sq_err(e, -ETIMEDOUT, "%s did not %s within 1 s: a process in it does not leave the kernel", path,
                          on ? "freeze" : "thaw");
        struct pollfd p = {.fd = fd, .events = POLLPRI};
        (void)poll(&p, 1, (int)(left / SQ_MS) > 20 ? 20 : (int)(left / SQ_MS) + 1);
    }
}

bool sq_cgroup_empty(const char *path)
{
    bool on = false;
    struct sq_err e = {0};
    int r = event_flag(path, "populated", &on, &e);
    return r == -ENOENT || r == -ENODEV || (r == 0 && !on);
}

static int kill_member(pid_t pid, void *arg)
{
    const char *path = arg;
    cleanup_close int fd = sq_pidfd_open(pid);
    /* The pidfd pins the process first; only then is membership proof that it is the one listed. */
    if (fd >= 0 && sq_cgroup_has(path, pid))
        (void)sq_pidfd_signal(fd, SIGKILL);
    return 0;
}

/* Is it, or is it below, a directory that Squall made? Never anything else is killed or removed. */
static bool ours(const char *path)
{
    const char *p = strstr(path, "/" MARK);
    return p && p[sizeof MARK] != '/' && p[sizeof MARK] != '\0' && !strstr(path, "/../");
}

int sq_cgroup_kill(const char *path, struct sq_err *e)
{
    if (!ours(path))
        return sq_err(e, -EPERM, "%s is not a cgroup that Squall made", path);
    struct sq_err ignored = {0};
    (void)put(path, "cgroup.freeze", "0", &ignored);
    struct sq_err why = {0};
    int r = put(path, "cgroup.kill", "1", &why);
    if (r == 0 || access(path, F_OK) < 0)
        return 0;
    if (r != -ENOENT)
        return e ? (*e = why, r) : r;
    for (int i = 0; i < 100 && !sq_cgroup_empty(path); i++) { /* before 5.14 */
        (void)sq_cgroup_each(path, kill_member, (void *)(uintptr_t)path);
        nap(2 * SQ_MS);
    }
    return 0;
}

static int remove_depth(const char *path, int depth)
{
    if (rmdir(path) == 0 || errno == ENOENT)
        return 0;
    if (errno != EBUSY || depth > MAX_DEPTH)
        return -errno;
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT ? 0 : -errno;
    for (const struct dirent *de; (de = readdir(d));) {
        char child[PATH_MAX];
        if (de->d_type == DT_DIR && de->d_name[0] != '.' &&
            sq_path_join(child, sizeof child, path, de->d_name, NULL) == 0)
            (void)remove_depth(child, depth + 1);
    }
    closedir(d);
    return rmdir(path) == 0 || errno == ENOENT ? 0 : -errno;
}

int sq_cgroup_remove(const char *path, struct sq_err *e)
{
    if (!ours(path))
        return sq_err(e, -EPERM, "%s is not a cgroup that Squall made", path);
    int r = -EBUSY;
    for (int i = 0; i < 20 && r == -EBUSY; i++) {
        r = remove_depth(path, 0);
        if (r == -EBUSY) {
            if (!sq_cgroup_empty(path))
                break;
            nap(SQ_MS); /* the last task is on its way out */
        }
    }
    if (r < 0)
        return sq_err_sys(e, r, "cannot remove the cgroup %s", path);
    /* The run's and the injector's own directory go with their last instance. */
    char up[PATH_MAX];
    if (snprintf(up, sizeof up, "%s", path) >= (int)sizeof up)
        return 0;
    for (char *cut = strrchr(up, '/'); cut; cut = strrchr(up, '/')) {
        *cut = '\0';
        const char *base = strrchr(up, '/');
        if (!base || !strstr(up, "/" MARK) || rmdir(up) < 0 || strncmp(base + 1, MARK, strlen(MARK)) == 0)
            break;
    }
    return 0;
}
