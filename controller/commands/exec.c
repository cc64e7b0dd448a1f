/* squall exec: launch any command under interception, with faults on its calls. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/begin.h"
#include "commands/exec.h"
#include "run/private.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define LEASE_NS (10 * SQ_S)
#define POLL_NS (200 * SQ_MS)
#define ASK_NS (15 * SQ_S)

static const struct sq_option options[] = {
    {"edge", 0, "NAME=DEST",
     "count and intercept the calls to DEST (127.0.0.1:5432, 10.0.0.0/8:443, [::1]:80, unix:/path); "
     "the same NAME again adds one",
     SQ_COMPLETE_NONE, NULL},
    {"fault", 0, "KIND", "a fault: one of call/* (squall explain lists them), process/pause, process/kill",
     SQ_COMPLETE_TOPIC, NULL},
    {"with", 0, "KEY=VALUE", "a parameter of the fault before it: delay=200ms", SQ_COMPLETE_NONE, NULL},
    {"percent", 0, "P%", "how many of the calls the fault before it hits (default: all)", SQ_COMPLETE_NONE, NULL},
    {"on", 0, "NAME", "the edge that the fault before it acts on (default: the only one)", SQ_COMPLETE_NONE, NULL},
    {"after", 0, "TIME", "when the fault before it begins (default: before the command)", SQ_COMPLETE_NONE, NULL},
    {"duration", 0, "TIME", "how long the fault before it stays (default: until the command ends)", SQ_COMPLETE_NONE,
     NULL},
    {"injector", 0, "SOCKET", "use this injector (default: $SQUALL_INJECTOR, else a private one)", SQ_COMPLETE_FILE,
     NULL},
    {"quiet", 'q', NULL, "do not say at the end what was counted", SQ_COMPLETE_NONE, NULL},
    {"gate", 0, "FD", "used by squall itself: read a byte from FD, then become COMMAND", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

/* ---- faults ---- */

static void say(struct exec *x, const char *what, const struct sq_err *e)
{
    if (e && e->code == -ECANCELED)
        return;
    (void)fprintf(x->t->err, "squall: %s: %s%s%s\n", what, e ? e->msg : "failed", e && e->hint[0] ? "; " : "",
                  e ? e->hint : "");
}

static json_t *fault_body(const struct exec_fault *f)
{
    json_t *target =
        f->spec->target == SQ_T_EDGE ? json_pack("{s:s}", "edge", f->on) : json_pack("{s:s}", "service", "exec");
    if (f->percent)
        json_object_set_new(target, "percent", json_string(f->percent));
    return json_pack("{s:s, s:o, s:O, s:s}", "uses", f->spec->name, "target", target, "with", f->with, "step", "exec");
}

static void run_path(const struct exec *x, char *buf, size_t len, const char *rest)
{
    snprintf(buf, len, "/v1/runs/%s%s", x->run, rest);
}

static void fault_ended(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct exec_fault *f = arg;
    (void)status;
    if (e)
        say(f->x, f->spec->name, e);
    else if (!sq_json_bool_or(body, "clean", true))
        (void)fprintf(f->x->t->err, "squall: %s could not be taken back completely\n", f->spec->name);
}

static void end_fault(uv_timer_t *t)
{
    struct exec_fault *f = t->data;
    char path[160], rest[64];
    snprintf(rest, sizeof(rest), "/faults/%s", f->id);
    run_path(f->x, path, sizeof(path), rest);
    sq_client_call(sq_session_client(f->x->s), "DELETE", path, NULL, ASK_NS, fault_ended, f);
}

static void note_applied(struct exec_fault *f, const json_t *body)
{
    snprintf(f->id, sizeof(f->id), "%s", sq_json_str_or(body, "fault", ""));
    if (f->duration_ns >= 0 && f->timed)
        uv_timer_start(&f->timer, end_fault, (uint64_t)(f->duration_ns / SQ_MS), 0);
}

static void fault_begun(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct exec_fault *f = arg;
    (void)status;
    if (e)
        say(f->x, f->spec->name, e);
    else
        note_applied(f, body);
}

