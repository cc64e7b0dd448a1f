#include "proxy/rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/dnsmsg.h"
#include "squall/json.h"
#include "squall/units.h"

#define DELAY_MAX (100 * 86400 * SQ_S)

static bool valid_id(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n > 0 && n < 32 && s[n] == '\0';
}

uint16_t sq_name_intern(struct sq_names *names, const char *id)
{
    if (!valid_id(id))
        return 0;
    for (unsigned i = names->n; i-- > 0;)
        if (strcmp(names->name[i], id) == 0)
            return (uint16_t)(i + 1);
    if (names->n == UINT16_MAX)
        return 0;
    if (names->n == names->cap) {
        unsigned cap = names->cap ? names->cap * 2 : 16;
        void *p = realloc(names->name, cap * sizeof(*names->name));
        if (!p)
            return 0;
        names->name = p;
        names->cap = cap;
    }
    memset(names->name[names->n], 0, sizeof(*names->name));
    memcpy(names->name[names->n], id, strlen(id));
    return (uint16_t)++names->n;
}

const char *sq_name_of(const struct sq_names *names, uint16_t n)
{
    return n && n <= names->n ? names->name[n - 1] : "";
}

void sq_names_free(struct sq_names *names)
{
    free(names->name);
    names->name = NULL;
    names->n = names->cap = 0;
}

static const char *const KINDS[] = {
    [SQ_R_LATENCY] = "latency",
    [SQ_R_ERROR] = "error",
    [SQ_R_BLACKHOLE] = "blackhole",
    [SQ_R_TIMEOUT] = "timeout",
    [SQ_R_RESET] = "reset",
    [SQ_R_LOSS] = "loss",
    [SQ_R_CORRUPT] = "corrupt",
    [SQ_R_LIMIT] = "limit_data",
    [SQ_R_DELAY] = "delay",
    [SQ_R_SLICER] = "slicer",
    [SQ_R_BANDWIDTH] = "bandwidth",
    [SQ_R_SLOW_CLOSE] = "slow_close",
    [SQ_R_NOOP] = "noop",
    [SQ_R_DUPLICATE] = "duplicate",
    [SQ_R_DNS] = "dns",
    [SQ_R_HTTP_STATUS] = "http_status",
    [SQ_R_HTTP_DELAY] = "http_delay",
    [SQ_R_HTTP_ABORT] = "http_abort",
    [SQ_R_HTTP_HEADER] = "http_header",
    [SQ_R_HTTP_BODY] = "http_body",
};
#define RATE_MAX 1e12
#define SIZE_MAX_BYTES (INT64_C(1) << 50)

bool sq_rule_is_http(const struct sq_rule *r)
{
    return r->kind >= SQ_R_HTTP && r->kind < SQ_R_BYTES;
}

static int parse_kind(const char *s, enum sq_rule_kind *out, struct sq_err *e)
{
    for (unsigned i = 0; i < sizeof(KINDS) / sizeof(KINDS[0]); i++)
        if (strcmp(s, KINDS[i]) == 0) {
            *out = (enum sq_rule_kind)i;
            return 0;
        }
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "no such kind of rule");
}

static int parse_callers(const json_t *o, struct sq_rule *r, struct sq_err *e)
{
    const json_t *a = json_object_get(o, "callers");
    if (!a || json_is_null(a))
        return 0;
    if (!json_is_array(a) || json_array_size(a) == 0 || json_array_size(a) > SQ_RULE_CALLERS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "callers of a rule: 1 to %d numbers", SQ_RULE_CALLERS);
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *v = json_array_get(a, i);
        json_int_t n = json_integer_value(v);
        if (!json_is_integer(v) || n < 0 || n > UINT32_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a caller of a rule is not a number of 32 bits");
        r->callers[r->ncallers++] = (uint32_t)n;
    }
    return 0;
}

