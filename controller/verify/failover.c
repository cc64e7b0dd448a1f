/* failover: an instance is killed or stands still, and the others take over: no more than max_failed requests fail, and
 * users are served as before `within`. Seconds are whole ones, so that the moment is known to within one.
 *
 * Proof that it was put to the test: without a failover, requests that went to the instances that were hit would have
 * failed; there must have been enough of them. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/stats.h"

#define CONF 0.95
#define POWER 2.0

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step that kills or pauses instances (process/*)"},
    {"service", SQ_P_STRING, 0, NULL, NULL, "the service whose instances are hit; default: the step's own"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: all of them, pooled"},
    {"max_failed", SQ_P_INT, 0, "0", NULL, "requests that may fail"},
    {"within", SQ_P_DURATION, 0, "10s", NULL, "from the fault's begin until users are served as before"},
    {"hold", SQ_P_DURATION, 0, "3s", NULL, "how long they must be, to be believed"},
    {"error_rate", SQ_P_PERCENT, 0, "1%", NULL, "served as before: fewer than this fail over the steady state's share"},
    SQ_PARAM_END,
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    const struct sq_ev_endpoint *ep; /* NULL: all */
    const char *service;
    int64_t within, hold; /* ns, seconds */
    uint64_t max_failed;
    double slack;       /* share */
    double steady;      /* share of bad requests in steady state */
    int64_t first, end; /* seconds that can be looked at */
};

static double share(const struct sq_ev_sums *s)
{
    return s->n ? (double)s->bad / (double)s->n : 0.0;
}

/* Share of the service's instances that the fault hit. */
static double hit_share(const struct job *j)
{
    const json_t *def = json_object_get(json_object_get(j->ev->spec, "services"), j->service);
    const json_t *hit = j->step->fault->hit;
    double all = (double)sq_json_int_or(def, "instances", 1), n = 0.0;

    for (size_t i = 0; i < json_array_size(hit); i++)
        n += sq_json_bool_or(json_array_get(hit, i), "chosen", true);
    return all < 1.0 || n > all ? 1.0 : n / all;
}

/* The first second from which on users are served as before for `hold`: j->end when there is none. */
static int64_t served_from(const struct job *j)
{
    for (int64_t at = j->first; at + j->hold <= j->end; at++) {
        struct sq_ev_sums one, all;

        sq_ev_sum(j->ev, j->ep, at, at + 1, &one);
        if (one.n == 0 || share(&one) > j->steady + j->slack)
            continue;
        sq_ev_sum(j->ev, j->ep, at, at + j->hold, &all);
        if (share(&all) <= j->steady + j->slack)
            return at;
    }
    return j->end;
}

/* The most failures that the steady state's own share explains. */
static uint64_t background(const struct job *j, uint64_t n)
{
    double mu = j->steady * (double)n;
    uint64_t k = 0;

    while (mu > 0.0 && sq_poisson_cdf(k, mu) < CONF)
        k++;
    return k;
}

static int judge_failed(const struct job *j, double exposed, json_t *results, struct sq_err *e)
{
    struct sq_ev_sums s;
    struct sq_result r;

    sq_ev_sum(j->ev, j->ep, j->first, j->end, &s);
    sq_result_init(&r, j->step, j->service);
    r.win = (struct sq_window){j->first * SQ_S, j->end * SQ_S};
    r.n = s.n;
    uint64_t own = background(j, s.n);
    (void)snprintf(r.limit, sizeof r.limit, "<= %llu failed", (unsigned long long)j->max_failed);
    (void)snprintf(r.observed, sizeof r.observed, "%llu of %llu requests failed", (unsigned long long)s.bad,
                   (unsigned long long)s.n);
    (void)snprintf(r.interval, sizeof r.interval, "about %.0f would have met the dead ones", exposed);
    if (s.bad > j->max_failed + own)
        (void)sq_result_set(&r, SQ_V_FAIL, "%llu of %llu requests failed when %s lost an instance, %llu may",
                            (unsigned long long)s.bad, (unsigned long long)s.n, j->service,
                            (unsigned long long)j->max_failed);
    else if (exposed < SQ_SILENCE || exposed < POWER * (double)j->max_failed)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "too little load: only about %.3g requests would have met the dead instance in the time "
                            "that failover may take, so that few failures prove nothing",
                            exposed);
    else if (s.bad <= j->max_failed)
        (void)sq_result_set(&r, SQ_V_PASS, "%llu of %llu requests failed when %s lost an instance",
                            (unsigned long long)s.bad, (unsigned long long)s.n, j->service);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%llu requests failed, %llu may; but so many may have failed without the fault",
                            (unsigned long long)s.bad, (unsigned long long)j->max_failed);
    return sq_result_add(results, &r, e);
}

