/* What the proxy and the hooks report. The proxy reads hostile bytes, so nothing that it says is believed unchecked:
 * wrong types, unknown numbers and values out of range are dropped and counted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define CALL_LEN 11
#define MAX_DUR (INT64_C(86400) * SQ_S)
#define FAILED_MAX 500
#define GROUPS 64 /* of one batch by (edge, caller) */

static bool text_ok(const json_t *v, size_t max, const char *chars)
{
    const char *s = json_string_value(v);

    return s && json_string_length(v) <= max && strspn(s, chars) == strlen(s) && strlen(s) == json_string_length(v);
}

static bool int_ok(const json_t *v, json_int_t lo, json_int_t hi)
{
    return json_is_integer(v) && json_integer_value(v) >= lo && json_integer_value(v) <= hi;
}

static bool call_ok(const json_t *c)
{
    static const char ids[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    static const char hex[] = "0123456789abcdefABCDEF";
    const json_int_t now = sq_mono_ns();

    if (!json_is_array(c) || json_array_size(c) != CALL_LEN)
        return false;
    return int_ok(json_array_get(c, 0), 0, now + SQ_S) && int_ok(json_array_get(c, 1), 0, UINT32_MAX) &&
           int_ok(json_array_get(c, 2), 0, UINT32_MAX) && int_ok(json_array_get(c, 3), SQ_CALL_REQUEST, SQ_CALL_CONN) &&
           int_ok(json_array_get(c, 4), SQ_OUT_ANSWERED, SQ_OUT_NONE) && int_ok(json_array_get(c, 5), 0, 999) &&
           int_ok(json_array_get(c, 6), 0, MAX_DUR) && int_ok(json_array_get(c, 7), 0, MAX_DUR) &&
           text_ok(json_array_get(c, 8), 31, ids) && text_ok(json_array_get(c, 9), 32, hex) &&
           (json_string_length(json_array_get(c, 9)) == 0 || json_string_length(json_array_get(c, 9)) == 32) &&
           int_ok(json_array_get(c, 10), 0, MAX_DUR);
}

/* [start, caller, edge, kind, ...] -> [start, kind, ...]: caller and edge are said once for the whole event. */
static json_t *evidence_of(const json_t *c)
{
    json_t *out = json_array();

    for (size_t i = 0; out && i < CALL_LEN; i++)
        if (i != 1 && i != 2)
            (void)json_array_append(out, json_array_get(c, i));
    return out;
}

struct group {
    const struct sq_caller *caller;
    const struct sq_edge *edge;
    json_t *calls;
};

static void emit(struct sq_intercept *ic, struct group *g)
{
    sq_ic_event(ic, g->edge->run,
                json_pack("{s:s,s:s,s:s,s:o}", "type", "calls", "edge", g->edge->name, "instance", g->caller->instance,
                          "calls", g->calls));
}

static void on_calls(struct sq_intercept *ic, const json_t *msg)
{
    const json_t *list = json_object_get(msg, "calls"), *c;
    struct group groups[GROUPS] = {0};
    size_t n = 0, g, i;

    json_array_foreach(list, i, c)
    {
        const struct sq_caller *caller = NULL;
        struct sq_edge *edge = NULL;

        if (call_ok(c)) {
            caller = sq_ic_caller(ic, (uint32_t)json_integer_value(json_array_get(c, 1)));
            edge = sq_ic_edge(ic, (uint32_t)json_integer_value(json_array_get(c, 2)));
        }
        if (!caller || !edge || strcmp(caller->run, edge->run) != 0) {
            ic->bad_calls++;
            continue;
        }
        for (g = 0; g < n; g++)
            if (groups[g].caller == caller && groups[g].edge == edge)
                break;
        if (g == GROUPS) {
            emit(ic, &groups[--g]);
            groups[g].calls = NULL;
            n = g;
        }
        if (g == n) {
            groups[g] = (struct group){caller, edge, json_array()};
            n++;
        }
        sq_made_call(edge, caller, c);
        (void)json_array_append_new(groups[g].calls, evidence_of(c));
    }
    for (g = 0; g < n; g++)
        emit(ic, &groups[g]);
}

static void on_ack(struct sq_intercept *ic, const json_t *msg)
{
    int64_t id = sq_json_int_or(msg, "edge", -1), epoch = sq_json_int_or(msg, "epoch", -1);
    json_t *rules = json_object_get(msg, "rules");
    struct sq_edge *edge;

    if (id < 0 || id > UINT32_MAX || epoch < 0 || epoch > UINT32_MAX || !json_is_array(rules) ||
        json_array_size(rules) > SQ_EDGE_FAULTS)
        return;
    edge = sq_ic_edge(ic, (uint32_t)id);
    if (!edge)
        return;
    json_decref(edge->ack_rules);
    edge->ack_rules = json_incref(rules);
    edge->acked = (uint32_t)epoch;
}

/* Wanted: the real Unix socket. Asked only for edges and callers that exist and have such a destination. */
static void on_upstream(struct sq_intercept *ic, const json_t *msg)
{
    int64_t req = sq_json_int_or(msg, "req", -1), id = sq_json_int_or(msg, "edge", -1);
    int64_t dest = sq_json_int_or(msg, "dest", -1);
    struct sq_edge *edge = id >= 0 && id <= UINT32_MAX ? sq_ic_edge(ic, (uint32_t)id) : NULL;
    cleanup_json json_t *answer = NULL;
    int fd;

    if (req < 0)
        return;
    fd = edge && dest >= 0 ? sq_upstream_connect(edge, (size_t)dest) : -ENOENT;
    if (fd < 0)
        answer = json_pack("{s:s,s:I,s:i}", "op", "upstream", "req", (json_int_t)req, "error", -fd);
    else
        answer = json_pack("{s:s,s:I}", "op", "upstream", "req", (json_int_t)req);
    (void)sq_link_send(ic, answer, &fd, fd < 0 ? 0 : 1, NULL);
    if (fd >= 0)
        (void)close(fd);
}

static void on_stats(struct sq_intercept *ic, const json_t *msg)
{
    int64_t lost = sq_json_int_or(msg, "lost", 0), dropped = sq_json_int_or(msg, "dropped", 0);

    ic->said.open = (uint64_t)sq_json_int_or(msg, "open", 0) & INT64_MAX;
    ic->said.bytes_up = (uint64_t)sq_json_int_or(msg, "bytes_up", 0) & INT64_MAX;
    ic->said.bytes_down = (uint64_t)sq_json_int_or(msg, "bytes_down", 0) & INT64_MAX;
    ic->said.rss = (uint64_t)sq_json_int_or(msg, "rss", 0) & INT64_MAX;
    ic->said.lost = (uint64_t)lost & INT64_MAX;
    ic->said.stray = (uint64_t)sq_json_int_or(msg, "stray", 0) & INT64_MAX;
    if (lost > 0 && (uint64_t)lost > ic->proxy_lost) {
        ic->proxy_lost = (uint64_t)lost;
        sq_ic_warn(ic, "", "the proxy could not report all calls: %lld are missing in the evidence", (long long)lost);
    }
    if (dropped > 0 && ic->proxy_dropped == 0) {
        ic->proxy_dropped = (uint64_t)dropped;
        sq_ic_warn(ic, "", "the proxy could not pass on all datagrams: some are lost that no fault was to lose");
    }
}

void sq_incoming(struct sq_intercept *ic, const char *text, size_t len)
{
    cleanup_json json_t *msg = NULL;
    const char *op;
    uint64_t bad = ic->bad_calls;

    if (sq_json_parse(text, len, &msg, NULL) < 0 || !json_is_object(msg)) {
        ic->bad_calls++;
    } else {
        op = sq_json_str_or(msg, "op", "");
        if (strcmp(op, "calls") == 0)
            on_calls(ic, msg);
        else if (strcmp(op, "ack") == 0)
            on_ack(ic, msg);
        else if (strcmp(op, "upstream") == 0)
            on_upstream(ic, msg);
        else if (strcmp(op, "lost") == 0)
            sq_space_lost(ic, (uint32_t)(sq_json_int_or(msg, "space", 0) & UINT32_MAX));
        else if (strcmp(op, "stats") == 0)
            on_stats(ic, msg);
    }
    if (bad == 0 && ic->bad_calls > 0)
        sq_ic_warn(ic, "", "the proxy reported something that cannot be true; that and the like is left out");
}

void sq_incoming_flush(struct sq_edge *edge)
{
    json_t *calls = edge->failed;

    edge->failed = NULL;
    if (calls)
        sq_ic_event(edge->ic, edge->run,
                    json_pack("{s:s,s:s,s:s,s:o}", "type", "calls", "edge", edge->name, "instance",
                              edge->failed_caller->instance, "calls", calls));
}

/* Gathered for a moment: a retry storm is one event in 50 ms, not ten thousand a second. */
static void gather(struct sq_caller *c, struct sq_edge *edge, json_t *call)
{
    if (edge->failed && (edge->failed_caller != c || json_array_size(edge->failed) >= FAILED_MAX))
        sq_incoming_flush(edge);
    if (!edge->failed)
        edge->failed = json_array();
    edge->failed_caller = c;
    sq_made_failed(edge, c);
    (void)json_array_append_new(edge->failed, call);
    sq_ic_flush_soon(edge->ic);
}

void sq_incoming_failed(struct sq_caller *c, struct sq_edge *edge, int64_t t_ns, uint32_t rule)
{
    gather(c, edge,
           json_pack("[I,i,i,i,i,i,s,s,i]", (json_int_t)t_ns, SQ_CALL_CONNECT, SQ_OUT_FAILED, 0, 0, 0,
                     sq_edge_fault_of(edge, rule), "", 0));
}

void sq_incoming_gave_up(struct sq_caller *c, struct sq_edge *edge, int64_t t_ns, int64_t dur, const char *fault)
{
    gather(c, edge,
           json_pack("[I,i,i,i,I,I,s,s,i]", (json_int_t)t_ns, SQ_CALL_CONNECT, SQ_OUT_GAVE_UP, 0, (json_int_t)dur,
                     (json_int_t)dur, fault, "", 0));
}

void sq_incoming_hook(struct sq_intercept *ic, const struct sq_hook_event *ev)
{
    struct sq_caller *c = sq_ic_caller(ic, ev->caller);
    struct sq_edge *edge = sq_ic_edge(ic, ev->edge);

    if (ev->netns)
        sq_space_seen(ic, ev);
    else if (c && edge)
        sq_incoming_failed(c, edge, (int64_t)ev->t_ns, ev->rule);
}
