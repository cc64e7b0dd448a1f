/* `squalld launch`: the program that becomes a service, or the command of `squall exec`. It prepares itself as squalld
 * says (launch.h) and calls execve(2); whatever goes wrong before is reported, and nothing is run. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <jansson.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "service.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

extern char **environ;

struct launcher {
    int sock;
    bool exec; /* on behalf of `squall exec`: errors go to standard error */
    char **argv;
    char **env; /* NULL: our own */
    json_t *order;
    void *filter;
    size_t filter_len;
};

static void fail(const struct launcher *l, int err, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

/* Tell squalld (and the person, when there is one) and leave as a shell would: 126 found but not run, 127 not found. */
static void fail(const struct launcher *l, int err, const char *fmt, ...)
{
    char what[512], packet[SQ_LAUNCH_PACKET];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (l->sock >= 0) {
        int n = snprintf(packet, sizeof packet, "E%d %s", err, what);
        (void)sq_packet_send(l->sock, packet, (size_t)n, -1);
    }
    if (l->exec || l->sock < 0)
        (void)fprintf(stderr, "squall: %s%s%s\n", what, err ? ": " : "", err ? strerror(err) : "");
    _exit(err == ENOENT ? 127 : 126);
}

/* ---- the order ---- */

static void read_memfd(struct launcher *l, int fd, size_t json_len, size_t filter_len)
{
    if (json_len + filter_len > SQ_LAUNCH_MAX || filter_len % sizeof(struct sock_filter) != 0)
        fail(l, EMSGSIZE, "the injector's order is too long");
    char *all = malloc(json_len + filter_len + 1);
    size_t got = 0;
    while (all && got < json_len + filter_len) {
        ssize_t n = pread(fd, all + got, json_len + filter_len - got, (off_t)got);
        if (n <= 0)
            fail(l, n < 0 ? errno : EPROTO, "the injector's order is cut");
        got += (size_t)n;
    }
    json_error_t je;
    l->order = all ? json_loadb(all, json_len, 0, &je) : NULL;
    if (!l->order)
        fail(l, EPROTO, "the injector's order cannot be understood");
    l->filter_len = filter_len;
    l->filter = malloc(filter_len + 1);
    if (!l->filter)
        fail(l, ENOMEM, "no memory for the filter");
    memcpy(l->filter, all + json_len, filter_len);
    free(all);
}

static void receive_order(struct launcher *l)
{
    char packet[SQ_LAUNCH_PACKET];
    cleanup_close int fd = -1;
    ssize_t n = sq_packet_recv(l->sock, packet, sizeof packet, &fd);
    if (n > 0 && packet[0] == 'E') { /* squalld refused us, and says why */
        l->sock = -1;
        fail(l, 0, "%s", packet + 1);
    }
    if (n <= 0)
        fail(l, n < 0 ? (int)-n : 0, "the injector went away before it said what to do");
    size_t json_len = 0, filter_len = 0;
    if (sscanf(packet, "M%zu,%zu", &json_len, &filter_len) != 2 || fd < 0)
        fail(l, EPROTO, "the injector's order cannot be understood");
    read_memfd(l, fd, json_len, filter_len);
}

static char **strings(const struct launcher *l, const char *key)
{
    const json_t *a = json_object_get(l->order, key);
    size_t n = json_array_size(a);
    char **out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++) {
        const char *s = json_string_value(json_array_get(a, i));
        out[i] = s ? strdup(s) : NULL;
        if (!out[i])
            fail(l, EPROTO, "the injector's order has no proper \"%s\"", key);
    }
    if (!out)
        fail(l, ENOMEM, "no memory for the command");
    return out;
}

/* ---- what we inherited from squalld and the command must not ---- */

