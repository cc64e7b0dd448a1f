/* The keeper: the process that outlives squalld. It is squalld's parent and the subreaper of all that squalld starts,
 * so every service, launcher and proxy stays its descendant (Yama) and its child in the end. It does nothing but watch:
 * when squalld dies, hangs (no heartbeat for 2 s) or overslept a lease by 1 s, the keeper ends it and takes back by the
 * journal what it held; it ends a proxy that hangs; and it answers the seccomp notifications of a dead squalld with
 * CONTINUE, for as long as anybody lives under such a filter. */
#ifndef SQUALL_KEEPER_H
#define SQUALL_KEEPER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "journal.h"
#include "page.h"

/* What squalld sends over the SOCK_SEQPACKET pair: one of these a packet, with the listener, and its door when there is
 * one (squall/door.h), as SCM_RIGHTS when `add`.
 */
struct sq_keeper_msg {
    uint64_t key;
    uint32_t slot; /* of sq_beat_page.seen */
    uint32_t add;  /* 0: forget KEY */
};

struct sq_keeper_opts {
    struct sq_page *page;
    struct sq_beat_page *beats;
    struct sq_journal *journal;
    const char *dir; /* RUN/<id> */
    const char *id;
    int sock;    /* our end of the pair */
    int lock_fd; /* RUN/<id>/lock, flocked; shared with squalld. The keeper closes it when the directory is gone */
    pid_t child; /* squalld */
};

/* What it waits for: SIGCHLD, SIGTERM, SIGINT, SIGHUP. */
void sq_keeper_signals(sigset_t *set);
/* Watch until squalld and all that it held are gone. The signals that it waits for must be blocked. Returns the exit
 * status: squalld's own after an orderly end; SQ_INFRA when it died and everything was taken back; SQ_UNCLEAN. */
int sq_keeper_run(const struct sq_keeper_opts *o);

/* Listeners of a dead squalld (keeper_seccomp.c). */
struct sq_listeners;
struct sq_listeners *sq_listeners_new(const struct sq_beat_page *beats);
void sq_listeners_free(struct sq_listeners *l);
/* Take in what squalld sent. 0, or -EPIPE when its end is closed. */
int sq_listeners_receive(struct sq_listeners *l, int sock);
struct pollfd;
/* Fill at most N entries to poll, two a listener; ANSWERING: for notifications and at doors too, else only for the end
 * of the last user. */
unsigned sq_listeners_poll(struct sq_listeners *l, struct pollfd *pfd, unsigned n, bool answering);
/* What poll said of them: close the unused, answer the others. */
void sq_listeners_serve(struct sq_listeners *l, const struct pollfd *pfd, unsigned n, bool answering);
/* Squalld is dead: let go what it had in hand. */
void sq_listeners_take_over(struct sq_listeners *l);
unsigned sq_listeners_count(const struct sq_listeners *l);

#endif
