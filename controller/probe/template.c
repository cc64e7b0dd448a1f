#include "probe/template.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECES_MAX 256

static const char data_hole[] = "${data.", session_hole[] = "${session.";

bool sq_has_holes(const char *text)
{
    return text && (strstr(text, data_hole) || strstr(text, session_hole));
}

static int find(const char *const *names, size_t n, const char *name, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
            return (int)i;
    return -1;
}

static int add_piece(struct sq_template *t, struct sq_piece piece, struct sq_err *e)
{
    struct sq_piece *more;

    if (t->n == PIECES_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "at most %d values in a request", PIECES_MAX / 2);
    more = realloc(t->piece, (t->n + 1) * sizeof *more);
    if (!more)
        return sq_err(e, -ENOMEM, "no memory");
    t->piece = more;
    t->piece[t->n++] = piece;
    return 0;
}

static int add_text(struct sq_template *t, const char *text, size_t len, struct sq_err *e)
{
    size_t have = t->n > 0 ? t->piece[t->n - 1].at + t->piece[t->n - 1].len : 0;
    struct sq_piece *last = t->n > 0 ? &t->piece[t->n - 1] : NULL;
    char *more;

    if (len == 0)
        return 0;
    more = realloc(t->text, have + len);
    if (!more)
        return sq_err(e, -ENOMEM, "no memory");
    t->text = more;
    memcpy(t->text + have, text, len);
    if (last && last->column < 0 && last->session < 0) {
        last->len += len;
        return 0;
    }
    return add_piece(t, (struct sq_piece){-1, -1, SQ_HOLE_RAW, have, len}, e);
}

/* TEXT is just behind "${data." or "${session."; *end becomes what follows the "}". */
static int add_hole(struct sq_template *t, const char *text, size_t len, bool data, enum sq_hole how,
                    const struct sq_names *names, const char **end, struct sq_err *e)
{
    const char *stop = memchr(text, '}', len);
    struct sq_piece p = {-1, -1, how, 0, 0};
    int i = -1;

    if (!stop)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s%.40s\" has no end", data ? data_hole : session_hole, text);
    if (names)
        i = data ? find(names->column, names->n_columns, text, (size_t)(stop - text))
                 : find(names->session, names->n_session, text, (size_t)(stop - text));
    if (i < 0)
        return sq_err_cls(e, SQ_C_INPUT, -ENOENT, "there is no \"%.*s\" in the %s", (int)(stop - text), text,
                          data ? "data" : "session so far");
    *(data ? &p.column : &p.session) = i;
    p.at = t->n > 0 ? t->piece[t->n - 1].at + t->piece[t->n - 1].len : 0;
    t->holes = true;
    *end = stop + 1;
    return add_piece(t, p, e);
}

int sq_template_add(struct sq_template *t, const char *text, size_t len, enum sq_hole how, const struct sq_names *names,
                    struct sq_err *e)
{
    const char *end = text + len, *from = text;
    int rc;

    for (const char *p = text; p < end;) {
        size_t left = (size_t)(end - p);
        size_t skip = 0;

        if (left >= sizeof data_hole - 1 && memcmp(p, data_hole, sizeof data_hole - 1) == 0)
            skip = sizeof data_hole - 1;
        else if (left >= sizeof session_hole - 1 && memcmp(p, session_hole, sizeof session_hole - 1) == 0)
            skip = sizeof session_hole - 1;
        if (skip == 0) {
            p++;
            continue;
        }
        if ((rc = add_text(t, from, (size_t)(p - from), e)) < 0 ||
            (rc = add_hole(t, p + skip, left - skip, skip == sizeof data_hole - 1, how, names, &p, e)) < 0)
            return rc;
        from = p;
    }
    return add_text(t, from, (size_t)(end - from), e);
}

void sq_template_free(struct sq_template *t)
{
    free(t->text);
    free(t->piece);
    memset(t, 0, sizeof *t);
}

static void put_value(struct sq_buf *out, enum sq_hole how, const char *v)
{
    static const char digits[] = "0123456789ABCDEF";

    if (how == SQ_HOLE_RAW) {
        sq_buf_text(out, v);
        return;
    }
    for (; *v; v++) {
        unsigned char c = (unsigned char)*v;
        char hex[3] = {'%', digits[c >> 4], digits[c & 15]};

        if (how == SQ_HOLE_URL && !(c < 128 && (isalnum(c) || strchr("-._~", c))))
            sq_buf_put(out, hex, 3);
        else if (how == SQ_HOLE_URL || (c >= ' ' && c != 127))
            sq_buf_put(out, v, 1);
    }
}

void sq_template_fill(const struct sq_template *t, const struct sq_values *v, struct sq_buf *out)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct sq_piece *p = &t->piece[i];
        const char *value = NULL;

        if (p->column < 0 && p->session < 0) {
            sq_buf_put(out, t->text + p->at, p->len);
            continue;
        }
        if (v && p->column >= 0 && v->column)
            value = v->column[p->column];
        else if (v && p->session >= 0 && v->session)
            value = v->session[p->session];
        if (value)
            put_value(out, p->how, value);
    }
}
