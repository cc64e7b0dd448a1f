/* Programs that call in odd ways, for 45-odd-*.py: odd WHAT PORT [N]. Prints one line of JSON; "err" is 0 when a whole
 * HTTP exchange with 127.0.0.1:PORT worked, else the errno of what failed first. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in to;
static const char ask[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/* 0: the answer came whole. */
static int exchange(int fd, size_t sent)
{
    char buf[4096];
    size_t n = 0;
    ssize_t k = 0;
    while (sent < sizeof ask - 1) {
        k = send(fd, ask + sent, sizeof ask - 1 - sent, MSG_NOSIGNAL);
        if (k < 0 && errno != EINTR)
            return errno;
        sent += k > 0 ? (size_t)k : 0;
    }
    while (n < sizeof buf - 1 && ((k = recv(fd, buf + n, sizeof buf - 1 - n, 0)) > 0 || (k < 0 && errno == EINTR)))
        n += k > 0 ? (size_t)k : 0;
    buf[n] = '\0';
    return k < 0 ? errno : strstr(buf, "real") ? 0 : EPROTO;
}

static int call_once(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : exchange(fd, 0);
    (void)close(fd);
    return rc;
}

/* ---- io_uring ---- */

static int uring_connect(int ring, const struct io_uring_params *p, int fd)
{
    size_t sq_len = p->sq_off.array + p->sq_entries * sizeof(unsigned),
           cq_len = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqe =
        mmap(NULL, p->sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)sqe == MAP_FAILED)
        return errno;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_CONNECT;
    sqe->fd = fd;
    sqe->addr = (uintptr_t)&to;
    sqe->off = sizeof to;
    *(unsigned *)(void *)(sq + p->sq_off.array) = 0;
    __atomic_store_n((unsigned *)(void *)(sq + p->sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        return errno;
    return -((struct io_uring_cqe *)(void *)(cq + p->cq_off.cqes))->res;
}

static void uring(void)
{
    struct io_uring_params p = {0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), ring = (int)syscall(SYS_io_uring_setup, 4, &p);
    int setup = ring < 0 ? errno : 0, rc;
    /* As libuv does: without rings, by the system call. */
    if (setup)
        rc = connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : 0;
    else
        rc = uring_connect(ring, &p, fd);
    printf("{\"setup\": %d, \"err\": %d}\n", setup, rc ? rc : exchange(fd, 0));
}

/* ---- MSG_FASTOPEN ---- */

static ssize_t send_fast(const char *how, int fd)
{
    struct iovec iov = {(void *)(uintptr_t)ask, sizeof ask - 1};
    struct mmsghdr m = {.msg_hdr = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &iov, .msg_iovlen = 1}};
    if (strcmp(how, "sendto") == 0)
        return sendto(fd, ask, sizeof ask - 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
    if (strcmp(how, "sendmsg") == 0)
        return sendmsg(fd, &m.msg_hdr, MSG_FASTOPEN | MSG_NOSIGNAL);
    int n = sendmmsg(fd, &m, 1, MSG_FASTOPEN | MSG_NOSIGNAL);
    return n == 1 ? (ssize_t)m.msg_len : -1;
}

/* As tcp(7) says a program must be prepared: EINPROGRESS is a connect that has begun, EOPNOTSUPP asks for connect(2).
 */
static void fastopen(const char *how, bool nonblock)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 0);
    ssize_t n = send_fast(how, fd);
    int first = n < 0 ? errno : 0, rc = first, soerr = 0;
    socklen_t len = sizeof soerr;
    if (first == EOPNOTSUPP) {
        rc = connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : 0;
    } else if (first == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        rc = poll(&p, 1, 5000) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &soerr, &len) == 0 ? soerr : ETIMEDOUT;
    }
    (void)fcntl(fd, F_SETFL, 0);
    printf("{\"first\": %d, \"err\": %d}\n", first, rc ? rc : exchange(fd, n > 0 ? (size_t)n : 0));
}

/* Datagrams to the same address are no calls over a TCP edge: sent by sendmsg and sendmmsg, they arrive. */
static void datagrams(void)
{
    struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = to.sin_port};
    int in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0), got = 0;
    char x[] = "x", buf[8];
    struct iovec iov = {x, 1};
    struct mmsghdr m[3];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 3; i++)
        m[i].msg_hdr = (struct msghdr){.msg_name = &me, .msg_namelen = sizeof me, .msg_iov = &iov, .msg_iovlen = 1};
    int rc = bind(in, (struct sockaddr *)&me, sizeof me) < 0 ? errno : 0;
    if (!rc && (sendmsg(out, &m[0].msg_hdr, 0) != 1 || sendmmsg(out, m, 3, 0) != 3))
        rc = errno;
    while (!rc && got < 4 && recv(in, buf, sizeof buf, MSG_DONTWAIT) == 1)
        got++;
    printf("{\"err\": %d, \"got\": %d}\n", rc, got);
}

