/* SLO files: the short form, and which form a file is in. */
#include "scenario/slo.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define DAY_NS (86400e9)
#define END                                                                                                            \
    {                                                                                                                  \
        .p = {.name = NULL }                                                                                           \
    }
#define TEXT(n, text)                                                                                                  \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_STRING, .doc = (text) }                                                        \
    }
#define DURATION(n, d, lo, hi, text)                                                                                   \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_DURATION, .def = (d), .doc = (text)}, .min = (lo), .max = (hi)                 \
    }

/* ---- the tables ---- */

static const struct sq_field objective_fields[] = {
    {.p = {.name = "target", .type = SQ_P_PERCENT, .doc = "the share that must be good, such as 99.9%"}},
    DURATION("window", "30d", 60e9, 100 * DAY_NS, "the window whose error budget is meant"),
    TEXT("endpoint", "indicator: what our own probe felt at this endpoint of the load"),
    DURATION("below", NULL, 1e3, 600e9, "of endpoint: good answers that took longer are bad"),
    TEXT("p50", "of endpoint, instead of target: such as \"< 100ms\""),
    TEXT("p75", "as p50"),
    TEXT("p90", "as p50"),
    TEXT("p95", "as p50"),
    TEXT("p99", "as p50"),
    TEXT("p99.9", "as p50"),
    TEXT("good", "indicator: PromQL, how many were good (a rate per second, unless counter)"),
    TEXT("bad", "instead of good: how many were bad"),
    TEXT("total", "with good or bad: how many there were"),
    {.p = {.name = "counter", .type = SQ_P_BOOL, .doc = "true: good, bad and total are counters (default false)"}},
    TEXT("prometheus", "whom to ask, such as http://127.0.0.1:9090 (default: the file's, the scenario's)"),
    END,
};
const struct sq_section sq_section_objective = {
    "objective", "One SLO: a target, and an indicator from our own probe or from a Prometheus.", objective_fields,
    sq_finish_objective};

static const struct sq_field performance_fields[] = {
    DURATION("latency_p50", NULL, 1e3, 600e9, "half of the requests take no longer"),
    DURATION("latency_p90", NULL, 1e3, 600e9, "90 % take no longer"),
    DURATION("latency_p95", NULL, 1e3, 600e9, "95 % take no longer"),
    DURATION("latency_p99", NULL, 1e3, 600e9, "99 % take no longer"),
    DURATION("latency_p99.9", NULL, 1e3, 600e9, "99.9 % take no longer"),
    {.p = {.name = "throughput_min", .type = SQ_P_STRING, .doc = "good answers a second, such as 1000rps or 1000/s"}},
    {.p = {.name = "error_rate_max", .type = SQ_P_PERCENT, .doc = "at most this share is bad, such as 0.1%"}},
    {.p = {.name = "on_budget_exceed",
           .type = SQ_P_ENUM,
           .def = "block",
           .values = "block|notify|require_approval",
           .doc = "block: fail; notify: pass, and say so; require_approval: fail unless somebody approved it"}},
    END,
};
const struct sq_section sq_section_performance = {
    "performance", "The performance budget of one endpoint, for the check performance_budget.", performance_fields,
    sq_finish_performance};

static const struct sq_field file_fields[] = {
    TEXT("prometheus", "the Prometheus that the file's queries are for, such as http://127.0.0.1:9090"),
    {.p = {.name = "slos", .type = SQ_P_MAP, .doc = "SLOs, by name"},
     .shape = SQ_F_NAMED,
     .section = &sq_section_objective,
     .max = 100},
    {.p = {.name = "budgets", .type = SQ_P_MAP, .doc = "performance budgets, by endpoint"},
     .shape = SQ_F_NAMED,
     .section = &sq_section_performance,
     .max = 100},
    END,
};
const struct sq_section sq_section_slo_file = {"slo_file",
                                               "A file of SLOs that spec.slos names: this short form, or OpenSLO v1.",
                                               file_fields, sq_finish_slo_file};

/* ---- what both forms check ---- */

json_t *sq_slo_at(const struct sq_norm *c, struct sq_pos pos)
{
    return json_sprintf("%s:%u:%u", c->d->file, pos.line, pos.col);
}

