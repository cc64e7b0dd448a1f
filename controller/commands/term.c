#include "commands/term.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool colours(FILE *f)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    if ((no && *no) || (term && strcmp(term, "dumb") == 0))
        return false;
    return isatty(fileno(f)) == 1;
}

void sq_term_init(struct sq_term *t)
{
    const char *term = getenv("TERM");
    struct winsize ws;

    *t = (struct sq_term){.out = stdout, .err = stderr, .width = 80};
    t->color_out = colours(stdout);
    t->color_err = colours(stderr);
    t->tty = isatty(STDOUT_FILENO) == 1 && !(term && strcmp(term, "dumb") == 0);
    if (t->tty && ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 20)
        t->width = ws.ws_col;
}

static const char *paint(bool colour, enum sq_paint p)
{
    static const char *const codes[] = {
        [SQ_PLAIN] = "\033[0m",  [SQ_BOLD] = "\033[1m",    [SQ_DIM] = "\033[2m",   [SQ_RED] = "\033[31m",
        [SQ_GREEN] = "\033[32m", [SQ_YELLOW] = "\033[33m", [SQ_BLUE] = "\033[34m", [SQ_CYAN] = "\033[36m",
    };

    return colour ? codes[p] : "";
}

const char *sq_term_out(const struct sq_term *t, enum sq_paint p)
{
    return paint(t->color_out, p);
}

const char *sq_term_err(const struct sq_term *t, enum sq_paint p)
{
    return paint(t->color_err, p);
}

static void print_hint(const struct sq_term *t, const char *hint)
{
    if (hint && *hint)
        (void)fprintf(t->err, "%s  hint: %s%s\n", sq_term_err(t, SQ_DIM), hint, sq_term_err(t, SQ_PLAIN));
}

int sq_term_fail(const struct sq_term *t, const struct sq_err *e)
{
    (void)fflush(t->out);
    (void)fprintf(t->err, "%ssquall:%s %s\n", sq_term_err(t, SQ_RED), sq_term_err(t, SQ_PLAIN), e->msg);
    print_hint(t, e->hint);
    return (int)sq_exit_of(e);
}

int sq_term_usage(const struct sq_term *t, const char *hint, const char *fmt, ...)
{
    va_list ap;

    (void)fflush(t->out);
    (void)fprintf(t->err, "%ssquall:%s ", sq_term_err(t, SQ_RED), sq_term_err(t, SQ_PLAIN));
    va_start(ap, fmt);
    (void)vfprintf(t->err, fmt, ap);
    va_end(ap);
    (void)fputc('\n', t->err);
    print_hint(t, hint);
    return SQ_USAGE;
}

void sq_term_wrap(const struct sq_term *t, int indent, const char *text)
{
    int width = (t->width < 100 ? t->width : 100) - indent, used = 0;

    width = width < 20 ? 20 : width;
    while (*text) {
        int n = (int)strcspn(text, " \n");

        if (used > 0 && used + 1 + n > width) {
            (void)fprintf(t->out, "\n%*s", indent, "");
            used = 0;
        }
        (void)fprintf(t->out, "%s%.*s", used ? " " : "", n, text);
        used += n + (used > 0);
        text += n;
        if (*text == '\n') {
            (void)fprintf(t->out, "\n%*s", indent, "");
            used = 0;
        }
        text += *text != '\0';
    }
    (void)fputc('\n', t->out);
}

void sq_term_words(const struct sq_term *t, int indent, const char *words)
{
    char text[1024];

    (void)snprintf(text, sizeof text, "%s", words);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    if (t->tty)
        sq_term_wrap(t, indent, text);
    else
        (void)fprintf(t->out, "%s\n", text);
}

int sq_term_finish(const struct sq_term *t, int code)
{
    struct sq_err e = {0};

    errno = 0;
    if (fflush(t->out) == 0 && !ferror(t->out))
        return code;
    sq_err_sys(&e, errno ? -errno : -EIO, "can't write the output");
    (void)sq_term_fail(t, &e);
    return SQ_INFRA;
}
