#include "run/farm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/farm_host.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/spec.h"
#include "squall/units.h"

#define SELF "self"
#define LEAD (3 * SQ_S) /* what starting a process on another host may take */

/* A second of an endpoint that not all of its hosts have told of yet. */
struct part {
    struct part *next;
    int64_t sec;
    json_t *samples;
};

struct target {
    const char *name;
    size_t hosts; /* that it is sent from */
    struct part *parts;
};

struct sq_farm {
    struct sq_farm_opts o;
    struct sq_probe *local; /* NULL: all is sent from elsewhere */
    json_t *load;           /* this process's own */
    struct sq_farm_host *host;
    size_t n;
    struct target *target;
    size_t n_targets;
    json_t *ready; /* samples, in the order to be given out */
    json_t *places;
    size_t given;
    int64_t zero_ns, begin_ns;
    bool started, stopped, told, flushed;
    void (*begun)(void *arg);
    unsigned closing;
};

/* ---- who sends what ---- */

static const json_t *from_of(const json_t *endpoint)
{
    const json_t *from = json_object_get(endpoint, "from");

    return json_array_size(from) > 0 ? from : NULL;
}

/* Host HOST's part of the endpoint: [k, n]; NULL: none. New reference. */
static json_t *share_of(const json_t *from, const char *host)
{
    const json_t *name;
    size_t i;

    json_array_foreach(from, i, name)
    {
        if (strcmp(json_string_value(name), host) == 0)
            return json_pack("[I,I]", (json_int_t)i, (json_int_t)json_array_size(from));
    }
    return NULL;
}

/* What HOST sends, an object like `load`; new reference. */
static json_t *load_of(const json_t *load, const char *host)
{
    json_t *out = json_object(), *ep;
    const char *name;

    json_object_foreach((json_t *)(uintptr_t)load, name, ep)
    {
        const json_t *from = from_of(ep);
        json_t *share = from ? share_of(from, host) : NULL, *copy;

        if (from ? !share : strcmp(host, SELF) != 0)
            continue;
        copy = json_copy(ep);
        (void)json_object_del(copy, "from");
        if (share)
            (void)json_object_set_new(copy, "share", share);
        (void)json_object_set_new(out, name, copy);
    }
    return out;
}

static int make_targets(struct sq_farm *f, struct sq_err *e)
{
    const char *name;
    json_t *ep;

    f->target = calloc(json_object_size(f->o.opt.load) + 1, sizeof *f->target);
    if (!f->target)
        return sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)f->o.opt.load, name, ep)
    {
        f->target[f->n_targets++] = (struct target){.name = name, .hosts = json_array_size(from_of(ep))};
    }
    return 0;
}

static int make_hosts(struct sq_farm *f, struct sq_err *e)
{
    const char *name;
    json_t *def;
    int rc = 0;

    f->host = calloc(json_object_size(f->o.hosts) + 1, sizeof *f->host);
    if (!f->host)
        return sq_err(e, -ENOMEM, "no memory");
    json_object_foreach((json_t *)(uintptr_t)f->o.hosts, name, def)
    {
        struct sq_farm_host *h = &f->host[f->n];
        json_t *load = load_of(f->o.opt.load, name);

        if (json_object_size(load) == 0) { /* declared, but nothing is sent from there */
            json_decref(load);
            continue;
        }
        *h = (struct sq_farm_host){.farm = f, .name = name, .load = load};
        f->n++;
        if (rc == 0)
            rc = sq_farm_host_open(h, sq_json_str_or(def, "injector", ""), f->o.opt.window_s, e);
        if (rc < 0)
            return sq_err_prefix(e, "host %s", name);
    }
    return rc;
}

/* All of it is made ready here as well: what is wrong with an endpoint is said before anything begins, and where it
 * sends is known. */
static int make_local(struct sq_farm *f, struct sq_err *e)
{
    struct sq_probe_opts o = f->o.opt;
    int rc;

    if (f->n > 0) {
        struct sq_probe *all = NULL;

        if ((rc = sq_probe_create(&o, &all, e)) < 0)
            return rc;
        f->places = sq_probe_places(all);
        sq_probe_free(all);
    }
    f->load = load_of(f->o.opt.load, SELF);
    o.load = f->load;
    if (json_object_size(f->load) > 0 && (rc = sq_probe_create(&o, &f->local, e)) < 0)
        return rc;
    if (!f->places)
        f->places = f->local ? sq_probe_places(f->local) : json_array();
    return 0;
}

static void keep(const json_t *v)
{
    (void)json_incref((json_t *)(uintptr_t)v);
}

static void let_go(const json_t *v)
{
    json_decref((json_t *)(uintptr_t)v);
}

