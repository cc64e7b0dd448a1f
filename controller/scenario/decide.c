/* Can the run ever decide them: budgets, storms, fuses, bulkheads, failovers, alerts, runbooks. */
#include "scenario/decide.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define LOG_ALPHA (-2.995732273553991) /* ln 0.05 */
#define DAY_NS (86400 * SQ_S)
#define STORM_AFTER 3 /* seconds, as verify/retry_storm.c wants them */

static const char *text(int64_t ns, char buf[32])
{
    return sq_fmt_duration(ns, buf, 32);
}

/* An SLO's window: people think of it in days. */
static const char *days(int64_t ns, char buf[32])
{
    if (ns < 2 * DAY_NS || ns % DAY_NS)
        return text(ns, buf);
    (void)snprintf(buf, 32, "%lld days", (long long)(ns / DAY_NS));
    return buf;
}

/* Requests that the load plans in [FROM, TO) ns after the load's begin, to the check's endpoint or to all. */
static double requests(const struct sq_decide *x, int64_t from, int64_t to)
{
    const char *only = sq_json_str_or(x->check, "endpoint", NULL), *name;
    json_t *endpoint;
    double n = 0;

    json_object_foreach(json_object_get(x->spec, "load"), name, endpoint)
    {
        if (!only || strcmp(only, name) == 0)
            n += sq_decide_planned(endpoint, (double)to / 1e9) - sq_decide_planned(endpoint, (double)from / 1e9);
    }
    return floor(n + 1e-6);
}

/* When the fault of step I begins, counted from the load's begin. */
static int64_t begin_of(const json_t *spec, size_t i)
{
    int64_t t = sq_json_int_or(json_object_get(spec, "steady_state"), "for", 0);

    for (size_t k = 0; k < i; k++) {
        const json_t *step = json_array_get(json_object_get(spec, "steps"), k);

        t += sq_json_int_or(step, "duration", 0) + sq_json_int_or(step, "settle", 0) + sq_json_int_or(step, "wait", 0);
    }
    return t;
}

static const char *id_of(const json_t *step)
{
    return sq_json_str_or(step, "id", "");
}

/* How long what a step sets off can be looked at: its fault, and what follows it. */
static int64_t seen_for(const struct sq_decide *x, size_t i, const json_t *step)
{
    bool last;

    return sq_json_int_or(step, "duration", 0) + sq_decide_after(x->spec, i, &last);
}

static void need_steady(const struct sq_decide *x)
{
    if (!json_object_get(x->spec, "steady_state"))
        sq_diag_error(x->c->d, x->node->pos, "steady_state: {for: 10s, thresholds: [\"error_rate<1%\"]}",
                      "verify %s: without a steady state there is nothing to compare with", x->name);
}

/* ---- budget ---- */

static void check_spend(const struct sq_decide *x, double allowed, int64_t secs_ns, double n)
{
    int64_t window = sq_json_int_or(x->check, "window", 1);
    double max = sq_json_num_or(x->check, "max_spend", 0) / 100, part = (double)secs_ns / (double)window / allowed;
    char a[32];

    if (part <= max) {
        sq_diag_warn(x->c->d, sq_decide_at(x, "max_spend"), "a shorter window, or a smaller max_spend",
                     "verify budget: even if every request failed, no more than %.3g %% of the budget of %s would be "
                     "spent",
                     100 * part, days(window, a));
        return;
    }
    double need = ceil(LOG_ALPHA / log1p(-max / part));
    if (max <= 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "max_spend"), NULL,
                      "verify budget: that nothing is spent can never be proven from a sample");
    else if (n < need)
        sq_diag_warn(x->c->d, sq_decide_at(x, "max_spend"), "raise the rate, or allow more",
                     "verify budget: it takes %.0f requests to prove that, the load sends %.0f: inconclusive at best",
                     need, n);
}

