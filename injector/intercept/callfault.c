#include "intercept/callfault.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "intercept/httpfault.h"
#include "intercept/nft.h"
#include "intercept/priv.h"
#include "squall/callkind.h"
#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

/* Either way of interception will do. */
int sq_call_check(struct sq_engine *eng, struct sq_err *e)
{
    struct sq_err bpf = {0};

    (void)eng;
    if (sq_intercept_check_bpf(&bpf) == 0 || sq_intercept_check_seccomp(e) == 0)
        return 0;
    (void)sq_err_prefix(e, "%s, and", bpf.msg);
    return e ? e->code : -ENOTSUP;
}

static int find_edge(const struct sq_fault *f, struct sq_edge **out, struct sq_err *e)
{
    const char *name = NULL;
    int rc = sq_json_str(f->target, "edge", &name, e);

    if (rc < 0)
        return rc;
    *out = sq_edge_find(sq_engine_intercept(f->engine), sq_run_id(f->run), name);
    if (!*out) {
        rc = sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "this run has no edge '%.100s'", name);
        sq_err_hint(e, "declare it under edges, with its caller and its destinations");
        return rc;
    }
    return 0;
}

/* -1: all instances. */
static int64_t only_instance(const struct sq_fault *f)
{
    return sq_json_int_or(f->target, "instance", -1);
}

static int instances_of(const struct sq_fault *f, const struct sq_edge *edge, json_t *out, struct sq_err *e)
{
    int64_t only = only_instance(f);
    char want[2 * SQ_NAME_MAX];

    if (json_object_get(f->target, "instance") && (only < 0 || only > 1000000))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "instance must be 0 or more");
    (void)snprintf(want, sizeof(want), "%s.%lld", edge->from, (long long)only);
    for (uint32_t i = 0; i < SQ_CALLERS; i++) {
        const struct sq_caller *c = edge->ic->caller[i];

        if (!c || strcmp(c->run, edge->run) != 0 || strcmp(c->service, edge->from) != 0)
            continue;
        if (only < 0 || strcmp(c->instance, want) == 0)
            (void)json_array_append_new(out, json_string(c->instance));
    }
    if (json_array_size(out) > 0)
        return 0;
    if (only >= 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "the caller of edge %s has no instance %s", edge->name, want);
    sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "no instance of %s is intercepted: edge %s has no calls to hit", edge->from,
               edge->name);
    sq_err_hint(e, "an edge is declared before its caller's service is started");
    return -ESRCH;
}

/* What can't be read or makes no sense must be known before anything is touched. */
static int check_with(const struct sq_fault *f, const json_t *with, struct sq_err *e)
{
    cleanup_json json_t *rule = json_object();

    if (sq_call_with_check(f->spec->name, with, NULL, e) < 0)
        return sq_err_prefix(e, "%s", f->spec->name);
    return sq_latency_rule(f, with, rule, e);
}

int sq_call_resolve(struct sq_fault *f, struct sq_err *e)
{
    cleanup_json json_t *instances = json_array();
    struct sq_edge *edge = NULL;
    char counts[128];
    char where[64];
    int rc = find_edge(f, &edge, e);

    rc = rc ? rc : sq_call_target_check(f->target, NULL, e);
    rc = rc ? rc : sq_call_suits(f->spec->name, sq_edge_protocol(edge), f->with, NULL, e);
    rc = rc ? rc : check_with(f, f->with, e);
    rc = rc ? rc : sq_byte_check(f->spec->name, f->with, e);
    rc = rc ? rc : sq_nat_fits(edge, f->spec->name, f->target, f->with, e);
    if (rc == 0 && (rc = sq_http_check(f->spec->name, f->target, f->with, where, sizeof(where), e)) < 0)
        return sq_err_prefix(e, "%s", f->spec->name);
    if (rc == 0 && sq_is_http_fault(f->spec->name) && strcmp(edge->protocol, "tcp") == 0)
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "edge %s is declared as tcp: %s needs to read its requests", edge->name,
                        f->spec->name);
    rc = rc ? rc : instances_of(f, edge, instances, e);
    if (rc < 0)
        return rc;
    json_t *hit = json_pack("{s:s,s:s,s:O,s:b}", "edge", edge->name, "mode", sq_edge_mode(edge), "instances", instances,
                            "delays_connect", sq_edge_delays_connect(edge));
    if (hit && sq_call_counts(f->target))
        (void)json_object_set_new(hit, "counts", json_string(sq_call_count_text(f->target, counts, sizeof(counts))));
    (void)json_array_append_new(f->hit, hit);
    return 0;
}

