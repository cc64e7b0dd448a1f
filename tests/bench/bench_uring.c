/* The floor of bench_probe.c by io_uring, for probe.py: one io_uring_enter(2) for each request sends it and sleeps
 * until the next one is due, while multishot receives put the answers into buffers of the ring without waking the
 * process. bench_uring PORT RATE CONNECTIONS SECONDS Prints one line of JSON: requests, done, cpu_s. Exit 77: this
 * kernel can't (it takes 6.12: a wait until a moment). */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "squall/clock.h"
#include "squall/units.h"

#ifndef IORING_ENTER_ABS_TIMER
#define IORING_ENTER_ABS_TIMER (1U << 5) /* 6.12 */
#endif
#define CONNECTIONS 1024
#define BUFFERS 256 /* a power of two */
#define BUFFER 2048
#define GROUP 1
#define SENT UINT64_MAX

struct ring {
    int fd;
    unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqe;
    struct io_uring_cqe *cqe;
    struct io_uring_buf_ring *buffers;
    char *room;
    unsigned queued;
};

static void *at(char *base, unsigned offset)
{
    return base + offset;
}

static int ring_open(struct ring *r)
{
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
                                .cq_entries = 4096};
    struct io_uring_buf_reg reg = {.ring_entries = BUFFERS, .bgid = GROUP};
    size_t len;
    char *base;

    r->fd = (int)syscall(SYS_io_uring_setup, CONNECTIONS, &p);
    if (r->fd < 0)
        return -errno;
    len = p.cq_off.cqes + p.cq_entries * sizeof *r->cqe;
    if (len < p.sq_off.array + p.sq_entries * sizeof *r->sq_array)
        len = p.sq_off.array + p.sq_entries * sizeof *r->sq_array;
    base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
    r->sqe = mmap(NULL, p.sq_entries * sizeof *r->sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
                  IORING_OFF_SQES);
    r->buffers =
        mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r->room = malloc((size_t)BUFFERS * BUFFER);
    if (base == MAP_FAILED || r->sqe == MAP_FAILED || r->buffers == MAP_FAILED || !r->room)
        return -ENOMEM;
    r->sq_tail = at(base, p.sq_off.tail);
    r->sq_mask = at(base, p.sq_off.ring_mask);
    r->sq_array = at(base, p.sq_off.array);
    r->cq_head = at(base, p.cq_off.head);
    r->cq_tail = at(base, p.cq_off.tail);
    r->cq_mask = at(base, p.cq_off.ring_mask);
    r->cqe = at(base, p.cq_off.cqes);
    reg.ring_addr = (uintptr_t)r->buffers;
    return syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0 ? -errno : 0;
}

static void give_back(struct ring *r, unsigned id)
{
    struct io_uring_buf *b = &r->buffers->bufs[r->buffers->tail & (BUFFERS - 1)];

    b->addr = (uintptr_t)(r->room + (size_t)id * BUFFER);
    b->len = BUFFER;
    b->bid = (uint16_t)id;
    __atomic_store_n(&r->buffers->tail, (uint16_t)(r->buffers->tail + 1), __ATOMIC_RELEASE);
}

static struct io_uring_sqe *queue(struct ring *r, unsigned char op, int file, uint64_t tag)
{
    unsigned tail = *r->sq_tail, i = tail & *r->sq_mask;
    struct io_uring_sqe *s = &r->sqe[i];

    memset(s, 0, sizeof *s);
    s->opcode = op;
    s->fd = file;
    s->flags = IOSQE_FIXED_FILE;
    s->user_data = tag;
    r->sq_array[i] = i;
    __atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
    r->queued++;
    return s;
}

