/* A small engine for tests of services, targets and process faults: a uv loop, a journal, events in memory, and an
 * interception that arms what the test asks for. Include it in one test file per binary. */
#ifndef SQUALL_SVC_HARNESS_H
#define SQUALL_SVC_HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cgroup.h"
#include "engine.h"
#include "service.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

#define NOBODY 65534
#define UNUSED __attribute__((unused))

struct sq_run {
    char id[16];
};

struct sq_engine {
    uv_loop_t *loop;
    struct sq_journal *journal;
    struct sq_services *services;
    char dir[128];
    json_t *events;
    struct sq_run run;
    bool seccomp;          /* arm the next launch with a filter that traps connect(2) */
    unsigned long trapped; /* how many connects were supervised */
    uv_poll_t listener;
    int listener_fd;
    unsigned disarmed;
};

uv_loop_t *sq_engine_loop(struct sq_engine *e)
{
    return e->loop;
}
struct sq_journal *sq_engine_journal(struct sq_engine *e)
{
    return e->journal;
}
struct sq_intercept *sq_engine_intercept(struct sq_engine *e)
{
    return (struct sq_intercept *)e;
}
struct sq_services *sq_engine_services(struct sq_engine *e)
{
    return e->services;
}
const char *sq_engine_dir(struct sq_engine *e)
{
    return e->dir;
}
const char *sq_engine_self(struct sq_engine *e)
{
    (void)e;
    return "/proc/self/exe";
}
void sq_engine_event(struct sq_engine *e, const char *run, json_t *obj)
{
    (void)run;
    json_array_append_new(e->events, obj);
}
const char *sq_run_id(const struct sq_run *r)
{
    return r->id;
}
struct sq_run *sq_run_find(struct sq_engine *e, const char *id)
{
    return strcmp(e->run.id, id) == 0 ? &e->run : NULL;
}

