/* The rules of an edge: from the faults on it to the proxy and to what the hooks and the supervisor read. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/callfault.h"
#include "intercept/nft.h"
#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static uint32_t kind_of(const json_t *rule)
{
    const char *k = sq_json_str_or(rule, "kind", "");

    if (strcmp(k, "latency") == 0)
        return SQ_RULE_LATENCY;
    if (strcmp(k, "error") == 0)
        return SQ_RULE_ERROR;
    return strcmp(k, "blackhole") == 0 ? SQ_RULE_BLACKHOLE : SQ_RULE_NONE;
}

/* Only the proxy knows those: the hooks see connects. That goes for all rules on datagrams. */
static bool on_bytes(const struct sq_edge *edge, const json_t *rule)
{
    char name[64];

    if (edge->dgram)
        return true;
    (void)snprintf(name, sizeof(name), "call/%.40s", sq_json_str_or(rule, "kind", ""));
    return sq_is_byte_fault(name) || sq_is_http_fault(name);
}

static uint64_t threshold_of(const json_t *rule)
{
    double p = sq_json_num_or(rule, "percent", 100.0);

    if (p >= 100.0)
        return SQ_ALWAYS;
    return p <= 0.0 ? 0 : (uint64_t)llround(p / 100.0 * (double)SQ_ALWAYS);
}

static struct sq_nth count_of(const json_t *rule)
{
    return (struct sq_nth){.first = (uint32_t)sq_json_int_or(rule, "first", 0),
                           .every = (uint32_t)sq_json_int_or(rule, "every", 0),
                           .after = (uint32_t)sq_json_int_or(rule, "after", 0)};
}

bool sq_edge_fault_hits(const struct sq_edge_fault *f, const struct sq_caller *c)
{
    const json_t *only = json_object_get(f->rule, "instances"), *v;
    size_t i;

    if (!json_is_array(only))
        return true;
    json_array_foreach(only, i, v) if (json_is_string(v) && strcmp(json_string_value(v), c->instance) == 0) return true;
    return false;
}

const char *sq_edge_fault_of(const struct sq_edge *edge, uint32_t number)
{
    for (uint32_t i = 0; i < SQ_RULE_HISTORY; i++)
        if (edge->history[i].number == number && number != 0)
            return edge->history[i].fault;
    return "";
}

/* As the hooks read it. */
static void fill(const struct sq_edge *edge, struct sq_rules *out)
{
    memset(out, 0, sizeof(*out));
    if (edge->dgram)
        return;
    for (size_t i = 0; i < SQ_EDGE_FAULTS && out->n < SQ_EDGE_RULES; i++) {
        const struct sq_edge_fault *f = &edge->fault[i];
        struct sq_rule *r = &out->rule[out->n];

        if (!f->rule || on_bytes(edge, f->rule))
            continue;
        r->threshold = threshold_of(f->rule);
        r->kind = kind_of(f->rule);
        r->err = (uint32_t)sq_json_int_or(f->rule, "errno", 0);
        r->number = f->number;
        r->hold = edge->ic->hold_ok;
        r->tally = f->tally;
        r->count = count_of(f->rule);
        for (uint32_t c = 0; c < SQ_CALLERS; c++)
            if (sq_edge_calls(edge->ic->caller[c], edge) && sq_edge_fault_hits(f, edge->ic->caller[c]))
                r->callers[c / 64] |= UINT64_C(1) << (c % 64);
        out->n++;
    }
}

static json_t *callers_of(const struct sq_edge *edge, const struct sq_edge_fault *f)
{
    json_t *ids = json_array();

    for (uint32_t c = 0; ids && c < SQ_CALLERS; c++)
        if (sq_edge_calls(edge->ic->caller[c], edge) && sq_edge_fault_hits(f, edge->ic->caller[c]))
            (void)json_array_append_new(ids, json_integer(edge->ic->caller[c]->id));
    if (json_array_size(ids) == 0) /* an empty list would mean nobody to us, and must to the proxy */
        (void)json_array_append_new(ids, json_integer(0));
    return ids;
}

