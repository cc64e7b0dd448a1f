/* The packet process alone, on a TAP whose other side is a packet socket: how exactly it delays, and what a packet
 * costs it. The whole way, with and without the fault, is packet.sh's, which uses this for its traffic, too:
 *   bench_packet                      all of the first
 *   bench_packet tx ADDR PPS SECONDS  UDP datagrams of 18 bytes (60-byte frames); PPS 0: as fast as it can
 *   bench_packet rx                   count them, until 1 s after the last
 *   bench_packet echo                 answer datagrams
 *   bench_packet rtt ADDR N           N round trips, 300 us apart, in us: min p50 p99 max */
#include "live/packet_rig.h"

#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>

#define PORT 7777
#define BURST 32

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void percentiles(const char *what, int64_t *t, size_t n)
{
    MUST(n > 0);
    qsort(t, n, sizeof *t, by_value);
    (void)printf("%s %.0f %.0f %.0f %.0f\n", what, (double)t[0] / 1e3, (double)t[n / 2] / 1e3,
                 (double)t[n * 99 / 100] / 1e3, (double)t[n - 1] / 1e3);
}

/* ---- traffic ---- */

static int udp(bool bound)
{
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), big = 1 << 28;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    MUST(s >= 0);
    (void)setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
    (void)setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    MUST(!bound || bind(s, (struct sockaddr *)&a, sizeof a) == 0);
    return s;
}

static int to(const char *addr)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int s = udp(false);
    MUST(inet_pton(AF_INET, addr, &a.sin_addr) == 1 && connect(s, (struct sockaddr *)&a, sizeof a) == 0);
    return s;
}

static void burst_of(struct mmsghdr *m, struct iovec *io, void *buf, size_t len)
{
    *io = (struct iovec){buf, len};
    memset(m, 0, BURST * sizeof *m);
    for (int i = 0; i < BURST; i++) {
        m[i].msg_hdr.msg_iov = io;
        m[i].msg_hdr.msg_iovlen = 1;
    }
}

/* PPS 0: without a pace. How many were sent. */
static uint64_t send_paced(int s, void *buf, size_t len, uint64_t pps, int64_t ns, uint64_t max)
{
    struct mmsghdr m[BURST];
    struct iovec io;
    uint64_t n = 0;
    int64_t begin = sq_mono_ns(), t;
    burst_of(m, &io, buf, len);
    while ((t = sq_mono_ns() - begin) < ns && n < max) {
        if (pps && n > (uint64_t)t * pps / 1000000000) {
            (void)usleep(100);
            continue;
        }
        int k = sendmmsg(s, m, BURST, 0);
        n += k > 0 ? (uint64_t)k : 0;
    }
    return n;
}

static void tx(const char *addr, uint64_t pps, int64_t seconds)
{
    uint8_t buf[18] = {0};
    (void)printf("%lu\n", send_paced(to(addr), buf, sizeof buf, pps, seconds * 1000000000, UINT64_MAX));
}

