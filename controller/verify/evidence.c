#include "verify/evidence.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/units.h"
#include "verify/evidence_private.h"

#define CHUNK ((size_t)256 * 1024)

struct sq_evidence *sq_ev_new(struct sq_err *e)
{
    struct sq_evidence *ev = calloc(1, sizeof *ev);

    if (ev)
        ev->priv = calloc(1, sizeof *ev->priv);
    if (ev && ev->priv) {
        ev->priv->keep = json_array();
        ev->priv->names = json_object();
        ev->priv->endpoints = json_object();
        ev->priv->series = json_object();
        ev->priv->faults = json_object();
    }
    if (!ev || !ev->priv || !ev->priv->keep || !ev->priv->names || !ev->priv->endpoints || !ev->priv->series ||
        !ev->priv->faults) {
        sq_evidence_free(ev);
        (void)sq_err(e, -ENOMEM, "no memory for the evidence");
        return NULL;
    }
    ev->end_reason = ev->end_why = "";
    return ev;
}

static void free_endpoint(struct sq_ev_endpoint *ep)
{
    for (size_t i = 0; i < ep->n; i++) {
        char *text;

        memcpy(&text, &ep->secs[i].text, sizeof text); /* ours; const for everyone else */
        free(text);
    }
    free(ep->secs);
}

void sq_evidence_free(struct sq_evidence *ev)
{
    if (!ev)
        return;
    for (size_t i = 0; i < ev->n_endpoints; i++)
        free_endpoint(&ev->endpoints[i]);
    for (size_t i = 0; i < ev->n_series; i++)
        free(ev->series[i].calls);
    free(ev->steps);
    free(ev->faults);
    free(ev->phases);
    free(ev->endpoints);
    free(ev->series);
    free(ev->events);
    if (ev->priv) {
        json_decref(ev->priv->keep);
        json_decref(ev->priv->names);
        json_decref(ev->priv->endpoints);
        json_decref(ev->priv->series);
        json_decref(ev->priv->faults);
        free(ev->priv);
    }
    free(ev);
}

/* ---- finishing ---- */

static int by_time(const void *a, const void *b)
{
    const struct sq_ev_call *x = a, *y = b;

    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return (x->dur_us > y->dur_us) - (x->dur_us < y->dur_us);
}

static int by_edge(const void *a, const void *b)
{
    const struct sq_ev_series *x = a, *y = b;
    int c = strcmp(x->edge, y->edge);

    return c ? c : strcmp(x->instance, y->instance);
}

static int by_second(const void *a, const void *b)
{
    const struct sq_ev_second *x = a, *y = b;

    return (x->sec > y->sec) - (x->sec < y->sec);
}

static int by_event(const void *a, const void *b)
{
    const struct sq_ev_event *x = a, *y = b;

    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return (x->line > y->line) - (x->line < y->line);
}

static void sort(void *base, size_t n, size_t size, int (*cmp)(const void *, const void *))
{
    if (n > 1)
        qsort(base, n, size, cmp);
}

static void sort_all(struct sq_evidence *ev)
{
    for (size_t i = 0; i < ev->n_series; i++) {
        struct sq_ev_series *s = &ev->series[i];

        sort(s->calls, s->n, sizeof *s->calls, by_time);
        for (size_t k = 0; k < s->n && !s->has_requests; k++)
            s->has_requests = s->calls[k].kind == SQ_EV_REQUEST;
        if (s->n && s->calls[s->n - 1].t_ns > ev->last_ns)
            ev->last_ns = s->calls[s->n - 1].t_ns;
    }
    sort(ev->series, ev->n_series, sizeof *ev->series, by_edge);
    sort(ev->events, ev->n_events, sizeof *ev->events, by_event);
    bool any = false;
    for (size_t i = 0; i < ev->n_endpoints; i++) {
        struct sq_ev_endpoint *ep = &ev->endpoints[i];

        sort(ep->secs, ep->n, sizeof *ep->secs, by_second);
        if (!ep->n)
            continue;
        int64_t from = ep->secs[0].sec * SQ_S, to = (ep->secs[ep->n - 1].sec + 1) * SQ_S;
        ev->load.from_ns = any && ev->load.from_ns < from ? ev->load.from_ns : from;
        ev->load.to_ns = any && ev->load.to_ns > to ? ev->load.to_ns : to;
        any = true;
    }
    if (ev->load.to_ns > ev->last_ns)
        ev->last_ns = ev->load.to_ns;
}