static void check_burn(const struct sq_decide *x, double allowed, int64_t longest, double n_longest)
{
    double limit = sq_json_num_or(x->check, "burn_rate", 0) * allowed;
    int64_t len = sq_json_int_or(x->check, "for", 60 * SQ_S), min = sq_json_int_or(x->check, "min_requests", 100);
    double n = longest > 0 ? floor(n_longest * (double)len / (double)longest) : 0;
    char a[32], b[32];

    if (limit <= 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "burn_rate"), NULL, "verify budget: \"burn_rate\" must be above 0");
    else if (limit >= 1 - 1e-9)
        sq_diag_error(x->c->d, sq_decide_at(x, "burn_rate"), NULL,
                      "verify budget: even if every request failed, it would burn at %.4g only", 1 / allowed);
    else if (len > longest)
        sq_diag_error(x->c->d, sq_decide_at(x, "for"), "a shorter stretch, or settle: after the step",
                      "verify budget: a fault and what follows it last %s at most, less than \"for\" (%s)",
                      text(longest, a), text(len, b));
    else if (n < fmax((double)min, ceil(LOG_ALPHA / log1p(-limit))))
        sq_diag_warn(x->c->d, sq_decide_at(x, "burn_rate"), "raise the rate, or take a longer stretch",
                     "verify budget: it takes %.0f requests in %s to prove that, the load sends %.0f: inconclusive at "
                     "best",
                     fmax((double)min, ceil(LOG_ALPHA / log1p(-limit))), text(len, a), n);
}

static void check_budget(const struct sq_decide *x)
{
    double target = sq_json_num_or(x->check, "target", 0), n = 0, n_longest = 0;
    int64_t total = 0, longest = 0;
    const json_t *step;
    size_t i;

    if (!(target > 0 && target < 100)) {
        sq_diag_error(x->c->d, sq_decide_at(x, "target"), "target: 99.9%",
                      "verify budget: a target of 100 %% leaves no budget, one of 0 %% all");
        return;
    }
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        int64_t len = seen_for(x, i, step), from = begin_of(x->spec, i);
        double here;

        if (!sq_decide_meant(x, step))
            continue;
        here = requests(x, from, from + len);
        total += len;
        n += here;
        n_longest = len > longest ? here : n_longest;
        longest = len > longest ? len : longest;
    }
    if (!json_object_get(x->check, "max_spend") && !json_object_get(x->check, "burn_rate"))
        sq_diag_error(x->c->d, x->node->pos, "max_spend: 2%, burn_rate: 14.4", "verify budget: there is no limit");
    if (sq_json_int_or(x->check, "window", 0) <= 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "window"), "window: 30d", "verify budget: the window must be above 0");
    else if (json_object_get(x->check, "max_spend"))
        check_spend(x, 1 - target / 100, total, n);
    if (json_object_get(x->check, "burn_rate"))
        check_burn(x, 1 - target / 100, longest, n_longest);
}

/* ---- calls ---- */

static void check_storm(const struct sq_decide *x, const json_t *step, size_t i)
{
    int64_t burst = sq_json_int_or(x->check, "burst_seconds", 0);
    bool last;
    char a[32];

    if (!json_object_get(x->check, "edge"))
        (void)json_object_set(x->check, "edge", json_object_get(json_object_get(step, "target"), "edge"));
    if (!json_object_get(x->check, "edge"))
        sq_diag_error(x->c->d, x->node->pos, "edge: caller->dependency",
                      "verify retry_storm: step \"%s\" acts on no edge, so say which one to count on", id_of(step));
    if (burst >= 0 && sq_decide_after(x->spec, i, &last) < (burst + STORM_AFTER + 1) * SQ_S)
        sq_diag_error(x->c->d, sq_decide_at(x, "after"), "settle: after the step gives it time",
                      "verify retry_storm: the load goes on for only %s after step \"%s\": a storm that outlives its "
                      "fault takes %lld s to see",
                      text(sq_decide_after(x->spec, i, &last), a), id_of(step), (long long)burst + STORM_AFTER + 1);
}

