/* What a load was like, when it is over: numbers, the distribution of its percentiles, what the thresholds say. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands/probe_view.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define PLOT_ROWS 10
#define PLOT_MOST 100 /* columns */

static const double percentiles[] = {50, 75, 90, 95, 99, 99.9, 99.99};

/* Text from a server or a scenario must not drive the terminal. */
static void plain(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
}

static void label(const struct sq_term *t, const char *name)
{
    (void)fprintf(t->out, "  %s%-12s%s ", sq_term_out(t, SQ_DIM), name, sq_term_out(t, SQ_PLAIN));
}

static char *percent(double share, char *buf, size_t len)
{
    /* Never "100 %" when it is not all. */
    (void)snprintf(buf, len, share < 100 && share > 99.99 ? "%.5g %%" : "%.4g %%", share);
    return buf;
}

static char *bytes_text(double n, char *buf, size_t len)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;

    for (; n >= 1000 && i + 1 < SQ_COUNT(units); i++)
        n /= 1000;
    (void)snprintf(buf, len, "%.3g %s", n, units[i]);
    return buf;
}

static void list_counts(const struct sq_term *t, const json_t *o)
{
    const char *name, *between = "";
    char n[32];
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        (void)fprintf(t->out, "%s%s: %s", between, name, sq_fmt_count((uint64_t)json_integer_value(v), n));
        between = ", ";
    }
}

/* What a user of the command should look at first. TLS: why the last handshake failed, as OpenSSL puts it. */
static const char *advice(const char *reason, const char *tls)
{
    static const struct {
        const char *reason, *text;
    } known[] = {
        {"status", "the server answered with a status that is not expected (--expect-status)"},
        {"body", "the answer lacks what --expect-body wants"},
        {"timeout", "no answer within --timeout, counted from the planned send"},
        {"refused", "nobody listens there"},
        {"reset", "the server broke off"},
        {"connect", "no connection, or its log-in was refused"},
        {"protocol", "what came back is not this protocol: is the URL's scheme right?"},
        {"unsent", "no connection was free in time (--connections)"},
    };

    if (strcmp(reason, "tls") == 0)
        return strstr(tls, "certificate") || strstr(tls, "mismatch")
                   ? "whom to trust is said by --ca, who it must be by --server-name; -k asks neither"
                   : "no TLS came about: does the server speak it on this port?";
    for (size_t i = 0; i < SQ_COUNT(known); i++)
        if (strcmp(known[i].reason, reason) == 0)
            return known[i].text;
    return "";
}

static void show_advice(const struct sq_term *t, const struct sq_adhoc *a)
{
    const char *tls = sq_json_str_or(json_array_get(a->ends, 0), "tls", ""), *name;
    json_t *v;

    json_object_foreach(a->sums.bad, name, v)
    {
        bool own = strcmp(name, "tls") == 0 && *tls;

        label(t, "");
        (void)fprintf(t->out, "%s%s: ", sq_term_out(t, SQ_DIM), name);
        plain(t->out, own ? tls : "");
        (void)fprintf(t->out, "%s%s%s\n", own ? "; " : "", advice(name, tls), sq_term_out(t, SQ_PLAIN));
    }
}

static void show_requests(const struct sq_term *t, const struct sq_adhoc *a)
{
    const struct sq_adhoc_sums *s = &a->sums;
    uint64_t done = s->ok + s->bad_n;
    double seconds = (double)a->ran_ns / 1e9;
    char x[32], y[32], z[32];

    label(t, "requests");
    (void)fprintf(t->out, "%s planned, %s sent", sq_fmt_count(s->planned, x), sq_fmt_count(s->sent, y));
    if (done != s->planned)
        (void)fprintf(t->out, ", %s finished", sq_fmt_count(done, z));
    if (seconds > 0)
        (void)fprintf(t->out, " in %.4g s: %.5g/s", seconds, (double)s->planned / seconds);
    (void)fputc('\n', t->out);
    label(t, "throughput");
    (void)fprintf(t->out, "%.5g good answers/s, %s/s of bodies\n", seconds > 0 ? (double)s->ok / seconds : 0,
                  bytes_text(seconds > 0 ? (double)s->bytes / seconds : 0, x, sizeof x));
    label(t, "outcome");
    (void)fprintf(t->out, "%s good%s", sq_fmt_count(s->ok, x), s->bad_n ? "" : ", none bad");
    if (s->bad_n) {
        (void)fprintf(t->out, ", %s%s bad (%s)%s: ", sq_term_out(t, SQ_RED), sq_fmt_count(s->bad_n, x),
                      percent(100 * (double)s->bad_n / (double)done, y, sizeof y), sq_term_out(t, SQ_PLAIN));
        list_counts(t, s->bad);
    }
    (void)fputc('\n', t->out);
    show_advice(t, a);
    if (json_object_size(s->status) > 0) {
        label(t, "status");
        list_counts(t, s->status);
        (void)fputc('\n', t->out);
    }
}

