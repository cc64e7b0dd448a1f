#include "probe/data.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"

struct reader {
    const char *path;
    struct sq_data *d;
    size_t cap; /* of d->value */
    unsigned long line;
    struct sq_err *e;
};

static int bad(const struct reader *r, const char *why)
{
    return sq_err_cls(r->e, SQ_C_INPUT, -EINVAL, "data %.200s, line %lu: %s", r->path, r->line, why);
}

static int slurp(const char *path, char **text, size_t *len, struct sq_err *e)
{
    cleanup_fclose FILE *f = fopen(path, "re");
    cleanup_free char *buf = NULL;
    size_t cap = 0, n;

    *len = 0;
    if (!f) {
        int rc = -errno;

        return sq_err_cls(e, SQ_C_INPUT, rc, "data %.200s: %s", path, strerror(-rc));
    }
    do {
        char *more;

        if (*len + 1 >= cap) {
            cap = cap ? 2 * cap : 65536;
            more = realloc(buf, cap);
            if (!more)
                return sq_err(e, -ENOMEM, "no memory");
            buf = more;
        }
        n = fread(buf + *len, 1, cap - *len - 1, f);
        *len += n;
        if (*len > SQ_DATA_BYTES)
            return sq_err_cls(e, SQ_C_INPUT, -EFBIG, "data %.200s: at most 64 MiB", path);
    } while (n > 0);
    if (ferror(f))
        return sq_err_cls(e, SQ_C_INPUT, -EIO, "data %.200s: can't be read", path);
    buf[*len] = '\0';
    if (strlen(buf) != *len)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "data %.200s: a zero byte is in it", path);
    *text = SQ_TAKE(buf);
    return 0;
}

/* Room for one more row; its values are NULL. */
static const char **add_row(struct reader *r)
{
    struct sq_data *d = r->d;
    size_t want = (d->n_rows + 1) * d->n_columns;
    const char **row;

    if (d->n_rows == SQ_DATA_ROWS) {
        (void)bad(r, "at most 1048576 rows");
        return NULL;
    }
    if (want > r->cap) {
        size_t cap = r->cap * 2 > want ? r->cap * 2 : want + 64 * d->n_columns;
        const char **more = realloc(d->value, cap * sizeof *more);

        if (!more) {
            (void)sq_err(r->e, -ENOMEM, "no memory");
            return NULL;
        }
        d->value = more;
        r->cap = cap;
    }
    row = d->value + d->n_rows++ * d->n_columns;
    memset(row, 0, d->n_columns * sizeof *row);
    return row;
}

/* One field of CSV at *p, unquoted in place; *last: the row ends behind it. */
static int csv_field(struct reader *r, char **p, char **out, bool *last)
{
    char *from = *p, *to = *p, *s = *p;
    char end;

    if (*s == '"') {
        from = to = ++s;
        while (*s && (*s != '"' || s[1] == '"')) {
            s += *s == '"';
            r->line += *s == '\n';
            *to++ = *s++;
        }
        if (*s != '"')
            return bad(r, "a quote that is never closed");
        s++;
        if (*s && *s != ',' && *s != '\r' && *s != '\n')
            return bad(r, "a quote in the middle of a field");
    } else {
        s += strcspn(s, ",\r\n");
        to = s;
    }
    end = *s;
    *to = '\0';
    *last = end != ',';
    if (end == '\r' && s[1] == '\n')
        s++;
    *p = end ? s + 1 : s;
    *out = from;
    return 0;
}

static int csv_header(struct reader *r, char **p)
{
    struct sq_data *d = r->d;
    bool last = false;

    while (!last) {
        char *name;
        int rc = csv_field(r, p, &name, &last);

        if (rc < 0)
            return rc;
        if (!*name || strchr(name, '}') || d->n_columns == SQ_DATA_COLUMNS)
            return bad(r, "the first line names the columns, at most 64");
        d->column[d->n_columns++] = name;
    }
    return 0;
}

