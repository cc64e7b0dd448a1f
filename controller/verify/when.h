/* Moments as other programs write them, RFC 3339: "2026-11-21T06:30:38.123456789+01:00". */
#ifndef SQUALL_VERIFY_WHEN_H
#define SQUALL_VERIFY_WHEN_H

#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds since 1970 in UTC, of years 1970 to 2200. False: TEXT is no such moment. */
bool sq_rfc3339(const char *text, int64_t *ns);

#endif
