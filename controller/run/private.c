#include "run/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/client.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/rng.h"
#include "squall/units.h"

#define READY_NS (10 * SQ_S)
#define POLL_MS 15
#define LEAVING_NS SQ_S /* between the end of its directory and its own */

struct sq_private {
    uv_loop_t *loop;
    uv_process_t process;
    uv_timer_t timer;
    struct sq_client *client; /* while waiting for the first answer */
    unsigned handles;
    bool running, ready, asking, freed, ending;
    int status, sig;
    pid_t pid;
    int64_t deadline, gone_ns;
    sq_private_ready *done;
    void *arg;
    void (*on_exit)(void *arg, int status, int sig);
    void *on_exit_arg;
    void (*ended)(void *arg, const json_t *left);
    void *ended_arg;
    char dir[PATH_MAX], socket[PATH_MAX];
};

static bool usable(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static bool on_path(char *buf, size_t len)
{
    const char *path = getenv("PATH");
    while (path && *path) {
        size_t n = strcspn(path, ":");
        if (n && path[0] == '/' && (size_t)snprintf(buf, len, "%.*s/squalld", (int)n, path) < len && usable(buf))
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

int sq_private_program(char *buf, size_t len, struct sq_err *e)
{
    const char *set = getenv("SQUALL_SQUALLD");
    if (set && *set) {
        if ((size_t)snprintf(buf, len, "%s", set) >= len || !usable(buf))
            return sq_err(e, -ENOENT, "SQUALL_SQUALLD names no program: %s", set);
        return 0;
    }
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = '\0';
        if ((size_t)snprintf(buf, len, "%s/squalld", self) < len && usable(buf))
            return 0;
        if ((size_t)snprintf(buf, len, "%s/../sbin/squalld", self) < len && usable(buf))
            return 0;
    }
    if (on_path(buf, len))
        return 0;
    sq_err(e, -ENOENT, "the injector, squalld, is not installed: not beside squall, in ../sbin or on PATH");
    sq_err_hint(e,
                "build or install it, or say where it is with SQUALL_SQUALLD, or name a running one with --injector");
    return -ENOENT;
}

/* ---- sweep ---- */

struct sweep {
    bool timed_out;
    int64_t status;
    int sig;
    int out; /* memfd: what it says on both its outputs */
    char text[8192];
    uv_process_t process;
    uv_timer_t timer;
};

static void sweep_exit(uv_process_t *p, int64_t status, int sig)
{
    struct sweep *s = p->data;
    s->status = status;
    s->sig = sig;
    uv_close((uv_handle_t *)p, NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
}

static void sweep_late(uv_timer_t *t)
{
    struct sweep *s = t->data;
    s->timed_out = true;
    uv_process_kill(&s->process, SIGKILL);
}

/* The lines it said, joined by "; ". */
static void sweep_text(struct sweep *s)
{
    char raw[sizeof(s->text) / 2];
    ssize_t n = pread(s->out, raw, sizeof(raw) - 1, 0);
    size_t used = 0;
    for (ssize_t i = 0; i < n; i++) {
        bool last = i == n - 1;
        if (raw[i] != '\n')
            s->text[used++] = raw[i];
        else if (!last) {
            s->text[used++] = ';';
            s->text[used++] = ' ';
        }
    }
    s->text[used] = '\0';
}

static int sweep_run(const char *program, struct sweep *s, struct sq_err *e)
{
    char arg0[PATH_MAX], arg1[] = "sweep";
    char *argv[] = {arg0, arg1, NULL};
    snprintf(arg0, sizeof(arg0), "%s", program);
    uv_loop_t loop;
    int rc = uv_loop_init(&loop);
    if (rc)
        return sq_err(e, rc, "no event loop: %s", uv_strerror(rc));
    uv_timer_init(&loop, &s->timer);
    s->timer.data = s->process.data = s;
    uv_stdio_container_t out = {.flags = UV_INHERIT_FD, .data.fd = s->out};
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE}, out, out};
    /* In a session of its own: a Ctrl-C must not stop it half way. */
    uv_process_options_t o = {
        .file = arg0, .args = argv, .flags = UV_PROCESS_DETACHED, .stdio = io, .stdio_count = 3, .exit_cb = sweep_exit};
    rc = uv_spawn(&loop, &s->process, &o);
    if (rc) {
        sq_err(e, rc, "cannot run %s: %s", program, uv_strerror(rc));
        uv_close((uv_handle_t *)&s->timer, NULL);
        uv_close((uv_handle_t *)&s->process, NULL);
    } else {
        uv_timer_start(&s->timer, sweep_late, 10000, 0);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    return rc;
}

int sq_private_sweep(char **report, struct sq_err *e)
{
    char program[PATH_MAX];
    if (report)
        *report = NULL;
    int rc = sq_private_program(program, sizeof(program), e);
    if (rc)
        return rc;
    struct sweep *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "no memory");
    s->out = memfd_create("squalld sweep", MFD_CLOEXEC);
    rc = s->out < 0 ? sq_err_sys(e, -errno, "memfd_create") : sweep_run(program, s, e);
    if (!rc) {
        sweep_text(s);
        const char *text = s->text;
        if (s->timed_out)
            rc = sq_err(e, -ETIMEDOUT, "squalld sweep took longer than 10 s: %.600s", text);
        else if (s->status == SQ_UNCLEAN)
            rc = sq_err(e, -EBUSY, "an earlier run's faults could not be taken back: %.600s", text);
        else if (s->sig || s->status)
            rc = sq_err(e, -EIO, "squalld sweep ended with %s %d: %.600s", s->sig ? "signal" : "status",
                        s->sig ? s->sig : (int)s->status, text);
        else if (report && *text)
            *report = strdup(text);
    }
    if (s->out >= 0)
        close(s->out);
    free(s);
    return rc;
}

/* ---- one private injector ---- */

static void handle_closed(uv_handle_t *h)
{
    struct sq_private *p = h->data;
    if (--p->handles == 0)
        free(p);
}

static void on_tick(uv_timer_t *t);

/* Tell the one who started it, once. */
static void report_start(struct sq_private *p, const struct sq_err *e)
{
    sq_private_ready *done = p->done;
    p->done = NULL;
    uv_timer_stop(&p->timer);
    sq_client_close(SQ_TAKE(p->client), NULL, NULL);
    p->ready = e == NULL;
    if (done)
        done(p->arg, e);
}

static void died_early(struct sq_private *p)
{
    struct sq_err e = {0};
    sq_err(&e, -ECHILD, "the private injector ended at its start with %s %d", p->sig ? "signal" : "status",
           p->sig ? p->sig : p->status);
    report_start(p, &e);
}

static void check_end(struct sq_private *p);

static void on_exit_cb(uv_process_t *h, int64_t status, int sig)
{
    struct sq_private *p = h->data;
    p->running = false;
    p->pid = 0;
    p->status = (int)status;
    p->sig = sig;
    uv_close((uv_handle_t *)h, handle_closed);
    if (p->freed)
        return;
    if (p->done)
        died_early(p);
    else if (p->ending)
        check_end(p);
    else if (p->on_exit)
        p->on_exit(p->on_exit_arg, p->status, p->sig);
}

static void on_info(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct sq_private *p = arg;
    (void)body;
    if (e && e->code == -ECANCELED)
        return;
    p->asking = false;
    if (status == 200 && p->done)
        report_start(p, NULL);
}

static void check_start(struct sq_private *p)
{
    if (sq_mono_ns() > p->deadline) {
        struct sq_err e = {0};
        sq_err(&e, -ETIMEDOUT, "the private injector did not answer within %d s", (int)(READY_NS / SQ_S));
        uv_process_kill(&p->process, SIGKILL); /* its keeper takes back what it may hold */
        report_start(p, &e);
        return;
    }
    if (p->asking || access(p->socket, F_OK))
        return;
    p->asking = true;
    sq_client_call(p->client, "GET", "/v1/info", NULL, READY_NS, on_info, p);
}

bool sq_private_alive(const char *dir)
{
    char path[PATH_MAX];
    if (sq_path_join(path, sizeof(path), dir, "lock", NULL))
        return false;
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == EACCES) /* another user's: who may use its socket, may halt it */
        return sq_path_join(path, sizeof(path), dir, "api.sock", NULL) == 0 && access(path, W_OK) == 0;
    /* A moment's exclusive lock of ours can't disturb anybody: who starts there makes the directory first. */
    return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
}