static void reset_signals(void)
{
    /* A struct of zeros is SIG_DFL on every architecture. Directly, because glibc's sigaction refuses its two internal
     * signals, which posix_spawn leaves ignored. */
    static const unsigned long zeros[16];
    for (int s = 1; s <= 64; s++)
        if (s != SIGKILL && s != SIGSTOP)
            (void)syscall(SYS_rt_sigaction, s, zeros, NULL, 8);
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void reset_limits(const struct launcher *l)
{
    const json_t *limits = json_object_get(l->order, "limits"), *one;
    size_t i;
    json_array_foreach(limits, i, one)
    {
        json_int_t soft = json_integer_value(json_array_get(one, 0)), hard = json_integer_value(json_array_get(one, 1));
        struct rlimit was, r = {.rlim_cur = soft < 0 ? RLIM_INFINITY : (rlim_t)soft,
                                .rlim_max = hard < 0 ? RLIM_INFINITY : (rlim_t)hard};
        if (getrlimit((__rlimit_resource_t)i, &was) == 0 && (was.rlim_cur != r.rlim_cur || was.rlim_max != r.rlim_max))
            (void)setrlimit((__rlimit_resource_t)i, &r);
    }
}

/* Whatever squalld was started with, or a library opened without O_CLOEXEC. Before Linux 5.11 what squalld opens itself
 * is closed all the same. */
static void close_inherited(void)
{
    (void)syscall(SYS_close_range, SQ_LAUNCH_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
}

/* squalld is out of the OOM killer's reach; what it starts is not. */
static void reset_oom(const struct launcher *l)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%lld", (long long)sq_json_int_or(l->order, "oom", 0));
    cleanup_close int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    char now[16] = "";
    if (fd < 0 || read(fd, now, sizeof now - 1) <= 0 || atoi(now) >= atoi(text))
        return;
    if (write(fd, text, (size_t)n) != n)
        fail(l, errno, "cannot come back into the OOM killer's reach");
}

/* For good: real, effective and saved ids; capabilities go with the last uid 0. */
static void drop_rights(const struct launcher *l)
{
    const json_t *groups = json_object_get(l->order, "groups");
    size_t n = json_array_size(groups);
    cleanup_free gid_t *g = calloc(n + 1, sizeof *g);
    if (!g)
        fail(l, ENOMEM, "no memory for the groups");
    for (size_t i = 0; i < n; i++)
        g[i] = (gid_t)json_integer_value(json_array_get(groups, i));
    uid_t uid = (uid_t)sq_json_int_or(l->order, "uid", -1);
    gid_t gid = (gid_t)sq_json_int_or(l->order, "gid", -1);
    if (uid == (uid_t)-1 || gid == (gid_t)-1)
        fail(l, EPROTO, "the injector's order names no user");
    if (setgroups(n, g) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        fail(l, errno, "cannot become uid %u", (unsigned)uid);
    /* The session keyring is inherited, and whoever has it may read what is linked into it: root's keys, where an
     * administrator started squalld by hand (session-keyring(7)). */
    if (uid != 0 && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
        fail(l, errno, "cannot leave the session keyring");
    uid_t r, ef, s;
    if (getresuid(&r, &ef, &s) < 0 || r != uid || ef != uid || s != uid || (uid != 0 && setuid(0) == 0))
        fail(l, EPERM, "cannot become uid %u for good", (unsigned)uid);
}

static long try_filter(const struct sock_fprog *prog, unsigned long flags)
{
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, prog);

    if (fd < 0 && errno == EINVAL) /* before Linux 5.19 */
        fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, prog);
    return fd;
}

/* The last thing before "ready": from here on connect(2) and sendto(2) with an address would wait for the supervisor,
 * so only sendmsg, recvmsg and execve follow. */
static void load_filter(const struct launcher *l)
{
    if (sq_json_bool_or(l->order, "nnp", false) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(l, errno, "cannot set no_new_privs");
    struct sock_fprog prog = {.len = (unsigned short)(l->filter_len / sizeof(struct sock_filter)), .filter = l->filter};
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    long fd = try_filter(&prog, flags);
    /* Root without CAP_SYS_ADMIN, as in a container: as an ordinary user. */
    if (fd < 0 && errno == EACCES && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        fd = try_filter(&prog, flags);
    if (fd < 0)
        fail(l, errno,
             errno == EBUSY ? "calls are already intercepted by another seccomp supervisor"
                            : "cannot load the seccomp filter");
    int r = sq_packet_send(l->sock, "L", 1, (int)fd);
    if (r < 0)
        fail(l, -r, "cannot hand over the seccomp listener");
    close((int)fd);
}

static void prepare(const struct launcher *l)
{
    if (sq_json_bool_or(l->order, "setsid", false) && setsid() < 0)
        fail(l, errno, "cannot make a session");
    if (!l->exec) {
        close_inherited();
        reset_oom(l);
        reset_limits(l);
        reset_signals();
    }
    if (sq_json_bool_or(l->order, "drop", false))
        drop_rights(l);
    int64_t tracer = sq_json_int_or(l->order, "ptracer", 0);
    if (tracer > 0) /* under Yama only an ancestor, or whom we name, may read the addresses of our calls */
        (void)prctl(PR_SET_PTRACER, (unsigned long)tracer, 0, 0, 0);
    const char *cwd = sq_json_str_or(l->order, "cwd", NULL);
    if (cwd && chdir(cwd) < 0)
        fail(l, errno, "cannot change to the directory %s", cwd);
    const char *mark = sq_json_str_or(l->order, "mark", NULL);
    if (mark && setenv("SQUALL_INSTANCE", mark, 1) < 0)
        fail(l, errno, "cannot mark the command as ours");
    if (l->filter_len)
        load_filter(l);
}

static void become(struct launcher *l)
{
    char packet[SQ_LAUNCH_PACKET];
    int fd = -1;
    int r = sq_packet_send(l->sock, "R", 1, -1);
    ssize_t n = r < 0 ? r : sq_packet_recv(l->sock, packet, sizeof packet, &fd);
    if (n != 1 || packet[0] != 'G') {
        const char *why = n > 1 && packet[0] == 'E' ? packet + 1 : "the injector is gone";
        l->sock = -1;
        fail(l, 0, "%s: %s was not started", why, l->argv[0]);
    }
    if (l->env)
        environ = l->env;
    execvp(l->argv[0], l->argv);
    fail(l, errno, "cannot execute %s", l->argv[0]);
}

/* ---- command line ---- */

static int connect_injector(const struct launcher *l, const char *path, const char *token)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        fail(l, ENAMETOOLONG, "the socket's path %s", path);
    memcpy(a.sun_path, path, strlen(path) + 1);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a) < 0)
        fail(l, errno, "no injector answers at %s", path);
    char packet[128];
    int n = snprintf(packet, sizeof packet, "T%.100s", token);
    int r = sq_packet_send(s, packet, (size_t)n, -1);
    if (r < 0)
        fail(l, -r, "cannot speak to the injector at %s", path);
    return s;
}