static void check_storms(const struct sq_decide *x)
{
    const json_t *step;
    size_t i;

    need_steady(x);
    if (sq_json_num_or(x->check, "factor", 2) < 1)
        sq_diag_error(x->c->d, sq_decide_at(x, "factor"), NULL,
                      "verify retry_storm: \"factor\" is 1 or more: the steady rate itself is no storm");
    if (sq_json_int_or(x->check, "burst_seconds", 0) < 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "burst_seconds"), NULL,
                      "verify retry_storm: \"burst_seconds\" is 0 or more");
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        if (sq_decide_meant(x, step))
            check_storm(x, step, i);
    }
}

static void check_fuse(const struct sq_decide *x)
{
    const json_t *expect = json_object_get(x->check, "expect"), *step;
    size_t i;

    need_steady(x);
    if (!expect == !json_object_get(x->check, "max_calls")) {
        sq_diag_error(x->c->d, x->node->pos, "expect: {trip_calls: 20, timeout: 1s, probes: 1, open_for: 5s}",
                      "verify fuse: exactly one of \"max_calls\" and \"expect\"");
        return;
    }
    if (sq_json_int_or(x->check, "max_calls", 0) < 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "max_calls"), NULL, "verify fuse: \"max_calls\" is 0 or more");
    if (expect && (sq_json_int_or(expect, "trip_calls", 0) < 1 || sq_json_int_or(expect, "probes", 1) < 0 ||
                   sq_json_int_or(expect, "open_for", 0) <= 0))
        sq_diag_error(x->c->d, sq_decide_at(x, "expect"), NULL,
                      "verify fuse: \"trip_calls\" is 1 or more, \"probes\" 0 or more, \"open_for\" above 0");
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        const json_t *target = json_object_get(step, "target");

        if (expect && sq_decide_meant(x, step) &&
            (sq_json_num_or(target, "percent", 100) < 100 || sq_call_counts(target)))
            sq_diag_error(x->c->d, sq_decide_at(x, "step"), "max_calls: what you think is right",
                          "verify fuse: step \"%s\" hits some calls only, so that a breaker may rightly stay closed",
                          id_of(step));
    }
}

/* ---- users ---- */

/* No request takes longer than its own timeout. */
static void check_patience(const struct sq_decide *x, int64_t max)
{
    const char *only = sq_json_str_or(x->check, "endpoint", NULL), *name;
    json_t *endpoint;
    char a[32];

    json_object_foreach(json_object_get(x->spec, "load"), name, endpoint)
    {
        int64_t timeout = sq_json_int_or(json_object_get(endpoint, "request"), "timeout", 5 * SQ_S);

        if ((!only || strcmp(only, name) == 0) && max >= timeout)
            sq_diag_error(x->c->d, sq_decide_at(x, "max"), "a shorter max, or a longer timeout of the request",
                          "verify fail_fast: requests to %s wait for %s at most, so that none can be slower than that",
                          name, text(timeout, a));
    }
}

static void check_fail_fast(const struct sq_decide *x)
{
    int64_t opens = sq_json_int_or(x->check, "opens_within", 0);
    const json_t *step;
    size_t i;
    char a[32], b[32];

    check_patience(x, sq_json_int_or(x->check, "max", 0));
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        int64_t len = sq_json_int_or(step, "duration", 0), from = begin_of(x->spec, i);

        if (!sq_decide_meant(x, step))
            continue;
        if (opens >= len)
            sq_diag_error(x->c->d, sq_decide_at(x, "opens_within"), "a longer duration, or opens_within: 3s",
                          "verify fail_fast: the fault lasts %s, so nothing is left to look at after %s", text(len, a),
                          text(opens, b));
        else if (requests(x, from + opens, from + len) < 59)
            sq_diag_warn(x->c->d, sq_decide_at(x, "max"), "raise the rate or the duration",
                         "verify fail_fast: p95 takes 59 requests to prove, the load sends %.0f in that time: "
                         "inconclusive at best",
                         requests(x, from + opens, from + len));
    }
}

