/* OpenSLO v1 (github.com/OpenSLO/OpenSLO, schemas/v1): SLO, SLI, Service, DataSource. What this squall can't judge is
 * passed over with a warning that names it, never judged differently. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/slo.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define DAY_NS (86400 * SQ_S)
#define MAX_WINDOW (366 * DAY_NS)

struct reader {
    struct sq_norm *c;
    struct sq_node *const *docs;
    size_t n;
    json_t *slos;
    char label[128]; /* of the SLO at hand */
};

/* ---- values ---- */

/* The text of KEY; NULL when absent (reported if REQUIRED) or no scalar (reported). */
static const char *text_of(const struct reader *r, const struct sq_node *n, const char *key, bool required)
{
    const struct sq_node *v = sq_node_get(n, key);

    if (v && v->kind == SQ_N_SCALAR && v->text[0])
        return v->text;
    if (v)
        sq_diag_error(r->c->d, v->pos, NULL, "%s: \"%s\" must be a text", r->label, key);
    else if (required)
        sq_diag_error(r->c->d, n->pos, NULL, "%s: \"%s\" is missing", r->label, key);
    return NULL;
}

/* A number; NaN when absent or (reported) none. */
static double number_of(const struct reader *r, const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);
    cleanup_json json_t *j = v ? sq_node_json(v) : NULL;

    if (json_is_number(j))
        return json_number_value(j);
    if (v)
        sq_diag_error(r->c->d, v->pos, "write a plain number", "%s: \"%s\" must be a number", r->label, key);
    return (double)NAN;
}

/* "30d", "1h", "4w": OpenSLO has no seconds. 0 after an error. */
static int64_t duration_of(const struct reader *r, const struct sq_node *n, const char *key)
{
    static const struct {
        char unit;
        int64_t ns;
    } units[] = {{'m', 60 * SQ_S},   {'h', 3600 * SQ_S}, {'d', DAY_NS},      {'w', 7 * DAY_NS},
                 {'M', 30 * DAY_NS}, {'Q', 90 * DAY_NS}, {'Y', 365 * DAY_NS}};
    const char *text = text_of(r, n, key, true);
    char *end = NULL;
    long v = text && isdigit((unsigned char)text[0]) ? strtol(text, &end, 10) : 0;

    if (!text)
        return 0;
    for (size_t i = 0; v > 0 && v < 1000000 && i < SQ_COUNT(units); i++)
        if (end[0] == units[i].unit && !end[1] && v <= MAX_WINDOW / units[i].ns)
            return v * units[i].ns;
    sq_diag_error(r->c->d, sq_node_get(n, key)->pos, "a number and one of m, h, d, w, M, Q, Y: 30d",
                  "%s: \"%.40s\" is no duration of OpenSLO, or longer than a year", r->label, text);
    return 0;
}

static void pass_over(const struct reader *r, struct sq_pos at, const char *fmt, ...) SQ_PRINTF(3, 4);
static void pass_over(const struct reader *r, struct sq_pos at, const char *fmt, ...)
{
    char what[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    sq_diag_warn(r->c->d, at, NULL, "%s is passed over: %s", r->label, what);
}

/* ---- other documents ---- */

static const char *kind_of(const struct sq_node *doc)
{
    const struct sq_node *kind = sq_node_get(doc, "kind");

    return kind && kind->kind == SQ_N_SCALAR ? kind->text : "";
}

static const char *name_of(const struct sq_node *doc)
{
    const struct sq_node *name = sq_node_get(sq_node_get(doc, "metadata"), "name");

    return name && name->kind == SQ_N_SCALAR ? name->text : "";
}

static const struct sq_node *find(const struct reader *r, const char *kind, const struct sq_node *at, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(kind_of(r->docs[i]), kind) == 0 && strcmp(name_of(r->docs[i]), name) == 0)
            return r->docs[i];
    sq_diag_error(r->c->d, at->pos, "put it into the same file", "%s: there is no %s \"%.60s\"", r->label, kind, name);
    return NULL;
}

/* ---- indicators ---- */

/* Where a metric comes from. */
struct metric {
    const struct sq_node *spec; /* NULL: none that can be used */
    bool probe;
    const char *url; /* NULL: not said */
};

