#include "net/dist.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"

#define FINE 16384 /* iproute2 computes so many points and keeps every fourth */

const char *sq_dist_name(enum sq_dist d)
{
    static const char *const names[] = {"uniform", "normal", "pareto", "paretonormal", "table"};

    return (unsigned)d < SQ_COUNT(names) ? names[d] : "?";
}

static struct sq_dist_table *new_table(struct sq_err *e)
{
    struct sq_dist_table *t = calloc(1, sizeof *t);

    if (!t)
        (void)sq_err(e, -ENOMEM, "out of memory");
    return t;
}

static int clamp(double v)
{
    return v < INT16_MIN ? INT16_MIN : v > INT16_MAX ? INT16_MAX : (int)v;
}

/* iproute2 walks x from -10 to 10.05 in steps of 0.00005 and keeps, for each of 16384 cells, the last x whose cell it
 * is. */
static int normal_cell(long step)
{
    return (int)rint(FINE * (.5 + .5 * erf((-10.0 + (double)step * .00005) / sqrt(2.0))));
}

#define LAST_STEP 401000L

/* The last step whose cell is at most CELL, which is not before FROM: by doubling, then by halving. */
static long last_step(int cell, long from)
{
    long low = from, width = 1;

    while (low + width <= LAST_STEP && normal_cell(low + width) <= cell) {
        low += width;
        width *= 2;
    }
    for (; width; width /= 2)
        if (low + width <= LAST_STEP && normal_cell(low + width) <= cell)
            low += width;
    return low;
}

static int normal_value(int cell, long *step)
{
    *step = last_step(cell, *step);
    return (int)rint((-10.0 + (double)*step * .00005) * SQ_DIST_SCALE);
}

/* Shape 3, mean 0. */
static int pareto_value(int cell)
{
    double v = 1.0 / pow((double)(4 * (FINE - cell)) / (4.0 * FINE), 1.0 / 3.0);

    v = (v - 1.5) * ((4.0 / 3.0) * SQ_DIST_SCALE);
    return (int)rint(v > INT16_MAX ? INT16_MAX : v);
}

int sq_dist_named(enum sq_dist d, struct sq_dist_table **out, struct sq_err *e)
{
    struct sq_dist_table *t;
    long step = 0;

    *out = NULL;
    if (d == SQ_DIST_UNIFORM)
        return 0;
    t = new_table(e);
    if (!t)
        return -ENOMEM;
    for (int cell = 0; cell < FINE; cell += FINE / SQ_DIST_POINTS) {
        int v = 0;

        if (d == SQ_DIST_NORMAL)
            v = normal_value(cell, &step);
        else if (d == SQ_DIST_PARETO)
            v = pareto_value(cell);
        else
            v = (normal_value(cell, &step) + 3 * pareto_value(cell)) / 4;
        t->v[t->n++] = (int16_t)clamp(v);
    }
    *out = t;
    return 0;
}

int sq_dist_uniform(struct sq_dist_table **out, struct sq_err *e)
{
    struct sq_dist_table *t = new_table(e);

    *out = t;
    if (!t)
        return -ENOMEM;
    /* The middles of 4096 equal parts of -8192 .. 8192. */
    for (int i = 0; i < SQ_DIST_POINTS; i++)
        t->v[t->n++] = (int16_t)(4 * i + 2 - SQ_DIST_SCALE);
    return 0;
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* One number of at most 5 digits at *p. */
static bool number(const char **p, const char *end, long *v)
{
    const char *s = *p;
    bool minus = s < end && *s == '-';
    int digits = 0;

    s += minus || (s < end && *s == '+');
    for (*v = 0; s < end && *s >= '0' && *s <= '9' && digits < 6; s++, digits++)
        *v = *v * 10 + (*s - '0');
    *v = minus ? -*v : *v;
    *p = s;
    return digits > 0 && (s == end || blank(*s)) && *v >= INT16_MIN && *v <= INT16_MAX;
}

int sq_dist_parse(const char *name, const char *text, size_t len, struct sq_dist_table **out, struct sq_err *e)
{
    cleanup_free struct sq_dist_table *t = new_table(e);
    const char *end = text + len;
    bool line_start = true;
    unsigned line = 1;

    *out = NULL;
    if (!t)
        return -ENOMEM;
    for (const char *p = text; p < end;) {
        long v;

        if (line_start && *p == '#')
            while (p < end && *p != '\n')
                p++;
        if (p == end)
            break;
        line_start = *p == '\n';
        line += line_start;
        if (blank(*p)) {
            p++;
            continue;
        }
        if (!number(&p, end, &v)) {
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%.300s, line %u: not a number between -32768 and 32767", name, line);
            sq_err_hint(e, "a distribution is a text of such numbers: 8192 stands for one jitter above the delay");
            return -EINVAL;
        }
        if (t->n == SQ_DIST_MAX)
            return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "%.300s: more than %d numbers", name, SQ_DIST_MAX);
        t->v[t->n++] = (int16_t)v;
    }
    if (t->n == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%.300s: there is no number in it", name);
    *out = SQ_TAKE(t);
    return 0;
}

static int not_a_file(const char *path, int err, struct sq_err *e)
{
    enum sq_class cls = err == ENOENT || err == ENOTDIR ? SQ_C_NOTFOUND : err == EACCES ? SQ_C_DENIED : SQ_C_INPUT;

    return sq_err_cls(e, cls, -err, "cannot read %.300s: %s", path, strerror(err));
}

int sq_dist_slurp(const char *path, size_t max, char **text, size_t *len, struct sq_err *e)
{
    cleanup_close int fd = -1;
    cleanup_free char *buf = NULL;
    size_t n = 0;
    struct stat st;

    *text = NULL;
    *len = 0;
    if (path[0] != '/')
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.300s\" is no absolute path", path);
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return not_a_file(path, errno, e);
    if (!S_ISREG(st.st_mode))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%.300s is no regular file", path);
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return sq_err_cls(e, SQ_C_INPUT, -EFBIG, "%.300s is larger than %zu bytes", path, max);
    buf = malloc((size_t)st.st_size + 1);
    if (!buf)
        return sq_err(e, -ENOMEM, "out of memory");
    /* A file that grows meanwhile is read as far as it was. */
    while (n < (size_t)st.st_size) {
        ssize_t r = read(fd, buf + n, (size_t)st.st_size - n);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return not_a_file(path, errno, e);
        if (r == 0)
            break;
        n += (size_t)r;
    }
    buf[n] = 0;
    *text = SQ_TAKE(buf);
    *len = n;
    return 0;
}
