#include "scenario/diag.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sq_diags_init(struct sq_diags *d, const char *file)
{
    memset(d, 0, sizeof *d);
    d->file = file;
}

void sq_diags_free(struct sq_diags *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->list[i].msg);
        free(d->list[i].hint);
    }
    d->n = 0;
}

__attribute__((format(printf, 5, 0))) static void append(struct sq_diags *d, bool warning, struct sq_pos at,
                                                         const char *hint, const char *fmt, va_list ap)
{
    unsigned *count = warning ? &d->warnings : &d->errors;
    struct sq_diag *g;

    if ((*count)++ >= SQ_DIAG_MAX)
        return;
    g = &d->list[d->n];
    *g = (struct sq_diag){.warning = warning, .pos = at};
    if (vasprintf(&g->msg, fmt, ap) < 0)
        g->msg = NULL;
    g->hint = strdup(hint ? hint : "");
    if (g->msg && g->hint) {
        d->n++;
        return;
    }
    free(g->msg);
    free(g->hint);
}

int sq_diag_error(struct sq_diags *d, struct sq_pos at, const char *hint, const char *fmt, ...)
{
    va_list ap;

    if (d->code == 0) {
        d->code = -EINVAL;
        d->cls = SQ_C_INPUT;
    }
    va_start(ap, fmt);
    append(d, false, at, hint, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

void sq_diag_warn(struct sq_diags *d, struct sq_pos at, const char *hint, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    append(d, true, at, hint, fmt, ap);
    va_end(ap);
}

int sq_diag_err(struct sq_diags *d, struct sq_pos at, const struct sq_err *e)
{
    if (d->code == 0) {
        d->code = e->code;
        d->cls = e->cls;
    }
    (void)sq_diag_error(d, at, e->hint, "%s", e->msg);
    return e->code;
}

char *sq_diag_where(const struct sq_diags *d, const struct sq_diag *g, char *buf, size_t len)
{
    if (g->pos.line == 0)
        (void)snprintf(buf, len, "%s: ", d->file);
    else
        (void)snprintf(buf, len, "%s:%u:%u: ", d->file, g->pos.line, g->pos.col);
    return buf;
}

static int by_position(const void *va, const void *vb)
{
    const struct sq_diag *a = va, *b = vb;

    if (a->pos.line != b->pos.line)
        return a->pos.line < b->pos.line ? -1 : 1;
    if (a->pos.col != b->pos.col)
        return a->pos.col < b->pos.col ? -1 : 1;
    if (a->warning != b->warning)
        return a->warning ? 1 : -1;
    return strcmp(a->msg, b->msg);
}

void sq_diags_sort(struct sq_diags *d)
{
    if (d->n > 1)
        qsort(d->list, d->n, sizeof d->list[0], by_position);
}