static int parse_stream(const json_t *o, struct sq_rule *r, struct sq_err *e)
{
    const char *stream = sq_json_str_or(o, "stream", "downstream");
    r->stream = strcmp(stream, "upstream") == 0 ? 0 : strcmp(stream, "both") == 0 ? SQ_STREAM_BOTH : 1;
    if (r->stream == 1 && strcmp(stream, "downstream") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "stream of a rule: upstream, downstream or both");
    return 0;
}

/* What only rules on bytes have. */
static int parse_bytes(const json_t *o, struct sq_rule *r, struct sq_err *e)
{
    r->rate = sq_json_num_or(o, "rate", 0.0);
    r->size = sq_json_int_or(o, "size", 0);
    r->vary = sq_json_int_or(o, "variation", 0);
    r->share = sq_json_num_or(o, "share", 0.0);
    r->corr = sq_json_num_or(o, "correlation", 0.0);
    if (!(r->rate >= 0 && r->rate <= RATE_MAX) || r->size < 0 || r->size > SIZE_MAX_BYTES || r->vary < 0 ||
        r->vary > SIZE_MAX_BYTES || !(r->share >= 0 && r->share <= 1) || !(r->corr >= 0 && r->corr <= 1))
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE,
                          "rate, size, variation, share or correlation of a rule is out of range");
    return 0;
}

static int parse_count(const json_t *o, struct sq_rule *r, struct sq_err *e)
{
    int64_t first = sq_json_int_or(o, "first", 0), every = sq_json_int_or(o, "every", 0);
    int64_t after = sq_json_int_or(o, "after", 0), number = sq_json_int_or(o, "number", 0);
    int64_t tally = sq_json_int_or(o, "tally", SQ_TALLY_NONE);
    if (first < 0 || first > SQ_COUNT_MAX || every < 0 || every > SQ_COUNT_MAX || after < 0 || after > SQ_COUNT_MAX ||
        number < 0 || number > UINT32_MAX || tally < 0 || tally > UINT32_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "first, every, after, number or tally of a rule is out of range");
    r->count = (struct sq_nth){(uint32_t)first, (uint32_t)every, (uint32_t)after};
    r->number = (uint32_t)number;
    r->tally = (uint32_t)tally;
    return 0;
}

static int parse_rule(struct sq_names *names, const json_t *o, struct sq_rule *r, struct sq_err *e)
{
    const char *fault, *kind;
    int rc;
    memset(r, 0, sizeof(*r));
    if ((rc = sq_json_str(o, "fault", &fault, e)) || (rc = sq_json_str(o, "kind", &kind, e)) ||
        (rc = parse_kind(kind, &r->kind, e)) || (rc = parse_callers(o, r, e)) || (rc = parse_count(o, r, e)) ||
        (rc = parse_stream(o, r, e)))
        return rc;
    r->percent = sq_json_num_or(o, "percent", 100.0);
    r->delay = sq_json_int_or(o, "delay", 0);
    r->jitter = sq_json_int_or(o, "jitter", 0);
    r->err = (int)(sq_json_int_or(o, "errno", 0) & 0xfff);
    r->seed = (uint64_t)sq_json_int_or(o, "seed", 0);
    if (!(r->percent >= 0 && r->percent <= 100) || r->delay < 0 || r->delay > DELAY_MAX || r->jitter < 0 ||
        r->jitter > DELAY_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "percent, delay or jitter of a rule is out of range");
    r->fault = sq_name_intern(names, fault);
    if (!r->fault)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "not a fault id");
    sq_rng_seed(&r->rng, r->seed);
    if (sq_rule_is_http(r)) {
        r->match = json_deep_copy(json_object_get(o, "match"));
        r->http = json_deep_copy(json_object_get(o, "http"));
    }
    if (r->kind == SQ_R_LATENCY)
        return sq_jitter_parse(o, &r->table, e);
    if (r->kind == SQ_R_DNS)
        return sq_dns_rule_parse(o, &r->dns, e);
    return r->kind >= SQ_R_BYTES ? parse_bytes(o, r, e) : 0;
}

