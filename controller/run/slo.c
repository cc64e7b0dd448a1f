#include "run/slo.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/fetch.h"
#include "run/promql.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "squall/units.h"
#include "verify/slo_series.h"

#define RING 960 /* seconds that a burn rate may look back, and some more */
#define STEP 60  /* seconds between the points of the time before the run */
#define HISTORY_TRIES 5

struct tally {
    int64_t sec; /* -1: none */
    double good, total;
};

/* One indicator that is watched. */
struct one {
    struct sq_slos *all;
    const char *name;
    const json_t *slo, *indicator;
    struct tally *ring;    /* RING of them; NULL: no condition is about it */
    int64_t newest, first; /* seconds; -1: none yet */
    /* of a Prometheus */
    const char *query[2]; /* query[0] NULL: of our own probe */
    double value[2], before[2], before_t;
    bool seen; /* `before` is something */
    unsigned pending, history_pending, history_tries;
    bool history_done;
    int64_t asked_ns;
    char error[400];
    json_t *past[2];
};

struct ask {
    struct one *one;
    unsigned part;
};

struct sq_slos {
    uv_timer_t timer;
    struct sq_fetch *fetch; /* NULL: nobody to ask */
    const json_t *conditions;
    int64_t start_ns, every_ns;
    sq_slos_put *put;
    void *arg;
    struct sq_hist *hist;
    size_t n;
    struct one *one;
    struct ask *asks;
};

/* ---- what was good ---- */

static void count(struct one *o, int64_t sec, double good, double total)
{
    struct tally *t;

    if (!o->ring || sec < 0)
        return;
    t = &o->ring[sec % RING];
    if (t->sec != sec)
        *t = (struct tally){.sec = sec};
    t->good += good;
    t->total += total;
    o->first = o->first < 0 || sec < o->first ? sec : o->first;
    o->newest = sec > o->newest ? sec : o->newest;
}

void sq_slos_sample(struct sq_slos *s, const json_t *sample)
{
    const char *endpoint = sq_json_str_or(sample, "endpoint", "");

    for (size_t i = 0; s && i < s->n; i++) {
        struct one *o = &s->one[i];
        bool latency = strcmp(sq_json_str_or(o->indicator, "failed", ""), "ignored") == 0;
        int64_t below = sq_json_int_or(o->indicator, "below", 0), ok = sq_json_int_or(sample, "ok", 0), total = ok;
        const json_t *bad = json_object_get(sample, "bad");
        const char *reason;
        json_t *n;

        if (!o->ring || strcmp(sq_json_str_or(o->indicator, "endpoint", ""), endpoint) != 0)
            continue;
        json_object_foreach((json_t *)(uintptr_t)bad, reason, n) total += json_integer_value(n);
        sq_hist_reset(s->hist);
        if (below && sq_hist_add_json(s->hist, json_object_get(sample, latency ? "h" : "hok"), NULL) == 0)
            ok = (int64_t)sq_hist_count_le(s->hist, below);
        if (below && latency)
            total = (int64_t)sq_hist_count(s->hist);
        count(o, sq_json_int_or(sample, "sec", -1), (double)ok, (double)total);
    }
}

static bool burns(const struct one *o, const json_t *c, char *why, size_t len)
{
    double allowed = 1 - sq_json_num_or(o->slo, "target", 0) / 100, good = 0, total = 0;
    int64_t secs = (sq_json_int_or(c, "for", 10 * SQ_S) + SQ_S - 1) / SQ_S;
    double limit = sq_json_num_or(c, "burn_rate", INFINITY);

    if (o->newest < 0 || o->newest - o->first + 1 < secs)
        return false;
    for (int64_t sec = o->newest - secs + 1; sec <= o->newest; sec++) {
        const struct tally *t = &o->ring[sec % RING];

        good += t->sec == sec ? t->good : 0;
        total += t->sec == sec ? t->total : 0;
    }
    double rate = total > 0 ? (total - good) / total / allowed : 0;
    if (total < (double)sq_json_int_or(c, "min_requests", 100) || !(rate > limit))
        return false;
    snprintf(why, len, "the error budget of the SLO %s burnt at %.3g for %lld s (%.0f bad of %.0f), more than %.3g",
             o->name, rate, (long long)secs, total - good, total, limit);
    return true;
}

bool sq_slos_due(struct sq_slos *s, char *why, size_t len)
{
    const json_t *c;
    size_t i;

    if (!s)
        return false;
    json_array_foreach(s->conditions, i, c)
    {
        for (size_t k = 0; k < s->n; k++)
            if (s->one[k].ring && strcmp(sq_json_str_or(c, "slo", ""), s->one[k].name) == 0 &&
                burns(&s->one[k], c, why, len))
                return true;
    }
    return false;
}

/* ---- Prometheus ---- */

static double now_s(const struct sq_slos *s)
{
    return (double)(sq_mono_ns() - s->start_ns) / 1e9;
}

static bool two(const struct one *o)
{
    return o->query[1] != NULL;
}

