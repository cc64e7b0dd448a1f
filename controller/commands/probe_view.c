/* The load as it goes on: on a terminal a block that is redrawn in place, elsewhere a line now and then. */
#include "commands/probe_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define DRAW_EVERY (200 * SQ_MS)
#define LINES_AT_MOST 60 /* without a terminal */
#define BAR 30

bool sq_term_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *v = getenv(names[i]);

        if (v && *v)
            return strcasestr(v, "utf-8") || strcasestr(v, "utf8");
    }
    return false;
}

char *sq_fmt_count(uint64_t n, char *buf)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), at = 0;

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            buf[at++] = ',';
        buf[at++] = digits[i];
    }
    buf[at] = '\0';
    return buf;
}

int sq_probe_view_init(struct sq_probe_view *v, FILE *to, bool quiet, bool colour, const char *title, int64_t total_ns)
{
    const char *term = getenv("TERM"), *no = getenv("NO_COLOR");
    int64_t seconds = total_ns / SQ_S;

    *v = (struct sq_probe_view){.to = to, .quiet = quiet, .utf8 = sq_term_utf8(), .heat.per = 1};
    v->tty = isatty(fileno(to)) == 1 && term && strcmp(term, "dumb") != 0;
    v->colour = v->tty && colour && !(no && *no);
    v->scratch = sq_hist_new();
    v->every_ns = (seconds + LINES_AT_MOST - 1) / LINES_AT_MOST * SQ_S;
    (void)snprintf(v->title, sizeof v->title, "%s", title);
    return v->scratch ? 0 : -1;
}

/* --- heat --- */

static void fold(struct sq_heat *h)
{
    for (unsigned i = 0; i < SQ_HEAT_COLUMNS; i++) {
        unsigned to = i / 2;

        if (i % 2 == 0) {
            memcpy(h->cell[to], h->cell[i], sizeof h->cell[i]);
            h->all[to] = h->all[i];
            h->bad[to] = h->bad[i];
            continue;
        }
        for (unsigned k = 0; k < SQ_HEAT_ROWS; k++)
            h->cell[to][k] += h->cell[i][k];
        h->all[to] += h->all[i];
        h->bad[to] += h->bad[i];
    }
    for (unsigned i = SQ_HEAT_COLUMNS / 2; i < SQ_HEAT_COLUMNS; i++) {
        memset(h->cell[i], 0, sizeof h->cell[i]);
        h->all[i] = h->bad[i] = 0;
    }
    h->n = (h->n + 1) / 2;
    h->per *= 2;
}

/* The upper limit of row K: 10 us, 31.6 us, 100 us, ... */
static int64_t row_limit(unsigned k)
{
    return k + 1 == SQ_HEAT_ROWS ? INT64_MAX : (int64_t)(1e4 * pow(10, k / 2.0));
}

void sq_probe_view_second(void *view, const json_t *sample)
{
    struct sq_probe_view *v = view;
    struct sq_heat *h = &v->heat;
    int64_t sec = sq_json_int_or(sample, "sec", 0);
    uint64_t before = 0;
    unsigned column;

    if (h->n == 0) /* other hosts begin some seconds after the record */
        h->first = sec;
    sec -= h->first;
    if (!v->scratch || sec < 0)
        return;
    while (sec / h->per >= SQ_HEAT_COLUMNS)
        fold(h);
    column = (unsigned)(sec / h->per);
    h->n = column + 1 > h->n ? column + 1 : h->n;
    sq_hist_reset(v->scratch);
    if (sq_hist_add_json(v->scratch, json_object_get(sample, "h"), NULL) < 0)
        return;
    for (unsigned k = 0; k < SQ_HEAT_ROWS; k++) {
        uint64_t upto = sq_hist_count_le(v->scratch, row_limit(k));

        h->cell[column][k] += upto - before;
        before = upto;
    }
    h->all[column] += sq_hist_count(v->scratch);
    h->bad[column] +=
        sq_hist_count(v->scratch) - (uint64_t)sq_json_int_or(sample, "ok", 0); /* every finished one is in h */
}

