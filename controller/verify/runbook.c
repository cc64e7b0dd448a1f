/* runbook: was the runbook tried at a level, and did each of its steps do what it says, in its time? From records of
 * type `runbook`. The levels are judged by themselves: that it parses says nothing about whether it works. */
#include <errno.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"
#include "verify/facts.h"

static const struct sq_param params[] = {
    {"file", SQ_P_STRING, SQ_REQUIRED, NULL, NULL, "the runbook, as its records call it"},
    {"level", SQ_P_ENUM, 0, "drilled", "lint|dry|drilled|fired|reversed",
     "lint: it parses; dry: its reading steps work; drilled: all of them, under the fault; fired: its alert led here; "
     "reversed: its changes were undone"},
    SQ_PARAM_END,
};

struct tally {
    uint64_t n, failed, late;
    const json_t *first; /* the first step that failed or was late */
};

static void count(const json_t *steps, struct tally *t)
{
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *s = json_array_get(steps, i);
        int64_t within = sq_json_int_or(s, "within_ns", 0);
        bool ok = sq_json_bool_or(s, "ok", false), late = ok && within > 0 && sq_json_int_or(s, "took_ns", 0) > within;

        t->n++;
        t->failed += !ok;
        t->late += late;
        if ((!ok || late) && !t->first)
            t->first = s;
    }
}

static void judge(const struct tally *t, const char *level, struct sq_result *r)
{
    const char *id = sq_json_str_or(t->first, "id", "?"), *why = sq_json_str_or(t->first, "why", "");
    char a[64], b[64];

    r->n = t->n;
    (void)snprintf(r->observed, sizeof r->observed, "%llu of %llu steps ok",
                   (unsigned long long)(t->n - t->failed - t->late), (unsigned long long)t->n);
    if (t->n == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "none of its steps was tried");
    else if (!t->first)
        (void)sq_result_set(r, SQ_V_PASS, "all %llu steps did what they say (%s)", (unsigned long long)t->n, level);
    else if (!sq_json_bool_or(t->first, "ok", false))
        (void)sq_result_set(r, SQ_V_FAIL, "step %.80s did not do what it says: %.400s", id,
                            why[0] ? why : "no reason is recorded");
    else
        (void)sq_result_set(r, SQ_V_FAIL, "step %.80s took %s, %s are allowed", id,
                            sq_fmt_duration(sq_json_int_or(t->first, "took_ns", 0), a, sizeof a),
                            sq_fmt_duration(sq_json_int_or(t->first, "within_ns", 0), b, sizeof b));
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    const char *file = sq_json_str_or(p, "file", ""), *level = sq_json_str_or(p, "level", "drilled");
    struct tally t = {0};
    bool any = false;
    struct sq_result r;

    sq_result_init(&r, NULL, file);
    (void)snprintf(r.limit, sizeof r.limit, "%s: every step ok", level);
    for (size_t i = 0; i < ev->n_events; i++) {
        const struct sq_ev_event *one = &ev->events[i];

        if (strcmp(one->type, "runbook") != 0 || strcmp(sq_json_str_or(one->obj, "file", ""), file) != 0 ||
            strcmp(sq_json_str_or(one->obj, "level", ""), level) != 0)
            continue;
        any = true;
        count(json_object_get(one->obj, "steps"), &t);
    }
    if (any)
        judge(&t, level, &r);
    else
        (void)sq_result_set(&r, SQ_V_INCONCLUSIVE, "it was not tried at level %s in this run", level);
    return sq_result_add(results, &r, e);
}

const struct sq_check sq_check_runbook = {
    .name = "runbook",
    .doc = "A runbook does what it says: each step, within its time, at the level asked for.",
    .params = params,
    .run = run,
};