static void copy_rest(const json_t *from, json_t *to)
{
    static const char *const keys[] = {"stream", "rate",  "size",  "variation", "share",    "correlation",
                                       "first",  "every", "after", "answer",    "address",  "names",
                                       "types",  "match", "http",  "table",     "table_sum"};

    for (size_t i = 0; to && i < SQ_COUNT(keys); i++)
        if (json_object_get(from, keys[i]))
            (void)json_object_set(to, keys[i], json_object_get(from, keys[i]));
}

/* As the proxy reads it (wire.h). */
static json_t *message(const struct sq_edge *edge, uint32_t epoch)
{
    json_t *rules = json_array();

    for (size_t i = 0; rules && i < SQ_EDGE_FAULTS; i++) {
        const struct sq_edge_fault *f = &edge->fault[i];
        json_t *r;

        if (!f->rule)
            continue;
        r = json_pack(
            "{s:s,s:s,s:f,s:I,s:I,s:I,s:I}", "fault", f->id, "kind", sq_json_str_or(f->rule, "kind", ""), "percent",
            sq_json_num_or(f->rule, "percent", 100.0), "delay", (json_int_t)sq_json_int_or(f->rule, "delay", 0),
            "jitter", (json_int_t)sq_json_int_or(f->rule, "jitter", 0), "errno",
            (json_int_t)sq_json_int_or(f->rule, "errno", 0), "seed", (json_int_t)sq_json_int_or(f->rule, "seed", 0));
        copy_rest(f->rule, r);
        if (r) {
            (void)json_object_set_new(r, "number", json_integer(f->number));
            (void)json_object_set_new(r, "tally", json_integer(f->tally));
        }
        if (r && json_is_array(json_object_get(f->rule, "instances")))
            (void)json_object_set_new(r, "callers", callers_of(edge, f));
        (void)json_array_append_new(rules, r);
    }
    return json_pack("{s:s,s:I,s:I,s:o}", "op", "rules", "edge", (json_int_t)edge->id, "epoch", (json_int_t)epoch,
                     "rules", rules);
}

static void switch_hooks(struct sq_edge *edge, uint32_t epoch)
{
    struct sq_edge_cfg *cfg = &edge->ic->cfg[edge->slot];

    fill(edge, &cfg->slot[epoch & 1]);
    __atomic_store_n(&cfg->epoch, epoch, __ATOMIC_RELEASE);
}

const char *sq_edge_hole(const struct sq_edge *edge)
{
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule && kind_of(edge->fault[i].rule) == SQ_RULE_BLACKHOLE)
            return edge->fault[i].id;
    return NULL;
}

/* Where no SYN can be held, the gate's port is a black hole while a rule says so. */
static void turn_gate(struct sq_edge *edge)
{
    bool shut = sq_edge_hole(edge) != NULL;

    if (edge->hole.fd >= 0 && shut != edge->hole_shut && sq_hole_turn(edge->hole.fd, shut) == 0)
        edge->hole_shut = shut;
}

static int tell_proxy(struct sq_edge *edge, uint32_t epoch, bool wait, struct sq_err *e)
{
    cleanup_json json_t *msg = message(edge, epoch);
    int rc = sq_link_send(edge->ic, msg, NULL, 0, e);

    return rc < 0 || !wait ? rc : sq_link_wait_ack(edge->ic, edge, epoch, e);
}

/* A fault begins at the proxy first and then in the hooks, and ends in the hooks first, so that no connect is sent to a
 * gate that the proxy does not serve. */
