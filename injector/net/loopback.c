#include "net/loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/proc.h"

static const char *const knob[SQ_LOOPBACK_KNOBS] = {"/proc/sys/net/ipv4/conf/lo/route_localnet",
                                                    "/proc/sys/net/ipv4/conf/lo/accept_local"};

int sq_loopback_read(int was[SQ_LOOPBACK_KNOBS], struct sq_err *e)
{
    for (int i = 0; i < SQ_LOOPBACK_KNOBS; i++) {
        char text[16];
        ssize_t n = sq_proc_slurp(knob[i], text, sizeof text);

        if (n < 0)
            return sq_err_sys(e, (int)n, "cannot read %s", knob[i]);
        was[i] = atoi(text);
    }
    return 0;
}

int sq_loopback_write(const int values[SQ_LOOPBACK_KNOBS], struct sq_err *e)
{
    for (int i = 0; i < SQ_LOOPBACK_KNOBS; i++) {
        cleanup_close int fd = open(knob[i], O_WRONLY | O_CLOEXEC);
        char text[16];
        int n = snprintf(text, sizeof text, "%d", values[i]);

        if (fd < 0 || write(fd, text, (size_t)n) != n)
            return sq_err_sys(e, -errno, "cannot set %s to %d", knob[i], values[i]);
    }
    return 0;
}
