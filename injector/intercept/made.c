/* Counts of what callers do over edges, as it happens: the same calls as in the evidence, summed up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/priv.h"
#include "squall/json.h"

#define TRACES 4096 /* a retry is a trace that was seen among about so many */
#define INSTANCES SQ_CALLERS
#define KINDS 3
#define OUTCOMES 7

/* Upper bounds of the histogram of requests, seconds: Prometheus' own, and 1 ms. */
static const double bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
#define BOUNDS (sizeof(bounds) / sizeof(bounds[0]))

static const char *const outcomes[OUTCOMES] = {"answered", "failed", "gave_up", "refused", "broken", "open", "none"};

struct sq_made {
    char instance[SQ_NAME_MAX];
    uint64_t connects; /* of its earlier lives */
    uint64_t calls[KINDS][OUTCOMES];
    uint64_t retries;
    int64_t gave_up_ns;          /* when it last did; 0: never */
    uint64_t bucket[BOUNDS + 1]; /* of requests */
    uint64_t sum_ns;
};

struct sq_past {
    char fault[32], kind[32];
    struct sq_tally_cell n;
};

/* NULL: no memory. More instances than can be armed at a time share the last entry. */
static struct sq_made *live_of(struct sq_edge *edge, const char *instance)
{
    struct sq_made *grown;

    for (size_t i = 0; i < edge->n_live; i++)
        if (strcmp(edge->live[i].instance, instance) == 0)
            return &edge->live[i];
    if (edge->n_live == INSTANCES + 1)
        return &edge->live[INSTANCES];
    grown = realloc(edge->live, (edge->n_live + 1) * sizeof(*grown));
    if (!grown)
        return NULL;
    edge->live = grown;
    grown += edge->n_live++;
    memset(grown, 0, sizeof(*grown));
    (void)snprintf(grown->instance, sizeof(grown->instance), "%s", edge->n_live > INSTANCES ? "(others)" : instance);
    return grown;
}

static uint64_t hash(uint64_t h, const char *s)
{
    for (; *s; s++) /* FNV-1a */
        h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
    return h;
}

static bool seen_before(struct sq_edge *edge, const char *trace, const char *instance)
{
    uint64_t h = hash(hash(UINT64_C(14695981039346656037), trace), instance), *at;

    if (!*trace)
        return false;
    if (!edge->traces)
        edge->traces = calloc(TRACES, sizeof(*edge->traces));
    if (!edge->traces)
        return false;
    at = &edge->traces[(h ^ h >> 32) % TRACES];
    if (*at == h)
        return true;
    *at = h;
    return false;
}

static void count_duration(struct sq_made *l, int64_t ns)
{
    size_t i = 0;

    while (i < BOUNDS && (double)ns > bounds[i] * 1e9)
        i++;
    l->bucket[i]++;
    l->sum_ns += (uint64_t)ns;
}

void sq_made_call(struct sq_edge *edge, const struct sq_caller *c, const json_t *call)
{
    struct sq_made *l = live_of(edge, c->instance);
    size_t kind = (size_t)json_integer_value(json_array_get(call, 3)) % KINDS;
    size_t outcome = (size_t)json_integer_value(json_array_get(call, 4)) % OUTCOMES;
    int64_t ns = json_integer_value(json_array_get(call, 6)), start = json_integer_value(json_array_get(call, 0));

    if (!l)
        return;
    l->calls[kind][outcome]++;
    l->retries += seen_before(edge, json_string_value(json_array_get(call, 9)), c->instance);
    if (kind == SQ_CALL_REQUEST && outcome != SQ_OUT_OPEN)
        count_duration(l, ns);
    if (outcome == SQ_OUT_GAVE_UP && start + ns > l->gave_up_ns)
        l->gave_up_ns = start + ns;
}

void sq_made_failed(struct sq_edge *edge, const struct sq_caller *c)
{
    struct sq_made *l = live_of(edge, c->instance);

    if (l)
        l->calls[SQ_CALL_CONNECT][SQ_OUT_FAILED]++;
}

void sq_made_leave(struct sq_intercept *ic, const struct sq_caller *c)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++) {
        struct sq_tally_cell *made = sq_cell(ic->tallies, SQ_RULE_TALLIES + i, c->slot);
        struct sq_made *l =
            sq_edge_calls(c, ic->edge[i]) && made && made->seen ? live_of(ic->edge[i], c->instance) : NULL;

        if (!l)
            continue;
        l->connects += made->seen;
        made->seen = 0;
    }
}

void sq_made_over(struct sq_edge *edge, const struct sq_edge_fault *f)
{
    struct sq_past *past = edge->past ? edge->past : calloc(SQ_RULE_HISTORY, sizeof(*past));

    if (!past)
        return;
    edge->past = past;
    if (edge->n_past == SQ_RULE_HISTORY)
        memmove(past, past + 1, --edge->n_past * sizeof(*past));
    past += edge->n_past++;
    (void)snprintf(past->fault, sizeof(past->fault), "%s", f->id);
    (void)snprintf(past->kind, sizeof(past->kind), "%.31s", sq_json_str_or(f->rule, "kind", ""));
    past->n = sq_tally_sum(edge->ic, f->tally);
}

