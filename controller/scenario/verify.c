/* Checks against the rest of the scenario: do the things they name exist, and can the run ever decide them? */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scenario/decide.h"
#include "scenario/slo.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static struct sq_pos at_inner(const struct sq_decide *x, const char *map, const char *key)
{
    const struct sq_node *v = sq_node_get(sq_node_get(x->node, map), key);

    return v ? v->pos : sq_decide_at(x, map);
}

static json_t *step_by_id(const json_t *spec, const char *id, size_t *index)
{
    json_t *step;
    size_t i;

    json_array_foreach(json_object_get(spec, "steps"), i, step)
    {
        if (strcmp(sq_json_str_or(step, "id", ""), id) != 0)
            continue;
        if (index)
            *index = i;
        return step;
    }
    return NULL;
}

/* Does step I count for this check's `step`? */
bool sq_decide_meant(const struct sq_decide *x, const json_t *step)
{
    const char *id = sq_json_str_or(x->check, "step", sq_json_str_or(x->check, "after", "*"));

    return json_object_get(step, "uses") && (strcmp(id, "*") == 0 || strcmp(sq_json_str_or(step, "id", ""), id) == 0);
}

/* A step that a check refers to by KEY must exist and have a fault. NULL when it doesn't (reported), or for "*". */
static json_t *resolve_step(const struct sq_decide *x, const char *key, size_t *index)
{
    const char *id = sq_json_str_or(x->check, key, NULL);
    cleanup_json json_t *ids = NULL;
    json_t *step, *other;
    size_t i;

    if (!id || strcmp(id, "*") == 0)
        return NULL;
    step = step_by_id(x->spec, id, index);
    if (step && json_object_get(step, "uses"))
        return step;
    if (step) {
        sq_diag_error(x->c->d, sq_decide_at(x, key), "name a step that has a fault",
                      "verify %s: step \"%s\" only waits", x->name, id);
        return NULL;
    }
    ids = json_object();
    json_array_foreach(json_object_get(x->spec, "steps"), i, other)
    {
        if (json_object_get(other, "uses"))
            (void)json_object_set_new(ids, sq_json_str_or(other, "id", ""), json_true());
    }
    sq_norm_no_such(x->c, sq_decide_at(x, key), "step", id, ids);
    return NULL;
}

static void resolve_name(const struct sq_decide *x, const char *key, const char *section)
{
    const char *name = sq_json_str_or(x->check, key, NULL);

    if (name && !json_object_get(json_object_get(x->spec, section), name))
        sq_norm_no_such(x->c, sq_decide_at(x, key), key, name, json_object_get(x->spec, section));
}

/* How long the load still runs after the fault of step I and before the next one: what can be seen of the recovery. */
int64_t sq_decide_after(const json_t *spec, size_t i, bool *last)
{
    const json_t *steps = json_object_get(spec, "steps");
    int64_t ns = sq_json_int_or(json_array_get(steps, i), "settle", 0);

    for (i++; i < json_array_size(steps); i++) {
        const json_t *step = json_array_get(steps, i);

        if (json_object_get(step, "uses")) {
            *last = false;
            return ns;
        }
        ns += sq_json_int_or(step, "wait", 0);
    }
    *last = true;
    return ns;
}

/* Requests that a schedule plans in its first T seconds (SCENARIO.md: ramps change evenly, the last rate stays). */
double sq_decide_planned(const json_t *endpoint, double t)
{
    double rate = sq_json_num_or(endpoint, "rate", -1), n = 0;
    const json_t *stage;
    size_t i;

    if (t <= 0)
        return 0;
    if (rate >= 0)
        return rate * t;
    if (!json_object_get(endpoint, "start"))
        return INFINITY; /* what was recorded, or what the server allows: not known here */
    rate = sq_json_num_or(endpoint, "start", 0);
    json_array_foreach(json_object_get(endpoint, "stages"), i, stage)
    {
        double len = (double)sq_json_int_or(stage, "for", 0) / 1e9, to = sq_json_num_or(stage, "to", 0);
        double part = t < len ? t : len;

        if (len <= 0)
            continue;
        n += (rate + (rate + (to - rate) * part / len)) / 2 * part;
        t -= part;
        if (t <= 0)
            return n;
        rate = to;
    }
    return n + rate * t;
}

