/* `exec`: a command that a person starts in their own terminal, under interception. The launcher is theirs and keeps
 * their rights; it connects to RUN/<injector>/launch.sock with the token it was given, and must belong to the run's
 * owner. When the run ends the command lives on: it only leaves our cgroup. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "launch.h"
#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"

#define MAX_TOKENS 64
#define MAX_CONNS 64
#define TOKEN_NS (60 * SQ_S)
#define HELLO_NS (5 * SQ_S)

struct token {
    char hex[33];
    char run[SVC_RUN];
    char service[SVC_NAME - 8];
    struct sq_peer owner;
    int64_t until;
};

struct conn {
    struct conn *next;
    struct sq_services *s;
    struct watch *sock, *limit;
};

struct svc_exec {
    struct watch *listener;
    char path[108];
    struct token tokens[MAX_TOKENS];
    struct conn *conns;
    unsigned nconns;
    int counter;
};

/* ---- connections that have not said their token yet ---- */

static void conn_end(void *p)
{
    struct conn *c = p;
    struct svc_exec *x = c->s->exec;
    for (struct conn **q = &x->conns; *q; q = &(*q)->next)
        if (*q == c) {
            *q = c->next;
            break;
        }
    x->nconns--;
    watch_end(&c->sock);
    watch_end(&c->limit);
    free(c);
}

static void refuse(int sock, const char *why)
{
    char packet[SQ_LAUNCH_PACKET];
    int n = snprintf(packet, sizeof packet, "E%.900s", why);
    (void)sq_packet_send(sock, packet, (size_t)n, -1);
}

static bool same(const char *a, const char *b, size_t n)
{
    unsigned diff = 0;
    for (size_t k = 0; k < n; k++)
        diff |= (unsigned)(a[k] ^ b[k]);
    return diff == 0;
}

/* Once only: it is forgotten when it was shown. */
static bool take_token(struct svc_exec *x, const char *hex, struct token *out)
{
    int64_t now = sq_mono_ns();
    if (strlen(hex) != 32)
        return false;
    for (size_t k = 0; k < MAX_TOKENS; k++) {
        struct token *t = &x->tokens[k];
        if (!t->hex[0] || t->until < now || !same(t->hex, hex, 32))
            continue;
        *out = *t;
        memset(t, 0, sizeof *t);
        return true;
    }
    return false;
}

/* A failed one is forgotten when its launcher has ended (service_life.c). */
static void exec_launched(struct svc *i, const struct sq_err *e)
{
    if (!e->code) {
        svc_event(i, "started", json_pack("{s:b}", "exec", 1));
        return;
    }
    json_t *o = json_pack("{s:s,s:o}", "type", "warning", "text", json_sprintf("exec: %s", e->msg));
    if (o)
        sq_engine_event(i->s->eng, i->run, o);
}

static int join_cgroup(struct svc *i, struct sq_err *e)
{
    struct sq_err no = {0};
    if (sq_cgroup_path(i->s->injector, i->run, i->name, i->tree.cgroup, sizeof i->tree.cgroup, &no) < 0 ||
        sq_cgroup_of(i->tree.pid, i->home, sizeof i->home, &no) < 0)
        i->tree.cgroup[0] = '\0';
    int r = svc_record(i, e);
    if (r < 0 || !i->tree.cgroup[0])
        return r;
    r = sq_cgroup_make(i->s->injector, i->run, i->name, i->tree.cgroup, sizeof i->tree.cgroup, e);
    return r < 0 ? r : sq_cgroup_enter(i->tree.cgroup, i->tree.pid, e);
}

