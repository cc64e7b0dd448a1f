#include "intercept/existing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "intercept/running.h"
#include "intercept/seqs.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define LOOK_MS 100
#define RESET_NS                                                                                                       \
    SQ_S /* for all of them: data that arrives at the same moment makes one miss, and it is tried again                \
          */

/* ---- which are meant ---- */

struct wanted {
    const struct sq_intercept *ic;
    const struct sq_table *table;
    uint32_t found; /* what the table says of those */
};

static bool is_proxy(const struct sq_intercept *ic, const uint32_t to[4], uint16_t port)
{
    uint32_t net = ntohl(to[3]) & 0xffff0000;
    bool six = to[2] == 0 && to[3] == htonl(1);

    if (to[0] || to[1] || (!six && (to[2] != htonl(0xffff) || (net != SQ_NET_BPF && net != SQ_NET_SECCOMP))))
        return false;
    for (uint32_t i = 0; ic->cfg && i < SQ_EDGES; i++) {
        const struct sq_edge_cfg *cfg = &ic->cfg[i];

        if (ic->edge[i] && (six ? cfg->pass6 == htons(port) || cfg->gate6 == htons(port)
                                : cfg->pass == htons(port) || cfg->gate == htons(port)))
            return true;
    }
    return false;
}

static bool is_wanted(const uint32_t to[4], uint16_t port, void *arg)
{
    const struct wanted *w = arg;

    return sq_table_at(w->table, to, htons(port)) == w->found && !is_proxy(w->ic, to, port);
}

int sq_existing_count(struct sq_intercept *ic, const json_t *to, const json_t *except, const pid_t *pid, size_t n,
                      int64_t *open, struct sq_err *e)
{
    size_t found = 0;
    cleanup_free struct sq_table *table = malloc(sizeof *table);
    cleanup_free struct sq_sock *s = NULL;
    struct wanted w = {.ic = ic, .table = table, .found = 1};
    int rc;

    *open = 0;
    rc = table ? sq_edge_table_of(ic, to, except, table, e) : sq_err(e, -ENOMEM, "out of memory");
    rc = rc ? rc : sq_socks_of(pid, n, is_wanted, &w, &s, &found, e);
    *open = (int64_t)found;
    return rc;
}

static int list(struct sq_edge *edge, struct sq_sock **out, size_t *n, struct sq_err *e)
{
    const struct sq_running *r = sq_running_find(edge->ic, edge->run, edge->from);
    cleanup_free pid_t *pid = NULL;
    cleanup_free struct sq_table *table = malloc(sizeof *table);
    struct wanted w = {.ic = edge->ic, .table = table, .found = edge->slot + 1};
    size_t n_pid = 0;
    int rc;

    *out = NULL;
    *n = 0;
    if (!r)
        return 0;
    rc = table ? sq_edge_own_table(edge, table, e) : sq_err(e, -ENOMEM, "out of memory");
    rc = rc ? rc : sq_running_processes(r, &pid, &n_pid, e);
    return rc ? rc : sq_socks_of(pid, n_pid, is_wanted, &w, out, n, e);
}

/* ---- ending them ---- */

/* In each round those that are there then. */
static int reset_all(struct sq_edge *edge, size_t *done, size_t *left, struct sq_err *e)
{
    struct sq_seqs *seqs = NULL;
    int rc = sq_seqs_open(&seqs, e);
    const int64_t until = sq_mono_ns() + RESET_NS;

    *done = 0;
    *left = 1;
    while (*left && rc == 0 && sq_mono_ns() < until) {
        cleanup_free struct sq_sock *s = NULL;

        rc = list(edge, &s, left, e);
        for (size_t k = 0; k < *left && rc == 0 && sq_mono_ns() < until; k++) {
            rc = sq_sock_reset(seqs, &s[k], e);
            *done += rc == 0;
            if (rc == -EAGAIN || rc == -ENOENT) {
                sq_err_clear(e);
                rc = 0;
            }
        }
        if (*left && rc == 0)
            (void)poll(NULL, 0, 1);
    }
    if (rc == 0 && *left) {
        cleanup_free struct sq_sock *s = NULL;

        rc = list(edge, &s, left, e);
    }
    sq_seqs_close(seqs);
    return rc;
}

struct sq_settling {
    struct sq_settling *next;
    struct sq_edge *edge;
    json_t *answer;
    size_t found;
    struct sq_sock *s; /* [n]: those that were there when they were listed, without the last that are gone */
    size_t n;
    int64_t list_at, until; /* again; no longer */
    uv_timer_t *look;
    sq_existing_done *done;
    void *arg;
};

static const char *policy(const struct sq_edge *edge)
{
    static const char *const names[] = {"leave", "reset", "wait"};

    return names[edge->existing];
}

static void say(const struct sq_edge *edge, json_t *answer, size_t found, size_t reset, size_t left)
{
    (void)json_object_set_new(answer, "existing",
                              json_pack("{s:s,s:I,s:I,s:I}", "policy", policy(edge), "found", (json_int_t)found,
                                        "reset", (json_int_t)reset, "left", (json_int_t)left));
}

static void fail(struct sq_edge *edge, json_t *answer, struct sq_err *e, sq_existing_done *done, void *arg)
{
    sq_edge_drop(edge);
    json_decref(answer);
    done(arg, NULL, e);
}

