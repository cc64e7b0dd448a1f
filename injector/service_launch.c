/* squalld's side of a launch (launch.h): nothing of the command runs before its undo record is on disk, it is in its
 * cgroup and its calls are supervised. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch.h"
#include "runas.h"
#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/proc.h"

#define HIGH_FD 10 /* the child's ends are moved up here, clear of 0 to 3 */

static void finish(struct svc *i, const struct sq_err *e)
{
    struct sq_err err = e ? *e : (struct sq_err){0};
    svc_launched *fn = i->launched;
    watch_end(&i->chan);
    watch_end(&i->limit);
    free(SQ_TAKE(i->arming.filter));
    i->launched = NULL;
    if (!err.code) {
        i->state = SVC_RUNNING;
        i->up_since = sq_mono_ns();
    } else {
        i->state = SVC_EXITED;
        cleanup_close int fd = !i->is_exec && i->exit ? sq_proc_pidfd(i->tree.pid, i->tree.start, NULL) : -1;
        if (fd >= 0)
            (void)sq_pidfd_signal(fd, SIGKILL);
    }
    if (fn)
        fn(i, &err);
}

static int fill_memfd(int fd, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)data + done, len - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int send_order(struct svc *i, int sock, json_t *order, struct sq_err *e)
{
    size_t flen = i->arming.seccomp ? i->arming.filter_len : 0;
    json_object_set_new(order, "filter_len", json_integer((json_int_t)flen));
    cleanup_free char *text = json_dumps(order, JSON_COMPACT);
    cleanup_close int fd = memfd_create("squall-launch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (!text || fd < 0)
        return sq_err_sys(e, text ? -errno : -ENOMEM, "cannot prepare the launch of %s", i->name);
    size_t len = strlen(text);
    if (len + flen > SQ_LAUNCH_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the command and environment of %s are too long", i->name);
    int r = fill_memfd(fd, text, len);
    if (r == 0 && flen)
        r = fill_memfd(fd, i->arming.filter, flen);
    if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        r = -errno;
    char head[64];
    int n = snprintf(head, sizeof head, "M%zu,%zu", len, flen);
    if (r == 0)
        r = sq_packet_send(sock, head, (size_t)n, fd);
    return r < 0 ? sq_err_sys(e, r, "cannot tell the launcher of %s what to do", i->name) : 0;
}

/* Whoever is at the other end, only a seccomp listener is one. */
static bool is_listener(int fd)
{
    char path[64], link[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n <= 0)
        return false;
    link[n] = '\0';
    return strcmp(link, "anon_inode:seccomp notify") == 0;
}

static int take_listener(struct svc *i, int *fd, struct sq_err *e)
{
    if (*fd < 0 || !i->arming.seccomp || i->has_listener || !is_listener(*fd))
        return sq_err(e, -EPROTO, "the launcher of %s sent something else than its seccomp listener", i->name);
    i->has_listener = true;
    return sq_intercept_supervise(sq_engine_intercept(i->s->eng), i->arming.key, i->tree.pid, SQ_TAKE_FD(*fd), e);
}

static int say_go(struct svc *i, struct sq_err *e)
{
    if (i->went || (i->arming.seccomp && !i->has_listener))
        return sq_err(e, -EPROTO, "the launcher of %s is ready without its seccomp listener", i->name);
    if (i->tree.cgroup[0] && !sq_cgroup_has(i->tree.cgroup, i->tree.pid))
        return sq_err(e, -EPROTO, "the launcher of %s is not in its cgroup", i->name);
    i->went = true;
    int r = sq_packet_send(i->chan->fd, "G", 1, -1);
    return r < 0 ? sq_err_sys(e, r, "cannot tell the launcher of %s to go", i->name) : 0;
}

static int launcher_failed(const struct svc *i, const char *text, struct sq_err *e)
{
    char *end = NULL;
    long err = strtol(text, &end, 10);
    char what[512];
    (void)snprintf(what, sizeof what, "%s", *end == ' ' ? end + 1 : end);
    for (char *p = what; *p; p++)
        if (iscntrl((unsigned char)*p))
            *p = '?';
    if (err <= 0 || err > 4095)
        err = EIO;
    bool input = err == ENOENT || err == EACCES || err == ENOEXEC || err == ENOTDIR || err == ELOOP || err == E2BIG;
    sq_err_cls(e, input ? SQ_C_INPUT : SQ_C_INTERNAL, -(int)err, "%s: %s: %s", i->name, what, strerror((int)err));
    if (err == ENOENT)
        sq_err_hint(e,
                    "does it exist, and is it on the PATH of the service's env? A script also needs its interpreter");
    else if (err == EACCES)
        sq_err_hint(e, "may uid %u read and execute it, and enter its directory?", (unsigned)i->peer.uid);
    return -(int)err;
}

static void on_packet(void *owner)
{
    struct svc *i = owner;
    struct sq_err e = {0};
    while (i->chan) {
        char packet[SQ_LAUNCH_PACKET];
        cleanup_close int fd = -1;
        ssize_t n = sq_packet_recv(i->chan->fd, packet, sizeof packet, &fd);
        int r = 0;
        if (n == -EAGAIN)
            return;
        if (n == 0 && i->went) {
            finish(i, NULL); /* close-on-exec closed it */
            return;
        }
        if (n <= 0)
            r = sq_err(&e, n < 0 ? (int)n : -ECHILD, "the launcher of %s ended before it ran the command", i->name);
        else if (packet[0] == 'L' && n == 1)
            r = take_listener(i, &fd, &e);
        else if (packet[0] == 'R' && n == 1)
            r = say_go(i, &e);
        else if (packet[0] == 'E')
            r = launcher_failed(i, packet + 1, &e);
        else
            r = sq_err(&e, -EPROTO, "the launcher of %s does not keep to the protocol", i->name);
        if (r < 0) {
            if (!e.code)
                sq_err(&e, r, "the launch of %s failed", i->name);
            finish(i, &e);
            return;
        }
    }
}

static void on_limit(void *owner)
{
    struct svc *i = owner;
    struct sq_err e = {0};
    sq_err(&e, -ETIMEDOUT, "%s was not launched within 10 s", i->name);
    finish(i, &e);
}

void svc_launch_cancel(struct svc *i)
{
    if (!i->launched)
        return;
    struct sq_err e = {0};
    sq_err_cls(&e, SQ_C_CONFLICT, -ECANCELED, "%s was stopped while it was being launched", i->name);
    finish(i, &e);
}

int svc_handshake(struct svc *i, int sock, json_t *order, struct sq_err *e)
{
    i->went = i->has_listener = false;
    i->chan = watch_fd(i->s, sock, on_packet, i);
    i->limit = watch_timer(i->s, SVC_LAUNCH_NS, 0, on_limit, i);
    if (!i->chan || !i->limit)
        return sq_err(e, -ENOMEM, "out of memory");
    return send_order(i, i->chan->fd, order, e);
}

/* ---- the order to a service's launcher ---- */

static json_t *limits_json(const struct sq_services *s)
{
    json_t *out = json_array();
    for (int k = 0; k < RLIM_NLIMITS; k++) {
        rlim_t soft = s->limits[k].rlim_cur, hard = s->limits[k].rlim_max;
        json_array_append_new(out, json_pack("[I,I]", soft == RLIM_INFINITY ? (json_int_t)-1 : (json_int_t)soft,
                                             hard == RLIM_INFINITY ? (json_int_t)-1 : (json_int_t)hard));
    }
    return out;
}

static json_t *order_of(const struct svc *i)
{
    cleanup_free char *cwd = svc_def_cwd(i->def, i->index);
    bool root = geteuid() == 0;
    json_t *o =
        json_pack("{s:o*,s:o*,s:s*,s:b,s:b,s:b,s:i,s:o*}", "argv", svc_def_argv(i->def, i->index), "env",
                  svc_def_env(i->def, i->index, &i->peer, i->tree.mark), "cwd", cwd, "setsid", 1, "drop", root, "nnp",
                  i->arming.seccomp && !(root && i->peer.uid == 0), "oom", 0, "limits", limits_json(i->s));
    if (!o || !root)
        return o;
    cleanup_free gid_t *groups = calloc(SQ_GROUPS_MAX, sizeof *groups);
    json_t *list = json_array();
    size_t n = groups ? sq_peer_groups(&i->peer, groups) : 0;
    for (size_t k = 0; k < n; k++)
        json_array_append_new(list, json_integer(groups[k]));
    json_object_set_new(o, "groups", list);
    json_object_set_new(o, "uid", json_integer(i->peer.uid));
    json_object_set_new(o, "gid", json_integer(i->peer.gid));
    return o;
}

/* ---- the launcher process ---- */

static int high(int *fd)
{
    int up = fcntl(*fd, F_DUPFD_CLOEXEC, HIGH_FD);
    if (up < 0)
        return -errno;
    close(*fd);
    *fd = up;
    return 0;
}

static int spawn(const struct svc *i, int sock, int out, pid_t *pid)
{
    char mark[sizeof SQ_MARK_NAME + SQ_MARK_MAX], path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
    char name[] = "squalld", verb[] = "launch";
    (void)snprintf(mark, sizeof mark, SQ_MARK_NAME "=%s", i->tree.mark);
    char *argv[] = {name, verb, NULL}, *env[] = {mark, path, NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int r = posix_spawn_file_actions_init(&fa);
    if (r)
        return -r;
    r = posix_spawnattr_init(&at);
    if (r) {
        posix_spawn_file_actions_destroy(&fa);
        return -r;
    }
    (void)posix_spawnattr_setsigmask(&at, &none);
    (void)posix_spawnattr_setsigdefault(&at, &all);
    (void)posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    r = r ? r : posix_spawn_file_actions_adddup2(&fa, out, 1);
    r = r ? r : posix_spawn_file_actions_adddup2(&fa, out, 2);
    r = r ? r : posix_spawn_file_actions_adddup2(&fa, sock, SQ_LAUNCH_FD);
    r = r ? r : posix_spawn(pid, sq_engine_self(i->s->eng), &fa, &at, argv, env);
    posix_spawnattr_destroy(&at);
    posix_spawn_file_actions_destroy(&fa);
    return -r;
}

/* Our own unreaped child, so its number can be nobody else's. */
static void put_down(struct svc *i)
{
    (void)kill(i->tree.pid, SIGKILL);
    (void)waitpid(i->tree.pid, NULL, 0);
    i->tree.pid = 0;
    i->tree.start = 0;
    i->tree.sid = 0;
    i->reaped = true;
}

static int start_launcher(struct svc *i, int *sock, struct sq_err *e)
{
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
        return sq_err_sys(e, -errno, "cannot launch %s", i->name);
    cleanup_close int ours = sv[0], theirs = sv[1], out = -1;
    int r = svc_output(i, &out, e);
    if (r < 0)
        return r;
    int flags = fcntl(theirs, F_GETFL);
    r = fcntl(theirs, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
    r = r < 0 ? r : high(&theirs);
    r = r < 0 ? r : high(&out);
    pid_t pid = 0;
    r = r < 0 ? r : spawn(i, theirs, out, &pid);
    if (r < 0)
        return sq_err_sys(e, r, "cannot start the launcher of %s", i->name);
    i->tree.pid = pid;
    i->reaped = false;
    struct sq_proc p;
    r = sq_proc_read(pid, &p, e);
    if (r == 0) {
        i->tree.start = p.start;
        i->tree.sid = pid; /* it makes its session first of all */
        int fd = sq_pidfd_open(pid);
        i->exit = fd >= 0 ? watch_fd(i->s, fd, svc_exited, i) : NULL;
        if (!i->exit)
            r = sq_err_sys(e, fd < 0 ? fd : -ENOMEM, "cannot watch %s", i->name);
    }
    if (r < 0) {
        put_down(i);
        return r;
    }
    *sock = SQ_TAKE_FD(ours);
    return 0;
}

/* ---- all of it ---- */

static int make_cgroup(struct svc *i, struct sq_err *e)
{
    return i->tree.cgroup[0] ? sq_cgroup_make(i->s->injector, i->run, i->name, i->tree.cgroup, sizeof i->tree.cgroup, e)
                             : 0;
}

static int arm(struct svc *i, struct sq_err *e)
{
    cleanup_close int fd = i->tree.cgroup[0] ? open(i->tree.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (i->tree.cgroup[0] && fd < 0)
        return sq_err_sys(e, -errno, "cannot open the cgroup %s", i->tree.cgroup);
    memset(&i->arming, 0, sizeof i->arming);
    int r = sq_intercept_arm(sq_engine_intercept(i->s->eng), i->run, i->service, i->name, fd, &i->arming, e);
    i->armed = r == 0;
    return r;
}

static int launch(struct svc *i, struct sq_err *e)
{
    i->tree.pid = i->tree.sid = 0;
    i->tree.start = 0;
    i->has_exit = false;
    struct sq_err no = {0};
    if (!i->held && sq_cgroup_path(i->s->injector, i->run, i->name, i->tree.cgroup, sizeof i->tree.cgroup, &no) < 0)
        i->tree.cgroup[0] = '\0'; /* then its session and its mark are its tree */
    int sock = -1, r = svc_record(i, e);
    r = r < 0 ? r : make_cgroup(i, e);
    r = r < 0 ? r : arm(i, e);
    r = r < 0 ? r : start_launcher(i, &sock, e);
    if (r < 0)
        return r;
    json_t *order = NULL;
    r = svc_record(i, e);
    if (r == 0 && i->tree.cgroup[0])
        r = sq_cgroup_enter(i->tree.cgroup, i->tree.pid, e);
    if (r == 0)
        order = order_of(i);
    if (r == 0 && !order)
        r = sq_err(e, -ENOMEM, "out of memory");
    if (r == 0)
        r = svc_handshake(i, SQ_TAKE_FD(sock), order, e);
    else
        close(sock);
    json_decref(order);
    return r;
}

int svc_launch(struct svc *i, svc_launched *fn, struct sq_err *e)
{
    i->state = SVC_LAUNCHING;
    int r = launch(i, e);
    if (r == 0) {
        i->launched = fn;
        return 0;
    }
    watch_end(&i->chan);
    watch_end(&i->limit);
    watch_end(&i->exit);
    if (i->tree.pid)
        put_down(i);
    free(SQ_TAKE(i->arming.filter));
    svc_disarm(i);
    svc_output_end(i, false);
    i->state = SVC_EXITED;
    return r;
}
