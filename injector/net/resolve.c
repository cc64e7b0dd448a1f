/* Host names as the inhabitants of a namespace see them. A child does it: it enters the network namespace, puts that
 * namespace's resolv.conf over /etc/resolv.conf in a mount namespace of its own (as ip-netns(8) does), asks
 * getaddrinfo, and is killed and left when its time is over. The answers come back as text over a pipe: lines "name
 * address" or "name !why", and "=" after each name's. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/match.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/units.h"

#define LIMIT_NS (5 * SQ_S)
#define ANSWER_MAX ((size_t)4 << 20) /* bytes of all answers: some 60,000 addresses */
#define NAMES_MOST 256
#define MOMENT_NS (20 * SQ_MS) /* for a killed child to die */
#define FILE_MAX 65536         /* bytes of resolv.conf or hosts */
#define PER_NAME 1024          /* addresses of one name */

struct sq_resolving {
    pid_t pid;
    int fd;
    int64_t deadline;
    char *text;
    size_t len, cap;
    bool eof, told; /* told: its result has been given */
};

/* ---- the names ---- */

static int each_name(const struct sq_match *m, int (*fn)(const char *name, void *arg), void *arg)
{
    int r = 0;

    for (size_t i = 0; i < m->n_match + m->n_except; i++) {
        const struct sq_group *g = i < m->n_match ? &m->match[i] : &m->except[i - m->n_match];

        for (size_t k = 0; r == 0 && k < g->n_name; k++)
            r = fn(g->name[k], arg);
    }
    return r;
}

/* ---- the child ---- */

static void put(int fd, const char *text)
{
    for (size_t n = strlen(text); n > 0;) {
        ssize_t w = write(fd, text, n);

        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            _exit(3);
        text += w;
        n -= (size_t)w;
    }
}

static int ask(const char *name, void *arg)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    struct addrinfo *list = NULL;
    char addr[INET6_ADDRSTRLEN], line[400];
    int fd = *(int *)arg, rc = getaddrinfo(name, NULL, &hints, &list), n = 0;

    if (rc != 0) {
        (void)snprintf(line, sizeof line, "%s !%s\n=\n", name, rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
        put(fd, line);
        return 0;
    }
    for (const struct addrinfo *a = list; a && n < PER_NAME; a = a->ai_next, n++) {
        const void *raw = a->ai_family == AF_INET6
                              ? (const void *)&((const struct sockaddr_in6 *)(const void *)a->ai_addr)->sin6_addr
                              : (const void *)&((const struct sockaddr_in *)(const void *)a->ai_addr)->sin_addr;

        if (!inet_ntop(a->ai_family, raw, addr, sizeof addr))
            continue;
        (void)snprintf(line, sizeof line, "%s %s\n", name, addr);
        put(fd, line);
    }
    freeaddrinfo(list);
    put(fd, "=\n");
    return 0;
}

static void fail(int fd, const char *what)
{
    char line[200];

    (void)snprintf(line, sizeof line, " !%s: %s\n", what, strerror(errno));
    put(fd, line);
    _exit(1);
}