static bool same(const struct sq_rule *a, const struct sq_rule *b)
{
    return a->fault == b->fault && a->kind == b->kind && a->percent >= b->percent && a->percent <= b->percent &&
           a->seed == b->seed && a->stream == b->stream && a->ncallers == b->ncallers &&
           memcmp(a->callers, b->callers, a->ncallers * sizeof(a->callers[0])) == 0;
}

/* The slot of the same rule of before, else one that was free before. There are twice as many slots as rules. */
static unsigned place(const struct sq_rules *old, uint32_t taken, const struct sq_rule *r)
{
    unsigned empty = 0;
    for (unsigned i = 0; i < SQ_RULE_SLOTS; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if (taken & bit)
            continue;
        if ((old->mask & bit) && same(&old->slot[i], r))
            return i;
    }
    while ((taken | old->mask) & (UINT32_C(1) << empty))
        empty++;
    return empty;
}

static void free_owned(struct sq_rules *r)
{
    for (unsigned i = 0; i < SQ_RULE_SLOTS; i++) {
        struct sq_rule *one = &r->slot[i];
        free(one->dns);
        free(one->table);
        json_decref(one->match);
        json_decref(one->http);
        one->dns = NULL;
        one->table = NULL;
        one->match = one->http = NULL;
    }
}

void sq_rules_none(struct sq_rules *r)
{
    free_owned(r);
    r->mask = 0;
    r->bytes = 0;
    r->http = 0;
    r->n = 0;
}

int sq_rules_replace(struct sq_rules *r, uint32_t epoch, const json_t *rules, uint32_t *gone, uint32_t *fresh,
                     struct sq_err *e)
{
    size_t n = json_array_size(rules);
    if (!json_is_array(rules) || n > SQ_RULES_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "rules: a list of at most %d", SQ_RULES_MAX);
    struct sq_rules *next = calloc(1, sizeof(*next));
    if (!next)
        return sq_err(e, -ENOMEM, "no memory for rules");
    *fresh = 0;
    for (size_t i = 0; i < n; i++) {
        struct sq_rule one;
        int rc = parse_rule(r->names, json_array_get(rules, i), &one, e);
        if (rc) {
            free_owned(next);
            free(next);
            return rc;
        }
        unsigned s = place(r, next->mask, &one);
        uint32_t bit = UINT32_C(1) << s;
        if (r->mask & bit) {
            one.rng = r->slot[s].rng;
            one.acts = r->slot[s].acts;
            one.acted = r->slot[s].acted;
            one.unjudged = r->slot[s].unjudged;
            one.tls = r->slot[s].tls;
        } else {
            *fresh |= bit;
        }
        next->slot[s] = one;
        next->mask |= bit;
        next->bytes |= one.kind >= SQ_R_BYTES ? bit : 0;
        next->http |= sq_rule_is_http(&one) ? bit : 0;
        next->order[next->n++] = (uint8_t)s;
    }
    next->names = r->names;
    next->tallies = r->tallies;
    next->epoch = epoch;
    *gone = r->mask & ~next->mask;
    free_owned(r);
    *r = *next;
    free(next);
    return 0;
}

static const char *const STREAMS[] = {"upstream", "downstream", "both"};

static void bytes_json(const struct sq_rule *r, json_t *o)
{
    json_t *more = json_pack("{s:s,s:f,s:I,s:I,s:f,s:f,s:I,s:I}", "stream", STREAMS[r->stream], "rate", r->rate, "size",
                             (json_int_t)r->size, "variation", (json_int_t)r->vary, "share", r->share, "correlation",
                             r->corr, "acts", (json_int_t)r->acts, "acted", (json_int_t)r->acted);
    json_object_update(o, more);
    json_decref(more);
}