static void begin_fault(uv_timer_t *t)
{
    struct exec_fault *f = t->data;
    char path[160];
    run_path(f->x, path, sizeof(path), "/faults");
    sq_client_call(sq_session_client(f->x->s), "POST", path, fault_body(f), ASK_NS, fault_begun, f);
}

/* ---- the run ---- */

static int begin_run(struct exec *x, struct sq_err *e)
{
    char path[160];
    cleanup_json json_t *made = NULL;
    int rc = sq_session_ask(
        x->s, "POST", "/v1/runs",
        json_pack("{s:s, s:o}", "name", "exec", "lease", json_sprintf("%llds", (long long)(LEASE_NS / SQ_S))), &made,
        e);
    snprintf(x->run, sizeof(x->run), "%s", sq_json_str_or(made, "run", ""));
    for (size_t i = 0; i < x->n_edges && !rc; i++) {
        run_path(x, path, sizeof(path), "/edges");
        rc = sq_session_ask(
            x->s, "POST", path,
            json_pack("{s:s, s:s, s:O}", "name", x->edges[i].name, "from", "exec", "to", x->edges[i].to), NULL, e);
    }
    return rc;
}

static void renewed(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct exec *x = arg;
    (void)body;
    if (status == 200 || (e && e->code == -ECANCELED) || x->lost)
        return;
    x->lost = true;
    say(x, "the faults have ended, the command goes on without them", e);
}

static void on_renew(uv_timer_t *t)
{
    struct exec *x = t->data;
    char path[160];
    if (x->lost)
        return;
    run_path(x, path, sizeof(path), "/renew");
    sq_client_call(sq_session_client(x->s), "POST", path, NULL, LEASE_NS, renewed, x);
}

static void count_call(struct exec *x, struct exec_edge *edge, const json_t *row)
{
    (void)x;
    const char *fault = json_string_value(json_array_get(row, 6));
    int64_t outcome = json_integer_value(json_array_get(row, 2));
    edge->calls++;
    edge->hit += fault && *fault;
    edge->refused += outcome == 3;
}

static void polled(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct exec *x = arg;
    size_t i, k;
    json_t *ev, *row;
    (void)status;
    x->polling = false;
    x->quiet_polls = json_array_size(json_object_get(body, "events")) ? 0 : x->quiet_polls + 1;
    if (e)
        return;
    x->after = sq_json_int_or(body, "next", x->after);
    json_array_foreach(json_object_get(body, "events"), i, ev)
    {
        struct exec_edge *edge = sq_exec_edge(x, sq_json_str_or(ev, "edge", ""));
        if (edge && strcmp(sq_json_str_or(ev, "type", ""), "calls") == 0)
            json_array_foreach(json_object_get(ev, "calls"), k, row) count_call(x, edge, row);
        if (strcmp(sq_json_str_or(ev, "type", ""), "warning") == 0)
            (void)fprintf(x->t->err, "squall: %s\n", sq_json_str_or(ev, "text", ""));
    }
}

static void on_poll(uv_timer_t *t)
{
    struct exec *x = t->data;
    char path[160], rest[64];
    if (x->polling)
        return;
    x->polling = true;
    snprintf(rest, sizeof(rest), "/events?after=%lld", (long long)x->after);
    run_path(x, path, sizeof(path), rest);
    sq_client_call(sq_session_client(x->s), "GET", path, NULL, ASK_NS, polled, x);
}

/* ---- the command ---- */

static void child_exited(uv_process_t *p, int64_t status, int sig)
{
    struct exec *x = p->data;
    x->child_done = true;
    x->status = (int)status;
    x->term_sig = sig;
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct exec *x = s->data;
    /* The terminal's own signals reach the command by themselves: it is in our process group. */
    if ((signum == SIGTERM || signum == SIGHUP) && x->child_up && !x->child_done)
        uv_process_kill(&x->child, signum);
}