static void close_windows(struct sq_evidence *ev)
{
    for (size_t i = 0; i < ev->n_faults; i++) {
        struct sq_ev_fault *f = &ev->faults[i];

        if (f->applied && !f->reverted)
            f->win.to_ns = ev->last_ns;
        if (f->win.to_ns < f->win.from_ns)
            f->win.to_ns = f->win.from_ns;
    }
    for (size_t i = 0; i < ev->n_phases; i++)
        if (!ev->phases[i].ended)
            ev->phases[i].win.to_ns = ev->last_ns;
}

static const struct sq_ev_phase *phase_of_step(const struct sq_evidence *ev, const char *step)
{
    for (size_t i = 0; i < ev->n_phases; i++)
        if (step[0] && strcmp(ev->phases[i].step, step) == 0)
            return &ev->phases[i];
    return NULL;
}

/* The fault of a step: the one that was applied, else one that was tried. */
static struct sq_ev_fault *fault_of_step(const struct sq_evidence *ev, const char *step)
{
    struct sq_ev_fault *found = NULL;

    for (size_t i = 0; i < ev->n_faults; i++) {
        struct sq_ev_fault *f = &ev->faults[i];

        if (strcmp(f->step, step) != 0 || !(f->applied || f->failed))
            continue;
        if (f->applied)
            return f;
        found = found ? found : f;
    }
    return found;
}

static void fill_step(struct sq_evidence *ev, struct sq_ev_step *s, const json_t *def)
{
    s->def = def;
    s->id = sq_json_str_or(def, "id", "");
    s->name = sq_json_str_or(def, "name", s->id);
    s->uses = sq_json_str_or(def, "uses", "");
    s->edge = sq_json_str_or(json_object_get(def, "target"), "edge", "");
    if (s->uses[0]) {
        s->fault = fault_of_step(ev, s->id);
        s->ran = s->fault && s->fault->applied;
        if (s->ran)
            s->win = s->fault->win;
        return;
    }
    const struct sq_ev_phase *p = phase_of_step(ev, s->id);
    s->ran = p != NULL;
    if (p)
        s->win = p->win;
}

static int fill_steps(struct sq_evidence *ev, struct sq_err *e)
{
    const json_t *defs = json_object_get(ev->spec, "steps");
    size_t n = json_array_size(defs);

    if (n > SQ_EV_MAX_NAMES)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the evidence has more than %u steps", SQ_EV_MAX_NAMES);
    ev->steps = calloc(n ? n : 1, sizeof *ev->steps);
    if (!ev->steps)
        return sq_err(e, -ENOMEM, "no memory for the evidence");
    for (size_t i = 0; i < n; i++)
        if (json_is_object(json_array_get(defs, i)))
            fill_step(ev, &ev->steps[ev->n_steps++], json_array_get(defs, i));
    int64_t end = ev->load.to_ns > 0 ? ev->load.to_ns : ev->last_ns;
    for (size_t i = 0; i < ev->n_steps; i++) {
        struct sq_ev_step *s = &ev->steps[i];

        s->until_ns = end;
        for (size_t k = 0; k < ev->n_steps; k++) {
            const struct sq_ev_step *o = &ev->steps[k];

            if (o != s && o->fault && o->ran && o->win.from_ns >= s->win.from_ns && o->win.from_ns < s->until_ns &&
                (k > i || o->win.from_ns > s->win.from_ns))
                s->until_ns = o->win.from_ns;
        }
        if (s->until_ns < s->win.to_ns)
            s->until_ns = s->win.to_ns;
    }
    return 0;
}

int sq_ev_finish(struct sq_evidence *ev, struct sq_err *e)
{
    if (!ev->run)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "this is no evidence log: it has no \"run\" record");
    sort_all(ev);
    close_windows(ev);
    return fill_steps(ev, e);
}

/* ---- reading ---- */