static void unlink_settling(struct sq_settling *w)
{
    for (struct sq_settling **p = &w->edge->ic->settling; *p; p = &(*p)->next)
        if (*p == w) {
            *p = w->next;
            break;
        }
    sq_ic_end_timer(&w->look);
}

/* Does its process still have it? Cheap, but says yes of one that was reset and is not closed yet. */
static bool is_held(const struct sq_sock *s)
{
    char path[64], link[64], want[64];
    ssize_t n;

    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)s->pid, s->fd);
    (void)snprintf(want, sizeof want, "socket:[%llu]", (unsigned long long)s->inode);
    n = readlink(path, link, sizeof link - 1);
    return n == (ssize_t)strlen(want) && memcmp(link, want, (size_t)n) == 0;
}

/* To list them takes its time with thousands (a third of a second with 10,000 on a busy host): at once when none of
 * those that were there is held any more, for there come no new ones, else with a tenth of the loop's time at most. */
static bool is_list_due(struct sq_settling *w)
{
    while (w->n && !is_held(&w->s[w->n - 1]))
        w->n--;
    return w->n == 0 || sq_mono_ns() >= w->list_at || sq_mono_ns() >= w->until;
}

static int list_again(struct sq_settling *w, struct sq_err *e)
{
    const int64_t began = sq_mono_ns();
    int rc;

    free(SQ_TAKE(w->s));
    rc = list(w->edge, &w->s, &w->n, e);
    w->list_at = sq_mono_ns() + 9 * (sq_mono_ns() - began);
    return rc;
}

static void on_look(uv_timer_t *t)
{
    struct sq_intercept *ic = t->data;
    struct sq_settling *w = ic->settling;
    struct sq_err e = {0};
    size_t left;
    int rc;

    while (w && w->look != t)
        w = w->next;
    if (!w || !is_list_due(w))
        return;
    rc = list_again(w, &e);
    left = w->n;
    if (rc == 0 && left && sq_mono_ns() < w->until)
        return;
    unlink_settling(w);
    if (rc == 0 && left) {
        rc = sq_err_cls(&e, SQ_C_CONFLICT, -ETIMEDOUT,
                        "edge %s: %zu connections from before are still open after %lld s", w->edge->name, left,
                        (long long)(SQ_EXISTING_WAIT_NS / SQ_S));
        sq_err_hint(&e, "existing: reset ends them, existing: leave goes on without them");
    }
    if (rc < 0) {
        fail(w->edge, w->answer, &e, w->done, w->arg);
    } else {
        say(w->edge, w->answer, w->found, 0, 0);
        w->done(w->arg, w->answer, NULL);
    }
    free(w->s);
    free(w);
}

static int begin_wait(struct sq_edge *edge, json_t *answer, size_t found, sq_existing_done *done, void *arg)
{
    struct sq_intercept *ic = edge->ic;
    struct sq_settling *w = calloc(1, sizeof *w);
    uv_timer_t *t = w ? sq_ic_new_timer(ic) : NULL;

    if (!t) {
        free(w);
        return -ENOMEM;
    }
    *w = (struct sq_settling){.next = ic->settling,
                              .edge = edge,
                              .answer = answer,
                              .found = found,
                              .until = sq_mono_ns() + SQ_EXISTING_WAIT_NS,
                              .look = t,
                              .done = done,
                              .arg = arg};
    ic->settling = w;
    (void)uv_timer_start(t, on_look, LOOK_MS, LOOK_MS);
    return 0;
}

void sq_existing_settle(struct sq_edge *edge, json_t *answer, sq_existing_done *done, void *arg)
{
    cleanup_free struct sq_sock *s = NULL;
    struct sq_err e = {0};
    size_t found = 0, reset = 0, left = 0;
    int rc;

    if (!sq_running_find(edge->ic, edge->run, edge->from)) {
        done(arg, answer, NULL);
        return;
    }
    rc = sq_running_edge(edge, &e);
    rc = rc ? rc : list(edge, &s, &found, &e);
    left = found;
    if (rc == 0 && found && edge->existing == SQ_EXISTING_WAIT) {
        if (begin_wait(edge, answer, found, done, arg) == 0)
            return;
        rc = sq_err(&e, -ENOMEM, "out of memory");
    }
    if (rc == 0 && found && edge->existing == SQ_EXISTING_RESET)
        rc = reset_all(edge, &reset, &left, &e);
    if (rc == 0 && left && edge->existing == SQ_EXISTING_RESET)
        rc = sq_err(&e, -EBUSY, "edge %s: %zu connections from before could not be reset", edge->name, left);
    if (rc < 0) {
        fail(edge, answer, &e, done, arg);
        return;
    }
    if (left)
        sq_ic_warn(edge->ic, edge->run,
                   "edge %s: %zu connections were open before: what goes over them is neither counted nor hit "
                   "(existing: reset or wait)",
                   edge->name, left);
    say(edge, answer, found, reset, left);
    done(arg, answer, NULL);
}

void sq_existing_cancel(struct sq_intercept *ic, const char *run)
{
    struct sq_settling *w = ic->settling;

    while (w) {
        struct sq_settling *next = w->next;

        if (!run || strcmp(w->edge->run, run) == 0) {
            struct sq_err e = {0};

            sq_err_cls(&e, SQ_C_NOTFOUND, -ECANCELED, "the run has ended");
            unlink_settling(w);
            json_decref(w->answer);
            w->done(w->arg, NULL, &e);
            free(w->s);
            free(w);
        }
        w = next;
    }
}
