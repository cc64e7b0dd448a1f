/* fallback: while a dependency is away, users still get an answer of the promised kind, and never one of a forbidden
 * kind. The probe looked at every answer (sample.m); a request without an answer does not match. The whole window
 * counts: what users see until a breaker opens, they see. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/result.h"
#include "verify/stats.h"

#define CONF 0.95
#define CENSUS 30 /* requests from which "every one" can be said */

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step during which the fallback must answer"},
    {"endpoint", SQ_P_STRING, 0, NULL, NULL, "the endpoint of the load; default: all of them, pooled"},
    {"match", SQ_P_MAP, 0, NULL, NULL, "what a good answer has"},
    {"forbid", SQ_P_MAP, 0, NULL, NULL, "what no answer may have"},
    {"min_share", SQ_P_PERCENT, 0, "99%", NULL, "share of requests that must match"},
    SQ_PARAM_END,
};

/* What the probe's matchers take; see probe/probe.h. */
static const struct sq_param match_params[] = {
    {"status", SQ_P_STRINGS, 0, NULL, NULL, "200, 200-299, 5xx, or a list of them"},
    {"header", SQ_P_STRING, 0, NULL, NULL, "a header that is there: name, or name: value"},
    {"body", SQ_P_STRING, 0, NULL, NULL, "a part of the body"},
    SQ_PARAM_END,
};

static const struct sq_param forbid_params[] = {
    {"status", SQ_P_STRINGS, 0, NULL, NULL, "200, 200-299, 5xx, or a list of them"},
    {"header", SQ_P_STRING, 0, NULL, NULL, "a header that is there: name, or name: value"},
    {"body", SQ_P_STRINGS, 0, NULL, NULL, "a part of the body, or a list of them"},
    {"empty", SQ_P_BOOL, 0, NULL, NULL, "a body without a byte"},
    SQ_PARAM_END,
};

static const struct sq_check_map maps[] = {{"match", match_params}, {"forbid", forbid_params}, {NULL, NULL}};

struct matched {
    uint64_t requests, looked, match, forbid;
    bool is_void;
    const char *void_why;
};

static uint64_t number(const json_t *o, const char *key)
{
    int64_t n = sq_json_int_or(o, key, 0);

    return n > 0 && n < (INT64_C(1) << 40) ? (uint64_t)n : 0;
}

static int add_second(const struct sq_ev_second *s, const char *id, struct matched *m, struct sq_err *e)
{
    cleanup_json json_t *rec = NULL;
    int rc = sq_ev_second_json(s, &rec, e);

    if (rc)
        return rc;
    const json_t *o = json_object_get(json_object_get(rec, "m"), id);
    m->requests += s->ok + s->bad;
    m->looked += number(o, "n");
    m->match += number(o, "match");
    m->forbid += number(o, "forbid");
    return 0;
}

static int count(const struct sq_ev_endpoint *ep, struct sq_window win, const char *id, struct matched *m,
                 struct sq_err *e)
{
    int64_t first, end;
    int rc = 0;

    if (ep->is_void) {
        m->is_void = true;
        m->void_why = ep->void_why;
    }
    if (!sq_window_secs(win, &first, &end))
        return 0;
    for (size_t i = 0; i < ep->n && !rc; i++)
        if (ep->secs[i].sec >= first && ep->secs[i].sec < end)
            rc = add_second(&ep->secs[i], id, m, e);
    return rc;
}

static void judge(const struct matched *m, double share, struct sq_result *r)
{
    uint64_t n = m->requests > m->looked ? m->requests : m->looked, k = m->match < n ? m->match : n;
    double low = sq_cp_lower(k, n, CONF), high = sq_cp_upper(k, n, CONF), seen = n ? (double)k / (double)n : 0.0;
    bool all = share >= 100.0;
    char a[64], b[64], c[64];

    r->n = n;
    (void)snprintf(r->observed, sizeof r->observed, "%s matched (%llu of %llu)",
                   sq_fmt_percent(100.0 * seen, a, sizeof a), (unsigned long long)k, (unsigned long long)n);
    (void)snprintf(r->interval, sizeof r->interval, "[%s, %s] at 95 %%", sq_fmt_percent(100.0 * low, b, sizeof b),
                   sq_fmt_percent(100.0 * high, c, sizeof c));
    (void)sq_fmt_percent(share, b, sizeof b);
    if (m->is_void)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the probe missed its own schedule: %s", m->void_why);
    else if (n == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "no request was made in a whole second of the step");
    else if (m->forbid > 0)
        (void)sq_result_set(r, SQ_V_FAIL, "%llu of %llu answers had what no answer may have",
                            (unsigned long long)m->forbid, (unsigned long long)n);
    else if (m->looked == 0 && k == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "no answer came, or the probe was not told what to look for");
    else if (high < share / 100.0 || (all && k < n))
        (void)sq_result_set(r, SQ_V_FAIL, "only %llu of %llu requests got the promised answer, %s are wanted",
                            (unsigned long long)k, (unsigned long long)n, b);
    else if (low >= share / 100.0 || (all && n >= CENSUS))
        (void)sq_result_set(r, SQ_V_PASS, "%llu of %llu requests got the promised answer", (unsigned long long)k,
                            (unsigned long long)n);
    else {
        uint64_t need = all ? CENSUS : sq_trials_to_decide(n - k, n, 1.0 - share / 100.0, CONF);

        if (need > n)
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "%llu requests are too few to prove %s: about %llu would do",
                                (unsigned long long)n, b, (unsigned long long)need);
        else
            (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the share is too near to %s to be decided by %llu requests", b,
                                (unsigned long long)n);
    }
}

static int judge_step(const struct sq_evidence *ev, const struct sq_ev_step *s, const json_t *p, json_t *results,
                      struct sq_err *e)
{
    const char *endpoint = sq_json_str_or(p, "endpoint", NULL);
    double share = sq_param_percent(p, "min_share", 99.0);
    cleanup_free const struct sq_ev_endpoint **eps = NULL;
    char id[32], why[512], limit[64];
    struct matched m = {.void_why = ""};
    struct sq_result r;
    size_t n = 0;

    (void)snprintf(id, sizeof id, "%lld", (long long)sq_json_int_or(p, "index", 0));
    sq_result_init(&r, s, endpoint ? endpoint : "all endpoints");
    (void)snprintf(r.limit, sizeof r.limit, ">= %s match, none forbidden", sq_fmt_percent(share, limit, sizeof limit));
    if (!s->ran) {
        sq_step_missing(s, why, sizeof why);
        return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
    }
    int rc = sq_endpoints_named(ev, endpoint, &eps, &n, e);
    for (size_t i = 0; i < n && !rc; i++)
        rc = count(eps[i], s->win, sq_json_str_or(p, "id", id), &m, e);
    if (rc)
        return rc;
    judge(&m, share, &r);
    return sq_result_add(results, &r, e);
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    size_t n = 0;
    int rc = sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);

    for (size_t i = 0; i < n && !rc; i++)
        rc = judge_step(ev, steps[i], p, results, e);
    return rc;
}

const struct sq_check sq_check_fallback = {
    .name = "fallback",
    .doc = "Users get the promised answer while a dependency is away, and never a forbidden one.",
    .params = params,
    .run = run,
    .maps = maps,
};
