#include "run/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "squall/units.h"

#define DRAW_EVERY (200 * SQ_MS)
#define MAX_LINES 10
#define BAR 20

#define RESET "\033[0m"

struct sq_progress {
    FILE *to;
    bool quiet, tty, colour, utf8;
    unsigned drawn; /* lines of the block that are on the screen */
    int64_t drawn_ns;
    char block[16 * 1024]; /* as it was drawn last, to put it back below an event */
};

/* One line that never gets wider than the terminal. */
struct line {
    char buf[2048];
    size_t len;
    unsigned width, max;
    bool colour, utf8;
};

static bool env_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *v = getenv(names[i]);
        if (v && *v)
            return strcasestr(v, "utf-8") || strcasestr(v, "utf8");
    }
    return false;
}

struct sq_progress *sq_progress_new(const struct sq_progress_opts *o)
{
    struct sq_progress *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    p->to = o->to;
    p->quiet = o->quiet;
    p->tty = isatty(fileno(o->to)) && term && strcmp(term, "dumb") != 0;
    p->colour = p->tty && !o->plain && !(no_color && *no_color);
    p->utf8 = env_utf8();
    if (o->lines)
        p->tty = false;
    return p;
}

/* ---- lines ---- */

/* Length of the UTF-8 sequence at s and its width in columns; what is no text is shown as "?". */
static size_t glyph(const char *s, unsigned *width, bool *ok)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : (u[0] & 0xe0) == 0xc0 ? 2 : (u[0] & 0xf0) == 0xe0 ? 3 : (u[0] & 0xf8) == 0xf0 ? 4 : 0;
    uint32_t c = n == 1 ? u[0] : n == 2 ? u[0] & 0x1fu : n == 3 ? u[0] & 0x0fu : u[0] & 0x07u;
    *ok = n > 0;
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) {
            *ok = false;
            break;
        }
        c = c << 6 | (u[i] & 0x3fu);
    }
    if (c < 0x20 || (c >= 0x7f && c < 0xa0)) /* a name must not steer the terminal */
        *ok = false;
    if (!*ok) {
        *width = 1;
        return 1;
    }
    bool wide = (c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
                (c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
                (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd);
    *width = wide ? 2 : 1;
    return n;
}

static void put(struct line *l, const char *s)
{
    while (*s) {
        unsigned w;
        bool ok;
        size_t n = glyph(s, &w, &ok);
        if (l->width + w > l->max || l->len + 8 >= sizeof(l->buf))
            return;
        if (ok) {
            memcpy(l->buf + l->len, s, n);
            l->len += n;
        } else {
            l->buf[l->len++] = '?';
        }
        l->width += w;
        s += n;
    }
    l->buf[l->len] = '\0';
}

static void putf(struct line *l, const char *fmt, ...) SQ_PRINTF(2, 3);
static void putf(struct line *l, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    put(l, text);
}

static void style(struct line *l, const char *code)
{
    size_t n = strlen(code);
    if (!l->colour || l->len + n + 8 >= sizeof(l->buf))
        return;
    memcpy(l->buf + l->len, code, n + 1);
    l->len += n;
}

static void pad_to(struct line *l, unsigned column)
{
    while (l->width < column && l->width < l->max)
        put(l, " ");
}

static const char *tone_code(enum sq_tone t)
{
    switch (t) {
    case SQ_TONE_DIM:
        return "\033[2m";
    case SQ_TONE_GOOD:
        return "\033[32m";
    case SQ_TONE_FAULT:
        return "\033[33m";
    case SQ_TONE_BAD:
        return "\033[31m";
    case SQ_TONE_PLAIN:
        break;
    }
    return "";
}

static unsigned columns(const struct sq_progress *p)
{
    struct winsize ws;
    if (ioctl(fileno(p->to), TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 20)
        return ws.ws_col > 400 ? 400 : ws.ws_col;
    return 80;
}

/* ---- the block ---- */

static void bar(struct line *l, int64_t total, int64_t left)
{
    double share = total > 0 ? 1.0 - (double)left / (double)total : 0;
    unsigned full = (unsigned)(share * BAR + 0.5);
    for (unsigned i = 0; i < BAR; i++)
        put(l, i < full ? (l->utf8 ? "━" : "#") : (l->utf8 ? "╌" : "."));
}

static void stage_line(struct line *l, const struct sq_progress_view *v)
{
    style(l, v->fault ? "\033[1;33m" : "\033[1m");
    put(l, v->fault ? (l->utf8 ? "▲ " : "! ") : (l->utf8 ? "● " : "* "));
    put(l, v->name);
    style(l, RESET);
    if (v->step)
        putf(l, "  %u/%u", v->step, v->steps);
    put(l, "  ");
    style(l, v->fault ? "\033[33m" : "");
    put(l, v->stage);
    style(l, RESET);
}

static void time_line(struct line *l, const struct sq_progress_view *v)
{
    put(l, "  ");
    if (v->stage_ns > 0) {
        style(l, v->fault ? "\033[33m" : "\033[36m");
        bar(l, v->stage_ns, v->stage_left_ns);
        style(l, RESET);
        putf(l, "  %.0f s left", ceil((double)v->stage_left_ns / 1e9));
        pad_to(l, 40);
    }
    style(l, "\033[2m");
    putf(l, "%lld:%02lld elapsed", (long long)(v->elapsed_ns / SQ_S / 60), (long long)(v->elapsed_ns / SQ_S % 60));
    style(l, RESET);
}

static void load_line(struct line *l, const struct sq_progress_view *v)
{
    char p50[32], p99[32];
    putf(l, "  %.0f/s   p50 %s   p99 %s   ", v->rate, sq_fmt_duration(v->p50, p50, sizeof(p50)),
         sq_fmt_duration(v->p99, p99, sizeof(p99)));
    style(l, v->error_percent > 0 ? "\033[31m" : "");
    putf(l, "errors %.*f %%", v->error_percent >= 10 ? 0 : 1, v->error_percent);
    style(l, RESET);
    if (v->late)
        putf(l, "   %llu sent late by the probe", (unsigned long long)v->late);
}

static void spark_line(struct line *l, const struct sq_progress_view *v)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {"_", ".", ",", "-", "=", "+", "*", "#"};
    double lo = 0, hi = 0;
    for (unsigned i = 0; i < v->spark_n; i++) {
        if (v->spark[i] <= 0)
            continue;
        lo = lo <= 0 || v->spark[i] < lo ? v->spark[i] : lo;
        hi = v->spark[i] > hi ? v->spark[i] : hi;
    }
    /* Logarithmic, because milliseconds and seconds meet here; never more than it deserves when all is level. */
    double range = hi > 0 ? log(hi / lo) : 0;
    range = range < log(4) ? log(4) : range;
    put(l, "  ");
    style(l, "\033[2m");
    put(l, "p99 ");
    style(l, RESET);
    for (unsigned i = 0; i < v->spark_n; i++) {
        int level = v->spark[i] > 0 ? (int)(log(v->spark[i] / lo) / range * 7.0 + 0.5) : 0;
        style(l, v->spark_fault[i] ? "\033[33m" : "\033[36m");
        put(l, v->spark[i] < 0 ? " " : (l->utf8 ? blocks : ascii)[level < 0 ? 0 : level > 7 ? 7 : level]);
    }
    style(l, RESET);
    char a[32], b[32];
    if (hi > 0) {
        style(l, "\033[2m");
        putf(l, "  %s to %s", sq_fmt_duration((int64_t)(lo * 1e6), a, sizeof(a)),
             sq_fmt_duration((int64_t)(hi * 1e6), b, sizeof(b)));
        style(l, RESET);
    }
}

static void edge_part(struct line *l, const char *edge, enum sq_live_state state, double rate, unsigned name_width)
{
    static const struct {
        const char *text, *code;
    } states[] = {
        [SQ_LIVE_UNKNOWN] = {"", ""},
        [SQ_LIVE_CLOSED] = {"closed", "\033[32m"},
        [SQ_LIVE_OPEN] = {"OPEN", "\033[1;31m"},
        [SQ_LIVE_HALF_OPEN] = {"half-open", "\033[33m"},
    };
    unsigned from = l->width + 2;
    put(l, "  ");
    put(l, edge);
    pad_to(l, from + name_width + 2);
    putf(l, "%6.1f/s  ", rate);
    style(l, states[state].code);
    put(l, states[state].text);
    style(l, RESET);
}

static void finish_line(struct sq_progress *p, struct line *l)
{
    style(l, RESET);
    size_t used = strlen(p->block);
    if (p->drawn < MAX_LINES && used + l->len + 8 < sizeof(p->block)) {
        snprintf(p->block + used, sizeof(p->block) - used, "%s\033[K\n", l->buf);
        p->drawn++;
    }
}

static struct line fresh(const struct sq_progress *p, unsigned max)
{
    struct line l = {.max = max, .colour = p->colour, .utf8 = p->utf8};
    return l;
}

static void compose(struct sq_progress *p, const struct sq_progress_view *v)
{
    unsigned max = columns(p) - 1, name_width = 0;
    struct line l = fresh(p, max);
    p->block[0] = '\0';
    p->drawn = 0;
    stage_line(&l, v);
    finish_line(p, &l);
    l = fresh(p, max);
    time_line(&l, v);
    finish_line(p, &l);
    if (v->load) {
        l = fresh(p, max);
        load_line(&l, v);
        finish_line(p, &l);
        l = fresh(p, max);
        spark_line(&l, v);
        finish_line(p, &l);
    }
    for (unsigned i = 0; i < v->n_edges; i++)
        if (strlen(v->edges[i].edge) > name_width)
            name_width = (unsigned)strlen(v->edges[i].edge);
    for (unsigned i = 0; i < v->n_edges; i++) {
        l = fresh(p, max);
        edge_part(&l, v->edges[i].edge, v->edges[i].state, v->edges[i].rate, name_width < 40 ? name_width : 40);
        finish_line(p, &l);
    }
}

/* Puts the cursor where a block of so many lines begins; what is drawn over it clears each line's rest. */
static const char *rewind_code(unsigned lines, char buf[16])
{
    if (lines)
        snprintf(buf, 16, "\033[%uA\r", lines);
    else
        buf[0] = '\0';
    return buf;
}

void sq_progress_draw(struct sq_progress *p, const struct sq_progress_view *v, int64_t now_ns)
{
    if (!p || !p->tty || p->quiet || now_ns - p->drawn_ns < DRAW_EVERY - 5 * SQ_MS)
        return;
    unsigned before = p->drawn;
    p->drawn_ns = now_ns;
    compose(p, v);
    char up[16]; /* all in one write, so that nothing flickers */
    fprintf(p->to, "%s%s%s", rewind_code(before, up), p->block, p->drawn < before ? "\033[J" : "");
    fflush(p->to);
}

void sq_progress_event(struct sq_progress *p, enum sq_tone tone, double t, const char *fmt, ...)
{
    char text[2048];
    if (!p || (p->quiet && tone != SQ_TONE_BAD))
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    struct line l = fresh(p, sizeof(text));
    if (t >= 0)
        putf(&l, "%7.1f s  ", t);
    style(&l, tone_code(tone));
    put(&l, text);
    style(&l, RESET);
    char up[16];
    bool block = p->tty && p->drawn;
    fprintf(p->to, "%s%s%s\n%s", block ? rewind_code(p->drawn, up) : "", block ? "\033[J" : "", l.buf,
            block ? p->block : "");
    fflush(p->to);
}

void sq_progress_free(struct sq_progress *p)
{
    if (!p)
        return;
    if (p->tty && p->drawn) { /* the block has served: what happened stays */
        char up[16];
        fprintf(p->to, "%s\033[J", rewind_code(p->drawn, up));
        fflush(p->to);
    }
    free(p);
}
