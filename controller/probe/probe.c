#include "probe/probe.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
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

/* An endpoint as the caller sees it: what its threads said of its seconds is put together here. */
struct shared {
    const char *name; /* the first engine's */
    unsigned threads;
    struct sq_second *part; /* seconds that not every thread has given yet, in order */
};

struct sq_probe {
    struct sq_engine *engine;
    size_t n;
    struct shared *shared;
    size_t n_shared;
    struct sq_second *ready, *ready_tail;
    bool started;
    int64_t begin;
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

struct sq_engine *sq_probe_engine(struct sq_probe *p, size_t k)
{
    return &p->engine[k];
}

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

    for (size_t k = 0; k < p->n; k++)
        for (size_t i = 0; i < p->engine[k].n_endpoints; i++)
            need += p->engine[k].endpoint[i].limit;
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

/* The endpoints that thread number PART has a share of. */
static int engine_init(struct sq_engine *g, const struct sq_probe_opts *o, size_t part, uint64_t seed, struct sq_err *e)
{
    char prefix[17];
    const char *name;
    json_t *v;

    g->window_s = o->window_s > 0 ? o->window_s : 60;
    g->lag_over = sq_json_int_or(o->lateness, "over", 5 * SQ_MS);
    g->lag_share = sq_json_num_or(o->lateness, "share", 1);
    g->wake = o->wake;
    g->wake_arg = o->wake_arg;
    sq_probe_trace_prefix(o->run_id ? o->run_id : "", prefix);
    (void)snprintf(g->trace, sizeof g->trace, "00-%s%016d-%016d-01", prefix, 0, 0);
    sq_rng_seed(&g->rng, sq_rng_entropy());
    g->endpoint = calloc(json_object_size(o->load), sizeof *g->endpoint);
    if (!g->endpoint)
        return sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)o->load, name, v)
    {
        struct sq_endpoint *ep = &g->endpoint[g->n_endpoints];

        if (part >= sq_endpoint_threads(v))
            continue;
        g->n_endpoints++;
        ep->probe = g;
        if (sq_endpoint_init(ep, name, v, o->matchers, part, seed, e) < 0)
            return sq_err_prefix(e, "load: %s", name);
    }
    return sq_engine_init(g, e);
}

/* Before anything can fail: so that sq_probe_free knows what there is. */
static void engine_blank(struct sq_engine *g)
{
    pthread_mutexattr_t attr;

    g->timer_fd = g->order_fd = -1;
    g->stop_at = g->cut_at = g->orders.stop_at = g->orders.cut_at = g->armed = g->next_due = SQ_NEVER;
    /* The probe's thread may run at a real-time priority: who holds its lock inherits that. */
    (void)pthread_mutexattr_init(&attr);
    (void)pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    (void)pthread_mutex_init(&g->lock, &attr);
    (void)pthread_mutexattr_destroy(&attr);
}

static int read_opts(struct sq_probe *p, const struct sq_probe_opts *o, struct sq_err *e)
{
    const uint64_t seed = o->seed ? o->seed : hash(o->run_id ? o->run_id : "");
    size_t threads = 1;
    const char *name;
    json_t *v;
    int rc = 0;

    if (!json_is_object(o->load) || json_object_size(o->load) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "load: no endpoint in it");
    if (json_object_size(o->load) > SQ_ENDPOINTS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "load: at most %d endpoints", SQ_ENDPOINTS_MAX);
    if (o->window_s > WINDOW_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a window is at most %d s", WINDOW_MAX);
    p->shared = calloc(json_object_size(o->load), sizeof *p->shared);
    if (!p->shared)
        return sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)o->load, name, v)
    {
        p->shared[p->n_shared].threads = sq_endpoint_threads(v);
        threads = p->shared[p->n_shared].threads > threads ? p->shared[p->n_shared].threads : threads;
        p->n_shared++;
    }
    p->engine = calloc(threads, sizeof *p->engine);
    if (!p->engine)
        return sq_err(e, -ENOMEM, "no memory");
    while (rc == 0 && p->n < threads) {
        struct sq_engine *g = &p->engine[p->n];

        engine_blank(g);
        p->n++;
        rc = engine_init(g, o, p->n - 1, seed, e);
    }
    for (size_t i = 0; rc == 0 && i < p->n_shared; i++)
        p->shared[i].name = p->engine[0].endpoint[i].name; /* the first thread has all of them, in order */
    return rc;
}

