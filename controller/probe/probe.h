/* The probe: what a user of the system under test would feel. An open-loop load generator in a thread of its own.
 *
 * Every request has a planned send time, computed from the start and the rate alone; its latency counts from there, so
 * a server that stalls neither slows the schedule nor hides its stall. A request that finds no free connection waits
 * and is sent late, which is the server's doing; only the probe's own lateness (timer or loop) speaks against the run.
 *
 * Threads: all functions here are called by one thread, the run loop's. `wake` is called in a thread of the probe and
 * may do no more than uv_async_send(3) does. Nothing here writes to a terminal or a file. */
#ifndef SQUALL_PROBE_H
#define SQUALL_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

struct sq_probe;

#define SQ_HOSTS_MAX 16 /* that an endpoint is sent from */

struct sq_probe_opts {
    /* The normalized scenario's spec.load: object, endpoint -> what it does (SCENARIO.md). Beyond that an endpoint may
     * have `share`: [k, n], then this probe sends the k-th (from 0) of each n requests of its schedule; n probes with
     * the same seed, begun at the same moment, send all of it. */
    const json_t *load;
    const json_t *lateness; /* spec.lateness: {"over": ns, "share": percent}; NULL: 5 ms, 1 % */
    /* What `fallback` checks count: [{"id": "...", "endpoint": "browse" (absent: every endpoint),
     *   "match": {"status": S, "header": "name" or "name: value", "body": "..."},
     *   "forbid": {"status": S, "header": "...", "body": "..." or ["...", ...], "empty": bool}}, ...]; NULL: none.
     * S: 200, "200-299", "5xx", or a list of them. An answer matches when all of `match` holds, and is forbidden when
     * any of `forbid` does. A header's value holds when it, or one of its elements between commas or semicolons, equals
     * `value`. Bodies: a substring of the first MiB. */
    const json_t *matchers;
    const char *run_id;      /* its hash is the left half of every trace id (see sq_probe_trace_prefix) */
    uint64_t seed;           /* of Poisson arrivals and mixes; 0: made from run_id */
    unsigned window_s;       /* the longest window sq_probe_window will be asked for; 0: 60; at most 900 */
    void (*wake)(void *arg); /* something is there for sq_probe_next, or the probe is done; may be NULL */
    void *wake_arg;
};

/* Reads all of `opts` (keeps no reference to the JSON) and resolves host names, which can block for seconds (addresses
 * don't): call it before the run's loop begins. Errors: SQ_C_INPUT for what the scenario got wrong, a name that does
 * not resolve included; SQ_C_INTERNAL when the host lacks what it takes (descriptors for all connections). */
int sq_probe_create(const struct sq_probe_opts *opts, struct sq_probe **out, struct sq_err *e);

/* Begin. zero_ns: CLOCK_MONOTONIC time of the run's second 0 (the `run` record's start_mono_ns). begin_ns: when the
 * first request is planned; 0: at the next whole second of the run that is at least 20 ms away, so that every second
 * but the last is a whole one. Once only. */
int sq_probe_start(struct sq_probe *p, int64_t zero_ns, int64_t begin_ns, struct sq_err *e);
int64_t sq_probe_begin_ns(const struct sq_probe *p); /* when the first request is or was planned */

/* Plan no more requests from now on; those on the way are waited for, each until its timeout, at most grace_ns (< 0: as
 * long as they take). What is unfinished then is left out of the samples and shows as planned - done in sq_probe_end.
 * Returns at once; `wake` when done. Calling again can shorten the grace. */
void sq_probe_stop(struct sq_probe *p, int64_t grace_ns);
bool sq_probe_done(const struct sq_probe *p); /* every sample is queued; sq_probe_next may still have some */

/* The next `sample` record (EVIDENCE.md, with "type", without "t"), NULL when none is there now. New reference. A
 * second is given out when every request planned in it has finished or timed out, so up to the endpoint's timeout late;
 * the seconds of one endpoint come in order and without gaps (a second without requests too). Beyond EVIDENCE.md a
 * sample has `planned`, `reconnects` (requests sent again because a kept-alive connection turned out to be closed) and
 * `bytes` (of bodies). */
json_t *sq_probe_next(struct sq_probe *p);

/* The `probe` records, an array with one for each endpoint (with "type", without "t"; lag_share in percent). New
 * reference. Only when done. */
json_t *sq_probe_end(struct sq_probe *p);

/* What finished in the last whole seconds: for abort conditions and the terminal. Seconds here are those in which a
 * request *finished*, so that they are known at once. endpoint NULL: all of them. Percentiles are within 1.6 %. */
struct sq_probe_window {
    unsigned seconds;           /* how many whole seconds it covers: fewer than asked for shortly after the start */
    uint64_t n, bad;            /* finished; of those, not good */
    double rate;                /* finished per second */
    double error_percent;       /* 100 * bad / n; 0 when n is 0 */
    int64_t p50, p95, p99, max; /* latency from the planned send, ns; 0 when n is 0 */
};
int sq_probe_window(struct sq_probe *p, const char *endpoint, unsigned seconds, struct sq_probe_window *w);

/* Now: connections open, requests that wait for one, requests on the way (waiting included); lag_void: would void now.
 */
struct sq_probe_live {
    uint64_t open, waiting, outstanding, planned, done, lag_late;
    bool lag_void;
};
void sq_probe_live(struct sq_probe *p, struct sq_probe_live *l);
/* The same window of all endpoints, not yet summed up: seconds [from, to) since the first planned request, added to
 * *SUM (probe/window.h). For windows over several probes. */
struct sq_window_slot;
void sq_probe_window_add(struct sq_probe *p, const char *endpoint, int64_t from, int64_t to,
                         struct sq_window_slot *sum);
/* The window's figures; SECONDS: how many it covers. */
void sq_probe_window_of(const struct sq_window_slot *sum, unsigned seconds, struct sq_probe_window *w);

/* Ends the thread at once, whatever it was doing. NULL is fine. */
void sq_probe_free(struct sq_probe *p);

/* The 16 hex digits every trace id of a run begins with, so that the application's logs can be searched for them. */
void sq_probe_trace_prefix(const char *run_id, char out[17]);

/* Where it sends: ["127.0.0.1:8080", "[::1]:80", ...], every address of every endpoint once; Unix sockets are left out.
 * New reference; NULL: no memory. */
json_t *sq_probe_places(const struct sq_probe *p);

#endif