static void start_handles(struct exec *x)
{
    static const int signals[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP};
    uv_loop_t *loop = sq_session_loop(x->s);
    uv_timer_init(loop, &x->renew);
    uv_timer_init(loop, &x->poll);
    x->renew.data = x->poll.data = x;
    for (size_t i = 0; i < SQ_COUNT(signals); i++) {
        uv_signal_init(loop, &x->sig[i]);
        x->sig[i].data = x;
        uv_signal_start(&x->sig[i], on_signal, signals[i]);
    }
    for (size_t i = 0; i < x->n_faults; i++) {
        uv_timer_init(loop, &x->faults[i].timer);
        x->faults[i].timer.data = &x->faults[i];
        x->faults[i].timed = true;
    }
    uv_timer_start(&x->renew, on_renew, (uint64_t)(LEASE_NS / 3 / SQ_MS), (uint64_t)(LEASE_NS / 3 / SQ_MS));
    uv_timer_start(&x->poll, on_poll, (uint64_t)(POLL_NS / SQ_MS), (uint64_t)(POLL_NS / SQ_MS));
    x->handles = true;
}

static void stop_handles(struct exec *x)
{
    if (!x->handles)
        return;
    uv_close((uv_handle_t *)&x->renew, NULL);
    uv_close((uv_handle_t *)&x->poll, NULL);
    for (size_t i = 0; i < SQ_COUNT(x->sig); i++)
        uv_close((uv_handle_t *)&x->sig[i], NULL);
    for (size_t i = 0; i < x->n_faults; i++)
        uv_close((uv_handle_t *)&x->faults[i].timer, NULL);
    if (x->child_up)
        uv_close((uv_handle_t *)&x->child, NULL);
}

/* ---- the gate: the command is there, armed and counted, but does not begin before its first faults are on ---- */

static bool gated(const struct exec *x)
{
    for (size_t i = 0; i < x->n_faults; i++)
        if (x->faults[i].after_ns < 0)
            return true;
    return false;
}

/* The other side: what `squalld launch` has become. */
static int gate_main(const struct sq_args *a, struct sq_term *t, const char *text)
{
    char byte, *end = NULL;
    errno = 0;
    long fd = strtol(text, &end, 10);
    if (errno || end == text || *end || fd < 3 || fd > INT_MAX)
        return sq_term_usage(t, NULL, "exec: \"%.20s\" is no descriptor", text);
    ssize_t n;
    do
        n = read((int)fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1) {
        (void)fprintf(t->err, "squall: %s was not started\n", a->argv[0]);
        return 126;
    }
    close((int)fd);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)execvp(a->argv[0], a->argv);
    int rc = errno == ENOENT ? 127 : 126;
    (void)fprintf(t->err, "squall: cannot execute %s: %s\n", a->argv[0], strerror(errno));
    return rc;
}

static bool is_running(const json_t *services)
{
    size_t i;
    json_t *inst;
    json_array_foreach(json_object_get(services, "instances"), i, inst)
    {
        if (strcmp(sq_json_str_or(inst, "state", ""), "running") == 0)
            return true;
    }
    return false;
}

static int open_gate(struct exec *x, struct sq_err *e)
{
    char path[160];
    int rc = 0;
    int64_t until = sq_mono_ns() + ASK_NS;
    for (bool there = false; !there && !rc && !x->child_done;) {
        cleanup_json json_t *services = NULL;
        run_path(x, path, sizeof(path), "/services");
        rc = sq_session_ask(x->s, "GET", path, NULL, &services, e);
        there = is_running(services);
        if (!there && sq_mono_ns() > until)
            rc = sq_err(e, -ETIMEDOUT, "the command's launcher has not reported");
        if (!there)
            usleep(5000);
    }
    for (size_t i = 0; i < x->n_faults && !rc; i++) {
        cleanup_json json_t *applied = NULL;
        if (x->faults[i].after_ns >= 0)
            continue;
        run_path(x, path, sizeof(path), "/faults");
        rc = sq_session_ask(x->s, "POST", path, fault_body(&x->faults[i]), &applied, e);
        if (!rc)
            note_applied(&x->faults[i], applied);
    }
    if (!rc && !x->child_done && write(x->gate[1], "g", 1) != 1)
        rc = sq_err_sys(e, -errno, "the command's gate");
    return rc;
}