bool sq_slo_query(struct sq_norm *c, const char *label, struct sq_pos at, const char *text)
{
    bool blank = true;

    for (const char *p = text; *p && blank; p++)
        blank = isspace((unsigned char)*p) != 0;
    if (blank)
        sq_diag_error(c->d, at, "PromQL, such as sum(rate(http_requests_total[1m]))", "%s: the query is empty", label);
    else if (strlen(text) > SQ_SLO_MAX_QUERY)
        sq_diag_error(c->d, at, NULL, "%s: the query is longer than %d bytes", label, SQ_SLO_MAX_QUERY);
    else
        return true;
    return false;
}

bool sq_slo_url(struct sq_norm *c, const char *label, struct sq_pos at, const char *text)
{
    size_t scheme = strncmp(text, "http://", 7) == 0 ? 7 : strncmp(text, "https://", 8) == 0 ? 8 : 0;
    bool ok = scheme && isalnum((unsigned char)text[scheme + (text[scheme] == '[')]) && strlen(text) < 512;

    for (const char *p = text; *p && ok; p++)
        ok = *p > 0x20 && *p < 0x7f && !strchr("?#\\\"<>@", *p);
    if (!ok)
        sq_diag_error(c->d, at, "prometheus: http://127.0.0.1:9090", "%s: \"%.80s\" is no address of a Prometheus",
                      label, text);
    return ok;
}

bool sq_slo_target(struct sq_norm *c, const char *label, struct sq_pos at, double percent)
{
    if (percent > 1 && percent < 100)
        return true;
    if (percent > 0 && percent <= 1)
        sq_diag_error(c->d, at, "target: 99.9%", "%s: a target of %g %% is hardly meant", label, percent);
    else
        sq_diag_error(c->d, at, "target: 99.9%", "%s: a target of 100 %% leaves no budget, one of 0 %% all", label);
    return false;
}

/* ---- the short form ---- */

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

static json_t *move_to(json_t *to, const char *key, json_t *from)
{
    json_t *v = json_incref(json_object_get(from, key));

    (void)json_object_del(from, key);
    if (v)
        (void)json_object_set_new(to, key, v);
    return v;
}

/* p95: "< 500ms" is the target 95 % with below: 500ms; failed requests have a latency, too. */
static void from_percentile(struct sq_norm *c, const char *label, const struct sq_node *n, const char *key, json_t *o,
                            json_t *indicator)
{
    const char *text = sq_json_str_or(o, key, "");
    cleanup_json json_t *threshold = NULL;
    struct sq_err e = {0};
    char full[128];

    (void)snprintf(full, sizeof full, "p(%s)%.80s", key + 1, text);
    if (sq_threshold_parse(full, &threshold, &e) < 0) {
        sq_diag_error(c->d, at_value(n, key), "p95: \"< 500ms\"", "%s: \"%.60s\" is no limit of a percentile", label,
                      text);
        return;
    }
    if (sq_node_get(n, "target") || sq_node_get(n, "below"))
        sq_diag_error(c->d, at_value(n, key), "make two SLOs of it", "%s: \"%s\" is the target already", label, key);
    (void)json_object_set_new(o, "target", json_real(strtod(key + 1, NULL)));
    (void)json_object_set(indicator, "below", json_object_get(threshold, "value"));
    (void)json_object_set_new(indicator, "failed", json_string("ignored"));
}

static void probe_indicator(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o, json_t *indicator)
{
    static const char *const foreign[] = {"good", "bad", "total", "counter", "prometheus"};
    static const char *const percentiles[] = {"p50", "p75", "p90", "p95", "p99", "p99.9"};
    const char *first = NULL;

    (void)json_object_set_new(indicator, "source", json_string("probe"));
    (void)json_object_set_new(indicator, "failed", json_string("bad"));
    (void)move_to(indicator, "endpoint", o);
    (void)move_to(indicator, "below", o);
    for (size_t i = 0; i < SQ_COUNT(foreign); i++)
        if (sq_node_get(n, foreign[i]))
            sq_diag_error(c->d, at_value(n, foreign[i]), "make two SLOs of it",
                          "%s: \"%s\" is about a Prometheus, \"endpoint\" about our own probe", label, foreign[i]);
    for (size_t i = 0; i < SQ_COUNT(percentiles); i++) {
        if (!json_object_get(o, percentiles[i]))
            continue;
        if (first)
            sq_diag_error(c->d, at_value(n, percentiles[i]), "make two SLOs of it", "%s: \"%s\" and \"%s\"", label,
                          first, percentiles[i]);
        else
            from_percentile(c, label, n, percentiles[i], o, indicator);
        first = percentiles[i];
        (void)json_object_del(o, percentiles[i]);
    }
}

