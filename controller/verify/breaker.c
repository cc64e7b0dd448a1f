#include "verify/breaker.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/units.h"
#include "verify/stats.h"

#define PROMPT_NS (100 * SQ_MS) /* a caller that was stuck calls again this soon */
#define STAMP_NS (20 * SQ_MS)   /* two stamps, each rounded to 10 ms */
#define STALL_NS (200 * SQ_MS)  /* so long may a process be kept from running, or collect garbage */
#define SATURATED 0.4 /* of the most calls ever under way; what was let go together overlaps what follows it */
#define ONE_CALL 0.9  /* of the calls in steady state are a request's first: one request makes one call */

/* ---- what is to be expected ---- */

static uint64_t demand(const struct sq_evidence *ev, int64_t first, int64_t end)
{
    struct sq_ev_sums sums;

    sq_ev_sum(ev, NULL, first, end, &sums);
    return sums.sent > sums.n ? sums.sent : sums.n;
}

static struct sq_window steady_window(const struct sq_evidence *ev)
{
    const struct sq_ev_phase *p = sq_ev_steady(ev);
    struct sq_window w = p ? p->win : (struct sq_window){0, 0};

    if (ev->load.to_ns > ev->load.from_ns) {
        w.from_ns = w.from_ns > ev->load.from_ns ? w.from_ns : ev->load.from_ns;
        w.to_ns = w.to_ns < ev->load.to_ns ? w.to_ns : ev->load.to_ns;
    }
    w.to_ns = w.to_ns > w.from_ns ? w.to_ns : w.from_ns;
    return w;
}

/* The load by second, in units of the steady state's. Without a probe it is taken to be even. */
static int profile(const struct sq_evidence *ev, struct sq_window steady, struct sq_breaker *b, struct sq_err *e)
{
    bool probed = ev->load.to_ns > ev->load.from_ns;
    int64_t end = probed ? ev->load.to_ns : ev->last_ns, first, last;
    double mean = 0.0;

    b->first_sec = probed ? ev->load.from_ns / SQ_S : 0;
    b->end_ns = end;
    int64_t secs = (end + SQ_S - 1) / SQ_S - b->first_sec;
    if (secs < 0 || secs > SQ_EV_MAX_SECONDS + 1)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "the load lasts impossibly long");
    b->n_secs = (size_t)secs;
    b->cum = calloc(b->n_secs + 1, sizeof *b->cum);
    if (!b->cum)
        return sq_err(e, -ENOMEM, "no memory for a check");
    if (probed && sq_window_secs(steady, &first, &last))
        mean = (double)demand(ev, first, last) / (double)(last - first);
    for (size_t i = 0; i < b->n_secs; i++) {
        int64_t sec = b->first_sec + (int64_t)i;
        double share = mean > 0.0 ? (double)demand(ev, sec, sec + 1) / mean : 1.0;

        b->cum[i + 1] = b->cum[i] + share;
    }
    return 0;
}

static double cum_at(const struct sq_breaker *b, int64_t t_ns)
{
    double x = (double)t_ns / 1e9 - (double)b->first_sec;

    if (x <= 0.0 || b->n_secs == 0)
        return 0.0;
    if (x >= (double)b->n_secs)
        return b->cum[b->n_secs];
    size_t i = (size_t)x;
    return b->cum[i] + (x - (double)i) * (b->cum[i + 1] - b->cum[i]);
}

double sq_breaker_expected(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns)
{
    return to_ns > from_ns ? b->rate * (cum_at(b, to_ns) - cum_at(b, from_ns)) : 0.0;
}

size_t sq_breaker_at(const struct sq_breaker *b, int64_t t_ns)
{
    size_t lo = 0, hi = b->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (b->calls[mid].from_ns < t_ns)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* ---- which calls count ---- */

static int by_trace(const void *x, const void *y)
{
    const struct sq_ev_call *a = *(const struct sq_ev_call *const *)x, *b = *(const struct sq_ev_call *const *)y;
    int c = memcmp(a->trace, b->trace, sizeof a->trace);

    return c ? c : (a > b) - (a < b); /* the array is sorted by time */
}

/* repeat[i]: an earlier call had the same trace id. */
static int find_repeats(const struct sq_ev_series *s, bool *repeat, struct sq_err *e)
{
    cleanup_free const struct sq_ev_call **v = malloc((s->n + 1) * sizeof *v);
    size_t n = 0;

    if (!v)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0; i < s->n; i++)
        if (s->calls[i].traced)
            v[n++] = &s->calls[i];
    if (n > 1)
        qsort(v, n, sizeof *v, by_trace);
    for (size_t i = 1; i < n; i++)
        repeat[v[i] - s->calls] = memcmp(v[i]->trace, v[i - 1]->trace, sizeof v[i]->trace) == 0;
    return 0;
}