int sq_probe_create(const struct sq_probe_opts *opts, struct sq_probe **out, struct sq_err *e)
{
    struct sq_probe *p = calloc(1, sizeof *p);
    int rc;

    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    rc = read_opts(p, opts, e);
    if (rc == 0)
        rc = need_descriptors(p, e);
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

static int thread_start(struct sq_engine *g, struct sq_err *e)
{
    sigset_t all, old;
    int rc;

    /* Signals are for the thread that runs the run. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&g->thread, NULL, thread_main, g);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return sq_err_sys(e, -rc, "the probe's thread");
    g->started = true;
    return 0;
}

int sq_probe_start(struct sq_probe *p, int64_t zero_ns, int64_t begin_ns, struct sq_err *e)
{
    int64_t soonest = sq_mono_ns() + LEAD_NS, zero;
    int rc = 0;

    if (p->started)
        return sq_err(e, -EALREADY, "the probe has been started already");
    zero = zero_ns < soonest ? zero_ns : soonest;
    if (begin_ns <= 0)
        begin_ns = zero + (soonest - zero + SQ_S - 1) / SQ_S * SQ_S;
    p->begin = begin_ns > soonest ? begin_ns : soonest;
    p->started = true;
    for (size_t k = 0; rc == 0 && k < p->n; k++) {
        p->engine[k].zero = zero;
        p->engine[k].begin = p->begin;
        rc = thread_start(&p->engine[k], e);
    }
    return rc;
}

int64_t sq_probe_begin_ns(const struct sq_probe *p)
{
    return p->begin;
}

void sq_probe_stop(struct sq_probe *p, int64_t grace_ns)
{
    int64_t now = sq_mono_ns();

    for (size_t k = 0; k < p->n; k++) {
        struct sq_engine *g = &p->engine[k];

        if (LOAD(g->orders.stop_at) == SQ_NEVER)
            STORE(g->orders.stop_at, now);
        if (grace_ns >= 0 && grace_ns < SQ_NEVER - now && now + grace_ns < LOAD(g->orders.cut_at))
            STORE(g->orders.cut_at, now + grace_ns);
        sq_engine_order(g);
    }
}

bool sq_probe_done(const struct sq_probe *p)
{
    for (size_t k = 0; k < p->n; k++)
        if (!LOAD(p->engine[k].done))
            return false;
    return true;
}

/* --- seconds --- */

static struct sq_second *queue_pop(struct sq_engine *g)
{
    struct sq_second *s;

    (void)pthread_mutex_lock(&g->lock);
    s = g->queue_head;
    if (s) {
        g->queue_head = s->next;
        if (!g->queue_head)
            g->queue_tail = NULL;
    }
    (void)pthread_mutex_unlock(&g->lock);
    return s;
}

static void make_ready(struct sq_probe *p, struct sq_second *s)
{
    s->next = NULL;
    if (p->ready_tail)
        p->ready_tail->next = s;
    else
        p->ready = s;
    p->ready_tail = s;
}

/* One thread's second joins what the others said of it; it is ready when all have. */
static void put_together(struct sq_probe *p, struct sq_second *s)
{
    struct shared *x = p->shared;
    struct sq_second **at;

    while (strcmp(x->name, s->endpoint) != 0)
        x++;
    at = &x->part;
    while (*at && (*at)->sec < s->sec)
        at = &(*at)->next;
    if (*at && (*at)->sec == s->sec) {
        sq_second_merge(*at, s);
        sq_second_free(s);
    } else {
        s->next = *at;
        *at = s;
        s->outstanding = 0;
    }
    /* `outstanding` is over by now: it counts the threads that have spoken. */
    (*at)->outstanding++;
    while (x->part && x->part->outstanding == x->threads) {
        s = x->part;
        x->part = s->next;
        make_ready(p, s);
    }
}

/* When all is done, a second that not every thread had (stopped at its very beginning) is ready too. */
static void collect(struct sq_probe *p)
{
    bool done = sq_probe_done(p); /* before the queues are looked at: nothing comes after it */
    struct sq_second *s;

    for (size_t k = 0; k < p->n; k++)
        while ((s = queue_pop(&p->engine[k])))
            put_together(p, s);
    for (size_t i = 0; done && i < p->n_shared; i++)
        while ((s = p->shared[i].part)) {
            p->shared[i].part = s->next;
            make_ready(p, s);
        }
}

json_t *sq_probe_next(struct sq_probe *p)
{
    struct sq_second *s;
    json_t *o;

    if (!p->ready)
        collect(p);
    if (!(s = p->ready))
        return NULL;
    p->ready = s->next;
    if (!p->ready)
        p->ready_tail = NULL;
    o = sq_second_json(s);
    sq_second_free(s);
    return o;
}

/* --- what they all say --- */

/* An endpoint's part in thread K; NULL: it has none there. */
static struct sq_endpoint *endpoint_of(const struct sq_probe *p, size_t k, const char *name)
{
    struct sq_engine *g = &p->engine[k];

    for (size_t i = 0; i < g->n_endpoints; i++)
        if (strcmp(g->endpoint[i].name, name) == 0)
            return &g->endpoint[i];
    return NULL;
}

bool sq_lag_void(const struct sq_engine *p, const struct sq_endpoint *ep)
{
    return ep->planned > 0 && 100 * (double)ep->lag_late / (double)ep->planned > p->lag_share;
}

static json_t *end_of(const struct sq_probe *p, const char *name)
{
    uint64_t planned = 0, sent = 0, done = 0, late = 0;
    const struct sq_engine *g = &p->engine[0];
    const char *broken = NULL, *tls = "";
    json_t *o;
    char over[32], why[256] = "";
    int64_t max_lag = 0;
    double share;
    bool lag;

    for (size_t k = 0; k < p->n; k++) {
        const struct sq_endpoint *ep = endpoint_of(p, k, name);

        if (!ep)
            continue;
        planned += ep->planned;
        sent += ep->sent;
        done += ep->done;
        late += ep->lag_late;
        max_lag = ep->max_lag > max_lag ? ep->max_lag : max_lag;
        broken = broken ? broken : ep->broken;
        tls = ep->tls && !*tls ? sq_tls_why(ep->tls) : tls;
    }
    share = planned > 0 ? 100 * (double)late / (double)planned : 0;
    lag = planned > 0 && share > g->lag_share;
    if (broken)
        (void)snprintf(why, sizeof why, "%s", broken);
    else if (lag)
        (void)snprintf(why, sizeof why,
                       "%.3g %% of the requests were picked up more than %s late by the probe itself (limit %.3g %%)",
                       share, sq_fmt_duration(g->lag_over, over, sizeof over), g->lag_share);
    o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:b, s:s, s:I}", "type", "probe", "endpoint", name, "planned",
                  (json_int_t)planned, "sent", (json_int_t)sent, "done", (json_int_t)done, "lag_late", (json_int_t)late,
                  "lag_share", share, "void", lag || broken, "why", why, "max_lag_ns", (json_int_t)max_lag);
    if (*tls)
        (void)json_object_set_new(o, "tls", json_string(tls));
    return o;
}