/* `squalld launch` becomes the command: in our session, our process group, on our terminal. */
static int launch(struct exec *x, struct sq_err *e)
{
    char program[PATH_MAX], path[160], launch_word[] = "launch", connect_word[] = "--connect", token_word[] = "--token",
                                       dashes[] = "--";
    cleanup_json json_t *place = NULL;
    run_path(x, path, sizeof(path), "/exec");
    int rc = sq_private_program(program, sizeof(program), e);
    if (!rc)
        rc = sq_session_ask(x->s, "POST", path, json_pack("{s:s}", "name", "exec"), &place, e);
    if (rc)
        return rc;
    cleanup_free char *socket = strdup(sq_json_str_or(place, "socket", ""));
    cleanup_free char *token = strdup(sq_json_str_or(place, "token", ""));
    cleanup_free char **argv = calloc((size_t)x->args->argc + 16, sizeof(*argv));
    if (!socket || !token || !argv)
        return sq_err(e, -ENOMEM, "no memory");
    size_t n = 0;
    argv[n++] = program;
    argv[n++] = launch_word;
    argv[n++] = connect_word;
    argv[n++] = socket;
    argv[n++] = token_word;
    argv[n++] = token;
    argv[n++] = dashes;
    char self[PATH_MAX], verb[] = "exec", gate[] = "--gate", number[16], more[] = "--";
    if (gated(x)) {
        ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
        if (len < 0 || pipe2(x->gate, O_CLOEXEC) < 0)
            return sq_err_sys(e, -errno, "the command's gate"); /* cppcheck-suppress memleak */
        self[len] = '\0';
        /* High up, out of the way of what the person's shell has passed on, and inherited. */
        int high = fcntl(x->gate[0], F_DUPFD, 200);
        if (high < 0)
            return sq_err_sys(e, -errno, "the command's gate"); /* cppcheck-suppress memleak */
        close(x->gate[0]);
        x->gate[0] = high;
        snprintf(number, sizeof(number), "%d", high);
        argv[n++] = self;
        argv[n++] = verb;
        argv[n++] = gate;
        argv[n++] = number;
        argv[n++] = more;
    }
    for (int i = 0; i < x->args->argc; i++)
        argv[n++] = x->args->argv[i];
    uv_stdio_container_t io[3];
    for (int i = 0; i < 3; i++)
        io[i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = i};
    uv_process_options_t o = {.file = program, .args = argv, .stdio = io, .stdio_count = 3, .exit_cb = child_exited};
    x->child.data = x;
    rc = uv_spawn(sq_session_loop(x->s), &x->child, &o);
    if (x->gate[0] >= 0)
        close(SQ_TAKE_FD(x->gate[0]));
    x->child_up = true; /* its handle must be closed in either case */
    return rc ? sq_err(e, rc, "cannot run %s: %s", program, uv_strerror(rc)) : 0;
}

static void wait_for_it(struct exec *x)
{
    for (size_t i = 0; i < x->n_faults; i++)
        if (x->faults[i].after_ns >= 0)
            uv_timer_start(&x->faults[i].timer, begin_fault, (uint64_t)(x->faults[i].after_ns / SQ_MS), 0);
    while (!x->child_done)
        uv_run(sq_session_loop(x->s), UV_RUN_ONCE);
    for (size_t i = 0; i < x->n_faults; i++)
        uv_timer_stop(&x->faults[i].timer);
    /* The last calls are told within 100 ms. */
    int64_t until = sq_mono_ns() + 2 * SQ_S;
    x->quiet_polls = 0;
    while (!x->lost && x->quiet_polls < 2 && sq_mono_ns() < until)
        uv_run(sq_session_loop(x->s), UV_RUN_ONCE);
}

/* ---- the end ---- */

static void say_left(const struct exec *x, const json_t *left)
{
    size_t i;
    json_t *s;
    json_array_foreach(left, i, s)
    {
        (void)fprintf(x->t->err, "squall: left: %s\n", json_string_value(s));
    }
}