/* Both values are there, or what was wrong with one. */
static void look_done(struct one *o)
{
    double t = (double)(o->asked_ns - o->all->start_ns) / 1e9, good, total;
    json_t *rec = json_pack("{s:s, s:f}", "slo", o->name, "asked", t);
    const char *why;

    if (o->error[0]) {
        json_object_set_new(rec, "error", sq_result_text(o->error));
    } else {
        json_object_set_new(rec, "values",
                            two(o) ? json_pack("[f,f]", o->value[0], o->value[1]) : json_pack("[f]", o->value[0]));
        why = sq_slo_metric(o->indicator, o->before_t, o->seen ? o->before : NULL, t, o->value, &good, &total);
        for (int64_t sec = (int64_t)o->before_t + 1; !why && o->seen && sec <= (int64_t)t; sec++)
            count(o, sec, good / fmax(1, floor(t) - floor(o->before_t)),
                  total / fmax(1, floor(t) - floor(o->before_t)));
        o->before_t = t;
        memcpy(o->before, o->value, sizeof(o->before));
        o->seen = true;
    }
    o->all->put(o->all->arg, "metric", rec);
}

/* The first error is what people are told. */
static void note(struct one *o, unsigned part, const struct sq_err *bad)
{
    if (bad->code && !o->error[0])
        snprintf(o->error, sizeof(o->error), "%s%.340s", two(o) ? (part ? "total: " : "good or bad: ") : "", bad->msg);
}

static void got_value(void *arg, int status, const char *body, size_t len, const struct sq_err *e)
{
    const struct ask *a = arg;
    struct one *o = a->one;
    struct sq_err bad = {0};

    (void)status;
    if (e)
        bad = *e;
    else
        (void)sq_promql_value(body, len, &o->value[a->part], &bad);
    note(o, a->part, &bad);
    if (--o->pending == 0)
        look_done(o);
}

/* Points of both queries with one time, as seconds of the run. */
static json_t *joined(const struct one *o, double unix_start)
{
    json_t *list = json_array(), *p;
    const json_t *other = o->past[1];
    size_t i, k = 0;

    json_array_foreach(o->past[0], i, p)
    {
        double t = json_number_value(json_array_get(p, 0)), second = 0;

        if (other) {
            while (k < json_array_size(other) &&
                   json_number_value(json_array_get(json_array_get(other, k), 0)) < t - 0.5)
                k++;
            const json_t *q = json_array_get(other, k);
            if (!q || fabs(json_number_value(json_array_get(q, 0)) - t) > 0.5)
                continue;
            second = json_number_value(json_array_get(q, 1));
        }
        json_array_append_new(list, json_pack("[f,O,f]", t - unix_start, json_array_get(p, 1), second));
    }
    return list;
}

static void history_done(struct one *o)
{
    double unix_start = (double)sq_wall_ns() / 1e9 - now_s(o->all);
    json_t *rec = json_pack("{s:s, s:s}", "slo", o->name, "about", "history");

    if (o->error[0]) {
        json_object_set_new(rec, "error", sq_result_text(o->error));
    } else {
        o->history_done = true;
        json_object_set_new(rec, "step", json_integer(STEP));
        json_object_set_new(rec, "history", joined(o, unix_start));
    }
    for (unsigned i = 0; i < 2; i++) {
        json_decref(o->past[i]);
        o->past[i] = NULL;
    }
    o->error[0] = '\0';
    o->all->put(o->all->arg, "metric", rec);
}

static void got_range(void *arg, int status, const char *body, size_t len, const struct sq_err *e)
{
    const struct ask *a = arg;
    struct one *o = a->one;
    struct sq_err bad = {0};

    (void)status;
    if (e)
        bad = *e;
    else
        (void)sq_promql_range(body, len, &o->past[a->part], &bad);
    note(o, a->part, &bad);
    if (--o->history_pending == 0)
        history_done(o);
}

static int ask(struct one *o, unsigned part, const char *api, const char *more, sq_fetch_done *done, struct sq_err *e)
{
    char url[600];
    cleanup_free char *query = sq_fetch_escape(o->query[part]), *form = NULL;
    const char *base = sq_json_str_or(o->indicator, "prometheus", "");
    size_t len = strlen(base);

    while (len && base[len - 1] == '/')
        len--;
    snprintf(url, sizeof(url), "%.*s/api/v1/%s", (int)(len < 560 ? len : 560), base, api);
    if (!query || asprintf(&form, "query=%s&%s", query, more) < 0) {
        form = NULL;
        return sq_err(e, -ENOMEM, "no memory for a request");
    }
    int64_t limit = o->all->every_ns < 10 * SQ_S ? o->all->every_ns : 10 * SQ_S;
    struct ask *a = &o->all->asks[2 * (size_t)(o - o->all->one) + part];
    return sq_fetch_post(o->all->fetch, url, form, limit, done, a, e);
}