static void check_end(struct sq_private *p)
{
    /* A keeper may stay for the life of a seccomp filter that only it can answer for; its directory is gone by then,
     * and nothing is owed any more. */
    bool locked = sq_private_alive(p->dir), there = p->running && access(p->dir, F_OK) == 0;
    int64_t now = sq_mono_ns();
    if (!there && !locked && !p->gone_ns)
        p->gone_ns = now;
    bool leaving = p->running && !there && !locked && now - p->gone_ns < LEAVING_NS;
    if ((there || locked || leaving) && now < p->deadline) {
        uv_timer_start(&p->timer, on_tick, POLL_MS, 0);
        return;
    }
    if (!p->ended)
        return;
    uv_timer_stop(&p->timer);
    cleanup_json json_t *left = json_array();
    if (there)
        json_array_append_new(left, json_sprintf("private injector still running, pid %d", (int)p->pid));
    else if (locked)
        json_array_append_new(left, json_sprintf("the keeper of %s is still at work", p->dir));
    else if (!p->running && p->status == SQ_UNCLEAN)
        json_array_append_new(left,
                              json_string("the private injector could not take back everything: see squalld.log"));
    void (*ended)(void *, const json_t *) = p->ended;
    p->ended = NULL;
    ended(p->ended_arg, left);
}

