/* Interception: edges (the calls of one caller to one dependency), armed before the steady state and passing everything
 * through until a rule says otherwise. Owns the proxy process, the BPF programs and the seccomp supervisor of one
 * injector. Everything runs on the injector's uv loop; nothing here blocks for more than a few milliseconds.
 *
 * A caller is named by its service; each of its instances is "service.N". Arming an instance happens between fork and
 * exec of its first program (service.c), so that no call is missed. Attaching to a running process comes later: it will
 * be one more function beside sq_intercept_arm. */
#ifndef SQUALL_INTERCEPT_H
#define SQUALL_INTERCEPT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "faults/fault.h"
#include "proxy/count.h"
#include "squall/err.h"

struct sq_intercept;
struct sq_edge;

/* Events for the evidence, as EVIDENCE.md says ("calls", "proxy", ...): the callee owns OBJ afterwards. */
typedef void sq_event_fn(void *arg, const char *run_id, json_t *obj);

struct sq_patience;

struct sq_intercept_opts {
    uv_loop_t *loop;
    struct sq_patience *patience; /* patience.h, borrowed; NULL: nothing */
    const char *dir;              /* RUN/<injector id>, for the proxy's Unix sockets */
    const char *self;             /* path of the squalld executable: the proxy is `squalld proxy` */
    sq_event_fn *event;
    void *arg;
    /* Called with the proxy's pid and start time when it was started, and with pid 0 when it died (the engine tells the
     * keeper, and reports it in the evidence; calls go direct from then on). */
    void (*proxy_changed)(void *arg, pid_t pid, uint64_t start);
    /* A dup of every seccomp listener is handed over here for the keeper; the callee owns fd, not DOOR (squall/door.h;
     * -1: none). fd -1: forget KEY. Again: another one in the place of the first. */
    void (*listener)(void *arg, uint64_t key, int fd, int door);
    /* After `listener`: where to note the id of each notification right after it was received, so that the keeper can
     * let go what a killed squalld had in hand. NULL, or returns NULL: nowhere. */
    volatile uint64_t *(*seen)(void *arg, uint64_t key);
    volatile uint64_t *held;      /* the same for what is answered later: SQ_MAX_HELD words (page.h); NULL: nowhere */
    volatile int64_t *proxy_beat; /* shared page: the proxy writes CLOCK_MONOTONIC ns here every 250 ms */
    int beat_fd;                  /* the memfd of that page, for the proxy, and */
    size_t beat_offset;           /* where in it; `seen` and `held` are in it, too */
};

/* Which ways work here. 0, or -errno and why + hint. Cheap, and touches nothing that stays. */
int sq_intercept_check_bpf(struct sq_err *e);
int sq_intercept_check_seccomp(struct sq_err *e);
int sq_intercept_check_synhold(struct sq_err *e);

int sq_intercept_new(const struct sq_intercept_opts *o, struct sq_intercept **out, struct sq_err *e);
/* Orderly end: rules off, links closed, the proxy told to drain and leave. Calls done() when all handles are closed. */
void sq_intercept_free(struct sq_intercept *ic, void (*done)(void *arg), void *arg);

/* Declare an edge of a run (API.md, "edges"). Starts the proxy with the first one. */
int sq_edge_declare(struct sq_intercept *ic, const char *run_id, uid_t uid, const json_t *def, json_t **answer,
                    struct sq_err *e);
/* What it would be: {"edge", "names": {"db.staging": ["10.0.0.1"]}}. Nothing is touched. */
int sq_edge_plan(struct sq_intercept *ic, const char *run_id, uid_t uid, const json_t *def, json_t **answer,
                 struct sq_err *e);
/* Drop all edges, rules and callers of a run; its open connections go on through the proxy until they close. */
int sq_edge_drop_run(struct sq_intercept *ic, const char *run_id, struct sq_err *e);
struct sq_edge *sq_edge_find(struct sq_intercept *ic, const char *run_id, const char *name);

/* What the launcher of an instance must do. */
struct sq_arming {
    bool seccomp;      /* load `filter` with a listener, and send the listener */
    void *filter;      /* struct sock_filter[]; malloc'd, owned by the caller of sq_intercept_arm */
    size_t filter_len; /* in bytes */
    uint64_t key;      /* give it back to sq_intercept_supervise */
};
/* Before the launch of an instance "checkout.0": attach BPF to its cgroup (cgroup_fd >= 0) for edges that need BPF, say
 * what the launcher must do for those that need seccomp. No edge of this caller: all zero. */
int sq_intercept_arm(struct sq_intercept *ic, const char *run_id, const char *service, const char *instance,
                     int cgroup_fd, struct sq_arming *out, struct sq_err *e);
/* The launched process's seccomp listener arrived (owned by the callee): answer its notifications. */
int sq_intercept_supervise(struct sq_intercept *ic, uint64_t key, pid_t pid, int listener, struct sq_err *e);
/* The instance is gone: detach, close. */
void sq_intercept_disarm(struct sq_intercept *ic, const char *run_id, const char *instance);

/* Rules: call faults. `rule` is {"fault","kind":"latency|error|blackhole|<on bytes,
 * wire.h>","percent","delay","jitter", "errno","seed","instances":[...] or absent,"first","every","after" or absent; on
 * bytes: "stream","rate","size","variation","share","correlation"; of a latency's jitter: "table" (wire.h)},
 * normalized. Returns when the proxy and the kernel have it (bounded: 1 s, then -ETIMEDOUT). */
int sq_edge_rule_set(struct sq_edge *edge, const json_t *rule, struct sq_err *e);
int sq_edge_rule_clear(struct sq_edge *edge, const char *fault_id, struct sq_err *e);
/* What was set last, as it was given; NULL: no such fault. */
const json_t *sq_edge_rule_asked(struct sq_edge *edge, const char *fault_id);
/* What is in force now, read from the BPF map and from the proxy, not from our own memory. New reference. */
int sq_edge_rule_read(struct sq_edge *edge, const char *fault_id, json_t **out, struct sq_err *e);
/* The same for one on bytes, with what it did until now, asked of the proxy: "acts", "acted" (bytes). */
int sq_edge_rule_count(struct sq_edge *edge, const char *fault_id, json_t **out, struct sq_err *e);
/* How many calls the fault would have hit, and how many it did (proxy/count.h). */
struct sq_tally_cell sq_edge_rule_hits(const struct sq_edge *edge, const char *fault_id);
/* What the callers of a run (NULL: of all) did so far: [{"edge","run",...}] as API.md says. New reference. */
json_t *sq_intercept_edges(const struct sq_intercept *ic, const char *run_id);
/* {"up":bool,"open","bytes_up","bytes_down","rss","lost","stray"}: as the proxy said last. New reference. */
json_t *sq_intercept_proxy(const struct sq_intercept *ic);
/* "bpf", "seccomp": how its calls are taken; and whether the connect can be delayed. */
const char *sq_edge_mode(const struct sq_edge *edge);
bool sq_edge_delays_connect(const struct sq_edge *edge);

/* Start a proxy process of its own, unprivileged, with SOCK as its descriptor 3 (proxy/wire.h); PLAIN: one for plain
 * proxies, which is called squall-plain. *pidfd is the caller's. */
int sq_proxy_spawn(const char *self, bool plain, int sock, pid_t *pid, int *pidfd, struct sq_err *e);

#endif
