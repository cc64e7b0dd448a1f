/* Durations, rates, percentages, errno and signal names as people write them. Parsers take the whole string, refuse
 * trailing text, negative values, NaN and overflow, and say in the error what would have been right. */
#ifndef SQUALL_UNITS_H
#define SQUALL_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_US INT64_C(1000)
#define SQ_MS INT64_C(1000000)
#define SQ_S INT64_C(1000000000)

/* "200ms", "1.5s", "2m", "1h", "1m30s", "10us", "0": nanoseconds, 0 <= ns <= 100 days. Other bare numbers: an error. */
int sq_parse_duration(const char *s, int64_t *ns, struct sq_err *e);
/* "60/s", "300/m", "3600/h": events per second, > 0, <= 1e7. */
int sq_parse_rate(const char *s, double *per_s, struct sq_err *e);
/* "30%", "0.1%": 0 <= percent <= 100. */
int sq_parse_percent(const char *s, double *percent, struct sq_err *e);
/* "ECONNREFUSED" or "111": a positive errno that a connect or a read may return. EINTR is refused (Node.js spins). */
int sq_parse_errno(const char *s, int *err, struct sq_err *e);
const char *sq_errno_name(int err); /* "ECONNREFUSED"; "E?" when unknown */
/* "KILL", "SIGTERM", "9". 1 <= sig <= 64. */
int sq_parse_signal(const char *s, int *sig, struct sq_err *e);
const char *sq_signal_name(int sig); /* "SIGKILL" */
/* "1", "30%", "all": how many of n targets; see sq_count_of. */
struct sq_count {
    enum { SQ_COUNT_N, SQ_COUNT_PERCENT, SQ_COUNT_ALL } how;
    double value;
};
int sq_parse_count(const char *s, struct sq_count *c, struct sq_err *e);
/* How many of n (n >= 1): at least 1, at most n; percentages round up. */
size_t sq_count_of(const struct sq_count *c, size_t n);

/* For people: "1.5 s", "200 ms", "85 us". Writes at most len bytes, returns buf. */
char *sq_fmt_duration(int64_t ns, char *buf, size_t len);

#endif