/* What PATH stands for is theirs: to open a device may do something, so it is looked at before it is opened. */
static int open_regular(int at)
{
    char self[64];
    struct stat st;

    if (at < 0 || fstat(at, &st) < 0 || !S_ISREG(st.st_mode))
        return -1;
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", at);
    return open(self, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

/* The text of a file as the inhabitants of the namespace see it; NULL: there is none. PATH may lead through
 * /proc/PID/root: a symbolic link there means something in that root. */
static char *read_theirs(const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    char root[64], *text = malloc(FILE_MAX);
    const char *rest = strncmp(path, "/proc/", 6) == 0 ? strstr(path, "/root/") : NULL;
    cleanup_close int dir = -1, at = -1, fd = -1;
    size_t len = 0;

    if (!text)
        return NULL;
    if (rest) {
        (void)snprintf(root, sizeof root, "%.*s", (int)(rest + 5 - path), path);
        dir = open(root, O_PATH | O_CLOEXEC);
        at = (int)syscall(SYS_openat2, dir, rest + 6, &how, sizeof how);
    }
    if (!rest || (at < 0 && errno == ENOSYS)) /* before Linux 5.6 */
        at = open(path, O_PATH | O_CLOEXEC);
    fd = open_regular(at);
    for (ssize_t n = 1; fd >= 0 && n > 0 && len<FILE_MAX - 1; len += n> 0 ? (size_t)n : 0)
        n = read(fd, text + len, FILE_MAX - 1 - len);
    text[len] = '\0';
    if (fd >= 0)
        return text;
    free(text);
    return NULL;
}

/* TEXT in place of the file /etc/NAME, in the child's own mounts. SCRATCH is a tmpfs of ours. */
static void place(int fd, const char *scratch, const char *name, const char *text)
{
    char ours[64], real[64];

    (void)snprintf(ours, sizeof ours, "%s/%s", scratch, name);
    (void)snprintf(real, sizeof real, "/etc/%s", name);
    cleanup_close int f = open(ours, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    if (!text || access(real, F_OK) < 0)
        return;
    if (f < 0)
        fail(fd, ours);
    put(f, text);
    if (mount(ours, real, NULL, MS_BIND, NULL) < 0)
        fail(fd, real);
}

/* Their resolv.conf and hosts over ours; and no shortcuts of this host (nss-resolve, nscd), which look from here. */
static void see_as_they(int fd, const struct sq_netns *ns)
{
    char hosts[sizeof ns->resolv], *slash;
    char *conf = read_theirs(ns->resolv), *known = NULL;
    const char *scratch = "/tmp";

    (void)snprintf(hosts, sizeof hosts, "%s", ns->resolv);
    slash = strrchr(hosts, '/');
    if (slash && (size_t)(slash - hosts) + sizeof "/hosts" <= sizeof hosts)
        memcpy(slash, "/hosts", sizeof "/hosts"), known = read_theirs(hosts);
    if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        fail(fd, "cannot have mounts of its own");
    if (mount("squall", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=1m") < 0)
        fail(fd, scratch);
    place(fd, scratch, "resolv.conf", conf);
    place(fd, scratch, "hosts", known);
    place(fd, scratch, "nsswitch.conf", "hosts: files dns\n");
    (void)mount("squall", "/run/nscd", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
}

/* What squalld has open is none of the child's business: a copy would keep sockets and links alive. */
static void close_all_but(int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;

    if (low < 3) /* B is -1 */
        low = high;
    if (syscall(SYS_close_range, 3u, (unsigned)low - 1, 0) < 0 && errno == ENOSYS) {
        for (int i = 3; i < 65536; i++) /* before Linux 5.9 */
            if (i != a && i != b)
                (void)close(i);
        return;
    }
    if (high > low + 1)
        (void)syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0);
    (void)syscall(SYS_close_range, (unsigned)high + 1, ~0u, 0);
}

static _Noreturn void child(const struct sq_match *m, const struct sq_netns *ns, int fd)
{
    static const int loud[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE, SIGALRM};
    sigset_t none;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < SQ_COUNT(loud); i++)
        (void)signal(loud[i], SIG_DFL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)alarm(1 + (unsigned)(LIMIT_NS / SQ_S));           /* whatever happens to the parent */
    (void)setenv("RES_OPTIONS", "timeout:1 attempts:2", 1); /* within the limit, so that it can say which failed */
    if (ns && ns->fd >= 0) {
        close_all_but(fd, ns->fd);
        see_as_they(fd, ns);
        if (setns(ns->fd, CLONE_NEWNET) < 0)
            fail(fd, "cannot enter the network namespace");
    } else {
        close_all_but(fd, -1);
    }
    (void)each_name(m, ask, &fd);
    put(fd, " .\n"); /* all of it */
    _exit(0);
}

/* ---- the parent ---- */

static int count(const char *name, void *arg)
{
    (void)name;
    return ++*(int *)arg > NAMES_MOST ? -E2BIG : 0;
}

int sq_resolving_begin(const struct sq_match *m, const struct sq_netns *ns, struct sq_resolving **out, int *fd,
                       struct sq_err *e)
{
    cleanup_free struct sq_resolving *r = calloc(1, sizeof *r);
    int names = 0, p[2];

    if (each_name(m, count, &names) < 0)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "more than %d host names", NAMES_MOST);
    if (!r)
        return sq_err(e, -ENOMEM, "out of memory");
    if (pipe2(p, O_CLOEXEC) < 0)
        return sq_err_sys(e, -errno, "cannot make a pipe");
    r->pid = fork();
    if (r->pid == 0) {
        (void)close(p[0]);
        child(m, ns, p[1]);
    }
    (void)close(p[1]);
    if (r->pid < 0) {
        int rc = -errno;

        (void)close(p[0]);
        return sq_err_sys(e, rc, "cannot start a process that resolves names");
    }
    (void)fcntl(p[0], F_SETFL, O_NONBLOCK);
    r->fd = p[0];
    r->deadline = sq_mono_ns() + LIMIT_NS;
    *fd = r->fd;
    *out = SQ_TAKE(r);
    return 0;
}

/* Kills the child. A file system whose server is dead holds even a killed one (the kernel waits for an answer that it
 * has asked for): so it gets a moment, and no more. */
static bool ended(struct sq_resolving *r)
{
    const struct timespec step = {.tv_nsec = SQ_MS};
    int64_t most = sq_mono_ns() + MOMENT_NS;
    pid_t got;

    if (r->pid <= 0)
        return true;
    (void)kill(r->pid, SIGKILL);
    while ((got = waitpid(r->pid, NULL, WNOHANG)) == 0 && sq_mono_ns() < most)
        (void)nanosleep(&step, NULL);
    if (got != 0)
        r->pid = 0;
    return got != 0;
}

static void *reap(void *arg)
{
    while (waitpid((pid_t)(intptr_t)arg, NULL, 0) < 0 && errno == EINTR)
        ;
    return NULL;
}

/* Whenever it may die. Without a thread it stays a zombie until we end. */
static void leave_to_a_thread(pid_t pid)
{
    sigset_t all, old;
    pthread_t thread;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, reap, (void *)(intptr_t)pid) == 0)
        (void)pthread_detach(thread);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void sq_resolving_free(struct sq_resolving *r)
{
    if (!r)
        return;
    if (!ended(r))
        leave_to_a_thread(r->pid);
    (void)close(r->fd);
    free(r->text);
    free(r);
}

void sq_resolving_drop(struct sq_resolving **r)
{
    if (!*r || !ended(*r))
        return;
    sq_resolving_free(*r);
    *r = NULL;
}

static int take_in(struct sq_resolving *r, struct sq_err *e)
{
    while (!r->eof) {
        ssize_t n;

        if (r->cap - r->len < 4096) {
            size_t cap = r->cap ? r->cap * 2 : 16384;
            char *text = cap <= ANSWER_MAX ? realloc(r->text, cap) : NULL;

            if (!text)
                return sq_err(e, -ENOMEM, "more addresses than can be taken");
            r->text = text;
            r->cap = cap;
        }
        n = read(r->fd, r->text + r->len, r->cap - r->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return sq_mono_ns() >= r->deadline ? -ETIMEDOUT : -EAGAIN;
        r->eof = n <= 0;
        r->len += n > 0 ? (size_t)n : 0;
        r->text[r->len] = '\0';
    }
    return 0;
}

/* One line's address. */
static bool read_address(const char *l, size_t len, struct sq_prefix *p)
{
    char addr[INET6_ADDRSTRLEN];
    struct in_addr v4;

    if (len >= sizeof addr)
        return false;
    memcpy(addr, l, len);
    addr[len] = '\0';
    *p = (struct sq_prefix){.len = 128};
    if (inet_pton(AF_INET, addr, &v4) != 1)
        return inet_pton(AF_INET6, addr, &p->addr) == 1;
    p->addr.s6_addr[10] = p->addr.s6_addr[11] = 0xff;
    memcpy(&p->addr.s6_addr[12], &v4, 4);
    return true;
}

/* The lines of NAME, which come next in *TEXT: addresses into OUT (room for PER_NAME); *WHY: what went wrong. */
static size_t answers(const char **text, const char *name, struct sq_prefix *out, const char **why, int *why_len)
{
    size_t n = 0, len = strlen(name);
    const char *l = *text;

    *why = "it has no address";
    *why_len = (int)strlen(*why);
    while (strncmp(l, name, len) == 0 && l[len] == ' ') {
        const char *rest = l + len + 1;
        size_t rest_len = strcspn(rest, "\n");

        if (*rest == '!') {
            *why = rest + 1;
            *why_len = (int)rest_len - 1;
        } else if (n < PER_NAME && read_address(rest, rest_len, &out[n])) {
            n++;
        }
        l = rest + rest_len + (rest[rest_len] == '\n');
    }
    *text = l + (strncmp(l, "=\n", 2) == 0 ? 2 : 0);
    return n;
}

static int by_address(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct sq_prefix));
}

/* The addresses of all names of G, written ones first. */
static int fill(struct sq_group *g, const char **text, bool *changed, struct sq_err *e)
{
    size_t written = g->n_host - g->n_resolved, n = 0;
    cleanup_free struct sq_prefix *fresh = calloc(g->n_name * PER_NAME, sizeof *fresh);
    struct sq_prefix *host;
    int rc = 0;

    if (!fresh)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < g->n_name; i++) {
        const char *why;
        int why_len;
        size_t got = answers(text, g->name[i], fresh + n, &why, &why_len);

        if (got == 0 && rc == 0)
            rc = sq_err_cls(e, SQ_C_NOTFOUND, -EHOSTUNREACH, "the host name \"%s\" can't be resolved: %.*s", g->name[i],
                            why_len, why);
        n += got;
    }
    if (rc < 0)
        return rc;
    qsort(fresh, n, sizeof *fresh, by_address);
    if (g->n_resolved == n && memcmp(g->host + written, fresh, n * sizeof *fresh) == 0)
        return 0;
    host = realloc(g->host, (written + n) * sizeof *host);
    if (!host)
        return sq_err(e, -ENOMEM, "out of memory");
    memcpy(host + written, fresh, n * sizeof *fresh);
    g->host = host;
    g->n_host = written + n;
    g->n_resolved = n;
    *changed = true;
    return 0;
}