static bool end_run(struct exec *x)
{
    char path[160];
    cleanup_json json_t *answer = NULL;
    struct sq_err e = {0};
    if (!x->run[0] || x->lost)
        return true;
    uv_timer_stop(&x->renew);
    run_path(x, path, sizeof(path), "");
    if (sq_session_ask(x->s, "DELETE", path, NULL, &answer, &e)) {
        say(x, "the injector did not end the run", &e);
        /* Of a private one the end of its keeper says whether anything is left; of another one nobody knows. */
        return !sq_begin_injector(sq_args_value(x->args, "injector")) || e.cls == SQ_C_NOTFOUND;
    }
    say_left(x, json_object_get(answer, "left"));
    return sq_json_bool_or(answer, "clean", true);
}

static void tell_counts(const struct exec *x)
{
    if (sq_args_has(x->args, "quiet"))
        return;
    for (size_t i = 0; i < x->n_edges; i++) {
        const struct exec_edge *g = &x->edges[i];
        (void)fprintf(x->t->err, "squall: %s: %llu call%s, %llu hit by a fault", g->name, (unsigned long long)g->calls,
                      g->calls == 1 ? "" : "s", (unsigned long long)g->hit);
        if (g->refused)
            (void)fprintf(x->t->err, ", %llu refused by the dependency", (unsigned long long)g->refused);
        (void)fputc('\n', x->t->err);
    }
}

static int exec_main(const struct sq_args *a, struct sq_term *t)
{
    struct sq_err e = {0};
    cleanup_json json_t *left = NULL;
    if (sq_args_value(a, "gate"))
        return gate_main(a, t, sq_args_value(a, "gate"));
    struct exec *x = calloc(1, sizeof(*x));
    if (!x)
        return SQ_INFRA;
    x->t = t;
    x->args = a;
    x->gate[0] = x->gate[1] = -1;
    int code = sq_exec_read(x);
    code = code ? code : sq_begin(t);
    if (!code) {
        int rc = sq_session_open(sq_begin_injector(sq_args_value(a, "injector")), &x->s, &e);
        if (!rc) {
            start_handles(x);
            rc = begin_run(x, &e);
            rc = rc ? rc : launch(x, &e);
            if (!rc && gated(x))
                rc = open_gate(x, &e);
        }
        if (x->gate[1] >= 0)
            close(SQ_TAKE_FD(x->gate[1])); /* a command that is still behind it leaves */
        if (rc) {
            code = sq_term_fail(t, &e);
            while (x->child_up && x->child.pid > 0 && !x->child_done)
                uv_run(sq_session_loop(x->s), UV_RUN_ONCE);
        } else {
            wait_for_it(x);
            code = x->term_sig ? 128 + x->term_sig : x->status;
        }
        bool clean = !x->s || end_run(x);
        stop_handles(x);
        sq_session_close(x->s, &left);
        if (!rc)
            tell_counts(x);
        say_left(x, left);
        if (!clean || json_array_size(left))
            code = SQ_UNCLEAN;
    }
    for (size_t i = 0; i < x->n_edges; i++)
        json_decref(x->edges[i].to);
    for (size_t i = 0; i < x->n_faults; i++)
        json_decref(x->faults[i].with);
    free(x);
    return code;
}

const struct sq_command sq_cmd_exec = {
    .name = "exec",
    .args = "-- COMMAND [ARGUMENT...]",
    .summary = "launch any command under interception, with faults on its calls",
    .text =
        "Starts COMMAND on this terminal, counts its calls on the edges that were declared, and applies faults to\n"
        "them. The faults end with the command. Its exit status is passed on.\n\n"
        "  squall exec --edge db=127.0.0.1:5432 -- psql -c 'select 1'\n"
        "  squall exec --edge api=127.0.0.1:8080 --fault call/latency --with delay=200ms --percent 30% -- ./client\n"
        "  squall exec --edge s=unix:/run/app.sock --fault call/error --with errno=ECONNREFUSED --after 5s \\\n"
        "              --duration 10s -- ./client",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .complete = SQ_COMPLETE_COMMAND,
    .raw = true,
    .main = exec_main,
};