json_t *sq_probe_end(struct sq_probe *p)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < p->n_shared; i++)
        (void)json_array_append_new(list, end_of(p, p->shared[i].name));
    return list;
}

void sq_probe_window_add(struct sq_probe *p, const char *endpoint, int64_t from, int64_t to, struct sq_window_slot *sum)
{
    for (size_t k = 0; k < p->n; k++)
        for (size_t i = 0; i < p->engine[k].n_endpoints; i++)
            if (!endpoint || strcmp(endpoint, p->engine[k].endpoint[i].name) == 0)
                sq_window_sum(p->engine[k].endpoint[i].window, from, to, sum);
}

void sq_probe_window_of(const struct sq_window_slot *sum, unsigned seconds, struct sq_probe_window *w)
{
    w->seconds = seconds;
    w->n = sum->n;
    w->bad = sum->bad < sum->n ? sum->bad : sum->n;
    w->rate = w->seconds > 0 ? (double)w->n / w->seconds : 0;
    w->error_percent = w->n > 0 ? 100 * (double)w->bad / (double)w->n : 0;
    w->p50 = sq_window_percentile(sum, 50);
    w->p95 = sq_window_percentile(sum, 95);
    w->p99 = sq_window_percentile(sum, 99);
    w->max = sum->max;
}