/* Whole connections count where nothing else is to be seen; one that the fault hit counts everywhere: its caller gave
 * up before it could send its request, but did not leave the dependency alone. */
static bool counts(const struct sq_ev_call *c, bool requests)
{
    return !requests || c->kind != SQ_EV_CONN || c->fault != 0;
}

#define OTHERS 3        /* in steady state, to be no chance */
#define OTHERS_MORE 1.1 /* times their rate: they are not quite regular */
#define OTHERS_BURST 2.0

/* What of a series may be none of its caller's calls: health checks. */
struct others {
    bool requests, traced; /* the series has requests; nearly all of them in steady state have a trace id */
    double rate, room;     /* of the others in steady state, per second; how many may come now */
    int64_t at_ns;
};

static bool may_be_other(const struct others *o, const struct sq_ev_call *c)
{
    return !c->traced && (c->kind == SQ_EV_REQUEST ? o->traced : o->requests);
}

static void know_others(const struct sq_ev_series *s, size_t from, size_t to, double steady_s, struct others *o)
{
    size_t requests = 0, traced = 0, n = 0;

    for (size_t i = 0; i < s->n; i++)
        o->requests |= s->calls[i].kind == SQ_EV_REQUEST;
    for (size_t i = from; i < to; i++) {
        requests += s->calls[i].kind == SQ_EV_REQUEST;
        traced += s->calls[i].kind == SQ_EV_REQUEST && s->calls[i].traced;
    }
    o->traced = requests > 0 && (double)traced >= ONE_CALL * (double)requests;
    for (size_t i = from; i < to; i++)
        n += may_be_other(o, &s->calls[i]);
    o->rate = n >= OTHERS && steady_s > 0.0 ? (double)n / steady_s : 0.0;
    o->room = o->rate > 0.0 ? OTHERS_BURST : 0.0;
}

/* Takes C for one of the others, if as many may have come by now. */
static bool take_other(struct others *o, const struct sq_ev_call *c)
{
    double room = o->room + OTHERS_MORE * o->rate * (double)(c->t_ns - o->at_ns) / 1e9;

    o->room = room < OTHERS_BURST ? room : OTHERS_BURST;
    o->at_ns = c->t_ns;
    if (o->rate <= 0.0 || !may_be_other(o, c) || o->room < 1.0)
        return false;
    o->room -= 1.0;
    return true;
}

static int take_calls(const struct sq_ev_series *s, struct sq_window steady, bool least, struct sq_breaker *b,
                      struct sq_err *e)
{
    cleanup_free bool *repeat = calloc(s->n + 1, sizeof *repeat);
    struct others o = {0};
    double steady_s = (double)(steady.to_ns - steady.from_ns) / 1e9;
    size_t from, to, all = 0, again = 0;

    b->calls = calloc(s->n + 1, sizeof *b->calls);
    b->busy = calloc(s->n + 1, sizeof *b->busy);
    b->unused = calloc(s->n + 1, sizeof *b->unused);
    if (!repeat || !b->calls || !b->busy || !b->unused)
        return sq_err(e, -ENOMEM, "no memory for a check");
    int rc = find_repeats(s, repeat, e);
    if (rc)
        return rc;
    (void)sq_ev_calls_in(s, steady, &from, &to);
    know_others(s, from, to, steady_s, &o);
    b->others = o.rate;
    for (size_t i = from; i < to; i++) {
        all += counts(&s->calls[i], o.requests);
        again += counts(&s->calls[i], o.requests) && repeat[i];
    }
    bool first_only = all > 0 && (double)(all - again) >= ONE_CALL * (double)all;
    for (size_t i = 0; i < s->n; i++) {
        const struct sq_ev_call *c = &s->calls[i];

        bool other = take_other(&o, c) && least && i >= to;
        if (!counts(c, o.requests)) {
            b->unused[b->n_unused++] = c->t_ns;
            continue;
        }
        if (other)
            continue;
        b->busy[b->n_busy++] =
            (struct sq_breaker_call){.from_ns = c->t_ns, .to_ns = c->t_ns + (int64_t)c->dur_us * 1000};
        if (first_only && repeat[i])
            continue;
        b->steady_calls += i >= from && i < to;
        b->calls[b->n++] = (struct sq_breaker_call){
            .from_ns = c->t_ns,
            .to_ns = c->t_ns + (int64_t)c->dur_us * 1000,
            .harmed = c->fault != 0 || c->outcome != SQ_EV_ANSWERED || c->status >= 500,
        };
    }
    if (steady_s > 0.0) {
        b->rate = (double)b->steady_calls / steady_s;
        b->unused_rate = (double)(to - from - all) / steady_s;
    }
    return 0;
}