void sq_made_free(struct sq_edge *edge)
{
    free(edge->live);
    free(edge->traces);
    free(edge->past);
}

/* ---- as JSON ---- */

static void put(json_t *o, const char *key, uint64_t n)
{
    (void)json_object_set_new(o, key, json_integer((json_int_t)(n & INT64_MAX)));
}

static uint64_t connects_of(const struct sq_edge *edge, const char *instance)
{
    const struct sq_intercept *ic = edge->ic;

    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (sq_edge_calls(ic->caller[i], edge) && strcmp(ic->caller[i]->instance, instance) == 0 && ic->tallies)
            return ic->tallies[SQ_RULE_TALLIES + edge->slot].of[i].seen;
    return 0;
}

static uint64_t sum(const uint64_t *n)
{
    uint64_t all = 0;

    for (size_t i = 0; i < OUTCOMES; i++)
        all += n[i];
    return all;
}

static json_t *durations(const struct sq_made *l)
{
    json_t *o = json_object(), *list = json_array();
    uint64_t n = 0;

    for (size_t i = 0; i <= BOUNDS; i++) {
        n += l->bucket[i];
        if (i < BOUNDS)
            (void)json_array_append_new(list, json_pack("[f,I]", bounds[i], (json_int_t)n));
    }
    (void)json_object_set_new(o, "le", list);
    put(o, "count", n);
    put(o, "sum_ns", l->sum_ns);
    return o;
}

static json_t *instance_json(const struct sq_edge *edge, const struct sq_made *l)
{
    json_t *o = json_pack("{s:s}", "instance", l->instance), *out = json_object();

    put(o, "connects", l->connects + connects_of(edge, l->instance));
    put(o, "requests", sum(l->calls[SQ_CALL_REQUEST]));
    put(o, "connections", sum(l->calls[SQ_CALL_CONN]));
    put(o, "failed_connects", sum(l->calls[SQ_CALL_CONNECT]));
    for (size_t i = 0; i < OUTCOMES; i++)
        put(out, outcomes[i], l->calls[0][i] + l->calls[1][i] + l->calls[2][i]);
    (void)json_object_set_new(o, "outcomes", out);
    put(o, "retries", l->retries);
    if (l->gave_up_ns)
        put(o, "gave_up_ns", (uint64_t)l->gave_up_ns);
    (void)json_object_set_new(o, "durations", durations(l));
    return o;
}

static json_t *fault_json(const char *fault, const char *kind, bool active, struct sq_tally_cell n)
{
    json_t *o = json_pack("{s:s,s:o,s:b}", "fault", fault, "uses", json_sprintf("call/%s", kind), "active", active);

    put(o, "seen", n.seen);
    put(o, "hits", n.hit);
    return o;
}

static json_t *faults_json(const struct sq_edge *edge)
{
    json_t *list = json_array();

    for (size_t i = 0; i < edge->n_past; i++)
        (void)json_array_append_new(list, fault_json(edge->past[i].fault, edge->past[i].kind, false, edge->past[i].n));
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule)
            (void)json_array_append_new(list,
                                        fault_json(edge->fault[i].id, sq_json_str_or(edge->fault[i].rule, "kind", ""),
                                                   true, sq_tally_sum(edge->ic, edge->fault[i].tally)));
    return list;
}

static json_t *edge_json(struct sq_edge *edge)
{
    const struct sq_edge_counts *c = &edge->ic->counts[edge->slot];
    json_t *o = json_pack("{s:s,s:s,s:s,s:s}", "run", edge->run, "edge", edge->name, "from", edge->from, "mode",
                          sq_edge_mode(edge)),
           *list = json_array();
    uint64_t connects = edge->nft ? 0 : c->connects; /* by nftables nobody but the proxy counts */

    put(o, "bypassed", c->bypassed);
    put(o, "lost", c->lost);
    /* Those that have not done anything yet, too. */
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (sq_edge_calls(edge->ic->caller[i], edge))
            (void)live_of(edge, edge->ic->caller[i]->instance);
    for (size_t i = 0; i < edge->n_live; i++) {
        (void)json_array_append_new(list, instance_json(edge, &edge->live[i]));
        connects += edge->nft ? edge->live[i].connects + connects_of(edge, edge->live[i].instance) : 0;
    }
    put(o, "connects", connects);
    put(o, "redirected", edge->nft ? connects - c->failed : c->redirected);
    (void)json_object_set_new(o, "instances", list);
    (void)json_object_set_new(o, "faults", faults_json(edge));
    return o;
}

json_t *sq_intercept_edges(const struct sq_intercept *ic, const char *run_id)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (ic->edge[i] && (!run_id || strcmp(ic->edge[i]->run, run_id) == 0))
            (void)json_array_append_new(list, edge_json(ic->edge[i]));
    return list;
}

json_t *sq_intercept_proxy(const struct sq_intercept *ic)
{
    json_t *o = json_pack("{s:b}", "up", ic->link.started && !ic->link.dead);

    put(o, "open", ic->said.open);
    put(o, "bytes_up", ic->said.bytes_up);
    put(o, "bytes_down", ic->said.bytes_down);
    put(o, "rss", ic->said.rss);
    put(o, "lost", ic->said.lost);
    put(o, "stray", ic->said.stray);
    return o;
}