static void on_tick(uv_timer_t *t)
{
    struct sq_private *p = t->data;
    if (p->done)
        check_start(p);
    else if (p->ending)
        check_end(p);
}

static int spawn(struct sq_private *p, const char *program, int log_fd, struct sq_err *e)
{
    char a0[PATH_MAX], a1[] = "--private", a2[] = "--dir";
    char *argv[] = {a0, a1, a2, p->dir, NULL};
    snprintf(a0, sizeof(a0), "%s", program);
    uv_stdio_container_t none = {.flags = UV_IGNORE}, log = none;
    if (log_fd >= 0) {
        log.flags = UV_INHERIT_FD;
        log.data.fd = log_fd;
    }
    uv_stdio_container_t io[3] = {none, log, log};
    uv_process_options_t o = {
        .file = a0, .args = argv, .flags = UV_PROCESS_DETACHED, .stdio = io, .stdio_count = 3, .exit_cb = on_exit_cb};
    p->process.data = p;
    int rc = uv_spawn(p->loop, &p->process, &o);
    p->handles++; /* the handle must be closed in either case */
    if (rc) {
        sq_err(e, rc, "cannot run %s: %s", program, uv_strerror(rc));
        uv_close((uv_handle_t *)&p->process, handle_closed);
        return rc;
    }
    p->running = true;
    p->pid = p->process.pid;
    uv_unref((uv_handle_t *)&p->process);
    return 0;
}