static int arm(struct svc *i, struct sq_err *e)
{
    cleanup_close int fd = i->tree.cgroup[0] ? open(i->tree.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = sq_intercept_arm(sq_engine_intercept(i->s->eng), i->run, i->service, i->name, fd, &i->arming, e);
    i->armed = r == 0;
    return r;
}

static int adopt(struct sq_services *s, const struct token *t, const struct ucred *who, int *sock, struct sq_err *e)
{
    struct sq_peer peer = {.uid = who->uid, .gid = who->gid, .pid = who->pid};
    struct sq_proc p;
    if (who->uid != t->owner.uid && who->uid != 0)
        return sq_err_cls(e, SQ_C_DENIED, -EPERM, "this run belongs to uid %u", (unsigned)t->owner.uid);
    if (!sq_run_find(s->eng, t->run))
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "the run has ended");
    cleanup_close int pidfd = sq_pidfd_open(who->pid);
    int r = sq_proc_read(who->pid, &p, e);
    if (r < 0 || pidfd < 0)
        return sq_err_sys(e, pidfd < 0 ? pidfd : r, "cannot watch the launcher %d", (int)who->pid);
    /* Who connected may have left the socket to a child: the number is another process's by now, or a set-user-ID
     * program is. Neither is ours to move and to freeze. */
    if (p.ruid != who->uid || p.euid != who->uid || p.suid != who->uid)
        return sq_err_cls(e, SQ_C_DENIED, -EPERM, "process %d (%s) is not a launcher of uid %u's", (int)who->pid,
                          p.comm, (unsigned)who->uid);
    struct svc *i = svc_new(s, t->run, t->service, s->exec->counter++, &peer);
    if (!i)
        return sq_err(e, -ENOMEM, "out of memory");
    i->is_exec = true;
    i->tree.pid = who->pid;
    i->tree.start = p.start;
    i->exit = watch_fd(s, SQ_TAKE_FD(pidfd), svc_exited, i);
    r = i->exit ? join_cgroup(i, e) : sq_err(e, -ENOMEM, "out of memory");
    r = r < 0 ? r : arm(i, e);
    cleanup_json json_t *order = r < 0 ? NULL
                                       : json_pack("{s:b,s:i,s:s}", "nnp", i->arming.seccomp && who->uid != 0,
                                                   "ptracer", (int)getpid(), "mark", i->tree.mark);
    if (r == 0 && !order)
        r = sq_err(e, -ENOMEM, "out of memory");
    if (r == 0) {
        i->launched = exec_launched;
        r = svc_handshake(i, SQ_TAKE_FD(*sock), order, e);
    }
    if (r < 0) { /* the launcher is told so, and leaves */
        i->launched = NULL;
        i->state = SVC_EXITED;
        watch_end(&i->chan);
        watch_end(&i->limit);
        if (!i->exit)
            svc_drop(i);
    }
    return r;
}

static void on_hello(void *p)
{
    struct conn *c = p;
    struct sq_services *s = c->s;
    char packet[128];
    cleanup_close int fd = -1, sock = -1;
    ssize_t n = sq_packet_recv(c->sock->fd, packet, sizeof packet, &fd);
    if (n == -EAGAIN)
        return;
    struct ucred who;
    socklen_t len = sizeof who;
    struct token t;
    struct sq_err e = {0};
    int r = 0;
    if (n > 0 && getsockopt(c->sock->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0)
        sock = fcntl(c->sock->fd, F_DUPFD_CLOEXEC, 0);
    conn_end(c);
    if (sock < 0)
        return;
    if (packet[0] != 'T' || !take_token(s->exec, packet + 1, &t))
        r = sq_err_cls(&e, SQ_C_DENIED, -EPERM, "the injector does not know this token (each is good once, for 60 s)");
    int keep = sock; /* adopt() takes it when it gets as far as the order */
    r = r < 0 ? r : adopt(s, &t, &who, &sock, &e);
    if (r < 0 && sock >= 0)
        refuse(keep, e.msg);
}

static void on_connect(void *p)
{
    struct sq_services *s = p;
    struct svc_exec *x = s->exec;
    int fd = accept4(x->listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct conn *c = x->nconns < MAX_CONNS ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        refuse(fd, "the injector has too many launchers waiting");
        close(fd);
        return;
    }
    c->s = s;
    c->next = x->conns;
    x->conns = c;
    x->nconns++;
    c->sock = watch_fd(s, fd, on_hello, c);
    c->limit = watch_timer(s, HELLO_NS, 0, conn_end, c);
    if (!c->sock || !c->limit)
        conn_end(c);
}

/* ---- the socket ---- */

/* Open to whom the directory is open to: the group that may use the API. */
static int listen_at(const char *path, const char *dir, struct sq_err *e)
{
    struct stat st;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path) + 1);
    cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a socket");
    (void)unlink(path);
    mode_t old = umask(0177);
    int r = bind(fd, (struct sockaddr *)&a, sizeof a) < 0 ? -errno : 0;
    (void)umask(old);
    bool group = geteuid() == 0 && stat(dir, &st) == 0 && (st.st_mode & S_IXGRP);
    if (r == 0 && group && (lchown(path, (uid_t)-1, st.st_gid) < 0 || chmod(path, 0660) < 0))
        r = -errno;
    if (r == 0 && listen(fd, 16) < 0)
        r = -errno;
    return r < 0 ? sq_err_sys(e, r, "cannot listen at %s", path) : SQ_TAKE_FD(fd);
}

