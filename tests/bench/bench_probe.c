/* The probe's cost: requests per second with 64 connections and more load than the server can take, and CPU time at a
 * constant 10,000/s, against `wrk` in the same minutes (its closed loop has no rate). Server on one core, client on
 * another. Compare only figures of one run: on shared machines absolute values move by a quarter within minutes. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "probe/probe.h"
#include "squall/hist.h"
#include "squall/json.h"
#include "unit/probe_server.h"

#define ROUNDS 3

struct result {
    double per_s, cpu_100k; /* CPU seconds per 100,000 requests */
    int64_t p50, p99;
    double lag_share;
};

static void pin(size_t cpu)
{
    cpu_set_t set;

    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

static double seconds(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1e6;
}

static pid_t serve(unsigned *port)
{
    static struct srv s;
    int fd[2];
    pid_t pid;

    if (pipe(fd) < 0 || (pid = fork()) < 0)
        exit(1);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(0);
        if (srv_start(&s, NULL) != 0)
            _exit(1);
        (void)!write(fd[1], &s.port, sizeof s.port);
        for (;;)
            (void)pause();
    }
    (void)close(fd[1]);
    if (read(fd[0], port, sizeof *port) != sizeof *port)
        exit(1);
    (void)close(fd[0]);
    return pid;
}

static void nap(int64_t until)
{
    struct timespec t = {until / SQ_S, until % SQ_S};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void percentiles(struct sq_probe *p, struct result *out)
{
    struct sq_hist *h = sq_hist_new();
    json_t *s, *end = sq_probe_end(p);

    while ((s = sq_probe_next(p))) {
        (void)sq_hist_add_json(h, json_object_get(s, "h"), NULL);
        json_decref(s);
    }
    out->p50 = sq_hist_percentile(h, 50);
    out->p99 = sq_hist_percentile(h, 99);
    out->lag_share = sq_json_num_or(json_array_get(end, 0), "lag_share", 0);
    json_decref(end);
    sq_hist_free(h);
}

/* In a child of its own, so that its CPU time is nobody else's. */
static struct result probe(unsigned port, double rate, int connections, int64_t ns)
{
    char url[64];
    struct sq_err e = {0};
    struct sq_probe *p = NULL;
    struct sq_probe_live a, b;
    struct rusage before, after;
    struct result r = {0};
    json_t *load;

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
    load = json_pack("{s:{s:s, s:f, s:i, s:{s:s, s:s, s:I}}}", "bench", "executor", "constant-arrival-rate", "rate",
                     rate, "connections", connections, "request", "method", "GET", "url", url, "timeout",
                     (json_int_t)(60 * SQ_S));
    struct sq_probe_opts o = {.load = load, .run_id = "bench"};

    if (sq_probe_create(&o, &p, &e) < 0 || sq_probe_start(p, sq_mono_ns(), 0, &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    nap(sq_probe_begin_ns(p) + SQ_S / 2);
    sq_probe_live(p, &a);
    (void)getrusage(RUSAGE_SELF, &before);
    nap(sq_probe_begin_ns(p) + SQ_S / 2 + ns);
    sq_probe_live(p, &b);
    (void)getrusage(RUSAGE_SELF, &after);
    sq_probe_stop(p, 0);
    while (!sq_probe_done(p))
        (void)usleep(1000);
    r.per_s = (double)(b.done - a.done) / ((double)ns / 1e9);
    r.cpu_100k = (seconds(&after) - seconds(&before)) / (double)(b.done - a.done) * 1e5;
    percentiles(p, &r);
    sq_probe_free(p);
    json_decref(load);
    return r;
}

static struct result probe_child(unsigned port, double rate, int connections, int64_t ns)
{
    struct result r = {0};
    int fd[2];
    pid_t pid;

    if (pipe(fd) < 0 || (pid = fork()) < 0)
        exit(1);
    if (pid == 0) {
        pin(1);
        r = probe(port, rate, connections, ns);
        (void)!write(fd[1], &r, sizeof r);
        _exit(0);
    }
    (void)close(fd[1]);
    if (read(fd[0], &r, sizeof r) != sizeof r)
        (void)fprintf(stderr, "the probe failed\n");
    (void)close(fd[0]);
    (void)waitpid(pid, NULL, 0);
    return r;
}

static struct result wrk(unsigned port, int secs)
{
    struct result r = {0};
    struct rusage u;
    char url[64], duration[16], text[4096], *at;
    int fd[2], status;
    size_t len = 0;
    ssize_t n;
    pid_t pid;

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
    (void)snprintf(duration, sizeof duration, "-d%ds", secs);
    if (pipe(fd) < 0 || (pid = fork()) < 0)
        exit(1);
    if (pid == 0) {
        pin(1);
        (void)dup2(fd[1], 1);
        execlp("wrk", "wrk", "-t1", "-c64", duration, url, (char *)NULL);
        _exit(127);
    }
    (void)close(fd[1]);
    while (len < sizeof text - 1 && (n = read(fd[0], text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)n;
    (void)close(fd[0]);
    text[len] = 0;
    if (wait4(pid, &status, 0, &u) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
        (at = strstr(text, "Requests/sec:"))) {
        r.per_s = strtod(at + 13, NULL);
        at = strstr(text, " requests in ");
        while (at && at > text && at[-1] != ' ' && at[-1] != '\n')
            at--;
        r.cpu_100k = at ? seconds(&u) / strtod(at, NULL) * 1e5 : 0;
    }
    return r;
}

static int by_rate(const void *a, const void *b)
{
    double x = ((const struct result *)a)->per_s, y = ((const struct result *)b)->per_s;

    return x < y ? -1 : x > y;
}

static int by_cpu(const void *a, const void *b)
{
    double x = ((const struct result *)a)->cpu_100k, y = ((const struct result *)b)->cpu_100k;

    return x < y ? -1 : x > y;
}

int main(void)
{
    struct result w[ROUNDS], full[ROUNDS], paced[ROUNDS];
    unsigned port = 0;
    pid_t server = serve(&port);

    for (int i = 0; i < ROUNDS; i++) {
        w[i] = wrk(port, 3);
        full[i] = probe_child(port, 250000, 64, 2 * SQ_S);
        paced[i] = probe_child(port, 10000, 50, 5 * SQ_S);
    }
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    qsort(w, ROUNDS, sizeof *w, by_rate);
    qsort(full, ROUNDS, sizeof *full, by_rate);
    qsort(paced, ROUNDS, sizeof *paced, by_cpu);
    (void)printf("probe, as fast as the server answers, 64 connections: %.0f requests/s, %.2f CPU s per 100,000\n",
                 full[ROUNDS / 2].per_s, full[ROUNDS / 2].cpu_100k);
    if (w[ROUNDS / 2].per_s > 0)
        (void)printf("wrk -t1 -c64 (closed loop), same minutes:             %.0f requests/s, %.2f CPU s per 100,000\n",
                     w[ROUNDS / 2].per_s, w[ROUNDS / 2].cpu_100k);
    else
        (void)printf("wrk: not installed, nothing to compare with\n");
    (void)printf("probe, 10,000/s, 50 connections: %.0f requests/s, %.2f CPU s per 100,000, p50 %.0f us, p99 %.0f us, "
                 "late by its own fault %.3f %%\n",
                 paced[ROUNDS / 2].per_s, paced[ROUNDS / 2].cpu_100k, (double)paced[ROUNDS / 2].p50 / 1e3,
                 (double)paced[ROUNDS / 2].p99 / 1e3, paced[ROUNDS / 2].lag_share);
    return 0;
}
