/* Ending services: SIGTERM to the whole tree, a grace, then SIGKILL until nothing is left, for a bounded time. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "service_int.h"
#include "squall/clock.h"

#define KILL_MOST (3 * SQ_S) /* how long SIGKILL is repeated before what is left is reported */

struct svc_stop {
    struct svc_stop *next;
    struct sq_services *s;
    char run[SVC_RUN];
    char name[SVC_NAME];
    bool all;
    int64_t term_until, kill_until;
    struct watch *tick;
    sq_service_done *done;
    void *arg;
    struct sq_err err; /* why the last one is still there */
};

static bool concerns(const struct svc_stop *st, const struct svc *i)
{
    return strcmp(i->run, st->run) == 0 && (st->all || strcmp(i->service, st->name) == 0) && !(i->is_exec && !st->all);
}

static void end_stop(struct svc_stop *st, json_t *left)
{
    for (struct svc_stop **p = &st->s->stops; *p; p = &(*p)->next)
        if (*p == st) {
            *p = st->next;
            break;
        }
    watch_end(&st->tick);
    if (st->all)
        svc_exec_forget_run(st->s, st->run);
    json_t *answer = json_pack("{s:b,s:o}", "clean", json_array_size(left) == 0, "left", left);
    st->done(st->arg, answer, NULL);
    free(st);
}

/* 1: it is still there. */
static int try_one(struct svc_stop *st, struct svc *i, int64_t now)
{
    struct sq_err e = {0};
    if (i->is_exec) {
        if (svc_exec_left(i, &e) == 0)
            return 0;
        st->err = e;
        return 1;
    }
    if (sq_tree_empty(&i->tree)) {
        if (!i->told)
            svc_event(i, "stopped", NULL);
        i->told = true;
        if (svc_retire(i, &e) == 0)
            return 0;
    }
    if (now >= st->term_until)
        (void)sq_tree_kill(&i->tree);
    if (e.code)
        st->err = e;
    return 1;
}

/* Whatever of it is left stays in the journal, so that the keeper or a sweep goes on with it. */
static void give_up(struct svc_stop *st, json_t *left)
{
    for (struct svc *i = st->s->all, *next; i; i = next) {
        next = i->next;
        if (!concerns(st, i))
            continue;
        struct sq_member *m = NULL;
        size_t n = 0;
        if (sq_tree_list(&i->tree, &m, &n, NULL) == 0 && n)
            json_array_append_new(
                left, json_sprintf("service %s: process %d (%s) outlives SIGKILL", i->name, (int)m[0].pid, m[0].comm));
        else
            json_array_append_new(
                left, json_sprintf("service %s: %s", i->name, st->err.msg[0] ? st->err.msg : "it is not gone"));
        free(m);
        svc_disarm(i);
        svc_drop(i);
    }
}

static void tick(void *p)
{
    struct svc_stop *st = p;
    int64_t now = sq_mono_ns();
    int there = 0;
    for (struct svc *i = st->s->all, *next; i; i = next) {
        next = i->next;
        if (concerns(st, i))
            there += try_one(st, i, now);
    }
    if (there && now < st->kill_until)
        return;
    json_t *left = json_array();
    if (there)
        give_up(st, left);
    end_stop(st, left);
}

static void begin_one(struct svc *i, bool kill_now)
{
    i->ending = true;
    watch_end(&i->again);
    if (i->is_exec) {
        svc_launch_cancel(i);
        return;
    }
    if (kill_now) {
        (void)sq_tree_kill(&i->tree);
    } else {
        if (i->tree.cgroup[0])
            (void)sq_cgroup_freeze(i->tree.cgroup, false, NULL); /* a frozen process cannot heed SIGTERM */
        (void)sq_tree_signal(&i->tree, SIGTERM);
        (void)sq_tree_signal(&i->tree, SIGCONT); /* nor a stopped one */
    }
    svc_launch_cancel(i); /* tells whoever waits for the launch */
}

void sq_service_stop(struct sq_services *s, const char *run_id, const char *name, int64_t grace_ns,
                     sq_service_done *done, void *arg)
{
    struct svc_stop *st = calloc(1, sizeof *st);
    if (!st) {
        struct sq_err e = {0};
        sq_err(&e, -ENOMEM, "out of memory");
        done(arg, NULL, &e);
        return;
    }
    st->s = s;
    (void)snprintf(st->run, sizeof st->run, "%s", run_id);
    (void)snprintf(st->name, sizeof st->name, "%s", name ? name : "");
    st->all = !name;
    st->term_until = sq_mono_ns() + (grace_ns > 0 ? grace_ns : 0);
    st->kill_until = st->term_until + KILL_MOST;
    st->done = done;
    st->arg = arg;
    st->next = s->stops;
    s->stops = st;
    bool slow = false;
    for (struct svc *i = s->all, *next; i; i = next) {
        next = i->next;
        if (!concerns(st, i))
            continue;
        slow |= !i->tree.cgroup[0] && !i->is_exec;
        begin_one(i, grace_ns <= 0);
    }
    /* Without a cgroup each look reads all of /proc. */
    st->tick = watch_timer(s, 2 * SQ_MS, slow ? 50 * SQ_MS : 10 * SQ_MS, tick, st);
}
