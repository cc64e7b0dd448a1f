/* alert: did the alerts come that people rely on, in time, and only those? From what Alertmanager's webhook delivered
 * during the run (records of type `alert`).
 *
 * `startsAt` says when the rule fired (detection), the receipt when somebody would have been paged: it includes the
 * group's wait. The two clocks may differ: an alert that started some seconds before the fault is taken for its own.
 * That nothing came proves nothing unless something can come: silence is believed when any alert was delivered in
 * the run, such as a Watchdog that always fires. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"
#include "verify/when.h"

#define SKEW_NS (2 * SQ_S) /* between Alertmanager's clock and ours */
#define MAX_NAMES 64

static const struct sq_param params[] = {
    {"step", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the step that the alerts are about"},
    {"fires", SQ_P_MAP, 0, NULL, NULL, "alerts that must come, with how long each may take: {CheckoutSlow: 2m}"},
    {"judge", SQ_P_ENUM, 0, "paged", "paged|detected",
     "paged: the limit is for the receipt; detected: for the alert's startsAt"},
    {"silent", SQ_P_STRINGS, 0, NULL, NULL, "alerts that must not come until the next fault"},
    {"silent_for", SQ_P_DURATION, 0, NULL, NULL,
     "how long the fault must last for silence to prove anything: the rule's `for` and Alertmanager's group_wait"},
    {"resolves", SQ_P_DURATION, 0, NULL, NULL, "from the fault's end until those that fired are resolved"},
    {"runbook", SQ_P_STRING, 0, NULL, NULL, "what the annotation runbook_url of those that fire must be"},
    SQ_PARAM_END,
};

struct alert {
    int64_t t, starts; /* since the run began; starts: INT64_MIN when unknown */
    bool firing;
    const json_t *rec;
};

struct job {
    const struct sq_evidence *ev;
    const struct sq_ev_step *step;
    int64_t start_wall; /* of the run; INT64_MIN when unknown */
    bool listening;     /* there was a receiver during this run */
    size_t delivered;   /* alerts of any name in the whole run */
    bool detected;      /* judge startsAt */
    const char *runbook;
    int64_t resolves; /* -1: not asked */
    int64_t silent_for;
};

/* Read event I if it is an alert called NAME (NULL: any). */
static bool alert_at(const struct job *j, size_t i, const char *name, struct alert *a)
{
    const struct sq_ev_event *ev = &j->ev->events[i];
    int64_t wall;

    if (strcmp(ev->type, "alert") != 0 || (name && strcmp(sq_json_str_or(ev->obj, "name", ""), name) != 0))
        return false;
    a->t = ev->t_ns;
    a->rec = ev->obj;
    a->firing = strcmp(sq_json_str_or(ev->obj, "status", ""), "resolved") != 0;
    a->starts = INT64_MIN;
    if (j->start_wall != INT64_MIN && sq_rfc3339(sq_json_str_or(ev->obj, "starts_at", ""), &wall))
        a->starts = wall - j->start_wall;
    return true;
}

static void look_around(struct job *j)
{
    struct alert a;
    int64_t wall;

    j->start_wall = sq_rfc3339(j->ev->start, &wall) ? wall : INT64_MIN;
    for (size_t i = 0; i < j->ev->n_events; i++) {
        const struct sq_ev_event *ev = &j->ev->events[i];

        j->delivered += alert_at(j, i, NULL, &a);
        j->listening |=
            strcmp(ev->type, "alerts") == 0 && strcmp(sq_json_str_or(ev->obj, "state", ""), "listening") == 0;
    }
    j->listening |= j->delivered > 0;
}

/* Was it firing already when the fault began? */
static bool before(const struct job *j, const struct alert *a)
{
    int64_t from = j->step->win.from_ns;

    return a->starts != INT64_MIN ? a->starts < from - SKEW_NS : a->t < from;
}

/* The first one of that name which fires because of the fault; *old: one was firing already. */
static bool find_firing(const struct job *j, const char *name, struct alert *out, bool *old)
{
    struct alert a;

    *old = false;
    for (size_t i = 0; i < j->ev->n_events; i++) {
        if (!alert_at(j, i, name, &a) || a.t >= j->step->until_ns)
            continue;
        if (!a.firing) { /* what is over before the fault is none of its business */
            *old = *old && a.t >= j->step->win.from_ns;
            continue;
        }
        if (before(j, &a)) {
            *old = true;
            continue;
        }
        if (a.t < j->step->win.from_ns)
            continue;
        *out = a;
        return true;
    }
    return false;
}

static bool find_resolved(const struct job *j, const char *name, const struct alert *fired, struct alert *out)
{
    for (size_t i = 0; i < j->ev->n_events; i++)
        if (alert_at(j, i, name, out) && !out->firing && out->t >= fired->t && out->t >= j->step->win.from_ns)
            return true;
    return false;
}

static const char *unheard(const struct job *j)
{
    return j->listening ? "" : "no receiver of alerts was on during the run (alerts: {listen: ...} in the scenario)";
}

static int judge_fires(const struct job *j, const char *name, int64_t limit, struct alert *fired, bool *did,
                       json_t *results, struct sq_err *e)
{
    int64_t from = j->step->win.from_ns, took = 0;
    struct sq_result r;
    char a[64], b[64], c[64];
    bool old;

    sq_result_init(&r, j->step, name);
    r.win.to_ns = from + limit;
    (void)snprintf(r.limit, sizeof r.limit, "%s within %s", j->detected ? "detected" : "received",
                   sq_fmt_duration(limit, c, sizeof c));
    *did = find_firing(j, name, fired, &old);
    r.n = j->delivered;
    if (*did) {
        int64_t starts = fired->starts == INT64_MIN ? fired->t : fired->starts;

        starts = starts < from ? from : starts;
        took = (j->detected ? starts : fired->t) - from;
        (void)snprintf(r.observed, sizeof r.observed, "fired after %s, received after %s",
                       sq_fmt_duration(starts - from, a, sizeof a), sq_fmt_duration(fired->t - from, b, sizeof b));
    } else
        (void)snprintf(r.observed, sizeof r.observed, "not received");
    (void)sq_fmt_duration(took, a, sizeof a);
    if (!j->listening)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", unheard(j));
    else if (old)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s was firing already when the fault began: that it fires says nothing about the fault",
                            name);
    else if (*did && took <= limit)
        (void)sq_result_set(&r, SQ_V_PASS, "%s was %s %s after the fault began", name,
                            j->detected ? "detected" : "received", a);
    else if (*did)
        (void)sq_result_set(&r, SQ_V_FAIL, "%s was %s only %s after the fault began, %s are allowed", name,
                            j->detected ? "detected" : "received", a, c);
    else if (j->step->until_ns < from + limit)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s had not come when the load ended or the next fault began, %s after the fault; it may "
                            "take %s",
                            name, sq_fmt_duration(j->step->until_ns - from, b, sizeof b), c);
    else
        (void)sq_result_set(&r, SQ_V_FAIL, "%s never came: nobody would have been called%s", name,
                            j->delivered ? ""
                                         : " (no alert of any name came in this run: does Alertmanager send here?)");
    return sq_result_add(results, &r, e);
}