static int judge_time(const struct job *j, double exposed, json_t *results, struct sq_err *e)
{
    int64_t from = j->step->win.from_ns, at = served_from(j);
    int64_t late = at * SQ_S - from, early = late - SQ_S;
    struct sq_result r;
    char a[96] = "", b[64];

    early = at == j->first || early < 0 ? 0 : early;
    late = at == j->first || late < 0 ? 0 : late;
    sq_result_init(&r, j->step, j->service);
    r.win = (struct sq_window){j->first * SQ_S, j->end * SQ_S};
    r.n = sq_demand(j->ev, j->ep, j->first, j->end);
    if (at < j->end) {
        if (late == 0)
            (void)snprintf(a, sizeof a, "at once");
        else
            (void)snprintf(a, sizeof a, "%s after the fault", sq_fmt_duration(late, b, sizeof b));
        (void)snprintf(r.observed, sizeof r.observed, "served as before %s", a);
        (void)snprintf(r.interval, sizeof r.interval, "[%.3g s, %.3g s]", (double)early / 1e9, (double)late / 1e9);
    } else
        (void)snprintf(r.observed, sizeof r.observed, "not served as before");
    (void)sq_fmt_duration(j->within, b, sizeof b);
    (void)snprintf(r.limit, sizeof r.limit, "served as before within %s", b);
    if (at >= j->end && (j->end - j->hold) * SQ_S < from + j->within)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "users were not served as before when the load ended or the next fault began: too soon to "
                            "tell, it may take %s",
                            b);
    else if (at >= j->end)
        (void)sq_result_set(&r, SQ_V_FAIL, "the other instances of %s did not take over: requests kept failing",
                            j->service);
    else if (early > j->within)
        (void)sq_result_set(&r, SQ_V_FAIL, "users were served as before only %s, %s are allowed", a, b);
    else if (exposed < SQ_SILENCE)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "too little load: only about %.3g requests would have met the dead instance in %s", exposed,
                            b);
    else if (late <= j->within)
        (void)sq_result_set(&r, SQ_V_PASS, "the others took over: users were served as before %s", a);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "users were served as before between %.3g s and %.3g s after the fault: seconds are too "
                            "coarse to tell on which side of %s",
                            (double)early / 1e9, (double)late / 1e9, b);
    return sq_result_add(results, &r, e);
}

static int judge_step(struct job *j, json_t *results, struct sq_err *e)
{
    struct sq_ev_sums calm, due;
    int64_t on, off, whole;

    if (!j->step->ran)
        return sq_undecided_step(results, j->step, j->service, "", e);
    if (!sq_steady_secs(j->ev, &on, &off))
        return sq_undecided(results, j->step, j->service, "", e, "no steady state was recorded to compare with");
    sq_ev_sum(j->ev, j->ep, on, off, &calm);
    j->steady = share(&calm);
    (void)sq_window_secs((struct sq_window){j->step->win.from_ns, j->step->until_ns}, &whole, &j->end);
    j->end = j->end < j->ev->load.to_ns / SQ_S ? j->end : j->ev->load.to_ns / SQ_S;
    j->first = j->step->win.from_ns / SQ_S; /* requests of that second may have met it, too */
    int64_t until = (j->step->win.from_ns + j->within) / SQ_S;
    sq_ev_sum(j->ev, j->ep, j->first, until < j->end ? until : j->end, &due);
    double exposed = hit_share(j) * (double)due.n;
    if (due.n == 0 || calm.n == 0)
        return sq_undecided(results, j->step, j->service, "", e,
                            "no request was made in steady state or after the fault");
    int rc = judge_failed(j, exposed, results, e);
    return rc ? rc : judge_time(j, exposed, results, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *endpoint = sq_json_str_or(p, "endpoint", NULL), *why;
    cleanup_free const struct sq_ev_step **steps = NULL;
    cleanup_free const struct sq_ev_endpoint **eps = NULL;
    struct job j = {.ev = ev, .ep = endpoint ? sq_ev_endpoint(ev, endpoint) : NULL};
    size_t n = 0, n_eps = 0;
    int64_t max = sq_json_int_or(p, "max_failed", 0);

    j.within = sq_param_ns(p, "within", 10 * SQ_S);
    j.hold = (sq_param_ns(p, "hold", 3 * SQ_S) + SQ_S - 1) / SQ_S;
    j.hold = j.hold > 0 ? j.hold : 1;
    j.slack = sq_param_percent(p, "error_rate", 1.0) / 100.0;
    if (max < 0 || j.within <= 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "failover takes a max_failed of 0 or more and a time within");
    j.max_failed = (uint64_t)max;
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    rc = rc ? rc : sq_endpoints_named(ev, endpoint, &eps, &n_eps, e);
    for (size_t i = 0; i < n && !rc; i++) {
        j.step = steps[i];
        j.service = sq_json_str_or(p, "service",
                                   sq_json_str_or(json_object_get(steps[i]->def, "target"), "service", "the service"));
        if (n_eps == 0)
            rc = sq_undecided(results, j.step, j.service, "", e, "the probe recorded no request");
        else if ((why = sq_endpoints_void(eps, n_eps)))
            rc = sq_undecided(results, j.step, j.service, "", e, "the probe missed its own schedule: %s", why);
        else
            rc = judge_step(&j, results, e);
    }
    return rc;
}

const struct sq_check sq_check_failover = {
    .name = "failover",
    .doc = "When instances die, the others take over soon and few requests are lost.",
    .params = params,
    .run = run,
};