int sq_private_start(uv_loop_t *loop, int log_fd, sq_private_ready *done, void *arg, struct sq_private **out,
                     struct sq_err *e)
{
    char program[PATH_MAX], run[PATH_MAX], name[32];
    int rc = sq_private_program(program, sizeof(program), e);
    if (!rc)
        rc = sq_run_dir(run, sizeof(run), e);
    if (rc)
        return rc;
    struct sq_private *p = calloc(1, sizeof(*p));
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    snprintf(name, sizeof(name), "p-%08llx", (unsigned long long)(sq_rng_entropy() & 0xffffffff));
    p->loop = loop;
    p->done = done;
    p->arg = arg;
    rc = sq_path_join(p->dir, sizeof(p->dir), run, name, e);
    if (!rc)
        rc = sq_path_join(p->socket, sizeof(p->socket), p->dir, "api.sock", e);
    if (!rc)
        rc = sq_client_new(loop, p->socket, &p->client, e);
    if (rc) {
        free(p);
        return rc;
    }
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    p->handles = 1;
    rc = spawn(p, program, log_fd, e);
    if (rc) {
        p->done = NULL;
        sq_private_free(p);
        return rc;
    }
    p->deadline = sq_mono_ns() + READY_NS;
    uv_timer_start(&p->timer, on_tick, POLL_MS, POLL_MS);
    *out = p;
    return 0;
}

const char *sq_private_socket(const struct sq_private *p)
{
    return p->socket;
}

void sq_private_on_exit(struct sq_private *p, void (*fn)(void *arg, int status, int sig), void *arg)
{
    p->on_exit = fn;
    p->on_exit_arg = arg;
}

void sq_private_end(struct sq_private *p, int64_t within_ns, void (*done)(void *arg, const json_t *left), void *arg)
{
    p->ending = true;
    p->ended = done;
    p->ended_arg = arg;
    p->deadline = sq_mono_ns() + within_ns;
    uv_timer_start(&p->timer, on_tick, 0, 0);
}

void sq_private_term(struct sq_private *p)
{
    if (p->running)
        uv_process_kill(&p->process, SIGTERM);
}

void sq_private_free(struct sq_private *p)
{
    if (!p || p->freed)
        return;
    p->freed = true;
    p->done = NULL;
    sq_client_close(SQ_TAKE(p->client), NULL, NULL);
    if (p->running)
        uv_close((uv_handle_t *)&p->process, handle_closed);
    uv_close((uv_handle_t *)&p->timer, handle_closed);
}

/* ---- all of them ---- */

static int each_in(const char *run, int (*fn)(const char *dir, void *arg), void *arg)
{
    DIR *d = opendir(run);
    if (!d)
        return 0;
    int rc = 0;
    const struct dirent *de;
    while (rc == 0 && (de = readdir(d))) {
        char path[PATH_MAX];
        struct stat st;
        if (de->d_name[0] == '.' || sq_path_join(path, sizeof(path), run, de->d_name, NULL))
            continue;
        if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
            rc = fn(path, arg);
    }
    closedir(d);
    return rc;
}

/* Injectors of other users, for root: <base>/<prefix><anything><suffix>. */
static int each_user(const char *base, const char *prefix, const char *suffix, int (*fn)(const char *, void *),
                     void *arg)
{
    DIR *d = opendir(base);
    if (!d)
        return 0;
    int rc = 0;
    const struct dirent *de;
    while (rc == 0 && (de = readdir(d))) {
        char path[PATH_MAX];
        if (de->d_name[0] == '.' || strncmp(de->d_name, prefix, strlen(prefix)) != 0)
            continue;
        if ((size_t)snprintf(path, sizeof(path), "%s/%s%s", base, de->d_name, suffix) < sizeof(path))
            rc = each_in(path, fn, arg);
    }
    closedir(d);
    return rc;
}

int sq_private_each(int (*fn)(const char *dir, void *arg), void *arg, struct sq_err *e)
{
    char run[PATH_MAX];
    int rc = sq_run_dir(run, sizeof(run), e);
    if (rc)
        return rc;
    rc = each_in(run, fn, arg);
    /* A test's own place is its whole world. */
    if (rc || getenv("SQUALL_RUN_DIR"))
        return rc;
    if (strcmp(run, "/run/squall") != 0)
        rc = each_in("/run/squall", fn, arg);
    if (rc || geteuid() != 0)
        return rc;
    if (!rc)
        rc = each_user("/run/user", "", "/squall", fn, arg);
    if (!rc)
        rc = each_user("/tmp", "squall-", "", fn, arg);
    return rc;
}