static void check_bulkhead(const struct sq_decide *x)
{
    const json_t *names = json_object_get(x->check, "endpoints"), *load = json_object_get(x->spec, "load"), *v;
    double p = sq_json_num_or(x->check, "percentile", 95);
    size_t i;

    need_steady(x);
    json_array_foreach(names, i, v)
    {
        if (!json_object_get(load, json_string_value(v)))
            sq_norm_no_such(x->c, sq_decide_at(x, "endpoints"), "endpoint", json_string_value(v), load);
    }
    if (json_array_size(names) == 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "endpoints"), NULL, "verify bulkhead: no endpoint is named");
    if (!(p > 0 && p < 100))
        sq_diag_error(x->c->d, sq_decide_at(x, "percentile"), NULL,
                      "verify bulkhead: a percentile is between 0 and 100");
    if (json_object_get(x->check, "max_in_flight") && sq_json_int_or(x->check, "max_in_flight", 0) < 1)
        sq_diag_error(x->c->d, sq_decide_at(x, "max_in_flight"), NULL,
                      "verify bulkhead: \"max_in_flight\" is 1 or more");
}

static void check_failover_step(const struct sq_decide *x, const json_t *step, size_t i)
{
    int64_t within = sq_json_int_or(x->check, "within", 0), hold = sq_json_int_or(x->check, "hold", 0),
            seen = seen_for(x, i, step);
    const char *name =
        sq_json_str_or(x->check, "service", sq_json_str_or(json_object_get(step, "target"), "service", ""));
    const json_t *service = json_object_get(json_object_get(x->spec, "services"), name);
    char a[32];

    if (strncmp(sq_json_str_or(step, "uses", ""), "process/", 8) != 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "step"), "use a step with process/kill or process/pause",
                      "verify failover: step \"%s\" is %s, which takes no instance away", id_of(step),
                      sq_json_str_or(step, "uses", ""));
    else if (service && json_object_get(service, "command") && sq_json_int_or(service, "instances", 1) < 2)
        sq_diag_warn(x->c->d, sq_decide_at(x, "step"), "instances: 2",
                     "verify failover: service %s has one instance: there is no other one to take over", name);
    if (hold > seen)
        sq_diag_error(x->c->d, sq_decide_at(x, "hold"), "settle: after the step gives it time",
                      "verify failover: the load goes on for only %s after step \"%s\" began, less than \"hold\"",
                      text(seen, a), id_of(step));
    else if (within + hold > seen)
        sq_diag_warn(x->c->d, sq_decide_at(x, "within"), "settle: after the step gives it time",
                     "verify failover: the load goes on for only %s after step \"%s\" began, less than \"within\" and "
                     "\"hold\"",
                     text(seen, a), id_of(step));
}

static void check_failover(const struct sq_decide *x)
{
    const char *service = sq_json_str_or(x->check, "service", NULL);
    const json_t *services = json_object_get(x->spec, "services"), *step;
    size_t i;

    need_steady(x);
    if (service && !json_object_get(services, service))
        sq_norm_no_such(x->c, sq_decide_at(x, "service"), "service", service, services);
    if (sq_json_int_or(x->check, "max_failed", 0) < 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "max_failed"), NULL, "verify failover: \"max_failed\" is 0 or more");
    if (sq_json_int_or(x->check, "within", 0) <= 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "within"), NULL, "verify failover: \"within\" must be above 0");
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        if (sq_decide_meant(x, step))
            check_failover_step(x, step, i);
    }
}

/* ---- alerts and runbooks ---- */

