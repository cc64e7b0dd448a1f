#include "squall/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"

/* A plain decimal ("12", "0.5"): no sign, exponent, hex, inf or nan. Advances *s. */
static bool decimal(const char **s, double *v)
{
    const char *p = *s;
    char *end;
    size_t digits = 0;

    while (isdigit((unsigned char)*p) || *p == '.') {
        digits += *p != '.';
        p++;
    }
    if (digits == 0 || digits > 18)
        return false;
    *v = strtod(*s, &end);
    /* strtod would also take "1e5" or stop at a second point. */
    if (end != p && !(*p == 'e' || *p == 'E'))
        return false;
    if (end != p)
        return false;
    *s = p;
    return isfinite(*v);
}

static bool unit_of(const char **s, double *ns)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"d", 86400e9}};

    for (size_t i = 0; i < SQ_COUNT(units); i++) {
        size_t n = strlen(units[i].name);

        if (strncmp(*s, units[i].name, n) == 0 && !isalpha((unsigned char)(*s)[n])) {
            *s += n;
            *ns = units[i].ns;
            return true;
        }
    }
    return false;
}

static int bad(struct sq_err *e, const char *what, const char *s, const char *hint)
{
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.60s\" is not %s", s, what);
    sq_err_hint(e, "%s", hint);
    return -EINVAL;
}

int sq_parse_duration(const char *s, int64_t *ns, struct sq_err *e)
{
    const char *p = s;
    double total = 0, v, unit;

    if (strcmp(s, "0") == 0) {
        *ns = 0;
        return 0;
    }
    do {
        if (!decimal(&p, &v) || !unit_of(&p, &unit))
            return bad(e, "a duration", s, "write a number with its unit: 200ms, 1.5s, 2m, 1m30s");
        total += v * unit;
    } while (*p);
    if (total > 100.0 * 86400e9)
        return bad(e, "a duration of at most 100 days", s, "write a number with its unit: 200ms, 1.5s, 2m");
    *ns = llround(total);
    return 0;
}

int sq_parse_rate(const char *s, double *per_s, struct sq_err *e)
{
    const char *p = s;
    double v, div = 0;

    if (decimal(&p, &v)) {
        if (strcmp(p, "/s") == 0)
            div = 1;
        else if (strcmp(p, "/m") == 0)
            div = 60;
        else if (strcmp(p, "/h") == 0)
            div = 3600;
    }
    if (div <= 0 || v <= 0 || v / div > 1e7)
        return bad(e, "a rate", s,
                   "write a number and the time it is per: 60/s, 300/m, 3600/h (above 0, at most 10000000/s)");
    *per_s = v / div;
    return 0;
}

int sq_parse_percent(const char *s, double *percent, struct sq_err *e)
{
    const char *p = s;
    double v;

    if (!decimal(&p, &v) || strcmp(p, "%") != 0 || v > 100)
        return bad(e, "a percentage", s, "write 0% to 100%, with the sign: 30%, 0.1%");
    *percent = v;
    return 0;
}

/* What connect(2), read(2) and write(2) on a socket may return, and what applications are written to expect. */
static const struct {
    const char *name;
    int err;
} errnos[] = {
    {"ECONNREFUSED", ECONNREFUSED},
    {"ECONNRESET", ECONNRESET},
    {"ECONNABORTED", ECONNABORTED},
    {"ETIMEDOUT", ETIMEDOUT},
    {"EHOSTUNREACH", EHOSTUNREACH},
    {"ENETUNREACH", ENETUNREACH},
    {"ENETDOWN", ENETDOWN},
    {"EHOSTDOWN", EHOSTDOWN},
    {"EACCES", EACCES},
    {"EPERM", EPERM},
    {"EADDRNOTAVAIL", EADDRNOTAVAIL},
    {"EADDRINUSE", EADDRINUSE},
    {"EAGAIN", EAGAIN},
    {"ENOBUFS", ENOBUFS},
    {"ENOMEM", ENOMEM},
    {"ENFILE", ENFILE},
    {"EMFILE", EMFILE},
    {"EPIPE", EPIPE},
    {"ENOENT", ENOENT},
    {"EIO", EIO},
};

int sq_parse_errno(const char *s, int *err, struct sq_err *e)
{
    char *end;
    long v;

    if (strcasecmp(s, "EINTR") == 0 || strcmp(s, "4") == 0) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "EINTR can't be injected into a connect");
        sq_err_hint(e, "Node.js would retry for ever and spin; use ECONNREFUSED, ETIMEDOUT or EHOSTUNREACH");
        return -EINVAL;
    }
    for (size_t i = 0; i < SQ_COUNT(errnos); i++) {
        if (strcasecmp(s, errnos[i].name) == 0) {
            *err = errnos[i].err;
            return 0;
        }
    }
    v = strtol(s, &end, 10);
    for (size_t i = 0; i < SQ_COUNT(errnos) && *s && !*end; i++) {
        if (v == errnos[i].err) {
            *err = errnos[i].err;
            return 0;
        }
    }
    return bad(e, "an errno that a connection can fail with", s,
               "ECONNREFUSED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EACCES, ...");
}