static int read_csv(struct reader *r, char *p)
{
    int rc;

    if (strncmp(p, "\xef\xbb\xbf", 3) == 0) /* a byte order mark */
        p += 3;
    if ((rc = csv_header(r, &p)) < 0)
        return rc;
    for (r->line = 2; *p; r->line++) {
        bool last = false;
        const char **row;
        size_t n = 0;

        if (*p == '\n' || *p == '\r') {
            p++;
            continue;
        }
        if (!(row = add_row(r)))
            return -EINVAL;
        while (!last) {
            char *field;

            if ((rc = csv_field(r, &p, &field, &last)) < 0)
                return rc;
            if (n == r->d->n_columns)
                return bad(r, "more fields than there are columns");
            row[n++] = field;
        }
        if (n < r->d->n_columns)
            return bad(r, "fewer fields than there are columns");
    }
    return 0;
}

/* The value as text, written over the line that it came from (it is never longer there). */
static int put_json(struct reader *r, const json_t *v, char **to, const char *end, const char **out)
{
    cleanup_free char *text = json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY);
    size_t len = text ? strlen(text) + 1 : 0;

    if (!text)
        return sq_err(r->e, -ENOMEM, "no memory");
    if (len > (size_t)(end - *to))
        return bad(r, "a number that is written too shortly"); /* 1e300 is longer when written out */
    memcpy(*to, text, len);
    *out = *to;
    *to += len;
    return 0;
}

static int json_columns(struct reader *r, const json_t *o)
{
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        char *copy;

        if (!*name || strchr(name, '}') || r->d->n_columns == SQ_DATA_COLUMNS)
            return bad(r, "the first line names the columns, at most 64");
        copy = strdup(name);
        if (!copy)
            return sq_err(r->e, -ENOMEM, "no memory");
        r->d->column[r->d->n_columns++] = copy;
    }
    return r->d->n_columns > 0 ? 0 : bad(r, "an object without members");
}

static int json_row(struct reader *r, char *line, size_t len)
{
    cleanup_json json_t *o = NULL;
    char *to = line;
    const char **row;
    int rc;

    if (sq_json_parse(line, len, &o, NULL) < 0 || !json_is_object(o))
        return bad(r, "not a JSON object");
    if (r->d->n_columns == 0 && (rc = json_columns(r, o)) < 0)
        return rc;
    if (!(row = add_row(r)))
        return -EINVAL;
    for (size_t i = 0; i < r->d->n_columns; i++) {
        const json_t *v = json_object_get(o, r->d->column[i]);

        if (!v)
            return bad(r, "a member of the first line is missing");
        if ((rc = put_json(r, v, &to, line + len, &row[i])) < 0)
            return rc;
    }
    return 0;
}

static int read_jsonl(struct reader *r, char *p)
{
    for (r->line = 1; *p; r->line++) {
        size_t len = strcspn(p, "\n");
        bool last = !p[len];
        int rc = strspn(p, " \t\r") < len ? json_row(r, p, len) : 0;

        if (rc < 0)
            return rc;
        p += len + !last;
    }
    return 0;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

int sq_data_read(const char *path, struct sq_data *d, struct sq_err *e)
{
    struct reader r = {.path = path, .d = d, .line = 1, .e = e};
    bool jsonl = ends_with(path, ".jsonl") || ends_with(path, ".ndjson");
    size_t len;
    int rc = slurp(path, &d->text, &len, e);

    if (rc < 0)
        return rc;
    d->column = calloc(SQ_DATA_COLUMNS, sizeof *d->column);
    if (!d->column)
        return sq_err(e, -ENOMEM, "no memory");
    rc = jsonl ? read_jsonl(&r, d->text) : read_csv(&r, d->text);
    if (rc == 0 && d->n_rows == 0)
        rc = bad(&r, "no row in it");
    /* Names of JSON members are copies, those of CSV are in the text. */
    for (size_t i = 0; !jsonl && i < d->n_columns; i++)
        if (!(d->column[i] = strdup(d->column[i])))
            rc = sq_err(e, -ENOMEM, "no memory");
    return rc;
}

void sq_data_free(struct sq_data *d)
{
    for (size_t i = 0; d->column && i < d->n_columns; i++)
        free((char *)(uintptr_t)d->column[i]);
    free(d->column);
    free(d->value);
    free(d->text);
    memset(d, 0, sizeof *d);
}