static void count_json(const struct sq_nth *c, json_t *o)
{
    if (c->first)
        json_object_set_new(o, "first", json_integer(c->first));
    if (c->every)
        json_object_set_new(o, "every", json_integer(c->every));
    if (c->after)
        json_object_set_new(o, "after", json_integer(c->after));
}

static void http_json(const struct sq_rule *r, json_t *o)
{
    json_object_set_new(o, "match", r->match ? json_incref(r->match) : json_object());
    json_object_set_new(o, "http", r->http ? json_incref(r->http) : json_object());
    json_object_set_new(o, "acts", json_integer((json_int_t)r->acts));
    json_object_set_new(o, "unjudged", json_integer((json_int_t)r->unjudged));
    json_object_set_new(o, "tls", json_integer((json_int_t)r->tls));
}

static json_t *rule_json(const struct sq_names *names, const struct sq_rule *r)
{
    char sum[SQ_JITTER_SUM];
    json_t *o = json_pack("{s:s,s:s,s:f,s:I,s:I,s:i,s:I}", "fault", sq_name_of(names, r->fault), "kind", KINDS[r->kind],
                          "percent", r->percent, "delay", (json_int_t)r->delay, "jitter", (json_int_t)r->jitter,
                          "errno", r->err, "seed", (json_int_t)r->seed);
    if (o && r->kind >= SQ_R_BYTES)
        bytes_json(r, o);
    if (o)
        count_json(&r->count, o);
    if (o && r->kind < SQ_R_BYTES && r->stream != 1)
        json_object_set_new(o, "stream", json_string(STREAMS[r->stream]));
    if (o && r->dns)
        sq_dns_rule_json(r->dns, o);
    if (o && r->table)
        json_object_set_new(o, "table_sum", json_string(sq_jitter_sum(r->table, sum)));
    if (o && sq_rule_is_http(r))
        http_json(r, o);
    if (!o || r->ncallers == 0)
        return o;
    json_t *a = json_array();
    for (unsigned i = 0; i < r->ncallers; i++)
        json_array_append_new(a, json_integer((json_int_t)r->callers[i]));
    json_object_set_new(o, "callers", a);
    return o;
}

json_t *sq_rules_json(const struct sq_rules *r)
{
    json_t *a = json_array();
    for (unsigned i = 0; i < r->n; i++)
        json_array_append_new(a, rule_json(r->names, &r->slot[r->order[i]]));
    return a;
}

bool sq_rule_concerns(const struct sq_rule *r, uint32_t caller)
{
    for (unsigned i = 0; i < r->ncallers; i++)
        if (r->callers[i] == caller)
            return true;
    return r->ncallers == 0;
}

static bool was_drawn(const struct sq_drawn *before, uint32_t number, bool *hit)
{
    for (unsigned i = 0; before && number && i < SQ_FLOW_RULES; i++)
        if (before->rule[i] == number) {
            *hit = before->hits & (1u << i);
            return true;
        }
    return false;
}

static bool draw_one(const struct sq_rules *r, struct sq_rule *one, uint32_t caller, const struct sq_drawn *before)
{
    struct sq_tally *tallies = r->tallies ? *r->tallies : NULL;
    bool hit = one->percent >= 100;
    if (was_drawn(before, one->number, &hit))
        return hit;
    if (!hit && !(one->percent > 0 && sq_rng_double(&one->rng) * 100 < one->percent))
        return false;
    return sq_nth_take(&one->count,
                       tallies && one->tally < SQ_TALLIES ? &tallies[one->tally].of[caller % SQ_TALLY_CALLERS] : NULL);
}

static uint32_t draw_kind(struct sq_rules *r, uint32_t among, uint32_t caller, const struct sq_drawn *before,
                          bool error)
{
    uint32_t hits = 0;
    for (unsigned i = 0; i < r->n; i++) {
        struct sq_rule *one = &r->slot[r->order[i]];
        uint32_t bit = UINT32_C(1) << r->order[i];
        if ((among & bit) && (one->kind == SQ_R_ERROR) == error && sq_rule_concerns(one, caller))
            hits |= draw_one(r, one, caller, before) ? bit : 0;
    }
    return hits;
}

