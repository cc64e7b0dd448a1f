/* Clocks. Measurements are CLOCK_MONOTONIC, leases CLOCK_BOOTTIME (a suspended host must not prolong a fault). */
#ifndef SQUALL_CLOCK_H
#define SQUALL_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t sq_mono_ns(void);
int64_t sq_boot_ns(void);
/* Now as RFC 3339 UTC with milliseconds, "2026-11-21T01:32:07.123Z"; buf of at least 32 bytes. */
char *sq_wall_iso(char *buf, size_t len);
/* The same for a given wall time in ns since the epoch. */
char *sq_wall_iso_at(int64_t wall_ns, char *buf, size_t len);
int64_t sq_wall_ns(void);

#endif