static void show_lag(const struct sq_term *t, const struct sq_adhoc *a)
{
    const json_t *end = json_array_get(a->ends, 0);
    const char *why = sq_json_str_or(end, "why", "");
    char x[32], y[32];

    label(t, "send lag");
    (void)fprintf(t->out, "%s at most by the probe itself",
                  sq_fmt_duration(sq_json_int_or(end, "max_lag_ns", 0), x, sizeof x));
    if (a->sums.lag_late)
        (void)fprintf(t->out, ", %s requests over its limit", sq_fmt_count(a->sums.lag_late, x));
    if (a->sums.late)
        (void)fprintf(t->out, "; %s waited for a connection", sq_fmt_count(a->sums.late, y));
    (void)fputc('\n', t->out);
    if (sq_json_bool_or(end, "void", false)) {
        label(t, "");
        (void)fprintf(t->out, "%svoid: these figures prove nothing:%s ", sq_term_out(t, SQ_YELLOW),
                      sq_term_out(t, SQ_PLAIN));
        plain(t->out, why);
        (void)fputc('\n', t->out);
    }
}

#define LATENCY_WIDTH 52 /* columns that the table of latencies takes */

static void latency_row(const struct sq_term *t, const char *name, int64_t planned, int64_t service)
{
    char x[32], y[32];

    (void)fprintf(t->out, t->width < LATENCY_WIDTH ? "    %-5s %13s %13s\n" : "    %-8s %22s %14s\n", name,
                  sq_fmt_duration(planned, x, sizeof x), sq_fmt_duration(service, y, sizeof y));
}

static void show_latency(const struct sq_term *t, const struct sq_adhoc *a, bool closed)
{
    const struct sq_adhoc_sums *s = &a->sums;
    char name[16];

    bool small = t->width < LATENCY_WIDTH;

    (void)fprintf(t->out, small ? "\n  %slatency%s %13s %13s\n" : "\n  %slatency%s  %22s %14s\n",
                  sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  closed  ? "from the send"
                  : small ? "planned send"
                          : "from the planned send",
                  "service time");
    for (size_t i = 0; i < SQ_COUNT(percentiles); i++) {
        /* Beyond the last request there is only the maximum, told below. */
        if (i > 3 && (double)sq_hist_count(s->h) * (1 - percentiles[i] / 100) < 1)
            continue;
        (void)snprintf(name, sizeof name, "p%g", percentiles[i]);
        latency_row(t, name, sq_hist_percentile(s->h, percentiles[i]), sq_hist_percentile(s->hs, percentiles[i]));
    }
    latency_row(t, "max", sq_hist_max(s->h), sq_hist_max(s->hs));
    latency_row(t, "mean", (int64_t)sq_hist_mean(s->h), (int64_t)sq_hist_mean(s->hs));
    (void)fputs(sq_term_out(t, SQ_DIM), t->out);
    if (closed)
        (void)fputs("    a closed loop waits with the server: these percentiles do not show its stalls\n", t->out);
    else if (t->width >= 70)
        (void)fputs("    from the planned send: what users wait, the server's stalls in it\n", t->out);
    (void)fputs(sq_term_out(t, SQ_PLAIN), t->out);
}

/* --- the distribution of percentiles --- */

struct plot {
    unsigned width;   /* columns of the plot itself */
    double nines;     /* how far to the right: 3 is p99.9 */
    double low, high; /* log10 of ns */
};

/* The percentile at column X: 50 at one third of the first nine, and so on. */
static double percentile_at(const struct plot *p, unsigned x)
{
    return 100 * (1 - pow(10, -p->nines * (double)x / (double)(p->width - 1)));
}

static int row_of(const struct plot *p, int64_t ns)
{
    double at = (log10(ns > 1 ? (double)ns : 1) - p->low) / (p->high - p->low);

    return (int)lround(at * (PLOT_ROWS - 1));
}

/* Does the curve pass here? Where it jumps it is a vertical line, without gaps. */
static bool on_curve(const struct plot *p, const struct sq_hist *h, unsigned x, int row)
{
    int here = row_of(p, sq_hist_percentile(h, percentile_at(p, x)));
    int before = x > 0 ? row_of(p, sq_hist_percentile(h, percentile_at(p, x - 1))) : here;

    return row == here || (row > before && row < here);
}

