#include "squall/clock.h"

#include <stdio.h>
#include <time.h>

#include "squall/units.h"

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;

    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * SQ_S + ts.tv_nsec;
}

int64_t sq_mono_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

int64_t sq_boot_ns(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

int64_t sq_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

char *sq_wall_iso_at(int64_t wall_ns, char *buf, size_t len)
{
    time_t s = (time_t)(wall_ns / SQ_S);
    struct tm tm;
    size_t n;

    (void)gmtime_r(&s, &tm);
    n = strftime(buf, len, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(buf + n, len - n, ".%03dZ", (int)(wall_ns % SQ_S / SQ_MS));
    return buf;
}

char *sq_wall_iso(char *buf, size_t len)
{
    return sq_wall_iso_at(sq_wall_ns(), buf, len);
}