/* Both queries are asked for one moment, so that good and total belong together. */
static void look(struct one *o)
{
    struct sq_err e = {0};
    char more[64];

    o->error[0] = '\0';
    o->asked_ns = sq_mono_ns();
    snprintf(more, sizeof(more), "time=%.3f", (double)sq_wall_ns() / 1e9);
    o->pending = two(o) ? 2 : 1;
    for (unsigned i = 0; i < (two(o) ? 2u : 1u); i++) {
        if (ask(o, i, "query", more, got_value, &e) == 0)
            continue;
        snprintf(o->error, sizeof(o->error), "%.380s", e.msg);
        if (--o->pending == 0)
            look_done(o);
    }
}

static void look_back(struct one *o)
{
    struct sq_err e = {0};
    char more[128];
    int64_t end = (sq_wall_ns() - (sq_mono_ns() - o->all->start_ns)) / SQ_S;

    o->history_tries++;
    snprintf(more, sizeof(more), "start=%lld&end=%lld&step=%d", (long long)(end - SQ_SLO_BEFORE), (long long)end, STEP);
    o->history_pending = two(o) ? 2 : 1;
    for (unsigned i = 0; i < (two(o) ? 2u : 1u); i++)
        if (ask(o, i, "query_range", more, got_range, &e) && --o->history_pending == 0)
            o->history_done = true; /* no memory: it stays unknown */
}

static void on_timer(uv_timer_t *t)
{
    struct sq_slos *s = t->data;

    for (size_t i = 0; i < s->n; i++) {
        struct one *o = &s->one[i];

        if (!o->query[0] || o->pending || o->history_pending)
            continue;
        /* One after the other: they share the fields of an answer. */
        if (!o->history_done && o->seen && o->history_tries < HISTORY_TRIES)
            look_back(o);
        else
            look(o);
    }
}

void sq_slos_start(struct sq_slos *s)
{
    if (s && s->fetch)
        uv_timer_start(&s->timer, on_timer, 0, (uint64_t)(s->every_ns / SQ_MS));
}

/* ---- life ---- */

static void destroy(uv_handle_t *h)
{
    struct sq_slos *s = h->data;

    for (size_t i = 0; i < s->n; i++) {
        free(s->one[i].ring);
        json_decref(s->one[i].past[0]);
        json_decref(s->one[i].past[1]);
    }
    sq_hist_free(s->hist);
    free(s->one);
    free(s->asks);
    free(s);
}

void sq_slos_close(struct sq_slos *s)
{
    if (!s)
        return;
    sq_fetch_close(s->fetch);
    uv_close((uv_handle_t *)&s->timer, destroy);
}

static int fill(struct sq_slos *s, struct one *o, const char *name, const json_t *slo, struct sq_err *e)
{
    const json_t *c;
    size_t i;

    *o = (struct one){
        .all = s, .name = name, .slo = slo, .indicator = json_object_get(slo, "indicator"), .newest = -1, .first = -1};
    json_array_foreach(s->conditions, i, c)
    {
        if (o->ring || strcmp(sq_json_str_or(c, "slo", ""), name) != 0)
            continue;
        o->ring = calloc(RING, sizeof(*o->ring));
        if (!o->ring)
            return sq_err(e, -ENOMEM, "no memory");
        for (size_t k = 0; k < RING; k++)
            o->ring[k].sec = -1;
    }
    if (strcmp(sq_json_str_or(o->indicator, "source", ""), "prometheus") != 0)
        return 0;
    static const char *const first[] = {"good", "bad", "raw", "query"};
    for (i = 0; i < SQ_COUNT(first) && !o->query[0]; i++)
        o->query[0] = sq_json_str_or(o->indicator, first[i], NULL);
    o->query[1] = sq_json_str_or(o->indicator, "total", NULL);
    s->every_ns = sq_json_int_or(o->indicator, "every", 5 * SQ_S);
    return s->fetch ? 0 : sq_fetch_new(s->timer.loop, &s->fetch, e);
}

int sq_slos_new(uv_loop_t *loop, const json_t *spec, int64_t start_ns, sq_slos_put *put, void *arg,
                struct sq_slos **out, struct sq_err *e)
{
    const json_t *slos = json_object_get(spec, "slos");
    size_t n = json_object_size(slos);
    const char *name;
    json_t *slo;
    int rc = 0;

    *out = NULL;
    if (n == 0)
        return 0;
    struct sq_slos *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "no memory");
    s->one = calloc(n, sizeof(*s->one));
    s->asks = calloc(2 * n, sizeof(*s->asks));
    s->hist = sq_hist_new();
    s->conditions = json_object_get(json_object_get(spec, "safety"), "abort_when");
    s->start_ns = start_ns;
    s->put = put;
    s->arg = arg;
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    if (!s->one || !s->asks || !s->hist)
        rc = sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)slos, name, slo)
    {
        if (rc)
            break;
        rc = fill(s, &s->one[s->n], name, slo, e);
        s->n++;
    }
    for (size_t i = 0; !rc && i < 2 * n; i++)
        s->asks[i] = (struct ask){&s->one[i / 2], (unsigned)(i % 2)};
    if (rc)
        sq_slos_close(s);
    else
        *out = s;
    return rc;
}
