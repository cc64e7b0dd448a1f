/* What a toxic can be: its attributes with their defaults, and the rule on bytes that it is in the proxy. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/units.h"
#include "toxiproxy.h"

#define WHOLE_MAX 9007199254740992.0 /* 2^53 */
#define DELAY_MAX ((double)(100 * 86400 * SQ_S))
#define SIZE_MOST ((double)(INT64_C(1) << 40))
#define RATE_MOST 1e12

struct attribute {
    const char *key;
    bool real; /* else an integer */
    double def;
};

struct sq_toxi_type {
    const char *name, *kind; /* kind: of the rule */
    struct attribute attr[3];
    void (*fill)(const double *v, json_t *rule);
};

static double bounded(double v, double most)
{
    return v > most ? most : v > 0 ? v : 0;
}

static void set_int(json_t *rule, const char *key, double v)
{
    (void)json_object_set_new(rule, key, json_integer((json_int_t)v));
}

static void fill_latency(const double *v, json_t *rule)
{
    set_int(rule, "delay", bounded(v[0] * (double)SQ_MS, DELAY_MAX));
    set_int(rule, "jitter", bounded(fabs(v[1]) * (double)SQ_MS, DELAY_MAX));
}

static void fill_rate(const double *v, json_t *rule)
{
    (void)json_object_set_new(rule, "rate", json_real(bounded(v[0] * 1000.0, RATE_MOST)));
}

static void fill_ms(const double *v, json_t *rule)
{
    set_int(rule, "delay", bounded(v[0] * (double)SQ_MS, DELAY_MAX));
}

static void fill_slicer(const double *v, json_t *rule)
{
    set_int(rule, "size", bounded(v[0], SIZE_MOST));
    set_int(rule, "variation", bounded(v[1], SIZE_MOST));
    set_int(rule, "delay", bounded(v[2] * (double)SQ_US, DELAY_MAX));
}

static void fill_bytes(const double *v, json_t *rule)
{
    set_int(rule, "size", bounded(v[0], SIZE_MOST));
}

/* Toxiproxy loses with `loss_rate`, and after a loss with `loss_rate + correlation`; the rule with share * (1 - c), and
 * after a loss with share * (1 - c) + c. */
static void fill_loss(const double *v, json_t *rule)
{
    double loss = bounded(v[0], 1), c = bounded(v[1], 1 - loss);
    (void)json_object_set_new(rule, "share", json_real(c < 1 ? bounded(loss / (1 - c), 1) : 0.0));
    (void)json_object_set_new(rule, "correlation", json_real(c));
}

static void fill_nothing(const double *v, json_t *rule)
{
    (void)v;
    (void)rule;
}

static const struct sq_toxi_type TYPES[] = {
    {"latency", "delay", {{"latency", false, 0}, {"jitter", false, 0}}, fill_latency},
    {"bandwidth", "bandwidth", {{"rate", false, 0}}, fill_rate},
    {"slow_close", "slow_close", {{"delay", false, 0}}, fill_ms},
    {"timeout", "timeout", {{"timeout", false, 0}}, fill_ms},
    {"reset_peer", "reset", {{"timeout", false, 0}}, fill_ms},
    {"slicer", "slicer", {{"average_size", false, 0}, {"size_variation", false, 0}, {"delay", false, 0}}, fill_slicer},
    {"limit_data", "limit_data", {{"bytes", false, 0}}, fill_bytes},
    {"packet_loss", "loss", {{"loss_rate", true, 0.1}, {"correlation", true, 0}}, fill_loss},
    {"noop", "noop", {{0}}, fill_nothing},
};

static const struct sq_toxi_type *find_type(const char *name)
{
    for (size_t i = 0; name && i < SQ_COUNT(TYPES); i++)
        if (strcmp(TYPES[i].name, name) == 0)
            return &TYPES[i];
    return NULL;
}

static int bad(struct sq_toxi_answer *a, const char *key, const char *want)
{
    sq_toxi_fail(a, 400, "bad request body: %s must be %s", key, want);
    return 400;
}

/* VALUE is left alone when O has no such member. */
static int number(const json_t *o, const char *key, bool real, double *value, struct sq_toxi_answer *a)
{
    const json_t *v = sq_toxi_field(o, key);
    if (!v)
        return 0;
    double n = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(n >= -WHOLE_MAX && n <= WHOLE_MAX))
        return bad(a, key, "a number");
    if (!real && !json_is_integer(v))
        return bad(a, key, "an integer");
    *value = n;
    return 0;
}

static int text(const json_t *o, const char *key, const char **out, struct sq_toxi_answer *a)
{
    const json_t *v = sq_toxi_field(o, key);
    if (!v)
        return 0;
    if (!json_is_string(v) || json_string_length(v) >= SQ_TOXI_TEXT)
        return bad(a, key, "a string of less than 1024 bytes");
    *out = json_string_value(v);
    return 0;
}

