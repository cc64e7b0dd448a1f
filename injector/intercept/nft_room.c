/* Connections are tracked for everybody in the network namespace while a table of ours is there. When the kernel's
 * table of them is full, it drops packets of strangers ("nf_conntrack: table full"). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "intercept/nft_int.h"
#include "squall/cleanup.h"

static FILE *file(const char *proc, const char *name)
{
    char path[256];

    (void)snprintf(path, sizeof path, "%s/%s", proc, name);
    return fopen(path, "re");
}

/* 0: not there. */
static uint64_t number(const char *proc, const char *name)
{
    cleanup_fclose FILE *f = file(proc, name);
    uint64_t n = 0;

    return f && fscanf(f, "%" SCNu64, &n) == 1 ? n : 0;
}

/* Sockets of TCP: in use, and those that wait for stragglers. */
static uint64_t sockets(const char *proc)
{
    cleanup_fclose FILE *four = file(proc, "net/sockstat");
    cleanup_fclose FILE *six = file(proc, "net/sockstat6");
    uint64_t n, tw, sum = 0;
    char line[256];

    while (four && fgets(line, sizeof line, four))
        if (sscanf(line, "TCP: inuse %" SCNu64 " orphan %*u tw %" SCNu64, &n, &tw) == 2)
            sum += n + tw;
    while (six && fgets(line, sizeof line, six))
        if (sscanf(line, "TCP6: inuse %" SCNu64, &n) == 1)
            sum += n;
    return sum;
}

int sq_nat_room(const char *proc, struct sq_err *e)
{
    uint64_t max = number(proc, "sys/net/netfilter/nf_conntrack_max"),
             now = number(proc, "sys/net/netfilter/nf_conntrack_count"), own = sockets(proc);

    now = now > own ? now : own;
    if (max == 0 || now <= max / 2)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOSPC,
               "nftables would have the kernel track the connections of everybody here: %" PRIu64
               " now, and it drops packets of strangers above %" PRIu64,
               now, max);
    sq_err_hint(e, "raise net.netfilter.nf_conntrack_max to more than %" PRIu64 " (sysctl)", 2 * now);
    return -ENOSPC;
}