int sq_intercept_arm(struct sq_intercept *ic, const char *run, const char *service, const char *instance, int cgroup_fd,
                     struct sq_arming *out, struct sq_err *e)
{
    static const struct sock_filter trap[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    (void)run, (void)service, (void)instance, (void)cgroup_fd, (void)e;
    memset(out, 0, sizeof *out);
    if (!((struct sq_engine *)ic)->seccomp)
        return 0;
    out->seccomp = true;
    out->filter_len = sizeof trap;
    out->filter = malloc(sizeof trap);
    memcpy(out->filter, trap, sizeof trap);
    out->key = 7;
    return 0;
}

static void svc_notified(uv_poll_t *h, int status, int events)
{
    struct sq_engine *eng = h->data;
    struct seccomp_notif n;
    (void)status, (void)events;
    memset(&n, 0, sizeof n);
    if (ioctl(eng->listener_fd, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0) {
        uv_poll_stop(h);
        return;
    }
    struct seccomp_notif_resp r = {.id = n.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    (void)ioctl(eng->listener_fd, SECCOMP_IOCTL_NOTIF_SEND, &r);
    eng->trapped++;
}

int sq_intercept_supervise(struct sq_intercept *ic, uint64_t key, pid_t pid, int listener, struct sq_err *e)
{
    struct sq_engine *eng = (struct sq_engine *)ic;
    (void)pid, (void)e;
    assert_int_equal(key, 7);
    eng->listener_fd = listener;
    uv_poll_init(eng->loop, &eng->listener, listener);
    eng->listener.data = eng;
    return uv_poll_start(&eng->listener, UV_READABLE, svc_notified);
}

void sq_intercept_disarm(struct sq_intercept *ic, const char *run, const char *instance)
{
    struct sq_engine *eng = (struct sq_engine *)ic;
    (void)run, (void)instance;
    eng->disarmed++;
    if (eng->listener_fd >= 0) {
        uv_close((uv_handle_t *)&eng->listener, NULL);
        close(eng->listener_fd);
        eng->listener_fd = -1;
    }
}

/* ---- making and ending it ---- */

UNUSED static struct sq_engine *svc_engine(void)
{
    struct sq_engine *eng = calloc(1, sizeof *eng);
    struct sq_err e = {0};
    char path[160];
    assert_non_null(eng);
    eng->listener_fd = -1;
    (void)snprintf(eng->dir, sizeof eng->dir, "/tmp/squall-svc-XXXXXX");
    assert_non_null(mkdtemp(eng->dir));
    (void)chmod(eng->dir, 0755);
    (void)snprintf(path, sizeof path, "%s/journal", eng->dir);
    eng->loop = malloc(sizeof *eng->loop);
    assert_int_equal(uv_loop_init(eng->loop), 0);
    if (sq_journal_open(path, 64, &eng->journal, &e) < 0)
        fail_msg("%s", e.msg);
    eng->events = json_array();
    (void)snprintf(eng->run.id, sizeof eng->run.id, "r1");
    if (sq_services_new(eng, &eng->services, &e) < 0)
        fail_msg("%s", e.msg);
    return eng;
}

static void svc_flag(void *p)
{
    *(bool *)p = true;
}

/* Run the loop until *flag, at most for so long. */
UNUSED static bool svc_wait(struct sq_engine *eng, const bool *flag, int64_t ns)
{
    int64_t end = sq_mono_ns() + ns;
    while (!*flag && sq_mono_ns() < end) {
        (void)uv_run(eng->loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    return *flag;
}

UNUSED static void svc_spin(struct sq_engine *eng, int64_t ns)
{
    bool never = false;
    (void)svc_wait(eng, &never, ns);
}

struct svc_answer {
    bool done;
    json_t *json;
    struct sq_err err;
};

static void svc_answered(void *p, json_t *answer, const struct sq_err *e)
{
    struct svc_answer *a = p;
    a->done = true;
    a->json = answer;
    if (e)
        a->err = *e;
}

UNUSED static struct svc_answer svc_start_as(struct sq_engine *eng, const struct sq_peer *peer, const char *def)
{
    struct svc_answer a = {0};
    json_t *d = json_loads(def, 0, NULL);
    assert_non_null(d);
    sq_service_start(eng->services, &eng->run, peer, d, svc_answered, &a);
    assert_false(a.done); /* never from within */
    json_decref(d);
    assert_true(svc_wait(eng, &a.done, 12 * SQ_S));
    return a;
}

UNUSED static struct sq_peer svc_self(void)
{
    return (struct sq_peer){.uid = geteuid(), .gid = getegid(), .pid = getpid()};
}

UNUSED static struct svc_answer svc_start(struct sq_engine *eng, const char *def)
{
    struct sq_peer me = svc_self();
    struct svc_answer a = svc_start_as(eng, &me, def);
    if (a.err.code)
        fail_msg("start failed: %s", a.err.msg);
    return a;
}

UNUSED static int svc_pid(const struct svc_answer *a, size_t i)
{
    const json_t *one = json_array_get(json_object_get(a->json, "instances"), i);
    return (int)json_integer_value(json_object_get(one, "pid"));
}

UNUSED static void svc_stop(struct sq_engine *eng, const char *name, int64_t grace, bool clean)
{
    struct svc_answer a = {0};
    sq_service_stop(eng->services, eng->run.id, name, grace, svc_answered, &a);
    assert_true(svc_wait(eng, &a.done, grace + 5 * SQ_S));
    if (sq_json_bool_or(a.json, "clean", false) != clean)
        fail_msg("stop says %s", json_dumps(a.json, 0));
    json_decref(a.json);
}

UNUSED static void svc_engine_free(struct sq_engine *eng)
{
    char cmd[192];
    bool done = false;
    svc_stop(eng, NULL, 0, true);
    assert_int_equal(sq_journal_held(eng->journal), 0);
    sq_services_free(eng->services, svc_flag, &done);
    assert_true(svc_wait(eng, &done, SQ_S));
    (void)uv_run(eng->loop, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(eng->loop), 0); /* no handle is left open */
    free(eng->loop);
    sq_journal_close(eng->journal);
    static const char *const files[] = {"journal", "launch.sock"};
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(cmd, sizeof cmd, "%s/%s", eng->dir, files[i]);
        (void)unlink(cmd);
    }
    (void)snprintf(cmd, sizeof cmd, "%s/logs", eng->dir);
    (void)rmdir(cmd);
    assert_int_equal(rmdir(eng->dir), 0); /* the logs went with their services */
    json_decref(eng->events);
    free(eng);
}

/* The last event with this state; borrowed, NULL: none. */
UNUSED static json_t *svc_event_of(struct sq_engine *eng, const char *state)
{
    for (size_t i = json_array_size(eng->events); i > 0; i--) {
        json_t *o = json_array_get(eng->events, i - 1);
        if (strcmp(sq_json_str_or(o, "state", ""), state) == 0)
            return o;
    }
    return NULL;
}

UNUSED static bool svc_wait_event(struct sq_engine *eng, const char *state, int64_t ns)
{
    int64_t end = sq_mono_ns() + ns;
    while (!svc_event_of(eng, state) && sq_mono_ns() < end)
        svc_spin(eng, 2 * SQ_MS);
    return svc_event_of(eng, state) != NULL;
}

UNUSED static bool svc_alive(pid_t pid)
{
    struct sq_proc p;
    return sq_proc_read(pid, &p, NULL) == 0 && p.state != 'Z' && p.state != 'X';
}

/* Run a group again in a child that is nobody, hence without cgroups. How many failed. */
UNUSED static int svc_group_as_nobody(const char *name, const struct CMUnitTest *tests, size_t n)
{
    if (geteuid() != 0)
        return 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
            _exit(99);
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* as a program of nobody's own would be */
        int r = _cmocka_run_group_tests(name, tests, n, NULL, NULL);
        fflush(NULL);
        _exit(r);
    }
    int status = 0;
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* A process of our own that is not us: `sleep` under a name of its own, as uid. */
UNUSED static pid_t svc_sleeper(uid_t uid, const char *argv0)
{
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (uid && geteuid() == 0 && (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
            _exit(99);
        execl("/bin/sleep", argv0, "300", (char *)NULL);
        _exit(98);
    }
    char c;
    close(p[1]);
    (void)!read(p[0], &c, 1); /* the end of file: it has become sleep */
    close(p[0]);
    return pid;
}

UNUSED static void svc_reap(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

/* ---- files and records ---- */

UNUSED static char file[64];

UNUSED static void fresh_file(void)
{
    (void)snprintf(file, sizeof file, "/tmp/squall-svc-file-XXXXXX");
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    (void)chmod(file, 0666);
    if (geteuid() == 0)
        (void)!chown(file, NOBODY, NOBODY); /* fs.protected_regular */
}

UNUSED static char *slurp(const char *path)
{
    static char text[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

/* The undo records in the journal: the newest one's undo. New reference. */
UNUSED static int last_record(const json_t *record, unsigned slot, void *arg)
{
    json_t **out = arg;
    (void)slot;
    if (!*out)
        *out = json_deep_copy(json_object_get(record, "undo"));
    return 1;
}

UNUSED static json_t *undo_record(struct sq_engine *eng)
{
    json_t *undo = NULL;
    (void)sq_journal_each(eng->journal, last_record, &undo, NULL);
    assert_non_null(undo);
    return undo;
}

#endif