/* Feeds whole lines of BUF[0..len) to the parser; returns how many bytes were used, or a negative error. */
static ssize_t feed_lines(struct sq_evidence *ev, const char *buf, size_t len, struct sq_err *e)
{
    size_t off = 0;

    while (off < len) {
        const char *nl = memchr(buf + off, '\n', len - off);

        if (!nl)
            break;
        int rc = sq_ev_line(ev, buf + off, (size_t)(nl - buf) - off, false, e);
        if (rc)
            return rc;
        off = (size_t)(nl - buf) + 1;
    }
    return (ssize_t)off;
}

int sq_evidence_parse(const char *text, size_t len, struct sq_evidence **out, struct sq_err *e)
{
    struct sq_evidence *ev = sq_ev_new(e);

    if (!ev)
        return -ENOMEM;
    ssize_t used = feed_lines(ev, text, len, e);
    int rc = used < 0 ? (int)used : 0;
    if (!rc && (size_t)used < len)
        rc = sq_ev_line(ev, text + used, len - (size_t)used, true, e);
    if (!rc)
        rc = sq_ev_finish(ev, e);
    if (rc)
        sq_evidence_free(ev);
    else
        *out = ev;
    return rc;
}

static int read_lines(struct sq_evidence *ev, int fd, struct sq_err *e)
{
    cleanup_free char *buf = NULL;
    size_t cap = 0, len = 0, total = 0;

    for (;;) {
        if (cap - len < CHUNK) {
            if (len > SQ_EV_MAX_LINE)
                return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "line %zu is longer than %u MiB", ev->priv->lines + 1,
                                  SQ_EV_MAX_LINE >> 20);
            char *p = realloc(buf, len + 2 * CHUNK + len / 2);
            if (!p)
                return sq_err(e, -ENOMEM, "no memory for the evidence");
            buf = p;
            cap = len + 2 * CHUNK + len / 2;
        }
        ssize_t n = read(fd, buf + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sq_err_sys(e, -errno, "cannot read");
        if (n == 0)
            return len ? sq_ev_line(ev, buf, len, true, e) : 0;
        /* Only the new bytes can hold the newline that ends a long line. */
        bool whole = memchr(buf + len, '\n', (size_t)n) != NULL;
        len += (size_t)n;
        total += (size_t)n;
        if (total > SQ_EV_MAX_BYTES)
            return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "it is larger than %u GiB", (unsigned)(SQ_EV_MAX_BYTES >> 30));
        if (!whole)
            continue;
        ssize_t used = feed_lines(ev, buf, len, e);
        if (used < 0)
            return (int)used;
        memmove(buf, buf + used, len - (size_t)used);
        len -= (size_t)used;
    }
}

int sq_evidence_read(const char *dir, struct sq_evidence **out, struct sq_err *e)
{
    char path[4096];
    int rc = sq_path_join(path, sizeof path, dir, "evidence.jsonl", e);

    if (rc)
        return rc;
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        rc = errno == ENOENT || errno == ENOTDIR
                 ? sq_err_cls(e, SQ_C_NOTFOUND, -errno, "there is no run in %s: no file %s", dir, path)
                 : sq_err_sys(e, -errno, "cannot open %s", path);
        return rc;
    }
    struct sq_evidence *ev = sq_ev_new(e);
    if (!ev)
        return -ENOMEM;
    rc = read_lines(ev, fd, e);
    if (!rc)
        rc = sq_ev_finish(ev, e);
    if (rc) {
        sq_evidence_free(ev);
        return sq_err_prefix(e, "%s", path);
    }
    *out = ev;
    return 0;
}

/* ---- looking things up ---- */

const struct sq_ev_step *sq_ev_step(const struct sq_evidence *ev, const char *id)
{
    for (size_t i = 0; i < ev->n_steps; i++)
        if (strcmp(ev->steps[i].id, id) == 0)
            return &ev->steps[i];
    return NULL;
}

const struct sq_ev_endpoint *sq_ev_endpoint(const struct sq_evidence *ev, const char *name)
{
    for (size_t i = 0; i < ev->n_endpoints; i++)
        if (strcmp(ev->endpoints[i].name, name) == 0)
            return &ev->endpoints[i];
    return NULL;
}