int sq_call_undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    struct sq_edge *edge = NULL;
    int rc = find_edge(f, &edge, e);
    json_t *r;

    if (rc < 0)
        return rc;
    r = json_pack("{s:s,s:s,s:s,s:s}", "boot", sq_boot_id(), "edge", edge->name, "fault", f->id, "run",
                  sq_run_id(f->run));
    return json_array_append_new(records, r) < 0 ? sq_err(e, -ENOMEM, "out of memory") : 0;
}

/* The share of calls that are hit: the target's, thinned out by the dose. */
static double share_of(const struct sq_fault *f, const json_t *with)
{
    return sq_json_num_or(f->target, "percent", 100.0) * sq_json_num_or(with, "dose", 100.0) / 100.0;
}

static const char *const count_keys[] = {"first", "every", "after"};

static json_t *rule_of(const struct sq_fault *f, const json_t *with)
{
    const char *kind = strchr(f->spec->name, '/');
    const json_t *hit = json_array_get(f->hit, 0);
    json_t *rule = json_pack(
        "{s:s,s:s,s:f,s:I,s:I,s:I,s:I}", "fault", f->id, "kind", kind ? kind + 1 : "", "percent", share_of(f, with),
        "delay", (json_int_t)sq_json_int_or(with, "delay", 0), "jitter", (json_int_t)sq_json_int_or(with, "jitter", 0),
        "errno", (json_int_t)sq_json_int_or(with, "errno", 0), "seed", (json_int_t)(sq_run_seed(f->run) & INT64_MAX));

    for (size_t i = 0; rule && i < SQ_COUNT(count_keys); i++)
        if (json_object_get(f->target, count_keys[i]))
            (void)json_object_set(rule, count_keys[i], json_object_get(f->target, count_keys[i]));
    if (rule && json_object_get(with, "stream"))
        (void)json_object_set(rule, "stream", json_object_get(with, "stream"));
    /* By name only when asked for: an instance that is started during the fault belongs to "all". */
    if (rule && only_instance(f) >= 0)
        (void)json_object_set(rule, "instances", json_object_get(hit, "instances"));
    return rule;
}

static int set_rule(struct sq_fault *f, const json_t *with, struct sq_err *e)
{
    cleanup_json json_t *rule = rule_of(f, with);
    struct sq_edge *edge = NULL;
    int rc = find_edge(f, &edge, e);

    rc = rc || !rule ? rc : sq_latency_rule(f, with, rule, e);
    rc = rc || !rule ? rc : sq_byte_rule(f->spec->name, with, rule, e);
    rc = rc || !rule ? rc : sq_http_rule(f->spec->name, f->target, with, rule, e);
    if (rc < 0)
        return rc;
    return rule ? sq_edge_rule_set(edge, rule, e) : sq_err(e, -ENOMEM, "out of memory");
}

int sq_call_apply(struct sq_fault *f, struct sq_err *e)
{
    return set_rule(f, f->with, e);
}

int sq_call_change(struct sq_fault *f, json_t *with, struct sq_err *e)
{
    char where[64];
    struct sq_edge *edge = NULL;
    int rc = find_edge(f, &edge, e);

    rc = rc ? rc : sq_call_suits(f->spec->name, sq_edge_protocol(edge), with, NULL, e);
    if (rc == 0 && sq_call_with_check(f->spec->name, with, NULL, e) < 0)
        rc = sq_err_prefix(e, "%s", f->spec->name);
    rc = rc ? rc : sq_byte_check(f->spec->name, with, e);
    rc = rc ? rc : sq_nat_fits(edge, f->spec->name, f->target, with, e);
    rc = rc ? rc : sq_http_check(f->spec->name, f->target, with, where, sizeof(where), e);
    return rc < 0 ? rc : set_rule(f, with, e);
}

