/* The probe as a load generator on the command line, for probe.py, which compares it with others:
 *   bench_probe URL RATE CONNECTIONS SECONDS      RATE 0: a closed loop
 *   bench_probe floor PORT RATE CONNECTIONS SECONDS TOGETHER
 * Prints one line of JSON: requests, what they cost (CPU seconds of the whole process, and from half a second after the
 * first request to half a second before the last, for which `counted` requests were done), percentiles in us.
 * The floor is the least that sends each request of an even schedule at its time and reads its answer: one sleep, one
 * send, one poll, one read; nothing is parsed, checked or recorded. TOGETHER 1: that; 2 and more: so many at once, of
 * which all but the last are late; 0: it only sleeps until each is due. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "probe/engine.h"
#include "probe/probe.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "squall/units.h"

static double cpu(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void nap(int64_t until)
{
    struct timespec t = {until / SQ_S, until % SQ_S};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* VmHWM: ru_maxrss is inherited over exec (getrusage(2)). */
static long peak_kib(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long kib = 0;

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtol(line + 6, NULL, 10);
    if (f)
        (void)fclose(f);
    return kib;
}

static json_t *percentiles(const struct sq_hist *h)
{
    static const char *const which[] = {"50", "90", "95", "99", "99.9", "100"};
    json_t *o = json_object();

    for (size_t i = 0; i < SQ_COUNT(which); i++)
        (void)json_object_set_new(o, which[i], json_real((double)sq_hist_percentile(h, strtod(which[i], NULL)) / 1e3));
    return o;
}

static json_t *load_of(const char *url, double rate, int connections)
{
    json_t *load = json_pack("{s:{s:s, s:i, s:{s:s, s:s, s:I}}}", "bench", "executor",
                             rate > 0 ? "constant-arrival-rate" : "constant-connections", "connections", connections,
                             "request", "method", "GET", "url", url, "timeout", (json_int_t)(60 * SQ_S));

    if (rate > 0)
        (void)json_object_set_new(json_object_get(load, "bench"), "rate", json_real(rate));
    return load;
}

static void report(struct sq_probe *p, double total, double steady, uint64_t counted, double seconds)
{
    struct sq_hist *h = sq_hist_new(), *hs = sq_hist_new();
    const struct sq_hist *lag = sq_probe_engine(p, 0)->endpoint[0].lag;
    json_t *s, *end = sq_probe_end(p), *o;
    int64_t ok = 0;

    while ((s = sq_probe_next(p))) {
        (void)sq_hist_add_json(h, json_object_get(s, "h"), NULL);
        (void)sq_hist_add_json(hs, json_object_get(s, "hs"), NULL);
        ok += sq_json_int_or(s, "ok", 0);
        json_decref(s);
    }
    o = json_pack("{s:I, s:I, s:f, s:f, s:f, s:I, s:f, s:I, s:o, s:o, s:o, s:O}", "requests",
                  (json_int_t)sq_hist_count(h), "ok", (json_int_t)ok, "per_s", (double)counted / seconds, "cpu_s",
                  total, "steady_cpu_s", steady, "counted", (json_int_t)counted, "steady_s", seconds, "hwm_kib",
                  (json_int_t)peak_kib(), "latency", percentiles(h), "service", percentiles(hs), "lag",
                  percentiles(lag), "end", json_array_get(end, 0));
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
    json_decref(end);
    sq_hist_free(h);
    sq_hist_free(hs);
}

static int run(const char *url, double rate, int connections, double seconds)
{
    json_t *load = load_of(url, rate, connections);
    struct sq_probe_opts o = {.load = load, .run_id = "bench"};
    struct sq_probe *p = NULL;
    struct sq_probe_live a, b;
    struct sq_err e = {0};
    int64_t begin, end;
    double from, to;

    if (sq_probe_create(&o, &p, &e) < 0 || sq_probe_start(p, sq_mono_ns(), 0, &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    begin = sq_probe_begin_ns(p) + SQ_S / 2;
    end = sq_probe_begin_ns(p) + (int64_t)(seconds * 1e9) - SQ_S / 2;
    nap(begin);
    sq_probe_live(p, &a);
    from = cpu();
    begin = sq_mono_ns();
    nap(end);
    sq_probe_live(p, &b);
    to = cpu();
    end = sq_mono_ns();
    nap(end + SQ_S / 2);
    sq_probe_stop(p, -1);
    while (!sq_probe_done(p))
        (void)usleep(1000);
    report(p, cpu(), to - from, b.done - a.done, (double)(end - begin) / 1e9);
    sq_probe_free(p);
    json_decref(load);
    return 0;
}

#define FLOOR_CONNECTIONS 1024

struct floor {
    int epfd, n, idle[FLOOR_CONNECTIONS], n_idle;
    uint64_t sent, done;
};

static int floor_connect(struct floor *f, unsigned port, int connections)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->epfd = epoll_create1(EPOLL_CLOEXEC);
    while (f->n < connections) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

        if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof to) < 0)
            return -1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        (void)epoll_ctl(f->epfd, EPOLL_CTL_ADD, fd, &ev);
        f->idle[f->n++] = fd;
    }
    f->n_idle = f->n;
    return 0;
}

static void floor_turn(struct floor *f, unsigned together)
{
    static const char request[] =
        "GET / HTTP/1.1\r\ntraceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n"
        "host: 127.0.0.1\r\nuser-agent: squall/floor\r\n\r\n";
    static char answer[65536];
    struct epoll_event ev[64];
    int n;

    for (unsigned i = 0; i < together && f->n_idle > 0; i++)
        f->sent += send(f->idle[--f->n_idle], request, sizeof request - 1, MSG_NOSIGNAL) > 0;
    n = epoll_wait(f->epfd, ev, 64, 0);
    for (int i = 0; i < n; i++)
        if (recv(ev[i].data.fd, answer, sizeof answer, MSG_DONTWAIT) > 0) {
            f->done++;
            f->idle[f->n_idle++] = ev[i].data.fd;
        }
}

static int run_floor(unsigned port, double rate, int connections, double seconds, unsigned together)
{
    struct floor f = {0};
    struct sched_param param = {.sched_priority = 1};
    int64_t begin;
    double from;

    if (connections > FLOOR_CONNECTIONS || floor_connect(&f, port, connections) < 0)
        return 2;
    (void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param); /* as the probe does */
    from = cpu();
    begin = sq_mono_ns() + SQ_MS;
    for (uint64_t i = 0; (double)i < rate * seconds; i += together ? together : 1) {
        nap(begin + (int64_t)((double)i / rate * 1e9));
        if (together)
            floor_turn(&f, together);
        else
            f.sent++;
    }
    (void)printf("{\"requests\":%llu,\"done\":%llu,\"cpu_s\":%f}\n", (unsigned long long)f.sent,
                 (unsigned long long)f.done, cpu() - from);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "floor") == 0)
        return run_floor((unsigned)atoi(argv[2]), strtod(argv[3], NULL), atoi(argv[4]), strtod(argv[5], NULL),
                         (unsigned)atoi(argv[6]));
    if (argc == 1) {
        (void)printf("bench_probe is probe.sh's\n");
        return 0;
    }
    if (argc != 5 || strtod(argv[4], NULL) < 1.5)
        return 2;
    return run(argv[1], strtod(argv[2], NULL), atoi(argv[3]), strtod(argv[4], NULL));
}