/* Sleeps until UNTIL: more answers than can come are waited for, so that none wakes it. */
static int enter(struct ring *r, int64_t until)
{
    struct __kernel_timespec t = {until / SQ_S, until % SQ_S};
    struct io_uring_getevents_arg a = {.ts = (uintptr_t)&t};
    unsigned n = r->queued;

    r->queued = 0;
    if (syscall(SYS_io_uring_enter, r->fd, n, CONNECTIONS,
                IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | IORING_ENTER_ABS_TIMER, &a, sizeof a) < 0)
        return errno == ETIME || errno == EINTR ? 0 : -errno;
    return 0;
}

static int connect_all(struct ring *r, unsigned port, int n)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd[CONNECTIONS], one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < n; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd[i] < 0 || connect(fd[i], (const struct sockaddr *)&to, sizeof to) < 0)
            return -errno;
        (void)setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, fd, n) < 0)
        return -errno;
    for (int i = 0; i < n; i++) {
        struct io_uring_sqe *s = queue(r, IORING_OP_RECV, i, (uint64_t)i);

        s->ioprio = IORING_RECV_MULTISHOT;
        s->flags |= IOSQE_BUFFER_SELECT;
        s->buf_group = GROUP;
    }
    return 0;
}

static double cpu(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int run(struct ring *r, double rate, int connections, double seconds)
{
    static const char request[] =
        "GET / HTTP/1.1\r\ntraceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n"
        "host: 127.0.0.1\r\nuser-agent: squall/floor\r\n\r\n";
    int idle[CONNECTIONS], n_idle = 0, rc;
    uint64_t sent = 0, done = 0;
    int64_t begin = sq_mono_ns() + SQ_MS;
    double from = cpu();

    while (n_idle < connections)
        idle[n_idle] = n_idle, n_idle++;
    for (uint64_t i = 0; (double)i < rate * seconds; i++) {
        unsigned head = *r->cq_head, tail;

        if ((rc = enter(r, begin + (int64_t)((double)i / rate * 1e9))) < 0)
            return rc;
        for (tail = __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE); head != tail; head++) {
            const struct io_uring_cqe *c = &r->cqe[head & *r->cq_mask];

            if (c->user_data == SENT || c->res <= 0 || !(c->flags & IORING_CQE_F_MORE))
                return c->res < 0 ? c->res : -EPIPE;
            done++;
            idle[n_idle++] = (int)c->user_data;
            give_back(r, c->flags >> IORING_CQE_BUFFER_SHIFT);
        }
        __atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
        if (n_idle > 0) {
            struct io_uring_sqe *s = queue(r, IORING_OP_SEND, idle[--n_idle], SENT);

            s->addr = (uintptr_t)request;
            s->len = sizeof request - 1;
            s->msg_flags = MSG_NOSIGNAL;
            s->flags |= IOSQE_CQE_SKIP_SUCCESS;
            sent++;
        }
    }
    (void)printf("{\"requests\":%llu,\"done\":%llu,\"cpu_s\":%f}\n", (unsigned long long)sent, (unsigned long long)done,
                 cpu() - from);
    return 0;
}

int main(int argc, char **argv)
{
    struct sched_param param = {.sched_priority = 1};
    struct ring r = {0};
    int rc, n;

    if (argc != 5 || (n = atoi(argv[3])) < 1 || n > CONNECTIONS) {
        (void)printf("bench_uring is probe.sh's\n");
        return argc == 1 ? 0 : 2;
    }
    (void)prctl(PR_SET_TIMERSLACK, 1);
    (void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param); /* as the probe does */
    rc = ring_open(&r);
    for (unsigned i = 0; rc == 0 && i < BUFFERS; i++)
        give_back(&r, i);
    if (rc == 0)
        rc = connect_all(&r, (unsigned)atoi(argv[1]), n);
    if (rc == 0)
        rc = run(&r, strtod(argv[2], NULL), n, strtod(argv[4], NULL));
    if (rc < 0)
        (void)fprintf(stderr, "bench_uring: %s\n", strerror(-rc));
    free(r.room);
    return rc == 0 ? 0 : rc == -EINVAL || rc == -ENOSYS || rc == -EPERM ? 77 : 1;
}