static bool plot_init(struct plot *p, const struct sq_term *t, const struct sq_adhoc_sums *s)
{
    uint64_t n = sq_hist_count(s->h);
    int64_t least =
        sq_hist_min(s->hs) && sq_hist_min(s->hs) < sq_hist_min(s->h) ? sq_hist_min(s->hs) : sq_hist_min(s->h);
    int64_t most = sq_hist_max(s->h);

    p->width = (unsigned)(t->width >= PLOT_MOST + 16 ? PLOT_MOST : t->width < 32 ? 16 : t->width - 16);
    p->nines = n < 100 ? 1.5 : log10((double)n);
    p->nines = p->nines > 6 ? 6 : p->nines;
    p->low = log10(least > 1 ? (double)least : 1);
    p->high = log10(most > 1 ? (double)most : 1);
    if (p->high - p->low < 0.5)
        p->high = p->low + 0.5;
    return n >= 10;
}

static void plot_axis(const struct sq_term *t, const struct plot *p, bool utf8)
{
    static const double ticks[] = {0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999};
    char text[PLOT_MOST + 16];
    unsigned free_from = 0;

    (void)fprintf(t->out, "%s%10s %s", sq_term_out(t, SQ_DIM), "", utf8 ? "└" : "+");
    for (unsigned x = 0; x < p->width; x++)
        (void)fputs(utf8 ? "─" : "-", t->out);
    memset(text, ' ', sizeof text);
    for (size_t i = 0; i < SQ_COUNT(ticks); i++) {
        double nine = -log10(1 - ticks[i] / 100);
        unsigned x = (unsigned)lround(nine / p->nines * (p->width - 1));
        char one[16];
        unsigned n = (unsigned)snprintf(one, sizeof one, i == 0 ? "p0" : "%g", ticks[i]);

        if (nine > p->nines || x < free_from || x + n > p->width + 2)
            continue;
        memcpy(text + x, one, n);
        free_from = x + n + 1;
    }
    text[p->width + 2] = '\0';
    (void)fprintf(t->out, "\n%10s  %s%s\n", "", text, sq_term_out(t, SQ_PLAIN));
}

static void show_plot(const struct sq_term *t, const struct sq_adhoc_sums *s)
{
    const bool utf8 = sq_term_utf8();
    struct plot p;
    char x1[32];

    if (!plot_init(&p, t, s))
        return;
    (void)fprintf(t->out, "\n  %sby percentile%s%s%s%s%s %s  %s%s%s service time\n", sq_term_out(t, SQ_BOLD),
                  sq_term_out(t, SQ_PLAIN), t->width < 66 ? "\n  " : "  ", sq_term_out(t, SQ_CYAN), utf8 ? "●" : "#",
                  sq_term_out(t, SQ_PLAIN), t->width < LATENCY_WIDTH ? "planned send" : "from the planned send",
                  sq_term_out(t, SQ_YELLOW), utf8 ? "·" : ".", sq_term_out(t, SQ_PLAIN));
    for (int row = PLOT_ROWS - 1; row >= 0; row--) {
        int64_t ns = (int64_t)pow(10, p.low + (p.high - p.low) * row / (PLOT_ROWS - 1));
        bool named = row % 3 == 0;
        enum sq_paint ink = SQ_PLAIN;

        (void)fprintf(t->out, "%s%10s %s%s", sq_term_out(t, SQ_DIM), named ? sq_fmt_duration(ns, x1, sizeof x1) : "",
                      utf8 ? "│" : "|", sq_term_out(t, SQ_PLAIN));
        for (unsigned x = 0; x < p.width; x++) {
            bool planned = on_curve(&p, s->h, x, row), service = on_curve(&p, s->hs, x, row);
            enum sq_paint want = planned ? SQ_CYAN : service ? SQ_YELLOW : ink;

            if (want != ink)
                (void)fputs(sq_term_out(t, want), t->out);
            ink = want;
            (void)fputs(planned ? (utf8 ? "●" : "#") : service ? (utf8 ? "·" : ".") : " ", t->out);
        }
        (void)fprintf(t->out, "%s\n", sq_term_out(t, SQ_PLAIN));
    }
    plot_axis(t, &p, utf8);
}

/* --- thresholds --- */

static enum sq_paint paint_of(const char *verdict)
{
    return strcmp(verdict, "pass") == 0 ? SQ_GREEN : strcmp(verdict, "fail") == 0 ? SQ_RED : SQ_YELLOW;
}

#define ROW_WIDTH 100 /* columns that a threshold's line may take */