/* The child's own trouble: a line with no name. */
static int trouble(const char *text, struct sq_err *e)
{
    const char *l = strncmp(text, " !", 2) == 0 ? text : strstr(text, "\n !");

    if (!l)
        return 0;
    l += *l == '\n';
    return sq_err_cls(e, SQ_C_INTERNAL, -EIO, "names can't be resolved there: %.*s", (int)strcspn(l + 2, "\n"), l + 2);
}

static int too_late(struct sq_err *e)
{
    sq_err_cls(e, SQ_C_NOTFOUND, -EHOSTUNREACH, "resolving host names took more than %d s", (int)(LIMIT_NS / SQ_S));
    sq_err_hint(e, "is a name server of that namespace's resolv.conf reachable from there?");
    return -EHOSTUNREACH;
}

int sq_resolving_end(struct sq_resolving *r, struct sq_match *m, bool *changed, struct sq_err *e)
{
    const char *text;
    bool differs = false;
    int rc = r->told ? -EALREADY : take_in(r, e);

    if (rc == -EAGAIN || rc == -EALREADY)
        return rc;
    r->told = true;
    if (rc == -ETIMEDOUT)
        return too_late(e);
    if (rc == 0 && r->text)
        rc = trouble(r->text, e);
    if (rc < 0)
        return rc;
    if (!r->text || r->len < 3 || strcmp(r->text + r->len - 3, " .\n") != 0)
        return too_late(e); /* its alarm, or somebody's kill */
    text = r->text;         /* the answers are in the order of the questions */
    for (size_t i = 0; i < m->n_match + m->n_except; i++) {
        struct sq_group *g = i < m->n_match ? &m->match[i] : &m->except[i - m->n_match];
        int one = g->n_name ? fill(g, &text, &differs, rc ? NULL : e) : 0;

        rc = rc ? rc : one; /* the first that failed; the others have their addresses */
    }
    if (changed)
        *changed = differs;
    return rc;
}

int sq_match_resolve(struct sq_match *m, const struct sq_netns *ns, bool *changed, struct sq_err *e)
{
    struct sq_resolving *r = NULL;
    int fd = -1, rc;

    if (changed)
        *changed = false;
    if (!sq_match_named(m))
        return 0;
    rc = sq_resolving_begin(m, ns, &r, &fd, e);
    if (rc < 0)
        return rc;
    while ((rc = sq_resolving_end(r, m, changed, e)) == -EAGAIN) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = r->deadline - sq_mono_ns();

        (void)poll(&p, 1, left > 0 ? (int)(left / SQ_MS) + 1 : 0);
    }
    sq_resolving_free(r);
    return rc;
}
