/* retry_storm: a fault must not make its callers call more, neither while it lasts nor after it (a metastable failure
 * lives on its own retries). Calls are counted second by second against the steady state's rate, in proportion to the
 * load that the probe sends. Queues that are caught up with may make a short burst: burst_seconds, once during the
 * fault and once after it.
 *
 * Calls are counted, not sampled, so that what was seen is enough to pass, provided that a second of the steady rate
 * itself would practically never be over the limit; to fail, more seconds than allowed must be over it beyond chance.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/breaker.h"
#include "verify/facts.h"
#include "verify/stats.h"

#define CONF 0.95
#define ENOUGH_CALLS 20 /* in steady state, to know a rate */
#define RARE 1e-3       /* chance that a second of the steady rate is over the limit */
#define AFTER 3         /* seconds after the fault (and its burst) that it takes to see that a storm is over */
#define LOAD_ON 0.5     /* a second with less of the steady load than this shows no storm */

static const struct sq_param params[] = {
    {"after", SQ_P_STRING, SQ_REQUIRED, NULL, NULL,
     "the step whose fault may set it off: during it, and after it until the next fault"},
    {"edge", SQ_P_STRING, 0, NULL, NULL, "the edge whose calls are counted; default: the step's own"},
    {"factor", SQ_P_NUMBER, 0, "2", NULL, "how many times the steady state's calls a second may see"},
    {"burst_seconds", SQ_P_INT, 0, "2", NULL, "seconds that may be over it, once during the fault and once after"},
    SQ_PARAM_END,
};

struct part {
    uint64_t secs;       /* with load */
    uint64_t over, sure; /* seconds over the limit; those that are beyond chance */
};

struct storm {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const char *edge;
    double factor;
    uint64_t burst;
    uint64_t steady_calls;
    double steady_secs; /* worth */
    struct part during, after;
    double worst; /* calls over what was due */
    int64_t worst_at;
    uint64_t calls;
};

static void count(struct storm *s, int64_t sec, double conf, struct part *p)
{
    struct sq_edge_calls c;
    double worth = sq_load_worth(s->ev, sec, sec + 1);

    sq_edge_calls(s->ev, s->edge, (struct sq_window){sec * SQ_S, (sec + 1) * SQ_S}, &c);
    s->calls += c.n;
    if (worth < LOAD_ON && c.n == 0)
        return;
    p->secs += worth >= LOAD_ON;
    /* where the load was away, what it left behind is held against the steady rate itself */
    worth = worth < 1.0 ? 1.0 : worth;
    double due = (double)s->steady_calls / s->steady_secs * worth;
    if ((double)c.n / due > s->worst) {
        s->worst = (double)c.n / due;
        s->worst_at = sec;
    }
    p->over += (double)c.n > s->factor * due;
    p->sure += sq_rate_ratio_lower(c.n, worth, s->steady_calls, s->steady_secs, conf) > s->factor;
}

/* Is a second of the steady rate practically never over the limit by chance? */
static bool has_power(const struct storm *s)
{
    double rate = (double)s->steady_calls / s->steady_secs;

    return s->steady_calls >= ENOUGH_CALLS && 1.0 - sq_poisson_cdf((uint64_t)(s->factor * rate), rate) < RARE;
}

static void judge(struct storm *s, struct sq_result *r)
{
    double rate = (double)s->steady_calls / s->steady_secs;

    if (!has_power(s))
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "too little load: at %.3g calls a second, a second with %.3g times as many may be chance",
                            rate, s->factor);
    else if (s->during.sure > s->burst)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "the fault set off a storm: in %llu seconds of it callers made more than %.3g times their "
                            "%.3g calls a second, %.3g times at %lld s",
                            (unsigned long long)s->during.sure, s->factor, rate, s->worst, (long long)s->worst_at);
    else if (s->after.sure > s->burst)
        (void)sq_result_set(r, SQ_V_FAIL,
                            "a storm outlived the fault: in %llu seconds after it callers made more than %.3g times "
                            "their %.3g calls a second, %.3g times at %lld s",
                            (unsigned long long)s->after.sure, s->factor, rate, s->worst, (long long)s->worst_at);
    else if (s->during.secs == 0 || s->after.secs < s->burst + AFTER)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "the load went on for %llu whole seconds of the fault and %llu after it: a storm after it "
                            "takes %llu to see",
                            (unsigned long long)s->during.secs, (unsigned long long)s->after.secs,
                            (unsigned long long)s->burst + AFTER);
    else if (s->during.over > s->burst || s->after.over > s->burst)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "%llu seconds were over the limit, but by so few calls that it may be chance",
                            (unsigned long long)(s->during.over + s->after.over));
    else
        (void)sq_result_set(r, SQ_V_PASS,
                            "no storm: callers made at most %.3g times their %.3g calls a second, during the fault and "
                            "in the %llu s after it",
                            s->worst, rate, (unsigned long long)s->after.secs);
}

