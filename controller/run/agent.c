#include "run/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "probe/probe.h"
#include "probe/window.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define LOOK_NS (100 * SQ_MS)
#define SETTLED (50 * SQ_MS) /* a second is told so long after its end: the probe's threads have written all of it */

/* Takes O. False: nobody can be told any more. */
static bool say(json_t *o)
{
    bool ok = o && json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) == 0 && fputc('\n', stdout) != EOF;

    json_decref(o);
    return ok;
}

static int failed(const struct sq_err *e)
{
    (void)say(json_pack("{s:s,s:s,s:s}", "type", "failed", "message", e->msg, "hint", e->hint));
    (void)fflush(stdout);
    return SQ_INFRA;
}

static int begin(const json_t *order, struct sq_probe **out, struct sq_err *e)
{
    struct sq_probe_opts o = {
        .load = json_object_get(order, "load"),
        .lateness = json_object_get(order, "lateness"),
        .matchers = json_object_get(order, "matchers"),
        .run_id = sq_json_str_or(order, "run_id", ""),
        .seed = (uint64_t)sq_json_int_or(order, "seed", 0),
        .window_s = (unsigned)sq_json_int_or(order, "window_s", 60),
    };
    int64_t zero, at;
    int rc = sq_json_int(order, "zero_ns", &zero, e);

    if (rc == 0)
        rc = sq_json_int(order, "begin_ns", &at, e);
    if (rc == 0)
        rc = sq_probe_create(&o, out, e);
    return rc < 0 ? rc : sq_probe_start(*out, zero, at, e);
}

static json_t *live_of(struct sq_probe *p)
{
    struct sq_probe_live l;

    sq_probe_live(p, &l);
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "open", (json_int_t)l.open, "waiting", (json_int_t)l.waiting,
                     "outstanding", (json_int_t)l.outstanding, "planned", (json_int_t)l.planned, "done",
                     (json_int_t)l.done, "lag_late", (json_int_t)l.lag_late, "lag_void", l.lag_void);
}

static bool say_finished(struct sq_probe *p, int64_t *next)
{
    int64_t to = (sq_mono_ns() - SETTLED - sq_probe_begin_ns(p)) / SQ_S;
    cleanup_free struct sq_window_slot *slot = malloc(sizeof *slot);

    if (!slot)
        return false;
    for (; *next < to; (*next)++) {
        memset(slot, 0, sizeof *slot);
        sq_probe_window_add(p, NULL, *next, *next + 1, slot);
        if (!say(json_pack("{s:s,s:I,s:o,s:o}", "type", "finished", "sec", (json_int_t)*next, "w",
                           sq_window_slot_json(slot), "live", live_of(p))))
            return false;
    }
    return true;
}

static int serve(struct sq_probe *p, const sigset_t *set)
{
    const struct timespec look = {.tv_nsec = LOOK_NS};
    int64_t second = 0;
    bool done = false;

    if (!say(json_pack("{s:s,s:I}", "type", "begun", "begin_ns", (json_int_t)sq_probe_begin_ns(p))))
        return SQ_INFRA;
    while (!done) {
        json_t *s;
        int sig;

        if (fflush(stdout) != 0)
            return SQ_INFRA;
        sig = sigtimedwait(set, NULL, &look);
        if (sig > 0)
            sq_probe_stop(p, sig == SIGINT ? SQ_S : -1);
        done = sq_probe_done(p); /* before the last look: nothing comes after it */
        while ((s = sq_probe_next(p)))
            if (!say(s))
                return SQ_INFRA;
        if (!say_finished(p, &second))
            return SQ_INFRA;
    }
    return say(json_pack("{s:s,s:o}", "type", "end", "probes", sq_probe_end(p))) && fflush(stdout) == 0 ? SQ_PASS
                                                                                                        : SQ_INFRA;
}

int sq_agent_main(void)
{
    const char *text = getenv(SQ_AGENT_ORDER);
    cleanup_json json_t *order = NULL;
    struct sq_probe *p = NULL;
    struct sq_err e = {0};
    sigset_t set;
    int code;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    if (!text) {
        (void)fprintf(stderr, "squall " SQ_AGENT_VERB " is started by squalld\n");
        return SQ_USAGE;
    }
    /* It reads what strangers answer, and starts commands: nobody gains rights here. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failed((sq_err_sys(&e, -errno, "no_new_privs"), &e));
    if (sq_json_parse(text, strlen(text), &order, &e) < 0)
        return failed(&e);
    (void)unsetenv(SQ_AGENT_ORDER); /* not for commands that it starts */
    code = begin(order, &p, &e) < 0 ? failed(&e) : serve(p, &set);
    sq_probe_free(p);
    return code;
}