static int need_socket(struct sq_services *s, struct sq_err *e)
{
    if (s->exec)
        return 0;
    struct svc_exec *x = calloc(1, sizeof *x);
    if (!x)
        return sq_err(e, -ENOMEM, "out of memory");
    int n = snprintf(x->path, sizeof x->path, "%s/launch.sock", sq_engine_dir(s->eng));
    int fd = n > 0 && (size_t)n < sizeof x->path ? listen_at(x->path, sq_engine_dir(s->eng), e)
                                                 : sq_err(e, -ENAMETOOLONG, "the path of launch.sock is too long");
    if (fd >= 0) {
        x->listener = watch_fd(s, fd, on_connect, s);
        if (!x->listener)
            fd = sq_err(e, -ENOMEM, "out of memory");
    }
    if (fd < 0) {
        free(x);
        return fd;
    }
    s->exec = x;
    return 0;
}

int sq_service_exec(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *def,
                    json_t **answer, struct sq_err *e)
{
    const char *name = sq_json_str_or(def, "name", "exec");
    if (!*name || strlen(name) >= SVC_NAME - 8 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(name) ||
        name[0] == '.')
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" cannot be a service's name", name);
    int r = need_socket(s, e);
    if (r < 0)
        return r;
    struct token *t = NULL;
    int64_t now = sq_mono_ns();
    for (size_t k = 0; !t && k < MAX_TOKENS; k++)
        if (!s->exec->tokens[k].hex[0] || s->exec->tokens[k].until < now)
            t = &s->exec->tokens[k];
    unsigned char raw[16];
    if (!t)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "%d launchers have not reported yet", MAX_TOKENS);
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return sq_err_sys(e, -EIO, "cannot make a token");
    memset(t, 0, sizeof *t);
    for (size_t k = 0; k < sizeof raw; k++)
        (void)snprintf(t->hex + 2 * k, 3, "%02x", raw[k]);
    (void)snprintf(t->run, sizeof t->run, "%s", sq_run_id(run));
    (void)snprintf(t->service, sizeof t->service, "%s", name);
    t->owner = *peer;
    t->until = now + TOKEN_NS;
    *answer = json_pack("{s:s,s:s}", "token", t->hex, "socket", s->exec->path);
    return *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

/* ---- ends ---- */

static int send_home(pid_t pid, void *arg)
{
    (void)sq_cgroup_enter(arg, pid, NULL); /* one that is ending cannot be moved */
    return 0;
}

int svc_exec_left(struct svc *i, struct sq_err *e)
{
    struct sq_tree *t = &i->tree;
    int r = 0;
    if (i->state == SVC_RUNNING && !i->told)
        svc_event(i, "left", json_pack("{s:s}", "text", "a person's command: it was not ended with the run"));
    i->told = true;
    if (t->cgroup[0]) {
        (void)sq_cgroup_freeze(t->cgroup, false, NULL);
        for (int k = 0; i->home[0] && k < 10 && !sq_cgroup_empty(t->cgroup); k++)
            (void)sq_cgroup_each(t->cgroup, send_home, i->home);
        r = sq_cgroup_remove(t->cgroup, e);
    }
    if (r == 0 && i->held)
        r = sq_journal_release(sq_engine_journal(i->s->eng), i->slot, e);
    if (r < 0)
        return r;
    /* Its seccomp filter stays for its life: the supervisor keeps answering (passing all through) until it ends. */
    if (!i->has_listener)
        svc_disarm(i);
    svc_drop(i);
    return 0;
}

void svc_exec_forget_run(struct sq_services *s, const char *run)
{
    for (size_t k = 0; s->exec && k < MAX_TOKENS; k++)
        if (strcmp(s->exec->tokens[k].run, run) == 0)
            memset(&s->exec->tokens[k], 0, sizeof s->exec->tokens[k]);
}

void svc_exec_free(struct sq_services *s)
{
    struct svc_exec *x = s->exec;
    if (!x)
        return;
    while (x->conns)
        conn_end(x->conns);
    watch_end(&x->listener);
    (void)unlink(x->path);
    s->exec = NULL;
    free(x);
}