uint32_t sq_rules_draw(struct sq_rules *r, uint32_t among, uint32_t caller, const struct sq_drawn *before)
{
    uint32_t hits = draw_kind(r, among, caller, before, true);
    return hits ? hits : draw_kind(r, among, caller, before, false);
}

uint32_t sq_rules_of(const struct sq_rules *r, uint32_t hits, enum sq_rule_kind kind)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < r->n; i++) {
        uint32_t bit = UINT32_C(1) << r->order[i];
        if ((hits & bit) && r->slot[r->order[i]].kind == kind)
            out |= bit;
    }
    return out;
}

const struct sq_rule *sq_rules_first(const struct sq_rules *r, uint32_t among)
{
    for (unsigned i = 0; i < r->n; i++)
        if (among & (UINT32_C(1) << r->order[i]))
            return &r->slot[r->order[i]];
    return NULL;
}

static uint16_t first_of(const struct sq_rules *r, uint32_t hits, enum sq_rule_kind kind)
{
    for (unsigned i = 0; i < r->n; i++)
        if ((hits & (UINT32_C(1) << r->order[i])) && r->slot[r->order[i]].kind == kind)
            return r->slot[r->order[i]].fault;
    return 0;
}

uint16_t sq_rules_fault(const struct sq_rules *r, uint32_t hits)
{
    uint16_t f = first_of(r, hits, SQ_R_ERROR);
    if (!f)
        f = first_of(r, hits, SQ_R_BLACKHOLE);
    if (!f)
        f = first_of(r, hits, SQ_R_HTTP_ABORT);
    if (!f)
        f = first_of(r, hits, SQ_R_HTTP_STATUS);
    for (int kind = SQ_R_LATENCY; !f && kind <= SQ_R_LAST; kind++)
        if (kind != SQ_R_ERROR && kind != SQ_R_BLACKHOLE)
            f = first_of(r, hits, (enum sq_rule_kind)kind);
    return f;
}

int64_t sq_rule_delay(struct sq_rule *r)
{
    int64_t d = r->delay;
    if (r->table)
        return sq_jitter_draw(r->table, &r->rng, r->delay, r->jitter);
    if (r->jitter > 0)
        d += (int64_t)((sq_rng_double(&r->rng) * 2 - 1) * (double)r->jitter);
    return d;
}

int64_t sq_rules_delay(struct sq_rules *r, uint32_t hits)
{
    int64_t sum = 0;
    for (unsigned i = 0; i < r->n; i++) {
        struct sq_rule *one = &r->slot[r->order[i]];
        if (!(hits & (UINT32_C(1) << r->order[i])) || (one->kind != SQ_R_LATENCY && one->kind != SQ_R_HTTP_DELAY))
            continue;
        sum += sq_rule_delay(one);
    }
    return sum > 0 ? sum : 0;
}

uint32_t sq_rules_certain(const struct sq_rules *r, uint32_t among, uint32_t caller, enum sq_rule_kind kind)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < r->n; i++) {
        const struct sq_rule *one = &r->slot[r->order[i]];
        uint32_t bit = UINT32_C(1) << r->order[i];
        if ((among & bit) && one->kind == kind && one->percent >= 100 && !sq_nth_any(&one->count) &&
            sq_rule_concerns(one, caller))
            out |= bit;
    }
    return out;
}

uint32_t sq_rules_sure(const struct sq_rules *r, uint32_t among, uint32_t caller)
{
    uint32_t errors = sq_rules_certain(r, among, caller, SQ_R_ERROR);
    return errors ? errors : sq_rules_certain(r, among, caller, SQ_R_BLACKHOLE);
}
