/* An instance lives as long as its first process. When that ends, what is left of its tree is killed (its ports must be
 * free for the next), and its restart policy decides. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "service_int.h"
#include "squall/clock.h"

#define BACKOFF_FIRST (100 * SQ_MS)
#define BACKOFF_MOST (5 * SQ_S)
#define UP_LONG (10 * SQ_S)      /* up for this long: the next back-off starts anew */
#define FAULT_SHADOW (10 * SQ_S) /* an exit this long after a fault may still be its work (a slow SIGTERM) */
#define SETTLE_MOST (5 * SQ_S)

static void look_again(void *svc);

static void schedule(struct svc *i, int64_t after_ns)
{
    watch_end(&i->again);
    i->again = watch_timer(i->s, after_ns, 0, look_again, i);
}

/* The zombie is kept until its tree is gone: while it is there, its session's number is certainly its own. */
void svc_reap(struct svc *i)
{
    if (i->reaped || i->is_exec || !i->tree.pid)
        return;
    i->reaped = waitpid(i->tree.pid, NULL, WNOHANG) != 0;
}

static void warn(const struct svc *i, const char *what, const struct sq_err *e)
{
    json_t *o = json_pack("{s:s,s:o}", "type", "warning", "text", json_sprintf("%s %s: %s", i->name, what, e->msg));
    if (o)
        sq_engine_event(i->s->eng, i->run, o);
}

static int64_t backoff(struct svc *i)
{
    bool long_up = i->up_since && sq_mono_ns() - i->up_since >= UP_LONG;
    i->backoff_ns = !i->backoff_ns || long_up ? BACKOFF_FIRST : i->backoff_ns * 2;
    if (i->backoff_ns > BACKOFF_MOST)
        i->backoff_ns = BACKOFF_MOST;
    i->up_since = 0;
    return i->backoff_ns;
}

static void restarted(struct svc *i, const struct sq_err *e)
{
    if (!e->code) {
        i->restarts++;
        i->due = false;
        svc_event(i, "restarted", json_pack("{s:i}", "restarts", i->restarts));
        return;
    }
    i->state = SVC_EXITED;
    if (i->ending)
        return;
    warn(i, "was not restarted", e);
    schedule(i, backoff(i));
}

static bool wants_restart(const struct svc *i)
{
    if (i->ending || i->is_exec)
        return false;
    return i->def->restart == RESTART_ALWAYS || (i->def->restart == RESTART_AFTER_FAULT && i->due && i->faults == 0);
}

static void restart(struct svc *i)
{
    bool frozen = false;
    struct sq_err e = {0};
    if (i->tree.cgroup[0] && sq_cgroup_frozen(i->tree.cgroup, &frozen, NULL) == 0 && frozen) {
        schedule(i, BACKOFF_FIRST); /* it would freeze in its launcher: after the pause */
        return;
    }
    if (svc_launch(i, restarted, &e) < 0)
        restarted(i, &e);
}

/* An exec'd command may leave children: theirs is the cgroup until they are gone. */
static void exec_over(struct svc *i)
{
    if (sq_tree_empty(&i->tree) && svc_retire(i, NULL) == 0)
        return;
    schedule(i, SQ_S);
}

static void look_again(void *svc)
{
    struct svc *i = svc;
    watch_end(&i->again);
    if (i->is_exec) {
        exec_over(i);
        return;
    }
    if (!i->reaped) { /* still settling */
        if (!sq_tree_empty(&i->tree) && sq_mono_ns() < i->settle_until) {
            (void)sq_tree_kill(&i->tree);
            schedule(i, 20 * SQ_MS);
            return;
        }
        svc_reap(i);
        if (wants_restart(i) && i->def->restart == RESTART_ALWAYS) {
            schedule(i, backoff(i));
            return;
        }
    }
    if (wants_restart(i))
        restart(i);
}

static void collect_status(struct svc *i)
{
    siginfo_t si = {0};
    i->exit_code = i->exit_signal = 0;
    if (i->is_exec || waitid(P_PID, (id_t)i->tree.pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0)
        return;
    if (si.si_code == CLD_EXITED)
        i->exit_code = si.si_status;
    else
        i->exit_signal = si.si_status;
}

static json_t *how_it_ended(const struct svc *i)
{
    json_t *o = json_object();
    json_object_set_new(o, "exit", i->is_exec || i->exit_signal ? json_null() : json_integer(i->exit_code));
    json_object_set_new(o, "signal", i->exit_signal ? json_integer(i->exit_signal) : json_null());
    if (!i->is_exec)
        json_object_set_new(o, "tail", svc_tail(i));
    return o;
}

/* The launcher's process ended. Its last words may be a failure, or that the command ran (and ended at once). False:
 * that was all, and the instance may be gone. */
static bool launch_is_over(struct svc *i)
{
    i->chan->fn(i);
    if (i->launched)
        svc_launch_cancel(i); /* not even last words */
    return i->state == SVC_RUNNING;
}

void svc_exited(void *svc)
{
    struct svc *i = svc;
    watch_end(&i->exit);
    i->has_exit = true;
    collect_status(i);
    if (i->launched && !launch_is_over(i) && !i->is_exec)
        return;
    bool was_running = i->state == SVC_RUNNING;
    i->state = SVC_EXITED;
    svc_output_drain(i);
    if (!i->is_exec) /* children of an exec'd command may live on under its filter */
        svc_disarm(i);
    if (was_running) {
        svc_event(i, "exited", how_it_ended(i));
        i->due = i->faults > 0 || sq_mono_ns() < i->fault_until;
    }
    if (i->ending)
        return; /* the stop goes on with its tree */
    if (!was_running && !i->is_exec) {
        svc_reap(i); /* a launcher has no tree yet */
        return;
    }
    if (!i->is_exec)
        (void)sq_tree_kill(&i->tree);
    i->settle_until = sq_mono_ns() + SETTLE_MOST;
    schedule(i, 0);
}

void svc_fault(struct svc *i, bool on)
{
    if (on) {
        i->faults++;
        return;
    }
    if (i->faults == 0)
        return;
    i->fault_until = sq_mono_ns() + FAULT_SHADOW;
    if (--i->faults == 0 && i->state == SVC_EXITED && i->reaped && !i->again && wants_restart(i))
        schedule(i, 0);
}