static int judge_step(struct storm *s, json_t *results, struct sq_err *e)
{
    struct sq_window win = s->step->win;
    int64_t first, end, on, off;
    struct sq_edge_calls hit, calm;
    struct sq_result r;
    char limit[128];

    (void)snprintf(limit, sizeof limit, "<= %.3g times the steady rate, but for %llu s", s->factor,
                   (unsigned long long)s->burst);
    if (!s->step->ran)
        return sq_undecided_step(results, s->step, s->edge, limit, e);
    if (!sq_steady_secs(s->ev, &on, &off))
        return sq_undecided(results, s->step, s->edge, limit, e, "no steady state was recorded to compare with");
    sq_edge_calls(s->ev, s->edge, (struct sq_window){on * SQ_S, off * SQ_S}, &calm);
    s->steady_calls = calm.n;
    s->steady_secs = (double)(off - on);
    if (calm.n == 0)
        return sq_undecided(results, s->step, s->edge, limit, e, "no call was made on edge %s in steady state",
                            s->edge[0] ? s->edge : "(none named)");
    sq_edge_calls(s->ev, s->edge, (struct sq_window){win.from_ns, s->step->until_ns}, &hit);
    if (hit.harmed == 0 && !sq_step_is_control(s->step))
        return sq_undecided(results, s->step, s->edge, limit, e,
                            "no call failed or was held: there was nothing to "
                            "repeat");
    (void)sq_window_secs((struct sq_window){win.from_ns, s->step->until_ns}, &first, &end);
    double conf = 1.0 - (1.0 - CONF) / (double)(end - first + 1 > 1 ? end - first + 1 : 1);
    for (int64_t sec = win.from_ns / SQ_S; sec < end; sec++)
        count(s, sec, conf, (sec + 1) * SQ_S <= win.to_ns ? &s->during : &s->after);
    sq_result_init(&r, s->step, s->edge);
    r.n = s->calls;
    r.win.to_ns = s->step->until_ns;
    (void)snprintf(r.limit, sizeof r.limit, "%s", limit);
    (void)snprintf(r.observed, sizeof r.observed, "%.3g times the steady rate at most, %llu + %llu s over the limit",
                   s->worst, (unsigned long long)s->during.over, (unsigned long long)s->after.over);
    (void)snprintf(r.interval, sizeof r.interval, "%llu + %llu s beyond chance", (unsigned long long)s->during.sure,
                   (unsigned long long)s->after.sure);
    judge(s, &r);
    int rc = sq_breaker_doubt_base(s->ev, s->edge, win.from_ns, &r, e);
    if (rc)
        return rc;
    const char *gone = sq_caller_gone(s->ev, s->edge, (struct sq_window){win.from_ns, s->step->until_ns});
    if (gone && r.verdict == SQ_V_PASS)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s ended, so that it made no storm proves nothing", gone);
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    double factor = sq_json_num_or(p, "factor", 2.0);
    int64_t burst = sq_json_int_or(p, "burst_seconds", 2);
    size_t n = 0;

    if (!(factor >= 1.0) || burst < 0 || burst > 86400)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "retry_storm takes a factor of 1 or more and burst_seconds");
    int rc = sq_steps_named(ev, sq_json_str_or(p, "after", "*"), &steps, &n, e);
    for (size_t i = 0; i < n && !rc; i++) {
        struct storm s = {.ev = ev, .step = steps[i], .factor = factor, .burst = (uint64_t)burst};

        s.edge = sq_json_str_or(p, "edge", steps[i]->edge);
        rc = judge_step(&s, results, e);
    }
    return rc;
}

const struct sq_check sq_check_retry_storm = {
    .name = "retry_storm",
    .doc = "A fault does not multiply the calls of its callers, neither while it lasts nor after it.",
    .params = params,
    .run = run,
};
