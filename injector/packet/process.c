/* The packet process: privileges dropped, messages of squalld, the loop, and the end: it stops to vouch for itself, so
 * that packets go their direct way at once, and leaves when the last one it holds is sent on. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "packet/control.h"
#include "packet/device.h"
#include "packet/wire.h"
#include "squall/clock.h"
#include "squall/fds.h"
#include "unprivileged.h"

#define WIRE_FD 3
#define NICE (-10)
#define PRIORITY 1 /* real-time, round robin: a fault's exactness is how soon it runs */
#define SHARE_EVERY (50 * MS)
#define SHARE_LONG (1000 * MS)
#define SHARE_MAX 70    /* percent of a core that it may take in real time */
#define RUNAWAY 1000000 /* us of real time without a sleep: SIGXCPU, and traffic flows directly again */
#define BATCH 64u
#define MS INT64_C(1000000)
#define BEAT_EVERY (10 * MS)
#define IDLE (50 * MS) /* longest sleep */
#define LOOK_EVERY MS  /* at the control socket, while busy */
#define EARLY_MAX                                                                                                      \
    (INT64_C(150) * 1000)        /* a sleep ends at most so much before its time, and the rest is waited awake         \
                                  */
#define MANY 8                   /* packets in a millisecond from which on sleeps have a fixed length ... */
#define NAP (INT64_C(30) * 1000) /* ... of so much: fewer wake-ups, that late at most */
#define QUIET (20 * MS)          /* packets that were on their way to a TAP when the programs let go */
#define FDS_MAX (1 + SQ_DIRECTIONS + SQ_PACKET_LINKS_MAX)
#define HELD_MAX ((size_t)4 << 30)

struct process {
    struct sq_pdev *dev;
    int wire; /* -1: squalld is gone */
    int links[SQ_PACKET_LINKS_MAX];
    size_t n_links;
    bool started, draining;
    bool real_time, may_return;  /* without RLIMIT_RTPRIO it can be left, but not entered again */
    int64_t share_at, share_cpu; /* when CPU time was looked at, and how much it was */
    _Atomic uint64_t *beat;
    struct robust_list entry; /* the only one of the list that the kernel goes through when this process dies */
    struct robust_list_head robust;
    unsigned handled; /* packets since `looked` */
    bool many;
    int64_t early;                 /* by how much sleeps end too late, about */
    int64_t beaten, looked, heard; /* heard: of the last packet read */
    uint8_t message[SQ_PACKET_MESSAGE_MAX];
};

/* ---- privileges ---- */

