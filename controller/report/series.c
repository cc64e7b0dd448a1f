#include "report/series.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "squall/units.h"

static double ms_at(const struct sq_hist *h, double p)
{
    return sq_hist_count(h) ? (double)sq_hist_percentile(h, p) / 1e6 : (double)NAN;
}

static int point(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t sec, struct sq_hist *h,
                 struct sq_point *p, struct sq_err *e)
{
    struct sq_ev_sums sums;
    int r;

    sq_hist_reset(h);
    r = sq_ev_hist(ev, ep, sec, sec + 1, "h", h, e);
    if (r < 0)
        return r;
    sq_ev_sum(ev, ep, sec, sec + 1, &sums);
    *p = (struct sq_point){sec, sums.n, sums.bad, ms_at(h, 50), ms_at(h, 95), ms_at(h, 99)};
    return 0;
}

int sq_points(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, struct sq_point **out, size_t *n,
              struct sq_err *e)
{
    struct sq_hist *h = sq_hist_new();
    int64_t first, end;
    int r = 0;

    *out = NULL;
    *n = 0;
    if (!h)
        return sq_err(e, -ENOMEM, "out of memory");
    if (!sq_window_secs(ev->load, &first, &end))
        goto done;
    *out = calloc((size_t)(end - first), sizeof **out);
    if (!*out)
        r = sq_err(e, -ENOMEM, "out of memory");
    for (int64_t s = first; r == 0 && s < end; s++)
        r = point(ev, ep, s, h, &(*out)[(*n)++], e);
done:
    sq_hist_free(h);
    if (r < 0) {
        free(*out);
        *out = NULL;
    }
    return r;
}

static void count_call(const struct sq_ev_call *c, struct sq_rates *r)
{
    switch (c->outcome) {
    case SQ_EV_ANSWERED:
        r->answered++;
        break;
    case SQ_EV_FAILED:
        r->failed++;
        break;
    case SQ_EV_GAVE_UP:
        r->gave_up++;
        break;
    default:
        r->broken++;
    }
}

int sq_edge_rates(const struct sq_evidence *ev, const char *edge, struct sq_rates **out, size_t *n, struct sq_err *e)
{
    const struct sq_ev_series *s = NULL;
    size_t count = sq_ev_series(ev, edge, &s);
    int64_t first, end;

    *out = NULL;
    *n = 0;
    if (!sq_window_secs(ev->load, &first, &end))
        return 0;
    *n = (size_t)(end - first);
    *out = calloc(*n, sizeof **out);
    if (!*out)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t k = 0; k < count; k++) {
        for (size_t i = 0; i < s[k].n; i++) {
            int64_t sec = s[k].calls[i].t_ns / SQ_S - first;

            if (sec >= 0 && sec < (int64_t)*n)
                count_call(&s[k].calls[i], &(*out)[sec]);
        }
    }
    return 0;
}

const char *sq_next_edge(const struct sq_evidence *ev, size_t *i)
{
    const char *edge;

    if (*i >= ev->n_series)
        return NULL;
    edge = ev->series[*i].edge;
    while (*i < ev->n_series && strcmp(ev->series[*i].edge, edge) == 0)
        (*i)++;
    return edge;
}

static int phase_row(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, const char *name,
                     struct sq_window win, struct sq_hist *h, struct sq_phase_row *row, struct sq_err *e)
{
    struct sq_ev_sums sums = {0};
    int64_t first, end;
    int r = 0;

    sq_hist_reset(h);
    if (sq_window_secs(win, &first, &end)) {
        r = sq_ev_hist(ev, ep, first, end, "h", h, e);
        sq_ev_sum(ev, ep, first, end, &sums);
    }
    *row = (struct sq_phase_row){.name = name,
                                 .endpoint = ep ? ep->name : NULL,
                                 .win = win,
                                 .n = sums.n,
                                 .bad = sums.bad,
                                 .p50 = ms_at(h, 50),
                                 .p95 = ms_at(h, 95),
                                 .p99 = ms_at(h, 99),
                                 .error_rate = sums.n ? 100.0 * (double)sums.bad / (double)sums.n : (double)NAN};
    return r;
}

static size_t own_rows(const struct sq_evidence *ev)
{
    return ev->n_endpoints > 1 && ev->n_endpoints <= SQ_PHASE_ENDPOINTS ? ev->n_endpoints : 0;
}

static int phase(const struct sq_evidence *ev, const char *name, struct sq_window win, struct sq_hist *h,
                 struct sq_phase_row *rows, size_t *n, struct sq_err *e)
{
    int r = phase_row(ev, NULL, name, win, h, &rows[(*n)++], e);

    for (size_t i = 0; r == 0 && i < own_rows(ev); i++)
        r = phase_row(ev, &ev->endpoints[i], name, win, h, &rows[(*n)++], e);
    return r;
}

int sq_phase_rows(const struct sq_evidence *ev, struct sq_phase_row **out, size_t *n, struct sq_err *e)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);
    struct sq_hist *h = sq_hist_new();
    int r = 0;

    *n = 0;
    *out = calloc((ev->n_steps + 1) * (1 + own_rows(ev)), sizeof **out);
    if (!*out || !h)
        r = sq_err(e, -ENOMEM, "out of memory");
    if (r == 0 && steady)
        r = phase(ev, "steady state", steady->win, h, *out, n, e);
    /* Waits between faults are what is left over, but a load without any (squall probe) is nothing but a wait. */
    for (size_t i = 0; r == 0 && i < ev->n_steps; i++)
        if (ev->steps[i].ran && (ev->steps[i].uses[0] || (!steady && ev->n_faults == 0)))
            r = phase(ev, ev->steps[i].id, ev->steps[i].win, h, *out, n, e);
    sq_hist_free(h);
    if (r < 0) {
        free(*out);
        *out = NULL;
    }
    return r;
}

const char *sq_verdict_of(const json_t *v)
{
    return sq_json_str_or(v, "verdict", "inconclusive");
}

static size_t victim(const json_t *hit, char *buf, size_t len)
{
    const char *instance = sq_json_str_or(hit, "instance", "");
    const char *edge = sq_json_str_or(hit, "edge", NULL);
    int64_t pid = sq_json_int_or(hit, "pid", 0);
    char network[200];
    int n;

    if (!sq_json_bool_or(hit, "chosen", true))
        return 0;
    if (edge)
        n = snprintf(buf, len, " %s", edge);
    else if (sq_network_hit_text(hit, network, sizeof network))
        n = snprintf(buf, len, "%s %s", buf[-1] == ':' ? "" : ",", network);
    else
        n = snprintf(buf, len, " %s%s%lld%s", instance[0] ? instance : sq_json_str_or(hit, "cmd", "process"),
                     instance[0] ? " (pid " : " (pid ", (long long)pid, ")");
    return n < 0 ? 0 : (size_t)n < len ? (size_t)n : len - 1;
}

const char *sq_fault_line(const struct sq_ev_fault *f, char *buf, size_t len)
{
    size_t used = (size_t)snprintf(buf, len, "%s:", f->uses), i;
    const json_t *hit;

    if (used >= len)
        used = len - 1;
    json_array_foreach(f->hit, i, hit) used += victim(hit, buf + used, len - used);
    return buf;
}