static bool read_source(const struct reader *r, const struct sq_node *metric, struct metric *m)
{
    const struct sq_node *source = sq_node_get(metric, "metricSource"), *ref = sq_node_get(source, "metricSourceRef");
    const struct sq_node *type = sq_node_get(source, "type"), *doc = NULL, *url = NULL;

    *m = (struct metric){0};
    if (!source || source->kind != SQ_N_MAP) {
        sq_diag_error(r->c->d, metric->pos, "metricSource: {type: Prometheus, spec: {query: ...}}",
                      "%s: \"metricSource\" is missing", r->label);
        return false;
    }
    if (ref && ref->kind == SQ_N_SCALAR) {
        doc = find(r, "DataSource", ref, ref->text);
        if (!doc)
            return false;
        type = type ? type : sq_node_get(sq_node_get(doc, "spec"), "type");
        url = sq_node_get(sq_node_get(sq_node_get(doc, "spec"), "connectionDetails"), "url");
    }
    const char *name = type && type->kind == SQ_N_SCALAR ? type->text : "";
    m->probe = strcasecmp(name, "squall-probe") == 0;
    if (!m->probe && strcasecmp(name, "prometheus") != 0) {
        pass_over(r, (type ? type : source)->pos,
                  "its metrics come from \"%.60s\" (there are squall-probe, Prometheus)", name);
        return false;
    }
    if (url && url->kind == SQ_N_SCALAR && !m->probe) {
        if (!sq_slo_url(r->c, r->label, url->pos, url->text))
            return false;
        m->url = url->text;
    }
    m->spec = sq_node_get(source, "spec");
    if (m->spec && m->spec->kind == SQ_N_MAP)
        return true;
    sq_diag_error(r->c->d, source->pos, m->probe ? "spec: {endpoint: cart}" : "spec: {query: ...}",
                  "%s: its metric source has no \"spec\"", r->label);
    return false;
}

static bool put_query(const struct reader *r, const struct metric *m, const char *key, json_t *o)
{
    const char *q = text_of(r, m->spec, "query", true);

    if (!q || !sq_slo_query(r->c, r->label, sq_node_get(m->spec, "query")->pos, q))
        return false;
    (void)json_object_set_new(o, key, json_string(q));
    if (m->url)
        (void)json_object_set_new(o, "prometheus", json_string(m->url));
    return true;
}

/* A key that our own source does not know would be silently without effect. */
static bool known_keys(const struct reader *r, const struct sq_node *spec, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < spec->n; i++) {
        size_t k = 0;

        while (k < n && strcmp(keys[k], spec->keys[i]->text) != 0)
            k++;
        if (k == n) {
            sq_diag_error(r->c->d, spec->keys[i]->pos, NULL, "%s: squall-probe does not know \"%.40s\"", r->label,
                          spec->keys[i]->text);
            return false;
        }
    }
    return true;
}

/* good or bad, and total, of our own probe. */
static bool probe_ratio(const struct reader *r, const struct metric *part, const struct metric *total, bool bad,
                        json_t *o)
{
    static const char *const keys[] = {"endpoint", "below"};
    const char *a = text_of(r, part->spec, "endpoint", true), *b = text_of(r, total->spec, "endpoint", true);
    const char *below = text_of(r, part->spec, "below", false);
    struct sq_err e = {0};
    int64_t ns = 0;

    if (!a || !b || !known_keys(r, part->spec, keys, bad ? 1 : 2) || !known_keys(r, total->spec, keys, 1))
        return false;
    if (strcmp(a, b) != 0) {
        sq_diag_error(r->c->d, sq_node_get(total->spec, "endpoint")->pos, NULL,
                      "%s: its parts are of different endpoints (%.60s, %.60s)", r->label, a, b);
        return false;
    }
    if (below && (sq_parse_duration(below, &ns, &e) < 0 || ns <= 0)) {
        sq_diag_error(r->c->d, sq_node_get(part->spec, "below")->pos, "below: 500ms", "%s: \"%.40s\" is no duration",
                      r->label, below);
        return false;
    }
    (void)json_object_set_new(o, "source", json_string("probe"));
    (void)json_object_set_new(o, "failed", json_string("bad"));
    (void)json_object_set_new(o, "endpoint", json_string(a));
    if (below)
        (void)json_object_set_new(o, "below", json_integer(ns));
    return true;
}