static void doubtful_rate(struct sq_norm *c, const char *label, const struct sq_node *n, const char *key,
                          const char *query)
{
    if (!sq_node_get(n, "counter") && !strstr(query, "rate(") && !strstr(query, "rate ("))
        sq_diag_warn(c->d, at_value(n, key), "counter: true when it counts from the beginning; else counter: false",
                     "%s: \"%s\" is read as a rate per second, and has no rate() in it", label, key);
}

static void prometheus_indicator(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o,
                                 json_t *indicator)
{
    static const char *const queries[] = {"good", "bad", "total"};
    static const char *const foreign[] = {"below", "p50", "p75", "p90", "p95", "p99", "p99.9"};

    for (size_t i = 0; i < SQ_COUNT(foreign); i++)
        if (sq_node_get(n, foreign[i]))
            sq_diag_error(c->d, at_value(n, foreign[i]), "endpoint: the name of one in the load",
                          "%s: \"%s\" is about our own probe", label, foreign[i]);
    if (sq_node_get(n, "good") && sq_node_get(n, "bad"))
        sq_diag_error(c->d, at_value(n, "bad"), NULL, "%s: either \"good\" or \"bad\"", label);
    if (!sq_node_get(n, "total") || !(sq_node_get(n, "good") || sq_node_get(n, "bad")))
        sq_diag_error(c->d, n->pos, "endpoint: NAME, or good: and total: in PromQL", "%s: its indicator is missing",
                      label);
    (void)json_object_set_new(indicator, "source", json_string("prometheus"));
    (void)json_object_set_new(indicator, "counter", json_boolean(sq_json_bool_or(o, "counter", false)));
    (void)json_object_del(o, "counter");
    for (size_t i = 0; i < SQ_COUNT(queries); i++) {
        json_t *q = move_to(indicator, queries[i], o);

        if (q && sq_slo_query(c, label, at_value(n, queries[i]), json_string_value(q)))
            doubtful_rate(c, label, n, queries[i], json_string_value(q));
    }
    json_t *url = move_to(indicator, "prometheus", o);
    if (url)
        (void)sq_slo_url(c, label, at_value(n, "prometheus"), json_string_value(url));
}

void sq_finish_objective(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const unsigned before = c->d->errors;
    json_t *indicator = json_object();

    if (sq_node_get(n, "endpoint"))
        probe_indicator(c, label, n, o, indicator);
    else
        prometheus_indicator(c, label, n, o, indicator);
    (void)json_object_set_new(o, "indicator", indicator);
    (void)json_object_set_new(o, "at", sq_slo_at(c, n->pos));
    if (c->d->errors == before && !json_object_get(o, "target"))
        sq_diag_error(c->d, n->pos, "target: 99.9%", "%s: \"target\" is missing", label);
    else if (c->d->errors == before)
        (void)sq_slo_target(c, label, at_value(n, "target"), sq_json_num_or(o, "target", 0));
}

/* "1000rps" or "1000/s" */
static void throughput(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *text = sq_json_str_or(o, "throughput_min", NULL);
    size_t len = text ? strlen(text) : 0;
    struct sq_err e = {0};
    char rate[64];
    double per_s;

    if (!text)
        return;
    bool rps = len > 3 && strcmp(text + len - 3, "rps") == 0;
    (void)snprintf(rate, sizeof rate, "%.*s%s", rps ? (int)(len - 3 < 40 ? len - 3 : 40) : 60, text, rps ? "/s" : "");
    if (sq_parse_rate(rate, &per_s, &e) < 0)
        sq_diag_error(c->d, at_value(n, "throughput_min"), "throughput_min: 1000rps", "%s: \"%.40s\" is no throughput",
                      label, text);
    else
        (void)json_object_set_new(o, "throughput_min", json_real(per_s));
}

void sq_finish_performance(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    throughput(c, label, n, o);
    if (json_object_size(o) < 2)
        sq_diag_error(c->d, n->pos, "latency_p99: 100ms, throughput_min: 1000rps", "%s: there is no budget", label);
    (void)json_object_set_new(o, "at", sq_slo_at(c, n->pos));
}

