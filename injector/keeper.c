/* The keeper's loop. One thread, nothing of libuv: it must go on when everything else is in doubt. What may block
 * (taking back) runs in a child of its own, so that notifications are answered meanwhile. */
#include "keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/err.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "sweep.h"
#include "undo.h"

#define TICK_MS 100
#define TICK_MOST_NS (200 * SQ_MS) /* see sq_watch_look */
#define OVERSLEPT_NS (1 * SQ_S)    /* a lease that squalld let pass by so much: it hangs */
#define ORDERLY_NS (20 * SQ_S)     /* most an orderly end may take after SIGTERM */
#define TAKE_MOST_NS (15 * SQ_S)   /* most one attempt at taking back may take */
#define TAKE_TRIES 10
#define TAKE_PAUSE_NS (300 * SQ_MS)
#define PROXY_SAW_NS                                                                                                   \
    (500 * SQ_MS) /* a beat so long after squalld's end: the proxy has seen that end, its links are closed */

enum phase {
    WATCHING,      /* squalld lives */
    TAKING_FAULTS, /* squalld is dead: faults go at once */
    WAITING,       /* services may live until the last lease has ended */
    TAKING_ALL,
    PARTING, /* only a proxy that has not seen the end yet, or users of a listener, keep us */
};

struct keeper {
    const struct sq_keeper_opts *o;
    struct sq_listeners *listeners;
    int sigfd;
    enum phase phase;
    struct sq_watch squalld, proxy;
    int64_t term_at;   /* asked to end; 0: no */
    int64_t dead_at;   /* squalld's end; 0: lives */
    int64_t take_from; /* this attempt at taking back: since */
    pid_t taker;       /* 0: none */
    int tries;
    bool swept; /* the directory is gone */
    int status; /* what we will exit with */
};

static void say(void *arg, const char *line)
{
    (void)arg;
    (void)fprintf(stderr, "squall-keeper: %s\n", line);
}

static void begin_taking(struct keeper *k, enum phase phase)
{
    k->phase = phase;
    k->take_from = sq_mono_ns();
    k->taker = fork();
    if (k->taker == 0) {
        struct sq_err e = {0};
        /* Retries must not repeat themselves on the terminal. */
        int left = sq_journal_reload(k->o->journal, &e);
        if (left == 0)
            left = sq_undo_journal(k->o->journal, phase == TAKING_ALL ? SQ_UNDO_ALL : SQ_UNDO_FAULTS,
                                   k->tries == 0 ? say : NULL, NULL, &e);
        if (left < 0)
            say(NULL, e.msg);
        _exit(left == 0 ? 0 : SQ_UNCLEAN);
    }
    if (k->taker < 0) {
        k->taker = 0; /* no process to be had: the next tick tries again */
        k->tries++;
    }
}

static int64_t last_deadline(const struct sq_page *p)
{
    int64_t last = 0;
    for (unsigned i = 0; i < SQ_MAX_RUNS; i++) {
        int64_t d = SQ_GET(p->lease[i]);
        if (d > last)
            last = d;
    }
    return last;
}

/* The socket first, so that nobody finds a dead injector; the directory only when nothing is owed any more. */
static void leave_directory(struct keeper *k)
{
    if (k->swept)
        return;
    k->swept = true;
    struct sq_err e = {0};
    if (k->status != SQ_UNCLEAN && sq_sweep_cgroups(k->o->id, &e) < 0) {
        say(NULL, e.msg);
        k->status = SQ_UNCLEAN;
    }
    if (k->status == SQ_UNCLEAN)
        sq_sweep_sockets(k->o->dir);
    else
        (void)sq_sweep_remove(k->o->dir, NULL);
    (void)close(k->o->lock_fd);
}

static void part(struct keeper *k, int status)
{
    k->status = status;
    k->phase = PARTING;
    leave_directory(k);
}

static void squalld_ended(struct keeper *k, int wstatus)
{
    k->dead_at = sq_mono_ns();
    (void)sq_listeners_receive(k->listeners, k->o->sock);
    sq_listeners_take_over(k->listeners); /* also after an orderly end: threads of its may have waited for a connect */
    if (WIFEXITED(wstatus) && SQ_GET(k->o->page->orderly)) {
        part(k, WEXITSTATUS(wstatus));
        return;
    }
    k->status = SQ_INFRA;
    k->tries = 0;
    if (sq_journal_reload(k->o->journal, NULL) == 0 && sq_journal_held(k->o->journal) == 0 && WIFEXITED(wstatus)) {
        /* It could not even start. */
        part(k, WEXITSTATUS(wstatus));
        return;
    }
    say(NULL, "squalld is dead: taking back what it held");
    begin_taking(k, TAKING_FAULTS);
}

static void taken(struct keeper *k, int wstatus)
{
    k->taker = 0;
    if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 0) {
        k->tries = 0;
        bool owed = sq_journal_reload(k->o->journal, NULL) < 0 || sq_journal_held(k->o->journal) > 0;
        if (k->phase == TAKING_FAULTS && owed) /* only services are left */
            k->phase = WAITING;
        else
            part(k, SQ_INFRA);
        return;
    }
    k->tries++;
    k->take_from = sq_mono_ns();
}

static void reap(struct keeper *k)
{
    int st;
    pid_t pid;
    while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
        if (pid == k->o->child && !k->dead_at)
            squalld_ended(k, st);
        else if (pid == k->taker)
            taken(k, st);
    }
}