/* Real time, while there are rights to ask for it. Best effort: what is refused is not used. */
static void enter_real_time(struct process *p)
{
    struct rlimit prio = {PRIORITY, PRIORITY}, runaway = {RUNAWAY, RUNAWAY};
    struct sched_param sp = {.sched_priority = PRIORITY};
    (void)setrlimit(RLIMIT_RTTIME, &runaway);
    p->may_return = setrlimit(RLIMIT_RTPRIO, &prio) == 0;
    (void)setpriority(PRIO_PROCESS, 0, NICE);
    (void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    p->real_time = sched_setscheduler(0, SCHED_RR, &sp) == 0;
}

/* ---- messages ---- */

static void answer(struct process *p, uint32_t seq, int error)
{
    int32_t a[2] = {(int32_t)seq, error};
    (void)send(p->wire, a, sizeof a, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int map_beat(struct process *p, int fd)
{
    void *m = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED)
        return -errno;
    p->beat = m;
    /* Best effort: without it the programs let packets pass a little later. */
    char *owner = (char *)m + offsetof(struct sq_packet_beat, owner);
    *(_Atomic uint32_t *)(void *)owner = (uint32_t)syscall(SYS_gettid);
    p->entry.next = &p->robust.list;
    p->robust = (struct robust_list_head){.list = {&p->entry}, .futex_offset = (long)(owner - (char *)&p->entry)};
    (void)syscall(SYS_set_robust_list, &p->robust, sizeof p->robust);
    return 0;
}

/* Those of FDS that are taken are set to -1. */
static int on_start(struct process *p, size_t len, int *fds, size_t n)
{
    struct sq_packet_start s;
    if (p->started || len != sizeof s)
        return -EBADMSG;
    memcpy(&s, p->message, sizeof s);
    size_t taps = (s.has_egress != 0) + (size_t)(s.has_ingress != 0);
    if (s.n_links > SQ_PACKET_LINKS_MAX || n != 1 + taps + s.n_links || taps == 0)
        return -EBADMSG;
    int rc = map_beat(p, fds[0]);
    size_t at = 1;
    for (unsigned dir = 0; dir < SQ_DIRECTIONS && !rc; dir++) {
        if (!(dir == SQ_EGRESS ? s.has_egress : s.has_ingress))
            continue;
        rc = sq_pdev_tap(p->dev, dir, fds[at]);
        if (!rc)
            fds[at++] = -1;
    }
    for (size_t i = 0; i < s.n_links && !rc; i++) {
        p->links[p->n_links++] = fds[at];
        fds[at++] = -1;
    }
    p->started = !rc;
    return rc;
}

static int on_set(struct process *p, size_t len, uint32_t *seq)
{
    struct sq_packet_set h = {0};
    struct sq_impair im;
    int rc = sq_packet_set_read(p->message, len, &h, &im, NULL);
    *seq = h.seq;
    if (rc < 0)
        return rc;
    sq_pdev_set(p->dev, h.ingress ? SQ_INGRESS : SQ_EGRESS, h.bit, &im, h.seed);
    return 0;
}

static int on_del(struct process *p, size_t len, uint32_t *seq)
{
    struct sq_packet_set h;
    if (len < sizeof h)
        return -EBADMSG;
    memcpy(&h, p->message, sizeof h);
    *seq = h.seq;
    if (h.bit >= SQ_CLASSIFY_FAULTS || h.ingress > 1)
        return -EBADMSG;
    sq_pdev_del(p->dev, h.ingress ? SQ_INGRESS : SQ_EGRESS, h.bit);
    return 0;
}

static void on_stats(struct process *p, size_t len)
{
    struct sq_packet_stats s;
    if (len < offsetof(struct sq_packet_stats, packets))
        return;
    memset(&s, 0, sizeof s);
    memcpy(&s, p->message, offsetof(struct sq_packet_stats, packets));
    if (s.bit < SQ_CLASSIFY_FAULTS && s.ingress <= 1)
        sq_pdev_stats(p->dev, s.ingress ? SQ_INGRESS : SQ_EGRESS, s.bit, &s);
    (void)send(p->wire, &s, sizeof s, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void on_get(struct process *p, size_t len)
{
    struct sq_packet_got g;
    if (len < offsetof(struct sq_packet_got, on))
        return;
    memset(&g, 0, sizeof g);
    memcpy(&g, p->message, offsetof(struct sq_packet_got, on));
    if (g.bit < SQ_CLASSIFY_FAULTS && g.ingress <= 1)
        sq_pdev_get(p->dev, g.ingress ? SQ_INGRESS : SQ_EGRESS, g.bit, &g);
    (void)send(p->wire, &g, sizeof g, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The programs let packets pass from now on; what is held is sent on when it is due. */
static void let_go(struct process *p)
{
    if (p->draining)
        return;
    p->draining = true;
    if (p->beat)
        *p->beat = 0;
    p->heard = sq_mono_ns();
}

static void on_message(struct process *p, size_t len, int *fds, size_t n_fds)
{
    uint32_t op, seq = 0;
    int rc;
    if (len < sizeof op)
        return;
    memcpy(&op, p->message, sizeof op);
    switch (op) {
    case SQ_PK_START:
        rc = on_start(p, len, fds, n_fds);
        break;
    case SQ_PK_SET:
        rc = on_set(p, len, &seq);
        break;
    case SQ_PK_DEL:
        rc = on_del(p, len, &seq);
        break;
    case SQ_PK_STATS:
        on_stats(p, len);
        return;
    case SQ_PK_GET:
        on_get(p, len);
        return;
    case SQ_PK_END:
        let_go(p);
        return;
    default:
        return;
    }
    answer(p, seq, rc);
}

/* All that wait; at the end of the socket squalld is gone. */
static void look(struct process *p)
{
    while (p->wire >= 0) {
        int fds[FDS_MAX];
        size_t n_fds = FDS_MAX;
        ssize_t n = sq_fds_recv(p->wire, p->message, sizeof p->message, fds, &n_fds, MSG_DONTWAIT);
        if (n == -EMSGSIZE)
            continue;
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            (void)close(p->wire);
            p->wire = -1;
            let_go(p);
            return;
        }
        on_message(p, (size_t)n, fds, n_fds);
        for (size_t i = 0; i < n_fds; i++)
            if (fds[i] >= 0)
                (void)close(fds[i]);
    }
}

/* ---- the loop ---- */

static void vouch(struct process *p, int64_t now)
{
    if (!p->beat || p->draining || now - p->beaten < BEAT_EVERY)
        return;
    p->beaten = now;
    *p->beat = (uint64_t)now + SQ_PACKET_ALIVE_NS;
}

/* A sleep of the kernel's ends late by 50 to 150 us on a virtual machine, by 5 on others. */
static void learn(struct process *p, int64_t over)
{
    over = over < EARLY_MAX ? over : EARLY_MAX;
    p->early += (over - p->early) / 8;
}

/* In real time only while it takes a modest share of its core: a flood must not starve everybody else there. */
static void choose_class(struct process *p, int64_t now)
{
    struct timespec ts = {0};
    if (now - p->share_at < (p->may_return ? SHARE_EVERY : SHARE_LONG) || (!p->real_time && !p->may_return))
        return;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    int64_t cpu = ts.tv_sec * 1000 * MS + ts.tv_nsec;
    bool modest = (cpu - p->share_cpu) * 100 < (now - p->share_at) * SHARE_MAX;
    p->share_at = now;
    p->share_cpu = cpu;
    if (modest == p->real_time)
        return;
    struct sched_param sp = {.sched_priority = modest ? PRIORITY : 0};
    if (sched_setscheduler(0, modest ? SCHED_RR : SCHED_OTHER, &sp) == 0)
        p->real_time = modest;
}

static void wait_for(struct process *p, int64_t now)
{
    struct pollfd f[1 + SQ_DIRECTIONS] = {{.fd = p->wire, .events = POLLIN}};
    if (p->many) {
        struct timespec nap = {.tv_sec = 0, .tv_nsec = NAP};
        (void)ppoll(f, 1, &nap, NULL);
        return;
    }
    for (unsigned dir = 0; dir < SQ_DIRECTIONS; dir++)
        f[1 + dir] = (struct pollfd){.fd = p->dev->dir[dir].tap, .events = POLLIN};
    int64_t next = sq_pdev_next(p->dev), left = next - now;
    if (left <= p->early)
        return; /* awake */
    int64_t most = p->draining ? QUIET / 4 : IDLE;
    left = left < most ? left - p->early : most;
    struct timespec ts = {.tv_sec = 0, .tv_nsec = left};
    int n = ppoll(f, 1 + SQ_DIRECTIONS, &ts, NULL);
    if (n > 0 && f[0].revents)
        p->looked = 0;
    if (n == 0)
        learn(p, sq_mono_ns() - now - left);
}

static bool at_end(const struct process *p, int64_t now)
{
    if (!p->draining)
        return false;
    bool none = p->dev->dir[SQ_EGRESS].tap < 0 && p->dev->dir[SQ_INGRESS].tap < 0;
    return none || (sq_pdev_next(p->dev) == INT64_MAX && now - p->heard > QUIET);
}

static void run(struct process *p)
{
    for (;;) {
        int64_t now = sq_mono_ns();
        vouch(p, now);
        choose_class(p, now);
        if (now - p->looked >= LOOK_EVERY) {
            p->many = p->looked && p->handled >= MANY * (now - p->looked) / MS;
            p->handled = 0;
            p->looked = now;
            look(p);
        }
        unsigned done = sq_pdev_send(p->dev, now, BATCH);
        for (unsigned dir = 0; dir < SQ_DIRECTIONS; dir++) {
            int n = sq_pdev_read(p->dev, dir, BATCH);
            if (n > 0) {
                done += (unsigned)n;
                p->heard = now;
            }
        }
        p->handled += done;
        if (done >= BATCH || (done && !p->many))
            continue;
        now = sq_mono_ns();
        if (at_end(p, now))
            return;
        wait_for(p, now);
    }
}

static size_t memory(void)
{
    struct sysinfo si;
    if (sysinfo(&si) != 0)
        return HELD_MAX / 16;
    uint64_t quarter = (uint64_t)si.totalram * si.mem_unit / 4;
    return quarter < HELD_MAX ? (size_t)quarter : HELD_MAX;
}

int sq_packet_main(void)
{
    int type = 0;
    socklen_t n = sizeof type;
    if (getsockopt(WIRE_FD, SOL_SOCKET, SO_TYPE, &type, &n) != 0 || type != SOCK_SEQPACKET) {
        (void)fprintf(stderr, "squalld packet: descriptor 3 must be squalld's socket; it is not started by hand\n");
        return 2;
    }
    (void)prctl(PR_SET_NAME, "squall-packet", 0, 0, 0);
    (void)fcntl(WIRE_FD, F_SETFD, FD_CLOEXEC);
    (void)signal(SIGPIPE, SIG_IGN);
    struct process *p = calloc(1, sizeof *p);
    if (p)
        enter_real_time(p);
    int rc = p ? sq_unprivileged() : -ENOMEM;
    if (rc == 0)
        p->dev = sq_pdev_new(sq_mono_ns(), memory());
    if (!p || !p->dev) {
        (void)fprintf(stderr, "squalld packet: cannot start: %s\n", strerror(rc < 0 ? -rc : ENOMEM));
        free(p);
        return 5;
    }
    p->wire = WIRE_FD;
    run(p);
    sq_pdev_free(p->dev);
    for (size_t i = 0; i < p->n_links; i++)
        (void)close(p->links[i]);
    free(p);
    return 0;
}