int sq_farm_new(const struct sq_farm_opts *o, struct sq_farm **out, struct sq_err *e)
{
    struct sq_farm *f = calloc(1, sizeof *f);
    int rc = 0;

    if (!f || !(f->ready = json_array())) {
        free(f);
        return sq_err(e, -ENOMEM, "no memory");
    }
    f->o = *o;
    keep(o->hosts);
    keep(o->opt.load);
    keep(o->opt.lateness);
    keep(o->opt.matchers);
    *out = f; /* also when it fails: handles may be open */
    if ((rc = make_targets(f, e)) == 0 && (rc = make_hosts(f, e)) == 0)
        rc = make_local(f, e);
    return rc;
}

json_t *sq_farm_places(struct sq_farm *f)
{
    return json_incref(f->places);
}

bool sq_farm_remote(const struct sq_farm *f)
{
    return f->n > 0;
}

/* ---- begin ---- */

int64_t sq_farm_begin_ns(const struct sq_farm *f)
{
    return f->begin_ns;
}

int64_t sq_farm_zero_ns(const struct sq_farm *f)
{
    return f->zero_ns;
}

const struct sq_farm_opts *sq_farm_options(const struct sq_farm *f)
{
    return &f->o;
}

void sq_farm_log(struct sq_farm *f, const char *type, json_t *rec)
{
    f->o.log(f->o.arg, type, rec);
}

void sq_farm_lost(struct sq_farm_host *h)
{
    struct sq_farm *f = h->farm;

    if (!f->told && !f->stopped) {
        f->told = true;
        f->o.failed(f->o.arg, h->lost);
    }
}

static json_t *order_for(const struct sq_farm *f, const struct sq_farm_host *h)
{
    const struct sq_probe_opts *o = &f->o.opt;
    json_t *order = json_pack("{s:s,s:I,s:i,s:O}", "run_id", o->run_id, "seed", (json_int_t)o->seed, "window_s",
                              (int)o->window_s, "load", h->load);

    if (order && o->lateness)
        (void)json_object_set(order, "lateness", (json_t *)(uintptr_t)o->lateness);
    if (order && o->matchers)
        (void)json_object_set(order, "matchers", (json_t *)(uintptr_t)o->matchers);
    return order;
}

static int begin_local(struct sq_farm *f, int64_t begin_ns, struct sq_err *e)
{
    int rc = f->local ? sq_probe_start(f->local, f->zero_ns, begin_ns, e) : 0;

    if (rc == 0 && f->local)
        f->begin_ns = sq_probe_begin_ns(f->local);
    return rc;
}

/* Every clock is known: all are told the same moment. */
void sq_farm_ready(struct sq_farm *f)
{
    int64_t at = sq_mono_ns() - f->zero_ns + LEAD;
    struct sq_err e = {0};

    for (size_t i = 0; i < f->n; i++)
        if (!f->host[i].ready)
            return;
    if (f->stopped)
        return;
    f->begin_ns = f->zero_ns + (at + SQ_S - 1) / SQ_S * SQ_S;
    if (begin_local(f, f->begin_ns, &e) < 0) {
        f->told = true;
        f->o.failed(f->o.arg, e.msg);
        return;
    }
    for (size_t i = 0; i < f->n; i++)
        sq_farm_host_send(&f->host[i], order_for(f, &f->host[i]));
}

void sq_farm_begun(struct sq_farm *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (!f->host[i].begun)
            return;
    if (!f->stopped)
        f->begun(f->o.arg);
}

int sq_farm_start(struct sq_farm *f, int64_t zero_ns, void (*begun)(void *arg), struct sq_err *e)
{
    int rc = 0;

    f->started = true;
    f->zero_ns = zero_ns;
    f->begun = begun;
    for (size_t i = 0; i < f->n; i++)
        sq_farm_host_begin(&f->host[i]);
    if (f->n == 0 && (rc = begin_local(f, 0, e)) == 0)
        begun(f->o.arg);
    return rc;
}

/* ---- samples ---- */

static void give_out(struct sq_farm *f, struct target *t)
{
    struct part *p = t->parts;

    t->parts = p->next;
    (void)json_array_extend(f->ready, p->samples);
    json_decref(p->samples);
    free(p);
}