unsigned sq_heat_print(FILE *to, const struct sq_heat *h, bool utf8, bool colour, unsigned width, const char *eol)
{
    static const char *const blocks[] = {" ", "░", "▒", "▓", "█"}, *const ascii[] = {" ", ".", "+", "*", "#"};
    unsigned first = SQ_HEAT_ROWS, last = 0, n = h->n, lines = 0;
    bool bad = false;
    char text[32];

    if (n + 14 > width)
        n = width > 14 ? width - 14 : 1;
    for (unsigned i = 0; i < h->n; i++) {
        bad = bad || h->bad[i] > 0;
        for (unsigned k = 0; k < SQ_HEAT_ROWS; k++)
            if (h->cell[i][k] > 0) {
                first = k < first ? k : first;
                last = k > last ? k : last;
            }
    }
    for (unsigned k = last + 1; first < SQ_HEAT_ROWS && k-- > first; lines++) {
        (void)fprintf(to, "%s%10s %s%s ", colour ? "\033[2m" : "",
                      k + 1 == SQ_HEAT_ROWS ? "more" : sq_fmt_duration(row_limit(k), text, sizeof text),
                      utf8 ? "│" : "|", colour ? "\033[0m\033[36m" : "");
        for (unsigned i = h->n - n; i < h->n; i++) {
            /* By share, on a logarithmic scale: one in a thousand still shows. */
            double share = h->all[i] > 0 ? (double)h->cell[i][k] / (double)h->all[i] : 0;
            int level = h->cell[i][k] == 0 ? 0 : share < 0.01 ? 1 : share < 0.1 ? 2 : share < 0.4 ? 3 : 4;

            (void)fputs((utf8 ? blocks : ascii)[level], to);
        }
        (void)fprintf(to, "%s%s\n", colour ? "\033[0m" : "", eol);
    }
    if (bad) {
        (void)fprintf(to, "%s%10s %s%s ", colour ? "\033[2m" : "", "bad", utf8 ? "│" : "|",
                      colour ? "\033[0m\033[31m" : "");
        for (unsigned i = h->n - n; i < h->n; i++)
            (void)fputs(h->bad[i] == 0 ? " " : utf8 ? "■" : "x", to);
        (void)fprintf(to, "%s%s\n", colour ? "\033[0m" : "", eol);
        lines++;
    }
    return lines;
}

/* --- the block --- */

static unsigned columns(const struct sq_probe_view *v)
{
    struct winsize ws;

    if (ioctl(fileno(v->to), TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 8)
        return ws.ws_col > 200 ? 200 : ws.ws_col;
    return 80;
}

/* LINE without what does not fit into WIDTH columns: a line that wraps would be two on the next draw. Sequences of
 * colours have no width, and are all kept. */
static void put_clipped(FILE *to, const char *line, size_t len, unsigned width)
{
    unsigned at = 0;

    for (size_t i = 0; i < len;) {
        size_t n = 1;

        if (line[i] == '\033') {
            n = strcspn(line + i, "mK") + 1; /* the only ones that are used here */
        } else {
            while (i + n < len && ((unsigned char)line[i + n] & 0xc0) == 0x80)
                n++;
            at++;
        }
        if (line[i] == '\033' || at <= width)
            (void)fwrite(line + i, 1, n, to);
        i += n;
    }
}

static const char *ink(const struct sq_probe_view *v, const char *code)
{
    return v->colour ? code : "";
}

static void rate_text(double rate, char *buf)
{
    if (rate >= 100)
        (void)sq_fmt_count((uint64_t)(rate + 0.5), buf);
    else
        (void)snprintf(buf, 32, "%.3g", rate);
}

/* "1,000/s   p50 0.1 ms   p95 0.2 ms   p99 0.3 ms   max 1 ms"; what does not fit is left out. */
static void numbers(const struct sq_adhoc_view *now, unsigned width, char *buf, size_t len)
{
    const struct sq_probe_window *w = &now->last;
    const struct {
        const char *name;
        int64_t ns;
    } parts[] = {{"p50", w->p50}, {"p95", w->p95}, {"p99", w->p99}, {"max", w->max}};
    char text[32];
    size_t at;

    rate_text(w->rate, text);
    at = (size_t)snprintf(buf, len, "%s/s", text);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char one[64];
        size_t n = (size_t)snprintf(one, sizeof one, "   %s %s", parts[i].name,
                                    sq_fmt_duration(parts[i].ns, text, sizeof text));

        if (at + n >= width || at + n >= len)
            break;
        memcpy(buf + at, one, n + 1);
        at += n;
    }
}

static char *share_text(double percent, char *buf)
{
    (void)snprintf(buf, 32, percent >= 10 ? "%.0f %%" : "%.2g %%", percent >= 10 ? floor(percent) : percent);
    return buf;
}

static void troubles(FILE *to, const struct sq_probe_view *v, const struct sq_adhoc_view *now)
{
    char a[32], b[32];
    const bool errors = now->last.bad > 0;

    (void)fprintf(to, "  %serrors %s%s", ink(v, errors ? "\033[31m" : ""), share_text(now->last.error_percent, a),
                  ink(v, "\033[0m"));
    (void)fprintf(to, "   connections %s   waiting %s%s%s", sq_fmt_count(now->live.open, a),
                  ink(v, now->live.waiting > 0 ? "\033[33m" : ""), sq_fmt_count(now->live.waiting, b),
                  ink(v, "\033[0m"));
    if (now->live.lag_late > 0)
        (void)fprintf(to, "   %ssent late by the probe %s%s", ink(v, "\033[33m"), sq_fmt_count(now->live.lag_late, a),
                      ink(v, "\033[0m"));
    (void)fputs("\033[K\n", to);
}