/* ---- silence ---- */

static int by_time(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;

    return (a > b) - (a < b);
}

/* How many of the sorted times are <= t. */
static size_t until(const int64_t *v, size_t n, int64_t t)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (v[mid] <= t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static size_t most_under_way(const struct sq_breaker *b, const int64_t *ends)
{
    size_t most = 0;

    for (size_t i = 0, done = 0; i < b->n_busy; i++) {
        while (done < b->n_busy && ends[done] <= b->busy[i].from_ns)
            done++;
        if (i + 1 > done && i + 1 - done > most) /* of calls with the same stamp the last one sees all of them */
            most = i + 1 - done;
    }
    return most;
}

/* How many began before T. */
static size_t began_before(const struct sq_breaker *b, int64_t t)
{
    size_t lo = 0, hi = b->n_busy;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (b->busy[mid].from_ns < t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Connections that began in (from, to] and that nothing was sent on, but for those that come all the time: twice as
 * many as in steady state may. */
static size_t unused_in(const struct sq_breaker *b, int64_t from, int64_t to)
{
    size_t n = until(b->unused, b->n_unused, to) - until(b->unused, b->n_unused, from);
    double usual = b->unused_rate > 0.0 ? 1.0 + 2.0 * b->unused_rate * (double)(to - from) / 1e9 : 0.0;

    return (double)n > usual ? n - (size_t)usual : 0;
}

/* Was the caller stuck in the pause (from, to)? All that it can have under way was, and as soon as one of these calls
 * ended the next one began: as many began as ended. A breaker that is open lets next to none begin. */
static bool stuck(const struct sq_breaker *b, const int64_t *ends, size_t most, int64_t from, int64_t to,
                  bool open_ended)
{
    size_t ended = until(ends, b->n_busy, from), begun = began_before(b, from + 1);
    size_t under_way = begun > ended ? begun - ended : 0, next = until(b->unused, b->n_unused, from);

    if (under_way == 0 || (double)under_way < SATURATED * (double)most)
        return false;
    int64_t first_end = ends[ended], last_end = ends[ended + under_way - 1];
    size_t unused = unused_in(b, from, last_end + PROMPT_NS - 1);
    if (unused > 0 && b->unused[next] < to) {
        to = b->unused[next];
        open_ended = false;
    }
    if (open_ended)
        return first_end >= to;
    if (first_end > to || to - first_end > PROMPT_NS)
        return false;
    return 2 * (began_before(b, last_end + PROMPT_NS) - begun + unused) >= under_way;
}

static int add_silence(struct sq_breaker *b, size_t before, int64_t from, int64_t to, bool open_ended, size_t *cap,
                       struct sq_err *e)
{
    if (b->n_silences == *cap) {
        size_t want = *cap ? *cap * 2 : 16;
        void *p = reallocarray(b->silences, want, sizeof *b->silences);

        if (!p)
            return sq_err(e, -ENOMEM, "no memory for a check");
        b->silences = p;
        *cap = want;
    }
    b->silences[b->n_silences++] =
        (struct sq_silence){.before = before, .from_ns = from, .to_ns = to, .open_ended = open_ended};
    return 0;
}

static int find_silences(const struct sq_evidence *ev, struct sq_breaker *b, struct sq_err *e)
{
    cleanup_free int64_t *ends = malloc((b->n_busy + 1) * sizeof *ends);
    size_t cap = 0;

    if (!ends)
        return sq_err(e, -ENOMEM, "no memory for a check");
    for (size_t i = 0; i < b->n_busy; i++) { /* one that follows another at once does not overlap it */
        int64_t end = b->busy[i].to_ns - STAMP_NS;

        ends[i] = end > b->busy[i].from_ns ? end : b->busy[i].from_ns;
    }
    if (b->n_busy > 1)
        qsort(ends, b->n_busy, sizeof *ends, by_time);
    size_t most = most_under_way(b, ends);
    int64_t begin = ev->load.to_ns > ev->load.from_ns ? ev->load.from_ns : 0;
    if (b->n > 0 && sq_breaker_expected(b, begin, b->calls[0].from_ns) >= SQ_SILENCE) {
        int rc = add_silence(b, SIZE_MAX, begin, b->calls[0].from_ns, false, &cap, e);

        if (rc)
            return rc;
    }
    for (size_t i = 0; i < b->n; i++) {
        bool last = i + 1 == b->n;
        int64_t to = last ? b->end_ns : b->calls[i + 1].from_ns;

        if (to - b->calls[i].from_ns < STALL_NS || sq_breaker_expected(b, b->calls[i].from_ns, to) < SQ_SILENCE ||
            stuck(b, ends, most, b->calls[i].from_ns, to, last))
            continue;
        int rc = add_silence(b, i, b->calls[i].from_ns, to, last, &cap, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int make(const struct sq_evidence *ev, const struct sq_ev_series *s, bool least, struct sq_breaker **out,
                struct sq_err *e)
{
    struct sq_breaker *b = calloc(1, sizeof *b);
    struct sq_window steady = steady_window(ev);

    if (!b)
        return sq_err(e, -ENOMEM, "no memory for a check");
    int rc = profile(ev, steady, b, e);
    if (!rc)
        rc = take_calls(s, steady, least, b, e);
    if (!rc)
        rc = find_silences(ev, b, e);
    if (rc)
        sq_breaker_free(b);
    else
        *out = b;
    return rc;
}

int sq_breaker_new(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker **out,
                   struct sq_err *e)
{
    return make(ev, s, false, out, e);
}

int sq_breaker_least(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker **out,
                     struct sq_err *e)
{
    return make(ev, s, true, out, e);
}

void sq_breaker_free(struct sq_breaker *b)
{
    if (!b)
        return;
    free(b->calls);
    free(b->busy);
    free(b->unused);
    free(b->silences);
    free(b->cum);
    free(b);
}

/* ---- for pictures ---- */

#define FEW 20          /* calls between two silences that still look like trial calls */
#define ENOUGH_CALLS 20 /* in steady state, to know a rate */
#define LAST_PAUSE_NS SQ_S

const char *sq_breaker_state_name(enum sq_breaker_state s)
{
    static const char *const names[] = {"closed", "open", "half-open", "unknown"};

    return names[s];
}

static void add_span(struct sq_breaker_span *v, size_t *n, int64_t from, int64_t to, enum sq_breaker_state state)
{
    if (to <= from)
        return;
    if (*n && v[*n - 1].state == state)
        v[*n - 1].win.to_ns = to;
    else
        v[(*n)++] = (struct sq_breaker_span){.win = {from, to}, .state = state};
}

/* Trial calls take no time to speak of: they are drawn until they end. */
static int64_t trial_end(const struct sq_breaker *b, const struct sq_silence *next)
{
    int64_t end = b->calls[next->before].to_ns, latest = next->from_ns + (next->to_ns - next->from_ns) / 2;

    return end < latest ? end : latest;
}

static void draw(const struct sq_breaker *b, int64_t begin, struct sq_breaker_span *v, size_t *n)
{
    int64_t at = begin;

    for (size_t i = 0; i < b->n_silences; i++) {
        const struct sq_silence *s = &b->silences[i], *last = i ? &b->silences[i - 1] : NULL;

        if (s->before == SIZE_MAX) {
            add_span(v, n, at, s->to_ns, SQ_BREAKER_UNKNOWN);
            at = s->to_ns;
            continue;
        }
        if (s->open_ended && s->to_ns - s->from_ns < LAST_PAUSE_NS)
            break; /* the load ends somewhere in its last second */
        size_t calls = last && last->before != SIZE_MAX ? s->before - last->before : SIZE_MAX;
        bool trial = calls <= FEW && sq_breaker_expected(b, at, s->from_ns) < 2.0 * SQ_SILENCE;
        int64_t opened = trial ? trial_end(b, s) : s->from_ns;
        add_span(v, n, at, opened, trial ? SQ_BREAKER_HALF_OPEN : SQ_BREAKER_CLOSED);
        add_span(v, n, opened, s->to_ns, SQ_BREAKER_OPEN);
        at = s->to_ns;
    }
    add_span(v, n, at, b->end_ns, SQ_BREAKER_CLOSED);
}

int sq_breaker_spans(const struct sq_evidence *ev, const struct sq_ev_series *s, struct sq_breaker_span **out,
                     size_t *n, struct sq_err *e)
{
    struct sq_breaker *b;
    int rc = sq_breaker_new(ev, s, &b, e);

    if (rc)
        return rc;
    int64_t begin = ev->load.to_ns > ev->load.from_ns ? ev->load.from_ns : 0;
    *n = 0;
    *out = calloc(3 * b->n_silences + 3, sizeof **out);
    if (!*out)
        rc = sq_err(e, -ENOMEM, "no memory for a picture");
    else if (b->steady_calls < ENOUGH_CALLS)
        add_span(*out, n, begin, b->end_ns, SQ_BREAKER_UNKNOWN);
    else
        draw(b, begin, *out, n);
    sq_breaker_free(b);
    return rc;
}