static int judge_runbook(const struct job *j, const char *name, const struct alert *fired, json_t *results,
                         struct sq_err *e)
{
    const char *url = sq_json_str_or(json_object_get(fired->rec, "annotations"), "runbook_url", "");
    struct sq_result r;

    sq_result_init(&r, j->step, name);
    (void)snprintf(r.limit, sizeof r.limit, "runbook_url: %.200s", j->runbook);
    (void)snprintf(r.observed, sizeof r.observed, "%.200s", url[0] ? url : "no runbook_url");
    r.n = 1;
    if (strcmp(url, j->runbook) == 0)
        (void)sq_result_set(&r, SQ_V_PASS, "%s names the runbook that was meant", name);
    else if (url[0])
        (void)sq_result_set(&r, SQ_V_FAIL, "%s sends people to %.200s instead of %.200s", name, url, j->runbook);
    else
        (void)sq_result_set(&r, SQ_V_FAIL, "%s names no runbook (annotation runbook_url)", name);
    return sq_result_add(results, &r, e);
}

static int judge_resolved(const struct job *j, const char *name, const struct alert *fired, json_t *results,
                          struct sq_err *e)
{
    int64_t to = j->step->win.to_ns, last = j->ev->last_ns;
    struct alert over;
    struct sq_result r;
    char a[64], b[64];
    bool is = find_resolved(j, name, fired, &over);

    sq_result_init(&r, j->step, name);
    r.n = 1;
    r.win = (struct sq_window){to, to + j->resolves};
    (void)snprintf(r.limit, sizeof r.limit, "resolved within %s of the fault's end",
                   sq_fmt_duration(j->resolves, b, sizeof b));
    int64_t took = is ? over.t - to : 0;
    (void)sq_fmt_duration(took < 0 ? 0 : took, a, sizeof a);
    (void)snprintf(r.observed, sizeof r.observed, "%s%s", is ? "resolved after " : "not resolved", is ? a : "");
    if (!j->step->fault->reverted)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "the fault was not taken back during the run");
    else if (is && took <= j->resolves)
        (void)sq_result_set(&r, SQ_V_PASS, "%s was resolved %s after the fault", name, a);
    else if (!is && last < to + j->resolves)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s was not resolved when the run ended, %s after the fault; it may take %s", name,
                            sq_fmt_duration(last > to ? last - to : 0, a, sizeof a), b);
    else if (is)
        (void)sq_result_set(&r, SQ_V_FAIL, "%s was resolved only %s after the fault, %s are allowed", name, a, b);
    else
        (void)sq_result_set(&r, SQ_V_FAIL, "%s was never resolved: it goes on paging people for what is over", name);
    return sq_result_add(results, &r, e);
}