static void progress(FILE *to, const struct sq_probe_view *v, const struct sq_adhoc_view *now)
{
    double share = now->total_ns > 0 ? (double)now->elapsed_ns / (double)now->total_ns : 0;
    unsigned full = (unsigned)(share * BAR + 0.5);
    int64_t left = (now->total_ns - now->elapsed_ns + SQ_S - 1) / SQ_S;

    (void)fprintf(to, "  %s", ink(v, "\033[36m"));
    for (unsigned i = 0; i < BAR; i++)
        (void)fputs(i < full ? (v->utf8 ? "━" : "#") : (v->utf8 ? "╌" : "."), to);
    (void)fputs(ink(v, "\033[0m"), to);
    if (now->ending)
        (void)fputs("  waiting for the last answers\033[K\n", to);
    else
        (void)fprintf(to, "  %lld:%02lld left\033[K\n", (long long)(left / 60), (long long)(left % 60));
}

/* How many rows of the screen the block takes now: a terminal that became narrower has wrapped its lines. */
static unsigned rows_on_screen(const struct sq_probe_view *v, unsigned width)
{
    unsigned rows = 0;

    for (unsigned i = 0; i < v->drawn; i++)
        rows += v->wide[i] > width ? (v->wide[i] + width - 1) / width : 1;
    return rows;
}

static unsigned columns_of(const char *line, size_t len)
{
    unsigned n = 0;

    for (size_t i = 0; i < len; i++) {
        if (line[i] == '\033')
            i += strcspn(line + i, "mK");
        else
            n += ((unsigned char)line[i] & 0xc0) != 0x80;
    }
    return n;
}

static void put_block(struct sq_probe_view *v, const char *text, unsigned width)
{
    unsigned lines = 0, room = width > 1 ? width - 1 : 1; /* the last column makes some terminals wrap */

    if (v->drawn)
        (void)fprintf(v->to, "\033[%uA\r", rows_on_screen(v, width));
    for (const char *end; lines < SQ_VIEW_LINES && (end = strchr(text, '\n')); text = end + 1, lines++) {
        unsigned wide = columns_of(text, (size_t)(end - text));

        v->wide[lines] = wide < room ? wide : room;
        put_clipped(v->to, text, (size_t)(end - text), room);
        (void)fputc('\n', v->to);
    }
    (void)fputs("\033[J", v->to);
    v->drawn = lines;
    (void)fflush(v->to);
}

static void draw(struct sq_probe_view *v, const struct sq_adhoc_view *now)
{
    unsigned width = columns(v);
    cleanup_free char *text = NULL;
    char line[256];
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);

    if (!to)
        return;
    (void)fprintf(to, "%s%s%s%s\033[K\n", ink(v, "\033[1m"), v->utf8 ? "● " : "* ", v->title, ink(v, "\033[0m"));
    progress(to, v, now);
    numbers(now, width > 4 ? width - 3 : 1, line, sizeof line);
    (void)fprintf(to, "  %s\033[K\n", line);
    troubles(to, v, now);
    (void)sq_heat_print(to, &v->heat, v->utf8, v->colour, width - 1, "\033[K");
    if (fclose(to) == 0)
        put_block(v, text, width);
}

static void say(struct sq_probe_view *v, const struct sq_adhoc_view *now)
{
    char text[256], share[32], waiting[32];

    numbers(now, sizeof text - 1, text, sizeof text);
    (void)fprintf(v->to, "%6.1f s  %s   errors %s", (double)now->elapsed_ns / 1e9, text,
                  share_text(now->last.error_percent, share));
    if (now->live.waiting > 0)
        (void)fprintf(v->to, "   waiting %s", sq_fmt_count(now->live.waiting, waiting));
    (void)fputc('\n', v->to);
    (void)fflush(v->to);
}

void sq_probe_view_tick(void *view, const struct sq_adhoc_view *now)
{
    struct sq_probe_view *v = view;
    int64_t at = sq_mono_ns();

    if (v->quiet || now->elapsed_ns < 0)
        return;
    if (v->tty && at - v->said_ns >= DRAW_EVERY - 5 * SQ_MS) {
        v->said_ns = at;
        draw(v, now);
    } else if (!v->tty && now->last.seconds > 0 && now->elapsed_ns - v->said_ns >= v->every_ns && !now->ending) {
        v->said_ns = now->elapsed_ns / SQ_S * SQ_S;
        say(v, now);
    }
}

void sq_probe_view_end(struct sq_probe_view *v)
{
    if (v->drawn)
        (void)fprintf(v->to, "\033[%uA\r\033[J", rows_on_screen(v, columns(v)));
    v->drawn = 0;
    (void)fflush(v->to);
    sq_hist_free(v->scratch);
    v->scratch = NULL;
}