int sq_probe_window(struct sq_probe *p, const char *endpoint, unsigned seconds, struct sq_probe_window *w)
{
    int64_t to = p->started ? (sq_mono_ns() - p->begin) / SQ_S : 0, from;
    struct sq_window_slot *sum = calloc(1, sizeof *sum);

    memset(w, 0, sizeof *w);
    if (!sum)
        return -ENOMEM;
    if (seconds > p->engine[0].window_s)
        seconds = p->engine[0].window_s;
    to = to > 0 ? to : 0;
    from = to > (int64_t)seconds ? to - (int64_t)seconds : 0;
    sq_probe_window_add(p, endpoint, from, to, sum);
    sq_probe_window_of(sum, (unsigned)(to - from), w);
    free(sum);
    return 0;
}

void sq_probe_live(struct sq_probe *p, struct sq_probe_live *l)
{
    memset(l, 0, sizeof *l);
    for (size_t k = 0; k < p->n; k++) {
        struct sq_probe_live *one = &p->engine[k].live;

        l->open += LOAD(one->open);
        l->waiting += LOAD(one->waiting);
        l->outstanding += LOAD(one->outstanding);
        l->planned += LOAD(one->planned);
        l->done += LOAD(one->done);
        l->lag_late += LOAD(one->lag_late);
        l->lag_void = LOAD(one->lag_void) || l->lag_void;
    }
}

static void free_list(struct sq_second *s)
{
    while (s) {
        struct sq_second *next = s->next;

        sq_second_free(s);
        s = next;
    }
}

static void engine_free(struct sq_engine *g)
{
    if (g->started) {
        STORE(g->quit, true);
        sq_engine_order(g);
        (void)pthread_join(g->thread, NULL);
    }
    sq_engine_clear(g);
    for (size_t i = 0; i < g->n_endpoints; i++)
        sq_endpoint_clear(&g->endpoint[i]);
    free(g->endpoint);
    (void)pthread_mutex_destroy(&g->lock);
}

void sq_probe_free(struct sq_probe *p)
{
    if (!p)
        return;
    free_list(p->ready);
    for (size_t i = 0; i < p->n_shared; i++)
        free_list(p->shared[i].part);
    for (size_t k = 0; k < p->n; k++)
        engine_free(&p->engine[k]);
    free(p->engine);
    free(p->shared);
    free(p);
}

json_t *sq_probe_places(const struct sq_probe *p)
{
    json_t *list = json_array();

    /* Every thread has all endpoints. */
    for (size_t i = 0; list && p->n && i < p->engine[0].n_endpoints; i++) {
        const struct sq_place *place = &p->engine[0].endpoint[i].place;

        for (size_t k = 0; k < place->n; k++) {
            char host[INET6_ADDRSTRLEN], port[8], text[INET6_ADDRSTRLEN + 12];
            const struct sockaddr *sa = (const void *)&place->addr[k].sa;
            bool known = false;

            if (getnameinfo(sa, place->addr[k].len, host, sizeof host, port, sizeof port,
                            NI_NUMERICHOST | NI_NUMERICSERV) != 0)
                continue;
            host[strcspn(host, "%")] = '\0'; /* a link-local address's interface */
            (void)snprintf(text, sizeof text, sa->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
            for (size_t j = 0; j < json_array_size(list); j++)
                known |= strcmp(json_string_value(json_array_get(list, j)), text) == 0;
            if (!known)
                (void)json_array_append_new(list, json_string(text));
        }
    }
    return list;
}