static void take(struct sq_farm *f, const char *host, json_t *sample)
{
    const char *name = sq_json_str_or(sample, "endpoint", "");
    int64_t sec = sq_json_int_or(sample, "sec", -1);
    struct target *t = f->target;
    struct part **at, *p;

    while (t < f->target + f->n_targets && strcmp(t->name, name) != 0)
        t++;
    if (t == f->target + f->n_targets || sec < 0)
        return;
    if (t->hosts == 0) { /* this process's alone */
        (void)json_array_append(f->ready, sample);
        return;
    }
    (void)json_object_set_new(sample, "from", json_string(host));
    for (at = &t->parts; *at && (*at)->sec < sec; at = &(*at)->next)
        ;
    p = *at;
    if (!p || p->sec != sec) {
        if (!(p = calloc(1, sizeof *p)))
            return;
        *p = (struct part){*at, sec, json_array()};
        *at = p;
    }
    (void)json_array_append(p->samples, sample);
    while (t->parts && json_array_size(t->parts->samples) >= t->hosts)
        give_out(f, t);
}

void sq_farm_take(struct sq_farm_host *h, json_t *sample)
{
    take(h->farm, h->name, sample);
    h->farm->o.opt.wake(h->farm->o.opt.wake_arg);
}

static bool all_over(const struct sq_farm *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (!f->host[i].over)
            return false;
    return !f->local || !f->begin_ns || sq_probe_done(f->local);
}

json_t *sq_farm_next(struct sq_farm *f)
{
    json_t *s;
    bool over = all_over(f); /* before the last look: nothing comes after it */

    while (f->local && f->begin_ns && (s = sq_probe_next(f->local))) {
        take(f, SELF, s);
        json_decref(s);
    }
    /* The last second of one host may be missing at another, which was told to stop a moment before. */
    for (size_t i = 0; over && i < f->n_targets; i++)
        while (f->target[i].parts)
            give_out(f, &f->target[i]);
    if (f->given == json_array_size(f->ready)) {
        (void)json_array_clear(f->ready);
        f->given = 0;
        return NULL;
    }
    return json_incref(json_array_get(f->ready, f->given++));
}

/* ---- the end ---- */

void sq_farm_stop(struct sq_farm *f, int64_t grace_ns)
{
    f->stopped = true;
    if (f->local && f->begin_ns)
        sq_probe_stop(f->local, grace_ns);
    for (size_t i = 0; f->started && i < f->n; i++)
        sq_farm_host_stop(&f->host[i], grace_ns >= 0 && grace_ns <= SQ_S);
}

bool sq_farm_done(const struct sq_farm *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (!f->host[i].gone)
            return false;
    return all_over(f);
}

static json_t *record_of(json_t *list, const char *endpoint)
{
    json_t *rec;
    size_t i;

    json_array_foreach(list, i, rec)
    {
        if (strcmp(sq_json_str_or(rec, "endpoint", ""), endpoint) == 0)
            return rec;
    }
    return NULL;
}

static void add_up(json_t *into, const json_t *rec, const char *host, const char *lost)
{
    static const char *const sums[] = {"planned", "sent", "done", "lag_late"}, *const kept[] = {"sent", "max_lag_ns",
                                                                                                "lag_late"};
    json_t *own = json_pack("{s:s}", "from", host);
    int64_t lag = sq_json_int_or(rec, "max_lag_ns", 0);

    for (size_t i = 0; i < SQ_COUNT(kept); i++)
        (void)json_object_set_new(own, kept[i], json_integer(sq_json_int_or(rec, kept[i], 0)));
    (void)json_array_append_new(json_object_get(into, "hosts"), own);
    for (size_t i = 0; i < SQ_COUNT(sums); i++)
        (void)json_object_set_new(into, sums[i],
                                  json_integer(sq_json_int_or(into, sums[i], 0) + sq_json_int_or(rec, sums[i], 0)));
    if (lag > sq_json_int_or(into, "max_lag_ns", 0))
        (void)json_object_set_new(into, "max_lag_ns", json_integer(lag));
    if (json_object_get(rec, "tls"))
        (void)json_object_set(into, "tls", json_object_get(rec, "tls"));
    if (sq_json_bool_or(rec, "void", !rec) && !sq_json_bool_or(into, "void", false)) {
        (void)json_object_set_new(into, "void", json_true());
        (void)json_object_set_new(
            into, "why", rec ? json_sprintf("host %s: %s", host, sq_json_str_or(rec, "why", "")) : json_string(lost));
    }
}