static json_t *ratio(const struct reader *r, const struct sq_node *n)
{
    const struct sq_node *good = sq_node_get(n, "good"), *bad = sq_node_get(n, "bad"), *total = sq_node_get(n, "total");
    const struct sq_node *raw = sq_node_get(n, "raw"), *counter = sq_node_get(n, "counter");
    struct metric part, whole;
    cleanup_json json_t *o = json_object();
    bool ok;

    if (raw) {
        const char *type = text_of(r, n, "rawType", true);

        if (!type || !read_source(r, raw, &part))
            return NULL;
        if (part.probe || (strcmp(type, "success") != 0 && strcmp(type, "failure") != 0)) {
            pass_over(r, raw->pos, "a raw ratio must be a success or a failure ratio from Prometheus");
            return NULL;
        }
        (void)json_object_set_new(o, "source", json_string("prometheus"));
        (void)json_object_set_new(o, "raw_type", json_string(type));
        return put_query(r, &part, "raw", o) ? json_incref(o) : NULL;
    }
    if (!total || !(good || bad) || (good && bad)) {
        sq_diag_error(r->c->d, n->pos, NULL, "%s: a ratio has a total, and either good or bad", r->label);
        return NULL;
    }
    if (!read_source(r, good ? good : bad, &part) || !read_source(r, total, &whole))
        return NULL;
    if (part.probe != whole.probe || (part.url && whole.url && strcmp(part.url, whole.url) != 0)) {
        pass_over(r, total->pos, "its good and its total come from different sources");
        return NULL;
    }
    if (part.probe)
        return probe_ratio(r, &part, &whole, bad != NULL, o) ? json_incref(o) : NULL;
    (void)json_object_set_new(o, "source", json_string("prometheus"));
    (void)json_object_set_new(
        o, "counter", json_boolean(counter && strcmp(counter->kind == SQ_N_SCALAR ? counter->text : "", "true") == 0));
    ok = put_query(r, &part, good ? "good" : "bad", o) && put_query(r, &whole, "total", o);
    return ok ? json_incref(o) : NULL;
}

/* A value that is compared with the objective's. */
static json_t *threshold(const struct reader *r, const struct sq_node *n)
{
    static const char *const keys[] = {"endpoint", "metric", "unit"};
    cleanup_json json_t *o = json_object();
    struct metric m;

    if (!read_source(r, n, &m))
        return NULL;
    (void)json_object_set_new(o, "source", json_string(m.probe ? "probe" : "prometheus"));
    if (!m.probe)
        return put_query(r, &m, "query", o) ? json_incref(o) : NULL;
    const char *endpoint = text_of(r, m.spec, "endpoint", true), *metric = text_of(r, m.spec, "metric", true);
    const char *unit = text_of(r, m.spec, "unit", false);
    if (!endpoint || !metric || !known_keys(r, m.spec, keys, SQ_COUNT(keys)))
        return NULL;
    if (strcmp(metric, "latency") != 0 || (unit && strcmp(unit, "s") != 0 && strcmp(unit, "ms") != 0)) {
        sq_diag_error(r->c->d, m.spec->pos, "spec: {endpoint: cart, metric: latency, unit: ms}",
                      "%s: squall-probe measures latency, in s or ms", r->label);
        return NULL;
    }
    (void)json_object_set_new(o, "endpoint", json_string(endpoint));
    (void)json_object_set_new(o, "failed", json_string("ignored"));
    (void)json_object_set_new(o, "unit", json_real(unit && strcmp(unit, "ms") == 0 ? 1e6 : 1e9));
    return json_incref(o);
}

static json_t *read_indicator(const struct reader *r, const struct sq_node *spec)
{
    const struct sq_node *n = sq_node_get(spec, "indicator"), *ref = sq_node_get(spec, "indicatorRef"), *doc;

    if (!n && ref && ref->kind == SQ_N_SCALAR) {
        doc = find(r, "SLI", ref, ref->text);
        if (!doc)
            return NULL;
        n = doc;
    }
    const struct sq_node *inner = sq_node_get(n, "spec");
    const struct sq_node *of = sq_node_get(inner, "ratioMetric"), *value = sq_node_get(inner, "thresholdMetric");
    if (!of && !value) {
        sq_diag_error(r->c->d, n ? n->pos : spec->pos, "indicator: {spec: {ratioMetric: ...}}, or indicatorRef",
                      "%s: it has no indicator with a ratioMetric or a thresholdMetric", r->label);
        return NULL;
    }
    return of ? ratio(r, of) : threshold(r, value);
}

/* ---- objectives ---- */

static bool read_target(const struct reader *r, const struct sq_node *n, double *percent)
{
    const struct sq_node *a = sq_node_get(n, "target"), *b = sq_node_get(n, "targetPercent");

    if (!a == !b) {
        sq_diag_error(r->c->d, n->pos, "target: 0.999, or targetPercent: 99.9", "%s: an objective has one target",
                      r->label);
        return false;
    }
    *percent = a ? 100 * number_of(r, n, "target") : number_of(r, n, "targetPercent");
    *percent = round(*percent * 1e9) / 1e9; /* 0.999 * 100 */
    return !isnan(*percent) && sq_slo_target(r->c, r->label, (a ? a : b)->pos, *percent);
}