/* {CheckoutSlow: 2m} -> {"CheckoutSlow": ns} */
static int64_t normalize_limits(const struct sq_decide *x)
{
    json_t *fires = json_object_get(x->check, "fires"), *v;
    cleanup_json json_t *out = json_object();
    int64_t ns, longest = 0;
    const char *name;

    json_object_foreach(fires, name, v)
    {
        struct sq_err e = {0};

        if (!json_is_string(v)) {
            sq_diag_error(x->c->d, sq_decide_at(x, "fires"), "fires: {CheckoutSlow: 2m}",
                          "verify alert: how long %.60s may take is a duration", name);
        } else if (sq_parse_duration(json_string_value(v), &ns, &e) < 0) {
            sq_diag_error(x->c->d, sq_decide_at(x, "fires"), e.hint, "verify alert: %.60s: %s", name, e.msg);
        } else {
            (void)json_object_set_new(out, name, json_integer(ns));
            longest = ns > longest ? ns : longest;
        }
    }
    if (fires)
        (void)json_object_set(x->check, "fires", out);
    return longest;
}

static void check_alert(const struct sq_decide *x)
{
    size_t named =
        json_object_size(json_object_get(x->check, "fires")) + json_array_size(json_object_get(x->check, "silent"));
    int64_t longest = normalize_limits(x), resolves = sq_json_int_or(x->check, "resolves", 0);
    int64_t quiet = sq_json_int_or(x->check, "silent_for", 0);
    const json_t *step;
    size_t i;
    bool last;
    char a[32], b[32];

    if (quiet > 0 && json_array_size(json_object_get(x->check, "silent")) == 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "silent_for"), "silent: [CheckoutDown]",
                      "verify alert: \"silent_for\" names no alert that is to be silent");
    if (named == 0)
        sq_diag_error(x->c->d, x->node->pos, "fires: {CheckoutSlow: 2m}, silent: [CheckoutDown]",
                      "verify alert: no alert is named");
    if (!json_object_get(x->spec, "alerts"))
        sq_diag_error(x->c->d, x->node->pos, "alerts: {listen: 127.0.0.1:9095}, and a webhook of Alertmanager to it",
                      "verify alert: nothing receives alerts");
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        if (!sq_decide_meant(x, step))
            continue;
        if (longest > seen_for(x, i, step))
            sq_diag_warn(x->c->d, sq_decide_at(x, "fires"), "settle: after the step gives it time",
                         "verify alert: what step \"%s\" sets off is looked at for %s, less than the alerts may take",
                         id_of(step), text(seen_for(x, i, step), a));
        if (quiet > sq_json_int_or(step, "duration", 0))
            sq_diag_error(x->c->d, sq_decide_at(x, "silent_for"), "let the fault last as long as the alert would take",
                          "verify alert: silence proves something after %s, and step \"%s\" lasts %s", text(quiet, a),
                          id_of(step), text(sq_json_int_or(step, "duration", 0), b));
        if (resolves > sq_decide_after(x->spec, i, &last) && last)
            sq_diag_warn(x->c->d, sq_decide_at(x, "resolves"), "settle: after the step gives it time",
                         "verify alert: the load goes on for only %s after step \"%s\", less than \"resolves\"",
                         text(sq_decide_after(x->spec, i, &last), a), id_of(step));
    }
}

static void check_runbook(const struct sq_decide *x)
{
    sq_diag_warn(x->c->d, x->node->pos, NULL,
                 "verify runbook: this squall judges the records of runbooks, but does not run runbooks itself: "
                 "inconclusive unless the evidence has them");
}

void sq_decide_more(const struct sq_decide *x)
{
    static const struct {
        const char *name;
        void (*check)(const struct sq_decide *x);
    } all[] = {
        {"budget", check_budget},       {"retry_storm", check_storms}, {"fuse", check_fuse},
        {"fail_fast", check_fail_fast}, {"bulkhead", check_bulkhead},  {"failover", check_failover},
        {"alert", check_alert},         {"runbook", check_runbook},    {"regression", sq_decide_compared},
        {"trend", sq_decide_compared},  {"canary", sq_decide_canary},
    };

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (strcmp(all[i].name, x->name) == 0)
            all[i].check(x);
}
