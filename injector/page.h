/* The memory that squalld and its keeper share (a memfd, mapped by both over fork): heartbeats, lease deadlines, and
 * what the keeper must know when squalld can no longer tell. The proxy gets a page of its own, with its heartbeat and
 * what it needs to let go of calls: it reads hostile bytes, and must not be able to write a lease.
 *
 * Heartbeats are CLOCK_MONOTONIC ns, so that waking from suspend finds nobody dead; lease deadlines are CLOCK_BOOTTIME
 * ns, so that suspend does not prolong a fault. Every field is a single naturally aligned word, read and written with
 * __atomic builtins (SQ_GET, SQ_PUT); neither side trusts itself to hold a lock when it may be killed. */
#ifndef SQUALL_PAGE_H
#define SQUALL_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_MAX_RUNS 64       /* runs of one injector at a time */
#define SQ_MAX_LISTENERS 512 /* seccomp listeners of one injector at a time */
#define SQ_MAX_HELD 64       /* notifications that squalld answers later (intercept/wait.c) */
#define SQ_BEAT_NS (250 * INT64_C(1000000))
#define SQ_STALE_NS (2 * INT64_C(1000000000)) /* a heartbeat this old is a hang */

#define SQ_GET(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define SQ_PUT(field, v) __atomic_store_n(&(field), (v), __ATOMIC_RELEASE)

struct sq_page {
    volatile int64_t squalld_beat;
    volatile int64_t keeper_beat;
    volatile int64_t orderly;   /* 1: squalld has taken everything back by itself and is leaving */
    volatile int64_t proxy_pid; /* 0: none */
    volatile uint64_t proxy_start;
    volatile int64_t lease[SQ_MAX_RUNS]; /* deadline by run slot; 0: no lease there */
};

struct sq_beat_page {
    volatile int64_t proxy_beat;
    /* What keeper and proxy must let go when squalld is dead: it had received these, and not answered. */
    volatile uint64_t seen[SQ_MAX_LISTENERS]; /* id of the last notification taken from the listener in this slot */
    volatile uint64_t held[SQ_MAX_HELD];      /* ids of those to be answered later; 0: none */
};

/* Make and map LEN zeroed bytes of a fixed size, close-on-exec. Unmap with munmap(2), close *fd. */
int sq_page_new(size_t len, void **map, int *fd, struct sq_err *e);

/* How long a heartbeat has not moved, in time that the watcher itself was running: a host that stood still as a whole
 * (a stopped VM, heavy swapping) accuses nobody. */
struct sq_watch {
    int64_t beat;   /* last value seen */
    int64_t looked; /* when, CLOCK_MONOTONIC */
    int64_t stale;  /* ns without a move */
};
/* Look once; returns the ns without a move. A single gap between two looks counts at most as `most_ns`. */
int64_t sq_watch_look(struct sq_watch *w, int64_t beat, int64_t now, int64_t most_ns);

#endif