/* The limit of a thresholdMetric. */
static bool read_limit(const struct reader *r, const struct sq_node *n, json_t *indicator)
{
    const char *op = text_of(r, n, "op", true);
    double value = number_of(r, n, "value"), unit = sq_json_num_or(indicator, "unit", 0);
    const bool probe = strcmp(sq_json_str_or(indicator, "source", ""), "probe") == 0;

    if (!op)
        return false;
    if (!sq_node_get(n, "value") || isnan(value)) {
        if (!sq_node_get(n, "value"))
            sq_diag_error(r->c->d, n->pos, "op: lte, value: 0.5", "%s: \"value\" is missing", r->label);
        return false;
    }
    bool less = strcmp(op, "lt") == 0 || strcmp(op, "lte") == 0;
    if (!less && strcmp(op, "gt") != 0 && strcmp(op, "gte") != 0) {
        sq_diag_error(r->c->d, sq_node_get(n, "op")->pos, "lte, lt, gte or gt", "%s: \"%.20s\" is no operator",
                      r->label, op);
        return false;
    }
    if (!probe) {
        (void)json_object_set_new(indicator, "op", json_string(op));
        (void)json_object_set_new(indicator, "value", json_real(value));
        return true;
    }
    if (!less || !(value * unit >= 1e3) || value * unit > 600e9) {
        sq_diag_error(r->c->d, sq_node_get(n, "value")->pos, "op: lte, value: 500, and unit: ms in its metric",
                      "%s: a latency has an upper limit, from 1 us to 10 m", r->label);
        return false;
    }
    (void)json_object_set_new(indicator, "below", json_integer((json_int_t)llround(value * unit)));
    (void)json_object_del(indicator, "unit");
    return true;
}

static bool read_slices(const struct reader *r, const struct sq_node *n, json_t *slo)
{
    double target = number_of(r, n, "timeSliceTarget");
    int64_t len = duration_of(r, n, "timeSliceWindow");

    if (len <= 0 || !(target > 0 && target <= 1)) {
        if (len > 0)
            sq_diag_error(r->c->d, n->pos, "timeSliceTarget: 0.99", "%s: \"timeSliceTarget\" is above 0, at most 1",
                          r->label);
        return false;
    }
    (void)json_object_set_new(slo, "slices", json_pack("{s:I,s:f}", "of", (json_int_t)len, "target", 100 * target));
    return true;
}

/* What an objective may have in OpenSLO and this squall does not judge. */
static bool foreign(const struct reader *r, const struct sq_node *n)
{
    static const char *const keys[] = {"indicator", "indicatorRef", "compositeWeight"};

    for (size_t i = 0; i < SQ_COUNT(keys); i++) {
        if (!sq_node_get(n, keys[i]))
            continue;
        pass_over(r, sq_node_get(n, keys[i])->pos, "an objective with \"%s\" (composite SLOs are not judged)", keys[i]);
        return true;
    }
    return false;
}

static void read_objective(const struct reader *r, const struct sq_node *spec, const struct sq_node *n,
                           const char *name, int64_t window, bool slices)
{
    cleanup_json json_t *indicator = NULL;
    json_t *slo;
    double target;

    if (n->kind != SQ_N_MAP) {
        sq_diag_error(r->c->d, n->pos, NULL, "%s: an objective is a mapping", r->label);
        return;
    }
    if (foreign(r, n) || !read_target(r, n, &target) || !(indicator = read_indicator(r, spec)))
        return;
    if ((json_object_get(indicator, "query") || json_object_get(indicator, "unit")) && !read_limit(r, n, indicator))
        return;
    slo = json_pack("{s:f,s:I,s:O,s:o}", "target", target, "window", (json_int_t)window, "indicator", indicator, "at",
                    sq_slo_at(r->c, n->pos));
    if (slices && !read_slices(r, n, slo)) {
        json_decref(slo);
        return;
    }
    if (json_object_get(r->slos, name))
        sq_diag_error(r->c->d, n->pos, NULL, "%s: there are two SLOs \"%s\"", r->label, name);
    (void)json_object_set_new(r->slos, name, slo);
}

/* ---- SLOs ---- */

static int64_t read_window(const struct reader *r, const struct sq_node *spec)
{
    const struct sq_node *list = sq_node_get(spec, "timeWindow"), *w;

    if (!list || list->kind != SQ_N_LIST || list->n != 1) {
        sq_diag_error(r->c->d, list ? list->pos : spec->pos, "timeWindow: [{duration: 30d, isRolling: true}]",
                      "%s: a list of one time window is wanted", r->label);
        return 0;
    }
    w = list->items[0];
    if (sq_node_get(w, "calendar"))
        sq_diag_warn(r->c->d, w->pos, NULL, "%s: its calendar window is taken as a rolling one of the same length",
                     r->label);
    return duration_of(r, w, "duration");
}

