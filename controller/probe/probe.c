#include "probe/probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "probe/engine.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define LEAD_NS (20 * SQ_MS) /* a thread takes a moment to start: that is not lateness */
#define SPARE_FDS 256        /* descriptors for everything but connections */
#define WINDOW_MAX 900

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* FNV-1a, finished by splitmix64's mixer: every bit of the id counts in every digit. */
static uint64_t hash(const char *s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    h = (h ^ (h >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 27)) * UINT64_C(0x94d049bb133111eb);
    return h ^ (h >> 31);
}

void sq_probe_trace_prefix(const char *run_id, char out[17])
{
    (void)snprintf(out, 17, "%016llx", (unsigned long long)hash(run_id));
}

static int need_descriptors(const struct sq_probe *p, struct sq_err *e)
{
    struct rlimit lim;
    rlim_t need = SPARE_FDS;

    for (size_t i = 0; i < p->n_endpoints; i++)
        need += p->endpoint[i].limit;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return sq_err_sys(e, -errno, "getrlimit");
    if (lim.rlim_cur >= need)
        return 0;
    if (lim.rlim_max >= need) {
        lim.rlim_cur = need;
        if (setrlimit(RLIMIT_NOFILE, &lim) == 0)
            return 0;
    }
    (void)sq_err(e, -EMFILE, "the load may open %llu connections, and this process only %llu descriptors",
                 (unsigned long long)need - SPARE_FDS, (unsigned long long)lim.rlim_max);
    sq_err_hint(e, "raise it with `ulimit -n %llu`, or allow fewer connections", (unsigned long long)need);
    return -EMFILE;
}

static int read_opts(struct sq_probe *p, const struct sq_probe_opts *o, struct sq_err *e)
{
    const char *name;
    json_t *v;

    if (!json_is_object(o->load) || json_object_size(o->load) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "load: no endpoint in it");
    if (json_object_size(o->load) > SQ_ENDPOINTS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "load: at most %d endpoints", SQ_ENDPOINTS_MAX);
    p->window_s = o->window_s > 0 ? o->window_s : 60;
    if (p->window_s > WINDOW_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a window is at most %d s", WINDOW_MAX);
    p->lag_over = sq_json_int_or(o->lateness, "over", 5 * SQ_MS);
    p->lag_share = sq_json_num_or(o->lateness, "share", 1);
    p->endpoint = calloc(json_object_size(o->load), sizeof *p->endpoint);
    if (!p->endpoint)
        return sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)o->load, name, v)
    {
        struct sq_endpoint *ep = &p->endpoint[p->n_endpoints++];

        ep->probe = p;
        if (sq_endpoint_init(ep, name, v, o->matchers, e) < 0)
            return sq_err_prefix(e, "load: %s", name);
    }
    return 0;
}

int sq_probe_create(const struct sq_probe_opts *opts, struct sq_probe **out, struct sq_err *e)
{
    struct sq_probe *p = calloc(1, sizeof *p);
    pthread_mutexattr_t attr;
    char prefix[17];
    int rc;

    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->timer_fd = p->order_fd = -1;
    p->stop_at = p->cut_at = p->orders.stop_at = p->orders.cut_at = p->armed = p->next_due = SQ_NEVER;
    p->wake = opts->wake;
    p->wake_arg = opts->wake_arg;
    /* The probe's thread may run at a real-time priority: who holds its lock inherits that. */
    (void)pthread_mutexattr_init(&attr);
    (void)pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    (void)pthread_mutex_init(&p->lock, &attr);
    (void)pthread_mutexattr_destroy(&attr);
    sq_probe_trace_prefix(opts->run_id ? opts->run_id : "", prefix);
    (void)snprintf(p->trace, sizeof p->trace, "00-%s%016d-%016d-01", prefix, 0, 0);
    sq_rng_seed(&p->rng, sq_rng_entropy());
    rc = read_opts(p, opts, e);
    if (rc == 0)
        rc = need_descriptors(p, e);
    if (rc == 0)
        rc = sq_engine_init(p, e);
    if (rc < 0)
        sq_probe_free(p);
    else
        *out = p;
    return rc;
}

/* The schedule's precision is this thread's: real time if allowed, else as nice as it gets. */
static void raise_priority(void)
{
    struct sched_param param = {.sched_priority = 1};

    if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) == 0)
        return;
    for (int nice_value = -20; nice_value < 0; nice_value++)
        if (setpriority(PRIO_PROCESS, (id_t)gettid(), nice_value) == 0)
            return;
}

static void *thread_main(void *arg)
{
    (void)pthread_setname_np(pthread_self(), "probe");
    raise_priority();
    sq_engine_run(arg);
    return NULL;
}