const struct sq_ev_phase *sq_ev_steady(const struct sq_evidence *ev)
{
    for (size_t i = 0; i < ev->n_phases; i++)
        if (strcmp(ev->phases[i].phase, "steady") == 0)
            return &ev->phases[i];
    return NULL;
}

size_t sq_ev_series(const struct sq_evidence *ev, const char *edge, const struct sq_ev_series **first)
{
    size_t n = 0;

    *first = NULL;
    for (size_t i = 0; i < ev->n_series; i++) {
        if (strcmp(ev->series[i].edge, edge) != 0)
            continue;
        *first = *first ? *first : &ev->series[i];
        n++;
    }
    return n;
}

static size_t lower_bound(const struct sq_ev_series *s, int64_t t_ns)
{
    size_t lo = 0, hi = s->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (s->calls[mid].t_ns < t_ns)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

size_t sq_ev_calls_in(const struct sq_ev_series *s, struct sq_window win, size_t *from, size_t *to)
{
    *from = lower_bound(s, win.from_ns);
    *to = lower_bound(s, win.to_ns);
    *to = *to < *from ? *from : *to;
    return *to - *from;
}

bool sq_window_secs(struct sq_window win, int64_t *first, int64_t *end)
{
    int64_t from = win.from_ns < 0 ? 0 : win.from_ns, to = win.to_ns < 0 ? 0 : win.to_ns;

    *first = (from + SQ_S - 1) / SQ_S;
    *end = to / SQ_S;
    return *first < *end;
}

static size_t first_second(const struct sq_ev_endpoint *ep, int64_t sec)
{
    size_t lo = 0, hi = ep->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (ep->secs[mid].sec < sec)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void sum_endpoint(const struct sq_ev_endpoint *ep, int64_t first, int64_t end, struct sq_ev_sums *out)
{
    uint64_t secs = 0;

    for (size_t i = first_second(ep, first); i < ep->n && ep->secs[i].sec < end; i++) {
        const struct sq_ev_second *s = &ep->secs[i];

        secs += i == 0 || ep->secs[i - 1].sec != s->sec || secs == 0;
        out->sent += s->sent;
        out->ok += s->ok;
        out->bad += s->bad;
        out->late += s->late;
        out->lag_late += s->lag_late;
    }
    out->secs = secs > out->secs ? secs : out->secs;
}

void sq_ev_sum(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
               struct sq_ev_sums *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < ev->n_endpoints; i++)
        if (!ep || ep == &ev->endpoints[i])
            sum_endpoint(&ev->endpoints[i], first, end, out);
    out->n = out->ok + out->bad;
}

int sq_ev_second_json(const struct sq_ev_second *s, json_t **out, struct sq_err *e)
{
    return sq_json_parse(s->text, s->text_len, out, e);
}

static int add_second(const struct sq_ev_second *s, const char *which, struct sq_hist *h, struct sq_err *e)
{
    cleanup_json json_t *rec = NULL;
    const int cells = sq_cells_index(which);
    const json_t *sparse;
    int rc;

    if (s->outlined && cells >= 0)
        return sq_hist_add_text(h, s->text + s->cells[cells].at, s->cells[cells].len, e);
    rc = sq_ev_second_json(s, &rec, e);
    sparse = rc ? NULL : json_object_get(rec, which);
    return rc || !sparse ? rc : sq_hist_add_json(h, sparse, e);
}

static int add_hist(const struct sq_ev_endpoint *ep, int64_t first, int64_t end, const char *which, struct sq_hist *h,
                    struct sq_err *e)
{
    for (size_t i = first_second(ep, first); i < ep->n && ep->secs[i].sec < end; i++) {
        int rc = add_second(&ep->secs[i], which, h, e);

        if (rc)
            return sq_err_prefix(e, "sample of second %lld of %s", (long long)ep->secs[i].sec, ep->name);
    }
    return 0;
}

int sq_ev_hist(const struct sq_evidence *ev, const struct sq_ev_endpoint *ep, int64_t first, int64_t end,
               const char *which, struct sq_hist *h, struct sq_err *e)
{
    int rc = 0;

    for (size_t i = 0; i < ev->n_endpoints && !rc; i++)
        if (!ep || ep == &ev->endpoints[i])
            rc = add_hist(&ev->endpoints[i], first, end, which, h, e);
    return rc;
}