static void on_signals(struct keeper *k)
{
    struct signalfd_siginfo si;
    while (read(k->sigfd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        if (si.ssi_signo == SIGCHLD || k->term_at)
            continue;
        k->term_at = sq_mono_ns();
        if (!k->dead_at)
            (void)kill(k->o->child, SIGTERM); /* our child, not reaped yet: the number is still its own */
    }
    reap(k);
}

/* A hang is answered by SIGKILL, which also ends a stopped process; its death is then seen like any other. */
static void watch_squalld(struct keeper *k)
{
    const struct sq_page *p = k->o->page;
    int64_t now = sq_mono_ns(), boot = sq_boot_ns();
    const char *why = NULL;
    if (sq_watch_look(&k->squalld, SQ_GET(p->squalld_beat), now, TICK_MOST_NS) >= SQ_STALE_NS)
        why = "squalld hangs: no heartbeat for 2 s";
    for (unsigned i = 0; i < SQ_MAX_RUNS && !why; i++) {
        int64_t d = SQ_GET(p->lease[i]);
        if (d && boot > d + OVERSLEPT_NS)
            why = "squalld hangs: a lease passed and it took nothing back";
    }
    if (!why && k->term_at && now - k->term_at > ORDERLY_NS)
        why = "squalld does not end";
    if (!why)
        return;
    say(NULL, why);
    k->squalld.stale = 0; /* once a while, not each tick */
    (void)kill(k->o->child, SIGKILL);
}

/* The proxy holds links and connections: while it hangs, its callers do. Killed, their new calls go direct. */
static void watch_proxy(struct keeper *k)
{
    pid_t pid = (pid_t)SQ_GET(k->o->page->proxy_pid);
    if (pid <= 0)
        return;
    if (sq_watch_look(&k->proxy, SQ_GET(k->o->beats->proxy_beat), sq_mono_ns(), TICK_MOST_NS) < SQ_STALE_NS)
        return;
    k->proxy.stale = 0;
    cleanup_close int fd = sq_proc_pidfd(pid, SQ_GET(k->o->page->proxy_start), NULL);
    if (fd < 0)
        return;
    say(NULL, "the proxy hangs: ending it, calls go direct from now on");
    (void)sq_pidfd_signal(fd, SIGKILL);
}

/* May we leave it alone? Gone, or it has run since squalld's end and so has closed its links. */
static bool proxy_settled(struct keeper *k)
{
    pid_t pid = (pid_t)SQ_GET(k->o->page->proxy_pid);
    if (pid <= 0 || SQ_GET(k->o->beats->proxy_beat) > k->dead_at + PROXY_SAW_NS)
        return true;
    cleanup_close int fd = sq_proc_pidfd(pid, SQ_GET(k->o->page->proxy_start), NULL);
    return fd < 0;
}

static void watch_taking(struct keeper *k)
{
    int64_t now = sq_mono_ns();
    if (k->taker) {
        if (now - k->take_from > TAKE_MOST_NS)
            (void)kill(k->taker, SIGKILL);
    } else if (k->tries >= TAKE_TRIES) {
        say(NULL, "not all could be taken back; the journal is kept for the next start");
        part(k, SQ_UNCLEAN);
    } else if (now - k->take_from > TAKE_PAUSE_NS) {
        begin_taking(k, k->phase);
    }
}

/* One look at everything. Returns false when there is no reason to stay. */
static bool step(struct keeper *k)
{
    watch_proxy(k);
    switch (k->phase) {
    case WATCHING:
        watch_squalld(k);
        return true;
    case TAKING_FAULTS:
    case TAKING_ALL:
        watch_taking(k);
        return true;
    case WAITING:
        if (k->term_at || sq_boot_ns() >= last_deadline(k->o->page))
            begin_taking(k, TAKING_ALL);
        return true;
    case PARTING:
        return !proxy_settled(k) || sq_listeners_count(k->listeners) > 0;
    }
    return false;
}

static void wait_events(struct keeper *k)
{
    struct pollfd pfd[2 + 2 * SQ_MAX_LISTENERS];
    /* Once squalld has let go of its listeners, dead or in order, nobody else answers. */
    bool answering = k->dead_at != 0 || SQ_GET(k->o->page->orderly) != 0;
    pfd[0] = (struct pollfd){.fd = k->sigfd, .events = POLLIN};
    pfd[1] = (struct pollfd){.fd = k->dead_at ? -1 : k->o->sock, .events = POLLIN};
    unsigned n = sq_listeners_poll(k->listeners, pfd + 2, 2 * SQ_MAX_LISTENERS, answering);
    if (poll(pfd, 2 + n, TICK_MS) <= 0)
        return;
    sq_listeners_serve(k->listeners, pfd + 2, n, answering);
    if (pfd[1].revents && sq_listeners_receive(k->listeners, k->o->sock) < 0)
        (void)poll(NULL, 0, 1); /* its end of the pair is closed: SIGCHLD follows, and until then this would spin */
    if (pfd[0].revents)
        on_signals(k);
}

void sq_keeper_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

static int set_up(struct keeper *k)
{
    sigset_t set;
    sq_keeper_signals(&set);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_NAME, "squall-keeper");
    k->sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    k->listeners = sq_listeners_new(k->o->beats);
    return k->sigfd < 0 || !k->listeners ? -ENOMEM : 0;
}

int sq_keeper_run(const struct sq_keeper_opts *o)
{
    struct keeper k = {.o = o, .phase = WATCHING};
    if (set_up(&k) < 0) {
        say(NULL, "no memory");
        (void)kill(o->child, SIGKILL); /* nothing was done yet */
        return SQ_INFRA;
    }
    reap(&k); /* it may have died before SIGCHLD was looked at */
    do {
        SQ_PUT(o->page->keeper_beat, sq_mono_ns());
        wait_events(&k);
    } while (step(&k));
    sq_listeners_free(k.listeners);
    (void)close(k.sigfd);
    return k.status;
}