/* ---- processes and threads ---- */

/* The child calls before it becomes another program, in its parent's memory. */
static void vforked(void)
{
    volatile int rc = -1;
    pid_t pid = vfork();
    if (pid == 0) {
        rc = call_once();
        _exit(0);
    }
    (void)waitpid(pid, NULL, 0);
    printf("{\"err\": %d}\n", rc);
}

static void before_fork(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), st = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : 0);
    (void)waitpid(pid, &st, 0);
    printf("{\"err\": %d}\n", WEXITSTATUS(st) ? WEXITSTATUS(st) : exchange(fd, 0));
}

static void *thread_main(void *arg)
{
    int *bad = arg;
    for (int i = 0; i < 10; i++)
        *bad += call_once() != 0;
    return NULL;
}

static void threads(int n)
{
    pthread_t t[256];
    int bad[256] = {0}, sum = 0;
    for (int i = 0; i < n && i < 256; i++)
        if (pthread_create(&t[i], NULL, thread_main, &bad[i]) != 0)
            abort();
    for (int i = 0; i < n && i < 256; i++) {
        (void)pthread_join(t[i], NULL);
        sum += bad[i];
    }
    printf("{\"err\": %d}\n", sum);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int sig)
{
    (void)sig;
    alarms++;
}

/* Calls while signals come every millisecond. A connect(2) that a signal interrupts goes on by itself, without another
 * call of ours (SA_RESTART, or as connect(2) says: it is completed asynchronously). */
static void storm(int n)
{
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    const struct itimerval every = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    int bad = 0;
    (void)sigaction(SIGALRM, &sa, NULL);
    (void)setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < n; i++)
        bad += call_once() != 0;
    (void)setitimer(ITIMER_REAL, &off, NULL);
    printf("{\"err\": %d, \"alarms\": %d}\n", bad, (int)alarms);
}

/* Until it is killed: two threads that call, four that compute and four that sleep; "wrong" when that went wrong. */
static void *calls(void *arg)
{
    (void)arg;
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int rc = connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : 0;
        (void)close(fd);
        printf(rc == 0 ? "ok\n" : rc == ECONNREFUSED ? "refused\n" : "error %d\n", rc);
        (void)usleep(5000);
    }
    return NULL;
}

static void *computes(void *arg)
{
    (void)arg;
    for (;;) {
        volatile double x = 1.5;
        unsigned sum = 0;
        for (unsigned i = 0; i < 100000; i++)
            sum += i * 2654435761u;
        if (sum != 678852528u || x * x != 2.25)
            printf("wrong %u\n", sum);
    }
    return NULL;
}

static void *sleeps(void *arg)
{
    (void)arg;
    for (;;) {
        struct timespec t = {0, 10000000}, a, b;
        (void)clock_gettime(CLOCK_MONOTONIC, &a);
        int rc = nanosleep(&t, NULL);
        (void)clock_gettime(CLOCK_MONOTONIC, &b);
        if (rc < 0 || (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < 10000000)
            printf("wrong sleep\n");
    }
    return NULL;
}

static void forever(void)
{
    static void *(*const what[])(void *) = {calls, computes, sleeps};
    static const int many[] = {1, 4, 4};
    pthread_t t;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < many[k]; i++)
            if (pthread_create(&t, NULL, what[k], NULL) != 0)
                abort();
    (void)calls(NULL);
}

/* ---- its own seccomp filter ---- */

static int filter(unsigned action, unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = 4, .filter = code};
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog) < 0 ? errno : 0;
}

static void own_filter(void)
{
    int loaded = filter(SECCOMP_RET_ERRNO | EPERM, 0);
    printf("{\"loaded\": %d, \"err\": %d}\n", loaded, call_once());
}

/* A supervisor of its own: where one is there already, the kernel refuses it (EBUSY). */
static void own_listener(void)
{
    int loaded = filter(SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    printf("{\"loaded\": %d, \"err\": %d}\n", loaded, call_once());
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    int n = argc > 3 ? atoi(argv[3]) : 1;
    to = (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 0))};
    if (strcmp(what, "uring") == 0)
        uring();
    else if (strncmp(what, "send", 4) == 0)
        fastopen(what, n != 0);
    else if (strcmp(what, "datagrams") == 0)
        datagrams();
    else if (strcmp(what, "vfork") == 0)
        vforked();
    else if (strcmp(what, "beforefork") == 0)
        before_fork();
    else if (strcmp(what, "threads") == 0)
        threads(n);
    else if (strcmp(what, "storm") == 0)
        storm(n);
    else if (strcmp(what, "forever") == 0)
        forever();
    else if (strcmp(what, "ids") == 0)
        printf("{\"euid\": %d, \"err\": %d}\n", (int)geteuid(), call_once());
    else if (strcmp(what, "filter") == 0)
        own_filter();
    else if (strcmp(what, "listener") == 0)
        own_listener();
    else
        return 2;
    return 0;
}