static int judge_silent(const struct job *j, const char *name, json_t *results, struct sq_err *e)
{
    struct alert fired;
    struct sq_result r;
    bool old, did = find_firing(j, name, &fired, &old);
    int64_t lasted = j->step->win.to_ns - j->step->win.from_ns;
    char a[64], b[64];

    sq_result_init(&r, j->step, name);
    r.win.to_ns = j->step->until_ns;
    r.n = j->delivered;
    (void)snprintf(r.limit, sizeof r.limit, "silent");
    (void)snprintf(r.observed, sizeof r.observed, did ? "fired" : "silent");
    if (!j->listening)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", unheard(j));
    else if (old)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s was firing already when the fault began", name);
    else if (did)
        (void)sq_result_set(&r, SQ_V_FAIL, "%s called people %s after the fault began, and should have been silent",
                            name, sq_fmt_duration(fired.t - j->step->win.from_ns, a, sizeof a));
    else if (j->delivered == 0)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "no alert of any name came in this run, so silence proves nothing: have one that always "
                            "fires (a Watchdog) sent here");
    else if (lasted < j->silent_for)
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE,
                            "%s stayed silent, but the fault lasted only %s, and it would have taken %s to fire", name,
                            sq_fmt_duration(lasted, a, sizeof a), sq_fmt_duration(j->silent_for, b, sizeof b));
    else
        (void)sq_result_set(&r, SQ_V_PASS, "%s stayed silent while the fault lasted, %s, and after it", name,
                            sq_fmt_duration(lasted, a, sizeof a));
    return sq_result_add(results, &r, e);
}

static int judge_name(const struct job *j, const char *name, int64_t limit, json_t *results, struct sq_err *e)
{
    struct alert fired = {0};
    bool did;
    int rc = judge_fires(j, name, limit, &fired, &did, results, e);

    if (!rc && did && j->runbook)
        rc = judge_runbook(j, name, &fired, results, e);
    if (!rc && did && j->resolves >= 0)
        rc = judge_resolved(j, name, &fired, results, e);
    return rc;
}

static int judge_step(struct job *j, const json_t *p, json_t *results, struct sq_err *e)
{
    const json_t *fires = json_object_get(p, "fires"), *silent = json_object_get(p, "silent");
    const char *name;
    json_t *v;
    int rc = 0;

    if (!j->step->ran)
        return sq_undecided_step(results, j->step, "", "", e);
    json_object_foreach((json_t *)(uintptr_t)fires, name, v)
    {
        if (!rc)
            rc = judge_name(j, name, sq_param_ns(fires, name, -1), results, e);
    }
    for (size_t i = 0; i < json_array_size(silent) && !rc; i++)
        rc = judge_silent(j, json_string_value(json_array_get(silent, i)), results, e);
    return rc;
}

static int check_params(const json_t *p, struct sq_err *e)
{
    const json_t *fires = json_object_get(p, "fires"), *silent = json_object_get(p, "silent");
    const char *name;
    json_t *v;

    if (json_object_size(fires) + json_array_size(silent) == 0 ||
        json_object_size(fires) + json_array_size(silent) > MAX_NAMES)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "alert takes 1 to %d alerts that fire or are silent", MAX_NAMES);
    json_object_foreach((json_t *)(uintptr_t)fires, name, v)
    {
        int64_t ns = sq_param_ns(fires, name, -1);

        if (ns < 0 || ns > INT64_MAX / 4)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "alert: how long %.100s may take is no duration", name);
    }
    for (size_t i = 0; i < json_array_size(silent); i++)
        if (!json_is_string(json_array_get(silent, i)))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "alert: silent takes names of alerts");
    return 0;
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    cleanup_free const struct sq_ev_step **steps = NULL;
    struct job j = {.ev = ev,
                    .detected = strcmp(sq_json_str_or(p, "judge", "paged"), "detected") == 0,
                    .runbook = sq_json_str_or(p, "runbook", NULL),
                    .resolves = sq_param_ns(p, "resolves", -1),
                    .silent_for = sq_param_ns(p, "silent_for", 0)};
    size_t n = 0;
    int rc = check_params(p, e);

    rc = rc ? rc : sq_steps_named(ev, sq_json_str_or(p, "step", "*"), &steps, &n, e);
    if (!rc)
        look_around(&j);
    for (size_t i = 0; i < n && !rc; i++) {
        j.step = steps[i];
        rc = judge_step(&j, p, results, e);
    }
    return rc;
}

const struct sq_check sq_check_alert = {
    .name = "alert",
    .doc = "The right alerts arrive in time, the wrong ones stay silent, and they are resolved when all is well.",
    .params = params,
    .run = run,
};