static void show_thresholds(const struct sq_term *t, const struct sq_adhoc *a)
{
    const json_t *checks = json_object_get(a->verdict, "checks"), *c;
    size_t i;

    if (json_array_size(checks))
        (void)fprintf(t->out, "\n  %sthresholds%s\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN));
    json_array_foreach(checks, i, c)
    {
        const char *verdict = sq_json_str_or(c, "verdict", "?"), *interval = sq_json_str_or(c, "interval", "");

        (void)fprintf(t->out, "    %s%-12s%s %-20s ", sq_term_out(t, paint_of(verdict)), verdict,
                      sq_term_out(t, SQ_PLAIN), sq_json_str_or(c, "limit", ""));
        if (t->tty && t->width < ROW_WIDTH)
            (void)fputs("\n                 ", t->out);
        plain(t->out, sq_json_str_or(c, "observed", ""));
        if (*interval)
            (void)fprintf(t->out, "  %s%s%s", sq_term_out(t, SQ_DIM), interval, sq_term_out(t, SQ_PLAIN));
        (void)fputc('\n', t->out);
        if (strcmp(verdict, "pass") != 0) {
            (void)fprintf(t->out, "    %12s ", "");
            sq_term_words(t, 17, sq_json_str_or(c, "why", ""));
        }
    }
}

static bool closed_loop(const json_t *scenario_load)
{
    const json_t *ep = json_object_iter_value(json_object_iter((json_t *)(uintptr_t)scenario_load));

    return strcmp(sq_json_str_or(ep, "executor", ""), "constant-connections") == 0;
}

void sq_probe_show(const struct sq_term *t, const char *title, const json_t *scenario, const struct sq_adhoc *a,
                   const struct sq_heat *heat)
{
    const json_t *load = json_object_get(json_object_get(scenario, "spec"), "load");
    bool closed = closed_loop(load);

    (void)fprintf(t->out, "%s", sq_term_out(t, SQ_BOLD));
    plain(t->out, title);
    (void)fprintf(t->out, "%s\n\n", sq_term_out(t, SQ_PLAIN));
    show_requests(t, a);
    show_lag(t, a);
    if (sq_hist_count(a->sums.h) > 0) {
        show_latency(t, a, closed);
        show_plot(t, &a->sums);
    }
    if (heat->n > 2) {
        (void)fprintf(t->out,
                      t->width < 60 ? "\n  %sover time%s  a column is %u s\n"
                                    : "\n  %sover time%s  a column is %u s, a row reaches up to its label\n",
                      sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN), heat->per);
        (void)sq_heat_print(t->out, heat, sq_term_utf8(), t->color_out, (unsigned)t->width, "");
    }
    show_thresholds(t, a);
}

/* --- JSON --- */

static json_t *latency_json(const struct sq_hist *h)
{
    json_t *o = json_pack("{s:I,s:I,s:f,s:I}", "n", (json_int_t)sq_hist_count(h), "min", (json_int_t)sq_hist_min(h),
                          "mean", sq_hist_mean(h), "max", (json_int_t)sq_hist_max(h));
    char name[16];

    for (size_t i = 0; i < SQ_COUNT(percentiles); i++) {
        (void)snprintf(name, sizeof name, "p%g", percentiles[i]);
        (void)json_object_set_new(o, name, json_integer((json_int_t)sq_hist_percentile(h, percentiles[i])));
    }
    return o;
}

json_t *sq_probe_json(const json_t *scenario, const struct sq_adhoc *a)
{
    const struct sq_adhoc_sums *s = &a->sums;
    const json_t *end = json_array_get(a->ends, 0);
    double seconds = (double)a->ran_ns / 1e9;
    json_t *load = json_object_get(json_object_get(scenario, "spec"), "load");
    json_t *o = json_pack("{s:i,s:s,s:O,s:f}", "squall_probe", 1, "id", a->id, "load",
                          json_object_iter_value(json_object_iter(load)), "seconds", seconds);

    if (!o)
        return NULL;
    (void)json_object_set_new(o, "requests",
                              json_pack("{s:I,s:I,s:I,s:I,s:O,s:O,s:I,s:I,s:I}", "planned", (json_int_t)s->planned,
                                        "sent", (json_int_t)s->sent, "ok", (json_int_t)s->ok, "failed",
                                        (json_int_t)s->bad_n, "bad", s->bad, "status", s->status, "late",
                                        (json_int_t)s->late, "reconnects", (json_int_t)s->reconnects, "bytes",
                                        (json_int_t)s->bytes));
    (void)json_object_set_new(o, "rate", json_real(seconds > 0 ? (double)s->planned / seconds : 0));
    (void)json_object_set_new(o, "throughput", json_real(seconds > 0 ? (double)s->ok / seconds : 0));
    (void)json_object_set_new(o, "latency", latency_json(s->h));
    (void)json_object_set_new(o, "service", latency_json(s->hs));
    (void)json_object_set_new(o, "lag",
                              json_pack("{s:I,s:I,s:b,s:s}", "max", (json_int_t)sq_json_int_or(end, "max_lag_ns", 0),
                                        "late", (json_int_t)s->lag_late, "void", sq_json_bool_or(end, "void", false),
                                        "why", sq_json_str_or(end, "why", "")));
    if (json_object_get(end, "tls"))
        (void)json_object_set(o, "tls", json_object_get(end, "tls"));
    (void)json_object_set(o, "thresholds", json_object_get(a->verdict, "checks"));
    return o;
}