/* Occurrences (the default) or Timeslices; others are passed over. */
static bool read_method(const struct reader *r, const struct sq_node *spec, bool *slices)
{
    const char *method = text_of(r, spec, "budgetingMethod", false);

    *slices = method && strcmp(method, "Timeslices") == 0;
    if (!method || *slices || strcmp(method, "Occurrences") == 0)
        return true;
    pass_over(r, sq_node_get(spec, "budgetingMethod")->pos, "its budgetingMethod \"%.40s\" is not judged", method);
    return false;
}

static void read_slo(struct reader *r, const struct sq_node *doc)
{
    const struct sq_node *name = sq_node_get(sq_node_get(doc, "metadata"), "name"), *spec = sq_node_get(doc, "spec");
    const struct sq_node *list = sq_node_get(spec, "objectives");
    char each[96];
    bool slices;
    int64_t window;

    (void)snprintf(r->label, sizeof r->label, "SLO");
    if (!name || name->kind != SQ_N_SCALAR) {
        sq_diag_error(r->c->d, doc->pos, "metadata: {name: checkout}", "an SLO has no name");
        return;
    }
    if (!sq_norm_name(r->c, "SLO", name, false))
        return;
    (void)snprintf(r->label, sizeof r->label, "SLO %.63s", name->text);
    if (!spec || spec->kind != SQ_N_MAP) {
        sq_diag_error(r->c->d, doc->pos, "spec: {indicatorRef: good, timeWindow: [...], objectives: [...]}",
                      "%s: \"spec\" is missing", r->label);
        return;
    }
    if (!read_method(r, spec, &slices) || !(window = read_window(r, spec)))
        return;
    if (sq_node_get(spec, "alertPolicies"))
        sq_diag_warn(r->c->d, sq_node_get(spec, "alertPolicies")->pos, NULL,
                     "%s: its alertPolicies are passed over; the standard multi-window burn rates are judged",
                     r->label);
    if (!list || list->kind != SQ_N_LIST || list->n == 0 || list->n > 20) {
        sq_diag_error(r->c->d, list ? list->pos : doc->pos, "objectives: [{target: 0.999}]",
                      "%s: a list of 1 to 20 objectives is wanted", r->label);
        return;
    }
    for (size_t i = 0; i < list->n; i++) {
        (void)snprintf(each, sizeof each, list->n > 1 ? "%.55s.%zu" : "%s", name->text, i + 1);
        read_objective(r, spec, list->items[i], each, window, slices);
    }
}

static bool version_ok(struct reader *r, const struct sq_node *doc)
{
    const struct sq_node *v = sq_node_get(doc, "apiVersion");

    if (v && v->kind == SQ_N_SCALAR && strcmp(v->text, "openslo/v1") == 0)
        return true;
    sq_diag_error(r->c->d, v ? v->pos : doc->pos, "apiVersion: openslo/v1",
                  doc->kind == SQ_N_MAP ? "this document is not in OpenSLO v1" : "this document is not a mapping");
    return false;
}

void sq_openslo(struct sq_norm *c, struct sq_node *const *docs, size_t n, json_t *slos)
{
    static const char *const alerts[] = {"AlertPolicy", "AlertCondition", "AlertNotificationTarget"};
    static const char *const helpers[] = {"SLI", "Service", "DataSource"};
    struct reader r = {.c = c, .docs = docs, .n = n, .slos = slos};
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        const char *kind = kind_of(docs[i]);
        bool known = false;

        if (!version_ok(&r, docs[i]))
            continue;
        for (size_t k = 0; k < SQ_COUNT(helpers); k++)
            known |= strcmp(kind, helpers[k]) == 0;
        for (size_t k = 0; k < SQ_COUNT(alerts); k++) {
            if (strcmp(kind, alerts[k]) != 0)
                continue;
            known = true;
            sq_diag_warn(c->d, docs[i]->pos, NULL,
                         "%s %.60s is passed over; the standard multi-window burn rates are judged", kind,
                         name_of(docs[i]));
        }
        if (strcmp(kind, "SLO") == 0) {
            any = true;
            read_slo(&r, docs[i]);
        } else if (!known) {
            sq_diag_error(c->d, docs[i]->pos, "SLO, SLI, Service, DataSource", "\"%.40s\" is no kind of OpenSLO v1",
                          kind);
        }
    }
    if (!any && !c->d->errors)
        sq_diag_error(c->d, (struct sq_pos){0, 0}, NULL, "there is no SLO in it");
}