/* Requests to one endpoint inside the fault windows that the check is about. */
static double requests_in_windows(const struct sq_decide *x, const json_t *endpoint)
{
    double t = (double)sq_json_int_or(json_object_get(x->spec, "steady_state"), "for", 0) / 1e9, n = 0;
    const json_t *step;
    size_t i;

    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        double len = (double)sq_json_int_or(step, "duration", 0) / 1e9;

        if (sq_decide_meant(x, step))
            n += isinf(sq_decide_planned(endpoint, t + len))
                     ? INFINITY
                     : sq_decide_planned(endpoint, t + len) - sq_decide_planned(endpoint, t);
        t += len + (double)(sq_json_int_or(step, "settle", 0) + sq_json_int_or(step, "wait", 0)) / 1e9;
    }
    return n;
}

/* The fewest requests, all of them good, after which a one-sided interval can lie under the limit. */
static double least_sample(const json_t *threshold, double confidence)
{
    const char *metric = sq_json_str_or(threshold, "metric", "");
    double alpha = 1 - confidence / 100, good;

    if (strcmp(metric, "p") == 0)
        good = sq_json_num_or(threshold, "p", 0) / 100;
    else if (strcmp(metric, "error_rate") == 0)
        good = 1 - sq_json_num_or(threshold, "value", 0) / 100;
    else
        return 0;
    if (alpha <= 0 || good >= 1)
        return INFINITY;
    return good <= 0 ? 1 : ceil(log(alpha) / log(good) - 1e-9);
}

static void sample_size(const struct sq_decide *x, size_t k, const json_t *threshold, const char *name,
                        const json_t *endpoint)
{
    double need = least_sample(threshold, sq_json_num_or(x->check, "confidence", 95)), have;
    const struct sq_node *list = sq_node_get(x->node, "thresholds");
    struct sq_pos pos = list && list->kind == SQ_N_LIST && k < list->n ? list->items[k]->pos : x->node->pos;
    const char *text = sq_json_str_or(threshold, "text", "");

    have = floor(requests_in_windows(x, endpoint) + 1e-6);
    if (isinf(need))
        sq_diag_error(x->c->d, pos, NULL, "verify %s: %s can never be proven from a sample", x->name, text);
    else if (have < need)
        sq_diag_warn(x->c->d, pos, "raise the rate or the duration, or loosen the threshold",
                     "verify %s: %s needs at least %.0f requests to be proven, but the load sends %.0f to %s while the "
                     "fault is on: inconclusive at best",
                     x->name, text, need, have, name);
}

static void check_slo(const struct sq_decide *x)
{
    const char *only = sq_json_str_or(x->check, "endpoint", NULL), *name;
    const json_t *load = json_object_get(x->spec, "load"), *t;
    json_t *endpoint;
    size_t k;

    json_array_foreach(json_object_get(x->check, "thresholds"), k, t)
    {
        json_object_foreach((json_t *)(uintptr_t)load, name, endpoint)
        {
            if (!only || strcmp(only, name) == 0)
                sample_size(x, k, t, name, endpoint);
        }
    }
}

/* Checks of how a caller treats a dependency need that dependency's calls to be disturbed. */
static bool on_this_edge(const struct sq_decide *x, const json_t *step)
{
    const char *edge = sq_json_str_or(x->check, "edge", ""), *uses = sq_json_str_or(step, "uses", "");
    const char *hit = sq_json_str_or(json_object_get(step, "target"), "edge", NULL);

    if (strncmp(uses, "call/", 5) != 0 && strncmp(uses, "network/", 8) != 0) {
        sq_diag_error(x->c->d, sq_decide_at(x, "step"), "use a step with a call/ or network/ fault",
                      "verify %s: step \"%s\" is %s, which does not act on calls", x->name,
                      sq_json_str_or(step, "id", ""), uses);
        return false;
    }
    if (hit && strcmp(hit, edge) != 0) {
        sq_diag_error(x->c->d, sq_decide_at(x, "edge"), NULL, "verify %s: step \"%s\" acts on edge %s, not on %s",
                      x->name, sq_json_str_or(step, "id", ""), hit, edge);
        return false;
    }
    return true;
}