/* One host that sends late spoils the load of all: void is what any of them is. */
static json_t *end_of(struct sq_farm *f, const char *name, const json_t *from, json_t *local)
{
    json_t *o = json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:f,s:b,s:s,s:i,s:[]}", "type", "probe", "endpoint", name,
                          "planned", 0, "sent", 0, "done", 0, "lag_late", 0, "lag_share", 0.0, "void", 0, "why", "",
                          "max_lag_ns", 0, "hosts");
    const json_t *v;
    int64_t planned;
    size_t i;

    json_array_foreach(from, i, v)
    {
        const char *host = json_string_value(v), *lost = "";
        json_t *rec = strcmp(host, SELF) == 0 ? record_of(local, name) : NULL;

        for (size_t k = 0; k < f->n; k++)
            if (strcmp(f->host[k].name, host) == 0) {
                rec = record_of(f->host[k].ends, name);
                lost = f->host[k].lost;
            }
        add_up(o, rec, host, *lost ? lost : "its probe did not say how it ended");
    }
    planned = sq_json_int_or(o, "planned", 0);
    if (planned > 0)
        (void)json_object_set_new(o, "lag_share",
                                  json_real(100 * (double)sq_json_int_or(o, "lag_late", 0) / (double)planned));
    return o;
}

json_t *sq_farm_end(struct sq_farm *f)
{
    json_t *local = f->local && f->begin_ns ? sq_probe_end(f->local) : json_array(), *out = json_array(), *ep;
    const char *name;

    json_object_foreach((json_t *)(uintptr_t)f->o.opt.load, name, ep)
    {
        const json_t *from = from_of(ep);
        json_t *own = from ? NULL : record_of(local, name);

        if (from)
            (void)json_array_append_new(out, end_of(f, name, from, local));
        else if (own)
            (void)json_array_append(out, own);
    }
    json_decref(local);
    return out;
}

json_t *sq_farm_left(const struct sq_farm *f)
{
    json_t *out = json_array();

    for (size_t i = 0; f->started && i < f->n; i++) {
        const struct sq_farm_host *h = &f->host[i];

        if (!h->gone && h->run[0])
            (void)json_array_append_new(out, json_sprintf("the probe on host %s: not waited for; its injector ends it "
                                                          "within its lease (%.0f s)",
                                                          h->name, (double)f->o.lease_ns / 1e9));
    }
    return out;
}

/* ---- at once ---- */

int sq_farm_window(struct sq_farm *f, unsigned seconds, struct sq_probe_window *w)
{
    struct sq_window_slot *sum;
    int64_t to, from;

    if (f->n == 0 && f->local)
        return sq_probe_window(f->local, NULL, seconds, w);
    memset(w, 0, sizeof *w);
    sum = calloc(1, sizeof *sum);
    if (!sum)
        return -ENOMEM;
    to = f->begin_ns ? (sq_mono_ns() - f->begin_ns) / SQ_S : 0;
    for (size_t i = 0; i < f->n; i++)
        to = f->host[i].seconds < to ? f->host[i].seconds : to;
    to = to > 0 ? to : 0;
    seconds = seconds > f->o.opt.window_s ? f->o.opt.window_s : seconds;
    from = to > (int64_t)seconds ? to - (int64_t)seconds : 0;
    if (f->local)
        sq_probe_window_add(f->local, NULL, from, to, sum);
    for (size_t i = 0; i < f->n; i++)
        sq_window_sum(f->host[i].window, from, to, sum);
    sq_probe_window_of(sum, (unsigned)(to - from), w);
    free(sum);
    return 0;
}

void sq_farm_live(struct sq_farm *f, struct sq_probe_live *l)
{
    memset(l, 0, sizeof *l);
    if (f->local && f->begin_ns)
        sq_probe_live(f->local, l);
    for (size_t i = 0; i < f->n; i++) {
        const struct sq_probe_live *o = &f->host[i].live;

        l->open += o->open;
        l->waiting += o->waiting;
        l->outstanding += o->outstanding;
        l->planned += o->planned;
        l->done += o->done;
        l->lag_late += o->lag_late;
        l->lag_void = l->lag_void || o->lag_void;
    }
}

/* ---- close ---- */

void sq_farm_closed(struct sq_farm *f)
{
    if (--f->closing > 0)
        return;
    for (size_t i = 0; i < f->n; i++)
        sq_farm_host_clear(&f->host[i]);
    for (size_t i = 0; i < f->n_targets; i++)
        while (f->target[i].parts)
            give_out(f, &f->target[i]);
    let_go(f->o.hosts);
    let_go(f->o.opt.load);
    let_go(f->o.opt.lateness);
    let_go(f->o.opt.matchers);
    json_decref(f->ready);
    json_decref(f->places);
    json_decref(f->load);
    free(f->target);
    free(f->host);
    free(f);
}

void sq_farm_close(struct sq_farm *f)
{
    unsigned n = 1;

    if (!f)
        return;
    sq_probe_free(f->local);
    f->local = NULL;
    f->stopped = true;
    f->closing = UINT32_MAX; /* nobody may count down to nothing while handles are being closed */
    for (size_t i = 0; i < f->n; i++)
        n += sq_farm_host_close(&f->host[i]);
    f->closing = n;
    sq_farm_closed(f);
}