static void rx(void)
{
    static uint8_t buf[BURST][64];
    struct mmsghdr m[BURST];
    struct iovec io[BURST];
    struct timeval tv = {.tv_sec = 5};
    uint64_t n = 0;
    int64_t first = 0, last = 0;
    int s = udp(true);
    memset(m, 0, sizeof m);
    for (int i = 0; i < BURST; i++) {
        io[i] = (struct iovec){buf[i], sizeof buf[i]};
        m[i].msg_hdr.msg_iov = &io[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    for (;;) {
        MUST(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
        int k = recvmmsg(s, m, BURST, MSG_WAITFORONE, NULL);
        if (k <= 0)
            break;
        last = sq_mono_ns();
        first = first ? first : last;
        n += (uint64_t)k;
        tv.tv_sec = 1;
    }
    (void)printf("%lu %.3f\n", n, (double)(last - first) / 1e9);
}

static void echo(void)
{
    uint8_t buf[64];
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    ssize_t n;
    rig_exact();
    for (int s = udp(true); (n = recvfrom(s, buf, sizeof buf, 0, (struct sockaddr *)&a, &len)) >= 0;)
        (void)sendto(s, buf, (size_t)n, 0, (struct sockaddr *)&a, len);
}

static void rtt(const char *addr, size_t n)
{
    int s = to(addr);
    struct timeval tv = {.tv_sec = 2};
    int64_t *t = calloc(n, sizeof *t);
    size_t got = 0;
    rig_exact();
    MUST(t && setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
    for (size_t i = 0; i < n; i++) {
        int64_t begin = sq_mono_ns();
        if (send(s, &i, sizeof i, 0) > 0 && recv(s, &i, sizeof i, 0) > 0)
            t[got++] = sq_mono_ns() - begin;
        (void)usleep(300);
    }
    percentiles("rtt", t, got);
    free(t);
}

/* ---- the process alone ---- */

static void exactness(struct rig *r, int64_t delay, size_t n)
{
    struct sq_impair im = {.delay = delay, .limit = 1000};
    int64_t *t = calloc(n, sizeof *t);
    struct sched_param plain = {0};
    char what[64];
    rig_exact();
    MUST(t && rig_set(r, 3, &im) == 0);
    for (size_t i = 0; i < n; i++) {
        rig_send(r, 1 << 3, i);
        MUST(rig_got(r, 5000, &t[i]) == (int64_t)i);
        t[i] -= delay;
        (void)usleep(300);
    }
    (void)snprintf(what, sizeof what, "delay %3ld ms: beyond it, min p50 p99 max us:", delay / 1000000);
    percentiles(what, t, n);
    (void)sched_setscheduler(0, SCHED_OTHER, &plain);
    free(t);
}

/* Nobody takes what comes back: the process's own costs, not those of the way behind it. */
static void cost(const char *what, size_t len, uint64_t n, uint64_t pps)
{
    struct rig r;
    static uint8_t buf[70000];
    struct sq_impair im = {.delay = 2000000, .limit = 4000000};
    struct sockaddr_ll a = {.sll_family = AF_PACKET};
    rig_open(&r);
    MUST(rig_set(&r, 3, &im) == 0);
    a.sll_ifindex = (int)if_nametoindex("sqt0");
    (void)close(r.sock);
    r.sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    MUST(r.sock >= 0 && bind(r.sock, (struct sockaddr *)&a, sizeof a) == 0);
    rig_frame((struct rig_frame *)(void *)buf, 1 << 3, 1, len, 0);
    struct rusage before, after;
    MUST(getrusage(RUSAGE_CHILDREN, &before) == 0);
    int64_t begin = sq_mono_ns();
    n = send_paced(r.sock, buf, sizeof(struct sq_packet_tag) + len, pps, INT64_MAX, n);
    double took = (double)(sq_mono_ns() - begin) / 1e9;
    (void)usleep(100000);
    struct sq_packet_stats s = rig_stats(&r, 3);
    MUST(rig_end(&r, 10000) == 0 && getrusage(RUSAGE_CHILDREN, &after) == 0);
    double us =
        (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec);
    us = us * 1e6 + (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec) +
         (double)(after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    (void)printf("%s: %lu packets/s for %.1f s, lost %ld, %.2f s of CPU a million\n", what,
                 (uint64_t)((double)n / took), took, (long)(n - s.packets), us / (double)s.packets);
}

static void alone(void)
{
    struct rig r;
    MUST(unshare(CLONE_NEWNET) == 0);
    rig_open(&r);
    exactness(&r, 0, 1000);
    exactness(&r, 2000000, 1000);
    exactness(&r, 50000000, 200);
    MUST(rig_end(&r, 5000) == 0);
    cost("60-byte frames, at 100,000/s", 60, 200000, 100000);
    cost("60-byte frames, as fast as one sender can", 60, 500000, 0);
    cost("1514-byte frames, at 50,000/s", 1514, 100000, 50000);
    cost("60,000-byte frames, at 10,000/s", 60000, 20000, 10000);
}

int main(int argc, char **argv)
{
    if (argc == 1)
        alone();
    else if (argc == 5 && strcmp(argv[1], "tx") == 0)
        tx(argv[2], strtoul(argv[3], NULL, 10), strtol(argv[4], NULL, 10));
    else if (argc == 2 && strcmp(argv[1], "rx") == 0)
        rx();
    else if (argc == 2 && strcmp(argv[1], "echo") == 0)
        echo();
    else if (argc == 4 && strcmp(argv[1], "rtt") == 0)
        rtt(argv[2], strtoul(argv[3], NULL, 10));
    else
        return 2;
    return 0;
}