int sq_call_readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    static const char *const ints[] = {"delay", "jitter", "errno"};
    struct sq_edge *edge = NULL;
    int rc = find_edge(f, &edge, e);

    rc = rc ? rc : sq_edge_rule_read(edge, f->id, out, e);
    if (rc < 0)
        return rc;
    bool bytes = sq_is_byte_fault(f->spec->name), http = sq_is_http_fault(f->spec->name);
    const json_t *asked = json_object_get(f->with, "distribution") ? sq_edge_rule_asked(edge, f->id) : NULL;

    if (bytes || http) {
        cleanup_json json_t *rule = rule_of(f, f->with);

        rc = sq_byte_rule(f->spec->name, f->with, rule, e);
        rc = rc ? rc : sq_http_rule(f->spec->name, f->target, f->with, rule, e);
        rc = rc ? rc : http ? sq_http_same(rule, *out, e) : sq_byte_same(rule, *out, e);
        if (rc < 0)
            return sq_err_prefix(e, "edge %s", edge->name);
    }
    for (size_t i = 0; i < SQ_COUNT(ints) && !bytes && !http; i++) {
        int64_t want = sq_json_int_or(asked ? asked : f->with, ints[i], 0), have = sq_json_int_or(*out, ints[i], -1);

        if (have != want)
            return sq_err(e, -EBADE, "edge %s: asked for %s %lld, in force is %lld", edge->name, ints[i],
                          (long long)want, (long long)have);
    }
    if (asked && sq_latency_same(f->with, asked, *out, e) < 0)
        return sq_err_prefix(e, "edge %s", edge->name);
    for (size_t i = 0; i < SQ_COUNT(count_keys); i++)
        if (sq_json_int_or(*out, count_keys[i], 0) != sq_json_int_or(f->target, count_keys[i], 0))
            return sq_err(e, -EBADE, "edge %s: asked for another `%s` than is in force", edge->name, count_keys[i]);
    if (strcmp(sq_json_str_or(f->with, "stream", "downstream"), sq_json_str_or(*out, "stream", "downstream")) != 0)
        return sq_err(e, -EBADE, "edge %s: asked for the other stream than is in force", edge->name);
    if (fabs(sq_json_num_or(*out, "percent", -1.0) - share_of(f, f->with)) > 1e-6)
        return sq_err(e, -EBADE, "edge %s: asked for another percentage than is in force", edge->name);
    return 0;
}

json_t *sq_call_felt(struct sq_fault *f)
{
    struct sq_edge *edge = NULL;
    cleanup_json json_t *rule = NULL;
    struct sq_tally_cell n;
    json_t *felt;

    if (find_edge(f, &edge, NULL) < 0)
        return NULL;
    n = sq_edge_rule_hits(edge, f->id);
    felt = json_pack("{s:I,s:I}", "seen", (json_int_t)(n.seen & INT64_MAX), "hits", (json_int_t)(n.hit & INT64_MAX));
    if (felt && sq_is_byte_fault(f->spec->name) && sq_edge_rule_count(edge, f->id, &rule, NULL) == 0) {
        (void)json_object_set_new(felt, "acts", json_integer(sq_json_int_or(rule, "acts", 0)));
        (void)json_object_set_new(felt, "bytes", json_integer(sq_json_int_or(rule, "acted", 0)));
    }
    if (felt && sq_is_http_fault(f->spec->name) && sq_edge_rule_count(edge, f->id, &rule, NULL) == 0) {
        (void)json_object_set_new(felt, "acts", json_integer(sq_json_int_or(rule, "acts", 0)));
        (void)json_object_set_new(felt, "unjudged", json_integer(sq_json_int_or(rule, "unjudged", 0)));
        (void)json_object_set_new(felt, "tls", json_integer(sq_json_int_or(rule, "tls", 0)));
    }
    return felt;
}

static struct sq_edge *edge_of(struct sq_engine *eng, const json_t *undo)
{
    return sq_edge_find(sq_engine_intercept(eng), sq_json_str_or(undo, "run", ""), sq_json_str_or(undo, "edge", ""));
}

/* Without a live injector there is nothing to take back: the rules live in the proxy, which passes everything through
 * when squalld is gone, and the hooks end with the proxy, which the keeper makes sure of. */
int sq_call_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    struct sq_edge *edge = eng ? edge_of(eng, undo) : NULL;

    return edge ? sq_edge_rule_clear(edge, sq_json_str_or(undo, "fault", ""), e) : 0;
}

int sq_call_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    struct sq_edge *edge = eng ? edge_of(eng, undo) : NULL;

    return edge ? sq_edge_rule_gone(edge, sq_json_str_or(undo, "fault", ""), e) : 0;
}