int sq_edge_push(struct sq_edge *edge, enum sq_push how, struct sq_err *e)
{
    uint32_t epoch = edge->ic->cfg[edge->slot].epoch + 1;
    int rc;

    epoch += epoch == 0;
    if (how == SQ_PUSH_CLEAR) {
        switch_hooks(edge, epoch);
        (void)sq_nat_push_all(edge, NULL); /* should it fail, read-back and sq_edge_rule_gone say so */
    } else {
        turn_gate(edge);
    }
    rc = tell_proxy(edge, epoch, how != SQ_PUSH_QUIET, e);
    if (how != SQ_PUSH_CLEAR && rc == 0)
        switch_hooks(edge, epoch);
    if (how != SQ_PUSH_CLEAR && rc == 0)
        rc = sq_nat_push_all(edge, e);
    if (how == SQ_PUSH_CLEAR)
        turn_gate(edge);
    return rc;
}

static struct sq_edge_fault *find_fault(struct sq_edge *edge, const char *id)
{
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule && strcmp(edge->fault[i].id, id) == 0)
            return &edge->fault[i];
    return NULL;
}

static struct sq_edge_fault *free_fault(struct sq_edge *edge, bool bytes)
{
    struct sq_edge_fault *empty = NULL;
    uint32_t hooked = 0;

    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++) {
        if (!edge->fault[i].rule)
            empty = empty ? empty : &edge->fault[i];
        else
            hooked += !on_bytes(edge, edge->fault[i].rule);
    }
    return bytes || hooked < SQ_EDGE_RULES ? empty : NULL;
}

static int check_rule(const struct sq_edge *edge, const json_t *rule, struct sq_err *e)
{
    const char *id = sq_json_str_or(rule, "fault", "");
    int64_t err = sq_json_int_or(rule, "errno", 0);
    uint32_t kind = kind_of(rule);

    if (!*id || strlen(id) > 31 || (kind == SQ_RULE_NONE && !on_bytes(edge, rule)))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a rule of edge %s has no fault id or no known kind", edge->name);
    if (kind == SQ_RULE_ERROR && (err <= 0 || err > 4095 || err == EINTR))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a connect can't fail with errno %lld", (long long)err);
    return 0;
}

int sq_edge_rule_set(struct sq_edge *edge, const json_t *rule, struct sq_err *e)
{
    const char *id = sq_json_str_or(rule, "fault", "");
    struct sq_edge_fault *f, before;
    uint32_t h;
    int rc = check_rule(edge, rule, e);

    if (rc < 0)
        return rc;
    f = find_fault(edge, id);
    if (!f)
        f = free_fault(edge, on_bytes(edge, rule));
    if (!f)
        return sq_err_cls(e, SQ_C_CONFLICT, -ENOSPC, "edge %s has %u faults already, which is the most at one time",
                          edge->name, on_bytes(edge, rule) ? SQ_EDGE_FAULTS : SQ_EDGE_RULES);
    before = *f;
    f->rule = json_deep_copy(rule);
    if (!f->rule) {
        *f = before;
        return sq_err(e, -ENOMEM, "out of memory");
    }
    (void)snprintf(f->id, sizeof(f->id), "%s", id);
    /* Only with another share are calls drawn anew; what was counted stays in any case. */
    if (!before.rule || threshold_of(before.rule) != threshold_of(rule))
        f->number = ++edge->ic->next_rule;
    rc = before.rule ? 0 : sq_tally_take(edge->ic, &f->tally, e);
    rc = rc ? rc : sq_edge_push(edge, SQ_PUSH_SET, e);
    if (rc < 0) {
        if (!before.rule)
            sq_tally_give(edge->ic, f->tally);
        json_decref(f->rule);
        *f = before;
        (void)sq_edge_push(edge, SQ_PUSH_CLEAR, NULL);
        return rc;
    }
    json_decref(before.rule);
    h = edge->n_history++ % SQ_RULE_HISTORY;
    edge->history[h].number = f->number;
    memcpy(edge->history[h].fault, f->id, sizeof(f->id));
    return 0;
}

const json_t *sq_edge_rule_asked(struct sq_edge *edge, const char *fault_id)
{
    const struct sq_edge_fault *f = find_fault(edge, fault_id);

    return f ? f->rule : NULL;
}