static void check_timeout(const struct sq_decide *x, const json_t *step)
{
    int64_t max = sq_json_int_or(x->check, "max", 0) + sq_json_int_or(x->check, "grace", 0);
    int64_t delay = sq_json_int_or(json_object_get(step, "with"), "delay", INT64_MAX);
    const char *uses = sq_json_str_or(step, "uses", "");
    char a[32], b[32];

    if (strcmp(uses, "call/error") == 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "step"), "use a step with call/latency or call/blackhole",
                      "verify timeout: step \"%s\" answers at once with an error: there is nothing to time out",
                      sq_json_str_or(step, "id", ""));
    else if (strcmp(uses, "call/latency") != 0 && strcmp(uses, "call/blackhole") != 0 &&
             strcmp(uses, "call/http_delay") != 0)
        sq_diag_error(x->c->d, sq_decide_at(x, "step"),
                      "use a step with call/latency, call/http_delay or call/blackhole",
                      "verify timeout: step \"%s\" is %s: for how long it holds each call is not known",
                      sq_json_str_or(step, "id", ""), uses);
    else if (delay - sq_json_int_or(json_object_get(step, "with"), "jitter", 0) <= max)
        sq_diag_error(
            x->c->d, sq_decide_at(x, "max"), "delay the calls by clearly more than max + grace",
            "verify timeout: step \"%s\" delays calls by %s, which a caller with a timeout of %s may wait for",
            sq_json_str_or(step, "id", ""), sq_fmt_duration(delay, a, sizeof a), sq_fmt_duration(max, b, sizeof b));
}

static void check_breaker(const struct sq_decide *x, const json_t *step, size_t index)
{
    const json_t *expect = json_object_get(x->check, "expect");
    int64_t opens = sq_json_int_or(expect, "opens_within", 0), closes = sq_json_int_or(expect, "closes_within", 0);
    int64_t duration = sq_json_int_or(step, "duration", 0), after;
    char a[32], b[32];
    bool last;

    after = sq_decide_after(x->spec, index, &last);
    if (opens >= duration)
        sq_diag_error(x->c->d, at_inner(x, "expect", "opens_within"), NULL,
                      "verify %s: the fault lasts %s, so a breaker that opens within %s can't be seen to stay open",
                      x->name, sq_fmt_duration(duration, a, sizeof a), sq_fmt_duration(opens, b, sizeof b));
    if (closes > after)
        sq_diag_warn(x->c->d, at_inner(x, "expect", "closes_within"), "settle: after the step gives it time",
                     "verify %s: the load goes on for only %s after step \"%s\", less than closes_within", x->name,
                     sq_fmt_duration(after, a, sizeof a), sq_json_str_or(step, "id", ""));
}

static void check_recovered(const struct sq_decide *x, size_t index)
{
    int64_t within = sq_json_int_or(x->check, "within", 0), hold = sq_json_int_or(x->check, "hold", 0), after;
    char a[32];
    bool last;

    after = sq_decide_after(x->spec, index, &last);
    if (hold > within)
        sq_diag_error(x->c->d, sq_decide_at(x, "hold"), NULL, "verify recovered: \"hold\" is longer than \"within\"");
    else if (hold > after && !last)
        sq_diag_error(x->c->d, sq_decide_at(x, "hold"), "settle: after the step gives it time",
                      "verify recovered: the next fault comes %s after this one, before \"hold\" can pass",
                      sq_fmt_duration(after, a, sizeof a));
    else if (within > after)
        sq_diag_warn(x->c->d, sq_decide_at(x, "within"), "settle: after the step gives it time",
                     "verify recovered: the load goes on for only %s after the fault, less than \"within\"",
                     sq_fmt_duration(after, a, sizeof a));
}

/* After one step, or ("*") after each that has a fault. */
static void check_all_recovered(const struct sq_decide *x, const size_t *index)
{
    const json_t *step;
    size_t i;

    if (!json_object_get(x->spec, "steady_state") && !json_object_get(x->check, "thresholds"))
        sq_diag_error(x->c->d, x->node->pos, "add steady_state, or thresholds here",
                      "verify recovered: without a steady state there is nothing to come back to");
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        if (json_object_get(step, "uses") && (!index || *index == i))
            check_recovered(x, i);
    }
}

/* Checks of how a caller treats a dependency look at one edge during one step. */
static bool takes_edge(const struct sq_decide *x)
{
    static const char *const of_edge[] = {"timeout", "retries", "circuit_breaker", "fuse"};

    for (size_t i = 0; i < SQ_COUNT(of_edge); i++)
        if (strcmp(x->name, of_edge[i]) == 0)
            return true;
    return false;
}

/* What the check asks of one step that it is about. */
static void check_step(const struct sq_decide *x, const json_t *step, size_t index)
{
    if (!json_object_get(x->check, "edge"))
        (void)json_object_set(x->check, "edge", json_object_get(json_object_get(step, "target"), "edge"));
    if (!on_this_edge(x, step))
        return;
    if (strcmp(x->name, "timeout") == 0)
        check_timeout(x, step);
    if (strcmp(x->name, "circuit_breaker") == 0)
        check_breaker(x, step, index);
}