int sq_probe_start(struct sq_probe *p, int64_t zero_ns, int64_t begin_ns, struct sq_err *e)
{
    int64_t soonest = sq_mono_ns() + LEAD_NS;
    sigset_t all, old;
    int rc;

    if (p->started)
        return sq_err(e, -EALREADY, "the probe has been started already");
    p->zero = zero_ns < soonest ? zero_ns : soonest;
    if (begin_ns <= 0)
        begin_ns = p->zero + (soonest - p->zero + SQ_S - 1) / SQ_S * SQ_S;
    p->begin = begin_ns > soonest ? begin_ns : soonest;
    /* Signals are for the thread that runs the run. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&p->thread, NULL, thread_main, p);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return sq_err_sys(e, -rc, "the probe's thread");
    p->started = true;
    return 0;
}

int64_t sq_probe_begin_ns(const struct sq_probe *p)
{
    return p->begin;
}

void sq_probe_stop(struct sq_probe *p, int64_t grace_ns)
{
    int64_t now = sq_mono_ns();

    if (LOAD(p->orders.stop_at) == SQ_NEVER)
        STORE(p->orders.stop_at, now);
    if (grace_ns >= 0 && grace_ns < SQ_NEVER - now && now + grace_ns < LOAD(p->orders.cut_at))
        STORE(p->orders.cut_at, now + grace_ns);
    sq_engine_order(p);
}

bool sq_probe_done(const struct sq_probe *p)
{
    return LOAD(p->done);
}

json_t *sq_probe_next(struct sq_probe *p)
{
    struct sq_second *s;
    json_t *o;

    (void)pthread_mutex_lock(&p->lock);
    s = p->queue_head;
    if (s) {
        p->queue_head = s->next;
        if (!p->queue_head)
            p->queue_tail = NULL;
    }
    (void)pthread_mutex_unlock(&p->lock);
    if (!s)
        return NULL;
    o = sq_second_json(s);
    sq_second_free(s);
    return o;
}

static double share_of(const struct sq_endpoint *ep)
{
    return ep->planned > 0 ? 100 * (double)ep->lag_late / (double)ep->planned : 0;
}

bool sq_lag_void(const struct sq_probe *p, const struct sq_endpoint *ep)
{
    return ep->planned > 0 && share_of(ep) > p->lag_share;
}

json_t *sq_probe_end(struct sq_probe *p)
{
    json_t *list = json_array();
    char over[32], why[256];

    for (size_t i = 0; list && i < p->n_endpoints; i++) {
        const struct sq_endpoint *ep = &p->endpoint[i];
        bool lag = sq_lag_void(p, ep);

        why[0] = 0;
        if (ep->broken)
            (void)snprintf(why, sizeof why, "%s", ep->broken);
        else if (lag)
            (void)snprintf(
                why, sizeof why,
                "%.3g %% of the requests were picked up more than %s late by the probe itself (limit %.3g %%)",
                share_of(ep), sq_fmt_duration(p->lag_over, over, sizeof over), p->lag_share);
        (void)json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:b, s:s, s:I}", "type", "probe", "endpoint", ep->name,
                            "planned", (json_int_t)ep->planned, "sent", (json_int_t)ep->sent, "done",
                            (json_int_t)ep->done, "lag_late", (json_int_t)ep->lag_late, "lag_share", share_of(ep),
                            "void", lag || ep->broken, "why", why, "max_lag_ns", (json_int_t)ep->max_lag));
    }
    return list;
}

int sq_probe_window(struct sq_probe *p, const char *endpoint, unsigned seconds, struct sq_probe_window *w)
{
    int64_t to = p->started ? (sq_mono_ns() - p->begin) / SQ_S : 0, from;
    struct sq_window_slot *sum = calloc(1, sizeof *sum);

    memset(w, 0, sizeof *w);
    if (!sum)
        return -ENOMEM;
    if (seconds > p->window_s)
        seconds = p->window_s;
    to = to > 0 ? to : 0;
    from = to > (int64_t)seconds ? to - (int64_t)seconds : 0;
    for (size_t i = 0; i < p->n_endpoints; i++)
        if (!endpoint || strcmp(endpoint, p->endpoint[i].name) == 0)
            sq_window_sum(p->endpoint[i].window, from, to, sum);
    w->seconds = (unsigned)(to - from);
    w->n = sum->n;
    w->bad = sum->bad < sum->n ? sum->bad : sum->n;
    w->rate = w->seconds > 0 ? (double)w->n / w->seconds : 0;
    w->error_percent = w->n > 0 ? 100 * (double)w->bad / (double)w->n : 0;
    w->p50 = sq_window_percentile(sum, 50);
    w->p95 = sq_window_percentile(sum, 95);
    w->p99 = sq_window_percentile(sum, 99);
    w->max = sum->max;
    free(sum);
    return 0;
}

void sq_probe_live(struct sq_probe *p, struct sq_probe_live *l)
{
    l->open = LOAD(p->live.open);
    l->waiting = LOAD(p->live.waiting);
    l->outstanding = LOAD(p->live.outstanding);
    l->planned = LOAD(p->live.planned);
    l->done = LOAD(p->live.done);
    l->lag_late = LOAD(p->live.lag_late);
    l->lag_void = LOAD(p->live.lag_void);
}

void sq_probe_free(struct sq_probe *p)
{
    if (!p)
        return;
    if (p->started) {
        STORE(p->quit, true);
        sq_engine_order(p);
        (void)pthread_join(p->thread, NULL);
    }
    sq_engine_clear(p);
    for (size_t i = 0; i < p->n_endpoints; i++)
        sq_endpoint_clear(&p->endpoint[i]);
    free(p->endpoint);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}