void sq_finish_slo_file(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *url = sq_json_str_or(o, "prometheus", NULL), *name;
    json_t *slo;

    if (url && !sq_slo_url(c, label, at_value(n, "prometheus"), url))
        return;
    if (!json_object_size(json_object_get(o, "slos")) && !json_object_size(json_object_get(o, "budgets")))
        sq_diag_error(c->d, n->pos, "slos: {cart: {target: 99.9%, endpoint: cart}}", "it has neither slos nor budgets");
    json_object_foreach(json_object_get(o, "slos"), name, slo)
    {
        json_t *indicator = json_object_get(slo, "indicator");

        if (url && strcmp(sq_json_str_or(indicator, "source", ""), "prometheus") == 0 &&
            !json_object_get(indicator, "prometheus"))
            (void)json_object_set(indicator, "prometheus", json_object_get(o, "prometheus"));
    }
    (void)json_object_del(o, "prometheus");
}

/* ---- files ---- */

static bool is_openslo(const struct sq_node *doc)
{
    const struct sq_node *v = sq_node_get(doc, "apiVersion");

    return v && v->kind == SQ_N_SCALAR && strncasecmp(v->text, "openslo", 7) == 0;
}

static void free_docs(struct sq_node **docs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sq_node_free(docs[i]);
    free(docs);
}

static json_t *normalize(struct sq_node **docs, size_t n, struct sq_diags *d)
{
    struct sq_norm c = {d, "/"};
    json_t *o, *slos;

    if (!is_openslo(docs[0]) && docs[0]->kind == SQ_N_MAP) {
        if (n > 1)
            sq_diag_error(d, docs[1]->pos, "only OpenSLO files have several", "a second document begins here");
        o = sq_norm_section(&c, &sq_section_slo_file, "slo file", docs[0]);
        slos = json_object_get(o, "slos");
    } else {
        o = json_pack("{s:{}}", "slos");
        slos = json_object_get(o, "slos");
        sq_openslo(&c, docs, n, slos);
    }
    if (o && !slos)
        (void)json_object_set_new(o, "slos", json_object());
    if (o && !json_object_get(o, "budgets"))
        (void)json_object_set_new(o, "budgets", json_object());
    return o;
}

static int finish(int r, struct sq_node **docs, size_t n, json_t **out, struct sq_diags *d)
{
    json_t *o = r == 0 ? normalize(docs, n, d) : NULL;

    if (r == 0 && !o)
        r = sq_diag_error(d, (struct sq_pos){0, 0}, NULL, "out of memory");
    if (d->errors) {
        json_decref(o);
        o = NULL;
        r = r ? r : -EINVAL;
    }
    free_docs(docs, n);
    sq_diags_sort(d);
    *out = o;
    return r;
}

int sq_slo_check_text(const char *text, size_t len, json_t **out, struct sq_diags *d)
{
    struct sq_node **docs = calloc(SQ_SLO_MAX_DOCS, sizeof(struct sq_node *));
    size_t n = 0;

    *out = NULL;
    if (!docs)
        return sq_diag_error(d, (struct sq_pos){0, 0}, NULL, "out of memory");
    int r = sq_yaml_parse_all(text, len, SQ_SLO_MAX_DOCS, docs, &n, d);
    return finish(r, docs, n, out, d);
}

int sq_slo_check(json_t **out, struct sq_diags *d)
{
    struct sq_node **docs = calloc(SQ_SLO_MAX_DOCS, sizeof(struct sq_node *));
    size_t n = 0;

    *out = NULL;
    if (!docs)
        return sq_diag_error(d, (struct sq_pos){0, 0}, NULL, "out of memory");
    int r = sq_yaml_read_all(SQ_SLO_MAX_DOCS, docs, &n, d);
    return finish(r, docs, n, out, d);
}

bool sq_slo_file_is(const char *file)
{
    struct sq_node **docs = calloc(SQ_SLO_MAX_DOCS, sizeof(struct sq_node *));
    struct sq_diags d;
    struct stat st;
    size_t n = 0;
    bool is = false;

    sq_diags_init(&d, file);
    /* a pipe can be read once only */
    if (docs && stat(file, &st) == 0 && S_ISREG(st.st_mode) && sq_yaml_read_all(SQ_SLO_MAX_DOCS, docs, &n, &d) == 0)
        is = is_openslo(docs[0]) || (!sq_node_get(docs[0], "apiVersion") && !sq_node_get(docs[0], "spec") &&
                                     (sq_node_get(docs[0], "slos") || sq_node_get(docs[0], "budgets")));
    sq_diags_free(&d);
    free_docs(docs, n);
    return is;
}