/* An SLO whose indicator needs no load of ours. */
static bool of_prometheus(const struct sq_decide *x)
{
    const json_t *slo = json_object_get(json_object_get(x->spec, "slos"), sq_json_str_or(x->check, "slo", ""));

    return strcmp(sq_json_str_or(json_object_get(slo, "indicator"), "source", ""), "prometheus") == 0;
}

static void check_one(const struct sq_decide *x)
{
    static const char *const of_load[] = {"slo",         "fallback",  "recovered", "budget",
                                          "retry_storm", "fail_fast", "bulkhead",  "failover"};
    const bool load = json_object_size(json_object_get(x->spec, "load")) > 0;
    const unsigned errors = x->c->d->errors;
    const json_t *step;
    size_t after = 0, i;
    bool one_after;

    (void)resolve_step(x, "step", NULL);
    one_after = resolve_step(x, "after", &after) != NULL;
    resolve_name(x, "edge", "edges");
    if (load)
        resolve_name(x, "endpoint", "load");
    for (i = 0; i < SQ_COUNT(of_load); i++)
        if (!load && !of_prometheus(x) && strcmp(x->name, of_load[i]) == 0)
            sq_diag_error(x->c->d, x->node->pos, "add load: what the probe sends",
                          "verify %s: there is no load to judge by", x->name);
    if (x->c->d->errors != errors)
        return;
    json_array_foreach(json_object_get(x->spec, "steps"), i, step)
    {
        if (takes_edge(x) && sq_decide_meant(x, step))
            check_step(x, step, i);
    }
    if (strcmp(x->name, "recovered") == 0)
        check_all_recovered(x, one_after ? &after : NULL);
    if (strcmp(x->name, "slo") == 0)
        check_slo(x);
    sq_decide_more(x);
}

/* A sent_rate that the schedule itself does not reach can never be met. */
static void check_sent_rate(struct sq_norm *c, const struct sq_node *thresholds, const json_t *spec)
{
    const json_t *steady = json_object_get(spec, "steady_state"), *t;
    double seconds = (double)sq_json_int_or(steady, "for", 0) / 1e9, planned = 0;
    const char *name;
    json_t *endpoint;
    size_t k;

    json_object_foreach(json_object_get(spec, "load"), name, endpoint)
    {
        planned += sq_decide_planned(endpoint, seconds);
    }
    json_array_foreach(json_object_get(steady, "thresholds"), k, t)
    {
        if (strcmp(sq_json_str_or(t, "metric", ""), "sent_rate") == 0 && seconds > 0 &&
            planned / seconds < sq_json_num_or(t, "value", 0))
            sq_diag_error(c->d, thresholds->items[k]->pos, NULL, "steady_state: %s can't hold: the load sends %.3g/s",
                          sq_json_str_or(t, "text", ""), planned / seconds);
    }
}

static void check_steady(struct sq_norm *c, const struct sq_node *spec_node, const json_t *spec)
{
    const struct sq_node *node = sq_node_get(spec_node, "steady_state");
    bool load = json_object_size(json_object_get(spec, "load")) > 0;

    if (node && !load)
        sq_diag_error(c->d, node->pos, "add load: what the probe sends", "steady_state: there is no load to judge by");
    else if (node)
        check_sent_rate(c, sq_node_get(node, "thresholds"), spec);
    else if (load)
        sq_diag_warn(c->d, sq_node_get(spec_node, "load")->pos,
                     "steady_state: {for: 10s, thresholds: [\"error_rate<1%\"]}",
                     "without steady_state faults are injected even when the system is already ill");
}

void sq_semantic_verify(struct sq_norm *c, const struct sq_node *spec_node, json_t *spec)
{
    const struct sq_node *nodes = sq_node_get(spec_node, "verify");
    const unsigned errors = c->d->errors;
    json_t *check;
    size_t i;

    sq_slo_resolve(c, spec_node, spec);
    if (c->d->errors != errors)
        return;
    check_steady(c, spec_node, spec);
    json_array_foreach(json_object_get(spec, "verify"), i, check)
    {
        struct sq_decide x = {c, nodes->items[i], spec, check, sq_json_str_or(check, "check", "")};

        check_one(&x);
    }
    if (json_array_size(json_object_get(spec, "verify")) == 0)
        sq_diag_warn(c->d, spec_node->pos, "squall explain verify", "nothing is verified: the verdict will say little");
}
