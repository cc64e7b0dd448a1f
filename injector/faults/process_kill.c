/* process/kill: a signal to chosen processes, with the rights of the peer that asked. There is nothing to take back:
 * the record says that it happened, so that a service with `restart: after_fault` is started when the fault ends. */
#include "faults/fault.h"

static const struct sq_param with[] = {
    {"signal", SQ_P_SIGNAL, 0, "KILL", NULL, "the signal, by name or number; not one that stops (see process/pause)"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

const struct sq_fault_spec sq_spec_process_kill = {
    .name = "process/kill",
    .doc = "Sends a signal (SIGKILL unless said otherwise) to the chosen processes, once.",
    .target = SQ_T_PROCESS,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "runas.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "target.h"

#define READBACK_NS (200 * SQ_MS)

struct kill {
    struct sq_victim *v;
    size_t n;
    bool control;
};

/* Signal 0 of a control: kill(2) checks the right to send one, and sends none. */
static int signal_of(const struct sq_fault *f)
{
    const struct kill *k = f->priv;
    return k && k->control ? 0 : (int)sq_json_int_or(f->with, "signal", SIGKILL);
}

static int resolve(struct sq_fault *f, struct sq_err *e)
{
    int sig = signal_of(f);
    if (sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "process/kill does not send %s: nothing would continue the process again",
                   sq_signal_name(sig));
        sq_err_hint(e, "use process/pause, which takes it back");
        return -EINVAL;
    }
    struct kill *k = f->priv ? f->priv : calloc(1, sizeof *k);
    if (!k)
        return sq_err(e, -ENOMEM, "out of memory");
    f->priv = k;
    sq_victims_free(k->v, k->n);
    k->v = NULL;
    k->n = 0;
    int r = sq_target_dose(f, &k->control, e);
    return r < 0 ? r : sq_target_resolve(f, &k->v, &k->n, e);
}

static int undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    const struct kill *k = f->priv;
    for (size_t i = 0; i < k->n; i++) {
        const struct sq_victim *v = &k->v[i];
        json_t *o = json_pack("{s:s,s:i,s:I,s:i,s:s,s:s}", "boot", sq_boot_id(), "pid", (int)v->pid, "start",
                              (json_int_t)v->start, "signal", signal_of(f), "run", f->run ? sq_run_id(f->run) : "",
                              "instance", v->instance);
        if (!o || json_array_append_new(records, o) < 0)
            return sq_err(e, -ENOMEM, "out of memory");
    }
    return 0;
}

struct shot {
    int pidfd, sig;
};

static int shoot(void *arg)
{
    const struct shot *s = arg;
    return sq_pidfd_signal(s->pidfd, s->sig);
}

static int apply(struct sq_fault *f, struct sq_err *e)
{
    const struct kill *k = f->priv;
    int sig = signal_of(f);
    for (size_t i = 0; i < k->n; i++) {
        const struct sq_victim *v = &k->v[i];
        struct shot s = {.pidfd = v->pidfd, .sig = sig};
        int r = sq_run_as(&f->peer, shoot, &s, e);
        if (r == -EPERM) {
            sq_err_cls(e, SQ_C_DENIED, r, "uid %u may not send %s to process %d (%s)", (unsigned)f->peer.uid,
                       sq_signal_name(sig), (int)v->pid, v->cmd);
            sq_err_hint(e, "it belongs to another user: ask as that user or as root");
        } else if (r == -ESRCH) {
            sq_err_cls(e, SQ_C_NOTFOUND, r, "process %d (%s) ended before it could be sent %s", (int)v->pid, v->cmd,
                       sq_signal_name(sig));
        } else if (r < 0) {
            sq_err_sys(e, r, "cannot send %s to process %d (%s)", sq_signal_name(sig), (int)v->pid, v->cmd);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static bool gone_by(int pidfd, int64_t until)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int64_t left = until - sq_mono_ns();
    int r;
    do
        r = poll(&p, 1, left > 0 ? (int)((left + SQ_MS - 1) / SQ_MS) : 0);
    while (r < 0 && errno == EINTR);
    return r > 0;
}

/* Is SIG in one of the masks of /proc/PID/status (proc(5): hexadecimal, bit sig - 1)? */
static bool in_mask(const char *status, const char *name, int sig)
{
    const char *l = strstr(status, name);
    return l && (strtoull(l + strlen(name), NULL, 16) >> (sig - 1) & 1);
}

static const char *state_after(const struct sq_victim *v, int sig, int64_t until)
{
    if (sig == SIGKILL)
        return gone_by(v->pidfd, until) ? "gone" : "alive";
    char path[64], text[4096];
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)v->pid);
    for (;;) {
        /* Most signals end what does not expect them, at once; those that are expected leave the pending mask. */
        if (gone_by(v->pidfd, sq_mono_ns() + 2 * SQ_MS))
            return "gone";
        cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (n > 0) {
            text[n] = '\0';
            if (in_mask(text, "\nSigIgn:", sig))
                return "ignored";
            if (!in_mask(text, "\nShdPnd:", sig) && !in_mask(text, "\nSigPnd:", sig))
                return gone_by(v->pidfd, 0) ? "gone" : "delivered";
        }
        if (sq_mono_ns() >= until)
            return "pending";
    }
}

/* Blocks for at most 200 ms, as long as a killed process needs to be gone (mostly well under 10 ms). */
static int readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    const struct kill *k = f->priv;
    int sig = signal_of(f), r = 0;
    int64_t until = sq_mono_ns() + READBACK_NS;
    json_t *list = json_array();
    for (size_t i = 0; i < k->n; i++) {
        const struct sq_victim *v = &k->v[i];
        const char *state = k->control ? "spared" : state_after(v, sig, until);
        json_array_append_new(list, json_pack("{s:i,s:s}", "pid", (int)v->pid, "state", state));
        bool ok = strcmp(state, "gone") == 0 || strcmp(state, "delivered") == 0 || k->control;
        if (!ok && r == 0) {
            r = sq_err(e, -EBADE, "process %d (%s) is %s after %s", (int)v->pid, v->cmd,
                       strcmp(state, "ignored") == 0   ? "as before (it ignores the signal)"
                       : strcmp(state, "pending") == 0 ? "as before (it blocks the signal)"
                                                       : "still there 200 ms",
                       sq_signal_name(sig));
            if (sig != SIGKILL)
                sq_err_hint(e, "signal: KILL cannot be ignored or blocked");
        }
    }
    *out = json_pack("{s:s,s:o}", "signal", k->control ? "none" : sq_signal_name(sig), "processes", list);
    return r;
}

static int revert(struct sq_engine *eng, const json_t *undo_record, struct sq_err *e)
{
    (void)eng;
    (void)undo_record;
    (void)e;
    return 0; /* the engine tells the instance that its fault has ended (sq_service_fault) */
}

static int gone(struct sq_engine *eng, const json_t *undo_record, struct sq_err *e)
{
    (void)eng;
    (void)undo_record;
    (void)e;
    return 0; /* a signal leaves nothing behind that could be taken back */
}

static void release(struct sq_fault *f)
{
    struct kill *k = f->priv;
    if (!k)
        return;
    sq_victims_free(k->v, k->n);
    free(k);
    f->priv = NULL;
}

const struct sq_fault_ops sq_ops_process_kill = {
    .check = sq_target_check,
    .resolve = resolve,
    .undo = undo,
    .apply = apply,
    .readback = readback,
    .revert = revert,
    .gone = gone,
    .free = release,
};

#endif