const char *sq_errno_name(int err)
{
    for (size_t i = 0; i < SQ_COUNT(errnos); i++)
        if (errnos[i].err == err)
            return errnos[i].name;
    return "E?";
}

static const struct {
    const char *name;
    int sig;
} signals[] = {
    {"SIGHUP", SIGHUP},   {"SIGINT", SIGINT},     {"SIGQUIT", SIGQUIT}, {"SIGILL", SIGILL},   {"SIGTRAP", SIGTRAP},
    {"SIGABRT", SIGABRT}, {"SIGBUS", SIGBUS},     {"SIGFPE", SIGFPE},   {"SIGKILL", SIGKILL}, {"SIGUSR1", SIGUSR1},
    {"SIGSEGV", SIGSEGV}, {"SIGUSR2", SIGUSR2},   {"SIGPIPE", SIGPIPE}, {"SIGALRM", SIGALRM}, {"SIGTERM", SIGTERM},
    {"SIGCHLD", SIGCHLD}, {"SIGCONT", SIGCONT},   {"SIGSTOP", SIGSTOP}, {"SIGTSTP", SIGTSTP}, {"SIGTTIN", SIGTTIN},
    {"SIGTTOU", SIGTTOU}, {"SIGURG", SIGURG},     {"SIGXCPU", SIGXCPU}, {"SIGXFSZ", SIGXFSZ}, {"SIGVTALRM", SIGVTALRM},
    {"SIGPROF", SIGPROF}, {"SIGWINCH", SIGWINCH}, {"SIGIO", SIGIO},     {"SIGPWR", SIGPWR},   {"SIGSYS", SIGSYS},
};

int sq_parse_signal(const char *s, int *sig, struct sq_err *e)
{
    char *end;
    long v = strtol(s, &end, 10);

    if (isdigit((unsigned char)*s) && !*end && v >= 1 && v <= 64) {
        *sig = (int)v;
        return 0;
    }
    for (size_t i = 0; i < SQ_COUNT(signals); i++) {
        if (strcasecmp(s, signals[i].name) == 0 || strcasecmp(s, signals[i].name + 3) == 0) {
            *sig = signals[i].sig;
            return 0;
        }
    }
    return bad(e, "a signal", s, "write its name or number: KILL, TERM, SIGSEGV, 9");
}

const char *sq_signal_name(int sig)
{
    for (size_t i = 0; i < SQ_COUNT(signals); i++)
        if (signals[i].sig == sig)
            return signals[i].name;
    return sig >= SIGRTMIN && sig <= SIGRTMAX ? "SIGRT" : "SIG?";
}

int sq_parse_count(const char *s, struct sq_count *c, struct sq_err *e)
{
    const char *p = s;
    double v;

    if (strcmp(s, "all") == 0) {
        *c = (struct sq_count){SQ_COUNT_ALL, 0};
        return 0;
    }
    if (decimal(&p, &v) && v > 0) {
        if (!*p && v <= 1e6 && fabs(v - floor(v)) < 1e-12) {
            *c = (struct sq_count){SQ_COUNT_N, v};
            return 0;
        }
        if (strcmp(p, "%") == 0 && v <= 100) {
            *c = (struct sq_count){SQ_COUNT_PERCENT, v};
            return 0;
        }
    }
    return bad(e, "a count", s, "write how many (1), what share (30%), or all");
}

size_t sq_count_of(const struct sq_count *c, size_t n)
{
    double want = (double)n;

    if (c->how == SQ_COUNT_N)
        want = c->value;
    else if (c->how == SQ_COUNT_PERCENT)
        want = ceil((double)n * c->value / 100.0 - 1e-9);
    if (want < 1)
        return 1;
    return want > (double)n ? n : (size_t)want;
}

char *sq_fmt_duration(int64_t ns, char *buf, size_t len)
{
    double v = (double)ns;

    if (v < 1e3)
        (void)snprintf(buf, len, "%lld ns", (long long)ns);
    else if (v < 1e6)
        (void)snprintf(buf, len, "%.3g us", v / 1e3);
    else if (v < 999.5e6)
        (void)snprintf(buf, len, "%.3g ms", v / 1e6);
    else if (v < 119.5e9)
        (void)snprintf(buf, len, "%.3g s", v / 1e9);
    else if (v < 7199.5e9)
        (void)snprintf(buf, len, "%.3g min", v / 60e9);
    else
        (void)snprintf(buf, len, "%.3g h", v / 3600e9);
    return buf;
}