static const json_t *acked(const struct sq_edge *edge, const char *id)
{
    const json_t *r;
    size_t i;

    json_array_foreach(edge->ack_rules, i, r) if (strcmp(sq_json_str_or(r, "fault", ""), id) == 0) return r;
    return NULL;
}

int sq_edge_rule_clear(struct sq_edge *edge, const char *fault_id, struct sq_err *e)
{
    struct sq_edge_fault *f = find_fault(edge, fault_id);
    uint32_t tally = SQ_TALLY_NONE;
    int rc;

    if (!f && !acked(edge, fault_id))
        return 0; /* gone, and the proxy has said so */
    if (f) {
        tally = f->tally;
        sq_natlog_drain(edge->ic);
        sq_made_over(edge, f);
        json_decref(f->rule);
        memset(f, 0, sizeof(*f));
        f->tally = SQ_TALLY_NONE;
    }
    rc = sq_edge_push(edge, SQ_PUSH_CLEAR, e);
    sq_tally_give(edge->ic, tally);
    sq_ic_flush(edge->ic);
    if (rc < 0 && !sq_link_alive(edge->ic)) {
        sq_err_clear(e); /* no proxy, no fault: calls go direct */
        return 0;
    }
    return rc;
}

int sq_edge_rule_gone(struct sq_edge *edge, const char *fault_id, struct sq_err *e)
{
    struct sq_edge_cfg cfg = edge->ic->cfg[edge->slot];
    int rc;

    if (!sq_link_alive(edge->ic))
        return 0;
    rc = edge->bpf ? sq_bpf_read(edge->ic, edge->slot, &cfg, e) : 0;
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < cfg.slot[cfg.epoch & 1].n && i < SQ_EDGE_RULES; i++)
        if (strcmp(sq_edge_fault_of(edge, cfg.slot[cfg.epoch & 1].rule[i].number), fault_id) == 0)
            return sq_err(e, -EBUSY, "the connect hooks of edge %s still have fault %s", edge->name, fault_id);
    rc = edge->nft ? sq_nat_compare(edge, e) : 0;
    if (rc < 0)
        return rc;
    if (acked(edge, fault_id))
        return sq_err(e, -EBUSY, "the proxy has not confirmed the end of fault %s on edge %s", fault_id, edge->name);
    return 0;
}

/* The rule in force for the hooks, by value: from the BPF map, through the kernel, where there is one. */
static int read_hooks(const struct sq_edge *edge, uint32_t number, struct sq_rule *out, uint32_t *epoch,
                      struct sq_err *e)
{
    struct sq_edge_cfg cfg;
    int rc = 0;

    if (edge->bpf)
        rc = sq_bpf_read(edge->ic, edge->slot, &cfg, e);
    else
        cfg = edge->ic->cfg[edge->slot];
    if (rc < 0)
        return rc;
    *epoch = cfg.epoch;
    for (uint32_t i = 0; i < cfg.slot[cfg.epoch & 1].n && i < SQ_EDGE_RULES; i++) {
        *out = cfg.slot[cfg.epoch & 1].rule[i];
        if (out->number == number)
            return 0;
    }
    return sq_err(e, -ENOENT, "the rule is not in force");
}

static bool same_count(struct sq_nth a, struct sq_nth b)
{
    return a.first == b.first && a.every == b.every && a.after == b.after;
}

static bool nobody_hit(const struct sq_rule *r)
{
    uint64_t any = 0;

    for (size_t i = 0; i < SQ_COUNT(r->callers); i++)
        any |= r->callers[i];
    return any == 0;
}

