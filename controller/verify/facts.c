#include "verify/facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "squall/json.h"
#include "squall/units.h"

bool sq_call_harmed(const struct sq_ev_call *c)
{
    return c->fault != 0 || c->outcome != SQ_EV_ANSWERED || c->status >= 500;
}

void sq_edge_calls(const struct sq_evidence *ev, const char *edge, struct sq_window win, struct sq_edge_calls *out)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(ev, edge, &s), from, to;

    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        uint64_t before = out->n;

        (void)sq_ev_calls_in(&s[i], win, &from, &to);
        for (size_t k = from; k < to; k++) {
            if (s[i].has_requests && s[i].calls[k].kind == SQ_EV_CONN)
                continue;
            out->n++;
            out->harmed += sq_call_harmed(&s[i].calls[k]);
        }
        out->instances += out->n > before;
    }
}

bool sq_steady_secs(const struct sq_evidence *ev, int64_t *first, int64_t *end)
{
    const struct sq_ev_phase *p = sq_ev_steady(ev);
    struct sq_window w = p ? p->win : (struct sq_window){0, 0};

    if (ev->load.to_ns > ev->load.from_ns) {
        w.from_ns = w.from_ns > ev->load.from_ns ? w.from_ns : ev->load.from_ns;
        w.to_ns = w.to_ns < ev->load.to_ns ? w.to_ns : ev->load.to_ns;
    }
    return sq_window_secs(w, first, end);
}

uint64_t sq_demand(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end)
{
    struct sq_ev_sums s;

    sq_ev_sum(ev, ep, first, end, &s);
    return s.sent > s.n ? s.sent : s.n;
}

double sq_load_worth(const struct sq_evidence *ev, int64_t first, int64_t end)
{
    int64_t a, b;

    if (!sq_steady_secs(ev, &a, &b) || end <= first)
        return 0.0;
    if (ev->load.to_ns <= ev->load.from_ns)
        return (double)(end - first);
    uint64_t steady = sq_demand(ev, NULL, a, b);
    return steady ? (double)sq_demand(ev, NULL, first, end) * (double)(b - a) / (double)steady : 0.0;
}

bool sq_step_is_control(const struct sq_ev_step *s)
{
    const json_t *with = s->fault && s->fault->applied ? s->fault->with : NULL;

    with = json_object_get(with, "dose") ? with : json_object_get(s->def, "with");
    return s->uses[0] && json_is_number(json_object_get(with, "dose")) && sq_json_num_or(with, "dose", 100.0) <= 0.0;
}

bool sq_closed_loop(const struct sq_evidence *ev, const char *endpoint)
{
    const json_t *o = json_object_get(json_object_get(ev->spec, "load"), endpoint);

    return strcmp(sq_json_str_or(o, "executor", ""), "constant-connections") == 0;
}

const char *sq_endpoints_void(const struct sq_ev_endpoint *const *eps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (eps[i]->is_void)
            return eps[i]->void_why;
    return NULL;
}

static bool is_gone(const struct sq_evidence *ev, const char *instance, struct sq_window win)
{
    bool gone = false;

    for (size_t i = 0; i < ev->n_events; i++) {
        const struct sq_ev_event *one = &ev->events[i];
        const char *state = sq_json_str_or(one->obj, "state", "");

        if (one->t_ns < win.from_ns || one->t_ns >= win.to_ns || strcmp(one->type, "service") != 0 ||
            strcmp(sq_json_str_or(one->obj, "instance", ""), instance) != 0)
            continue;
        gone = strcmp(state, "exited") == 0 || strcmp(state, "stopped") == 0 || (gone && strcmp(state, "ready") == 0);
    }
    return gone;
}

bool sq_edge_has_datagrams(const struct sq_evidence *ev, const char *edge)
{
    const char *protocol =
        sq_json_str_or(json_object_get(json_object_get(ev->spec, "edges"), edge), "protocol", "auto");

    return strcmp(protocol, "udp") == 0 || strcmp(protocol, "dns") == 0;
}

const char *sq_caller_gone(const struct sq_evidence *ev, const char *edge, struct sq_window win)
{
    const struct sq_ev_series *s;
    size_t n = sq_ev_series(ev, edge, &s);

    /* Services are stopped right after the load's last request, somewhere in its last second. */
    if (ev->load.to_ns > ev->load.from_ns && win.to_ns > ev->load.to_ns - SQ_S)
        win.to_ns = ev->load.to_ns - SQ_S;
    for (size_t i = 0; i < n; i++)
        if (is_gone(ev, s[i].instance, win))
            return s[i].instance;
    return NULL;
}

int sq_undecided(json_t *results, const struct sq_ev_step *s, const char *subject, const char *limit, struct sq_err *e,
                 const char *fmt, ...)
{
    struct sq_result r;
    char why[sizeof r.why];
    va_list ap;

    sq_result_init(&r, s, subject);
    (void)snprintf(r.limit, sizeof r.limit, "%s", limit);
    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return sq_result_add(results, sq_result_set(&r, SQ_V_INCONCLUSIVE, "%s", why), e);
}

int sq_undecided_step(json_t *results, const struct sq_ev_step *s, const char *subject, const char *limit,
                      struct sq_err *e)
{
    char why[512];

    sq_step_missing(s, why, sizeof why);
    return sq_undecided(results, s, subject, limit, e, "%s", why);
}