/* Into V, which holds what is not said. */
static int attributes(const struct sq_toxi_type *type, const json_t *body, double *v, struct sq_toxi_answer *a)
{
    const json_t *o = sq_toxi_field(body, "attributes");
    int rc = 0;
    if (o && !json_is_object(o))
        return bad(a, "attributes", "an object");
    for (size_t i = 0; o && i < SQ_COUNT(type->attr) && type->attr[i].key && rc == 0; i++)
        rc = number(o, type->attr[i].key, type->attr[i].real, &v[i], a);
    return rc;
}

static int name_of(struct sq_toxic *x, const char *name, const char *stream, struct sq_toxi_answer *a)
{
    char made[SQ_TOXI_TEXT + 64];
    (void)snprintf(made, sizeof(made), "%s_%s", x->type->name, stream);
    x->name = strdup(name && *name ? name : made);
    if (x->name)
        return 0;
    sq_toxi_fail(a, 500, "out of memory");
    return 500;
}

int sq_toxic_new(const json_t *body, struct sq_toxic **out, struct sq_toxi_answer *a)
{
    const char *name = NULL, *type = NULL, *stream = "downstream";
    double toxicity = 1.0;
    int rc = text(body, "name", &name, a);
    rc = rc ? rc : text(body, "type", &type, a);
    rc = rc ? rc : text(body, "stream", &stream, a);
    rc = rc ? rc : number(body, "toxicity", true, &toxicity, a);
    if (rc)
        return rc;
    if (strcasecmp(stream, "upstream") != 0 && strcasecmp(stream, "downstream") != 0) {
        sq_toxi_fail(a, 400, "stream was invalid, can be either upstream or downstream");
        return 400;
    }
    const struct sq_toxi_type *kind = find_type(type);
    if (!kind) {
        sq_toxi_fail(a, 400, "invalid toxic type");
        return 400;
    }
    struct sq_toxic *x = calloc(1, sizeof(*x));
    if (!x) {
        sq_toxi_fail(a, 500, "out of memory");
        return 500;
    }
    x->type = kind;
    x->upstream = strcasecmp(stream, "upstream") == 0;
    x->toxicity = toxicity;
    for (size_t i = 0; i < SQ_COUNT(kind->attr); i++)
        x->value[i] = kind->attr[i].def;
    rc = attributes(kind, body, x->value, a);
    rc = rc ? rc : name_of(x, name, x->upstream ? "upstream" : "downstream", a);
    if (rc) {
        sq_toxic_free(x);
        return rc;
    }
    *out = x;
    return 0;
}

int sq_toxic_update(struct sq_toxic *x, const json_t *body, struct sq_toxi_answer *a)
{
    double v[SQ_COUNT(x->value)], toxicity = x->toxicity;
    memcpy(v, x->value, sizeof(v));
    int rc = attributes(x->type, body, v, a);
    rc = rc ? rc : number(body, "toxicity", true, &toxicity, a);
    if (rc)
        return rc;
    memcpy(x->value, v, sizeof(v));
    x->toxicity = toxicity;
    return 0;
}

void sq_toxic_free(struct sq_toxic *x)
{
    if (x)
        free(x->name);
    free(x);
}

/* As Go writes a float: 1, not 1.0. */
static json_t *as_number(double v)
{
    return v >= -WHOLE_MAX && v <= WHOLE_MAX && v >= trunc(v) && v <= trunc(v) ? json_integer((json_int_t)v)
                                                                               : json_real(v);
}

json_t *sq_toxic_json(const struct sq_toxic *x)
{
    json_t *o = json_object();
    for (size_t i = 0; i < SQ_COUNT(x->type->attr) && x->type->attr[i].key; i++)
        (void)json_object_set_new(o, x->type->attr[i].key, as_number(x->value[i]));
    return json_pack("{s:o,s:s,s:s,s:s,s:o}", "attributes", o, "name", x->name, "type", x->type->name, "stream",
                     x->upstream ? "upstream" : "downstream", "toxicity", as_number(x->toxicity));
}

/* FNV-1a: the same seed and name draw the same connections. */
static uint64_t mixed(uint64_t seed, const char *s)
{
    uint64_t h = UINT64_C(14695981039346656037) ^ seed;
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
    return h;
}

json_t *sq_toxic_rule(const struct sq_toxic *x, uint64_t seed)
{
    char id[16];
    (void)snprintf(id, sizeof(id), "t%u", x->slot);
    json_t *rule = json_pack("{s:s,s:s,s:s,s:f,s:I}", "fault", id, "kind", x->type->kind, "stream",
                             x->upstream ? "upstream" : "downstream", "percent", bounded(x->toxicity, 1) * 100.0,
                             "seed", (json_int_t)(mixed(seed, x->name) & INT64_MAX));
    if (rule)
        x->type->fill(x->value, rule);
    return rule;
}

json_t *sq_toxi_rules(const struct sq_toxi_proxy *p, uint64_t seed)
{
    json_t *rules = json_array();
    const struct sq_toxic *x;
    TAILQ_FOREACH(x, &p->toxics, link)
    {
        (void)json_array_append_new(rules, sq_toxic_rule(x, mixed(seed, p->name)));
    }
    return rules;
}