/* The hooks have nothing to say about it, except that they know nothing of it. */
static int read_bytes(struct sq_edge *edge, const char *fault_id, json_t **out, struct sq_err *e)
{
    uint32_t epoch = edge->ic->cfg[edge->slot].epoch;
    const json_t *said;
    int rc = sq_link_wait_ack(edge->ic, edge, epoch, e);

    if (rc < 0)
        return rc;
    said = acked(edge, fault_id);
    if (!said)
        return sq_err(e, -EBADE, "the proxy does not have fault %s of edge %s", fault_id, edge->name);
    *out = json_pack(
        "{s:s,s:s,s:s,s:f,s:I,s:I,s:I,s:I,s:s}", "edge", edge->name, "fault", fault_id, "kind",
        sq_json_str_or(said, "kind", ""), "percent", sq_json_num_or(said, "percent", -1.0), "delay",
        (json_int_t)sq_json_int_or(said, "delay", 0), "jitter", (json_int_t)sq_json_int_or(said, "jitter", 0), "errno",
        (json_int_t)sq_json_int_or(said, "errno", 0), "epoch", (json_int_t)epoch, "mode", sq_edge_mode(edge));
    copy_rest(said, *out);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

int sq_edge_rule_count(struct sq_edge *edge, const char *fault_id, json_t **out, struct sq_err *e)
{
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "ask", "edge", (json_int_t)edge->id);
    uint32_t epoch = edge->acked;
    const json_t *said;
    int rc = sq_link_send(edge->ic, msg, NULL, 0, e);

    *out = NULL;
    if (rc < 0)
        return rc;
    edge->acked = epoch + 1; /* until the answer */
    rc = sq_link_wait_ack(edge->ic, edge, epoch, e);
    edge->acked = epoch;
    said = rc < 0 ? NULL : acked(edge, fault_id);
    if (rc == 0 && !said)
        rc = sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "fault %s is not on edge %s", fault_id, edge->name);
    *out = json_deep_copy(said);
    return rc;
}

struct sq_tally_cell sq_edge_rule_hits(const struct sq_edge *edge, const char *fault_id)
{
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule && strcmp(edge->fault[i].id, fault_id) == 0)
            return sq_tally_sum(edge->ic, edge->fault[i].tally);
    return (struct sq_tally_cell){0};
}

int sq_edge_rule_read(struct sq_edge *edge, const char *fault_id, json_t **out, struct sq_err *e)
{
    struct sq_edge_fault *f = find_fault(edge, fault_id);
    struct sq_rule r = {0};
    const json_t *said;
    uint32_t epoch = 0;
    int rc;

    *out = NULL;
    if (!f)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "fault %s is not on edge %s", fault_id, edge->name);
    if (!sq_link_alive(edge->ic))
        return sq_err(e, -EBADE, "the proxy is dead: fault %s on edge %s is not in force", fault_id, edge->name);
    rc = sq_nat_compare(edge, e);
    if (rc < 0)
        return sq_err_prefix(e, "edge %s", edge->name);
    if (on_bytes(edge, f->rule))
        return read_bytes(edge, fault_id, out, e);
    rc = read_hooks(edge, f->number, &r, &epoch, e);
    if (rc < 0)
        return rc == -ENOENT ? -EBADE : rc;
    rc = sq_link_wait_ack(edge->ic, edge, epoch, e);
    if (rc < 0)
        return rc;
    said = acked(edge, fault_id);
    if (!said || edge->acked != epoch || r.kind != kind_of(said) || r.threshold != threshold_of(said) ||
        !same_count(r.count, count_of(said)))
        return sq_err(e, -EBADE, "the proxy and the hooks of edge %s don't agree about fault %s", edge->name, fault_id);
    *out =
        json_pack("{s:s,s:s,s:s,s:f,s:I,s:I,s:I,s:I,s:s,s:b,s:b}", "edge", edge->name, "fault", fault_id, "kind",
                  sq_json_str_or(said, "kind", ""), "percent", sq_json_num_or(said, "percent", -1.0), "delay",
                  (json_int_t)sq_json_int_or(said, "delay", 0), "jitter", (json_int_t)sq_json_int_or(said, "jitter", 0),
                  "errno", (json_int_t)r.err, "epoch", (json_int_t)epoch, "mode", sq_edge_mode(edge), "delays_connect",
                  sq_edge_delays_connect(edge), "callers", !nobody_hit(&r));
    copy_rest(said, *out);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}