static void usage(const struct launcher *l) __attribute__((noreturn));
static void usage(const struct launcher *l)
{
    fail(l, EINVAL, "usage: squalld launch --connect SOCKET --token TOKEN -- COMMAND [ARGUMENT...]");
}

int sq_launch_main(int argc, char **argv)
{
    static const struct option opts[] = {
        {"connect", required_argument, NULL, 'c'}, {"token", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
    struct launcher l = {.sock = -1};
    const char *path = NULL, *token = NULL;
    if (argc > 1 && strcmp(argv[1], "launch") == 0) { /* the program's own arguments, or the verb's */
        argc--;
        argv++;
    }
    opterr = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "+", opts, NULL)) != -1;) {
        if (c == 'c')
            path = optarg;
        else if (c == 't')
            token = optarg;
        else
            usage(&l);
    }
    if (path) {
        if (!token || optind >= argc)
            usage(&l);
        l.exec = true;
        l.argv = argv + optind;
        l.sock = connect_injector(&l, path, token);
    } else {
        int type = 0;
        socklen_t len = sizeof type;
        if (getsockopt(SQ_LAUNCH_FD, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
            usage(&l);
        l.sock = SQ_LAUNCH_FD;
        (void)fcntl(l.sock, F_SETFD, FD_CLOEXEC);
    }
    receive_order(&l);
    if (!l.exec) {
        l.argv = strings(&l, "argv");
        l.env = strings(&l, "env");
        if (!l.argv[0])
            fail(&l, EPROTO, "the injector's order has no command");
    }
    prepare(&l);
    become(&l);
    return 127;
}
