/* Inside of interception: its state, and what its files offer each other. One thread, one uv loop. */
#ifndef SQUALL_INTERCEPT_PRIV_H
#define SQUALL_INTERCEPT_PRIV_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <uv.h>

#include "intercept/intercept.h"
#include "intercept/rules.h"
#include "intercept/table.h"
#include "squall/dest.h"
#include "squall/err.h"

#define SQ_RULE_HISTORY 64 /* rules of an edge whose events may still arrive */
#define SQ_NAME_MAX 80

/* What becomes of connections that were open before an edge was armed. */
enum sq_existing_how { SQ_EXISTING_LEAVE, SQ_EXISTING_RESET, SQ_EXISTING_WAIT };

/* One fault on one edge, as asked. */
struct sq_edge_fault {
    char id[32];
    json_t *rule;    /* normalized, owned; NULL: free */
    uint32_t number; /* struct sq_rule */
    uint32_t tally;  /* where its calls are counted */
};

/* A listener that swallows SYNs, in squalld; fd -1: none. */
struct sq_hole {
    int fd, fill;
};

struct sq_edge {
    struct sq_intercept *ic;
    uint32_t slot, id;
    char run[SQ_NAME_MAX], name[2 * SQ_NAME_MAX], from[SQ_NAME_MAX];
    char protocol[8]; /* auto, http, tcp, udp, dns */
    uid_t uid;
    struct sq_dest *dest, *except;
    size_t n_dest, n_except;
    struct sq_hosts *hosts; /* those of the destinations that are host names; NULL: none */
    bool bpf;               /* its TCP destinations are taken by BPF, */
    bool nft;               /* or by nftables (nft.h) */
    bool has_tcp, has_unix;
    bool dgram;          /* its datagrams are taken, too, or (without has_tcp) alone; its rules are the proxy's alone */
    struct sq_hole hole; /* only when no SYN can be held */
    bool hole_shut;
    enum sq_existing_how existing;
    struct sq_edge_fault fault[SQ_EDGE_FAULTS];
    struct {
        uint32_t number;
        char fault[32];
    } history[SQ_RULE_HISTORY];
    uint32_t n_history;
    uint32_t acked;    /* epoch of the proxy's last ack */
    json_t *ack_rules; /* what it said was in force then */
    uint64_t told_why, told_lost;
    json_t *failed; /* calls that are not told yet, all of failed_caller */
    struct sq_caller *failed_caller;
    struct sq_made *live; /* [n_live]: what its callers did so far */
    size_t n_live;
    uint64_t *traces;     /* hashes of those seen lately; NULL: none yet */
    struct sq_past *past; /* faults that have ended, the last SQ_RULE_HISTORY */
    size_t n_past;
    struct sq_edge *next; /* of the dropped */
};

struct sq_bpf_caller; /* bpf.c: one loaded object */
struct sq_follow;     /* follow.h */
struct sq_running;    /* running.h: a service of processes that ran before */
struct sq_nat;        /* nft.h: what redirects a caller without BPF */
struct sq_natlog;
struct dgram; /* dgram.c: the same for datagrams */

/* A Unix listener of the proxy that stands for one Unix socket of one edge of one caller. */
struct sq_stand_in {
    uint32_t edge; /* number */
    uint32_t dest; /* index of the edge's destination */
    char path[64]; /* file name in the injector's directory */
};

/* One armed instance. */
struct sq_caller {
    struct sq_intercept *ic;
    uint32_t slot, id;
    char run[SQ_NAME_MAX], service[SQ_NAME_MAX], instance[SQ_NAME_MAX];
    bool armed; /* false: disarmed, kept for its name */
    bool with_bpf;
    struct sq_tables *tables;  /* whose call is a connect: memory of its BPF object, or our own; NULL: not armed yet */
    struct sq_tables *dtables; /* whose datagram, under seccomp: our own; NULL: none is taken so */
    struct sq_bpf_caller *bpf;
    struct dgram *dgram;
    bool caches;        /* caches.c: its hook is there */
    uint64_t cgroup_id; /* exec.c has it; 0: no */
    struct sq_nat *nat; /* NULL: not by nftables */
    bool seccomp;
    struct sq_stand_in *unix_edge;
    size_t n_unix;
    bool warned;
    struct sq_running *running; /* it ran before; NULL: launched */
    struct sq_caller *next;     /* of the disarmed */
};

enum sq_map {
    SQ_M_EDGES,
    SQ_M_FLOWS,
    SQ_M_NEXT_FLOW,
    SQ_M_COUNTS,
    SQ_M_HOOKS,
    SQ_M_PEERS,
    SQ_M_TALLIES,
    SQ_M_DFLOWS,
    SQ_M_NEXT_DFLOW,
    SQ_M_DDESTS,
    SQ_M_SPACES,
    SQ_MAPS
};

/* What all BPF objects share. */
struct sq_bpf {
    int fd[SQ_MAPS]; /* -1: not there */
    void *ring;      /* struct ring_buffer */
    uv_poll_t *poll;
};

/* The proxy process. */
struct sq_link {
    int fd; /* our end; -1: none */
    int pidfd;
    pid_t pid;
    uv_poll_t *poll, *death;
    bool started, dead;
};

/* Threads that wait (wait.c), plus one for us: whoever is last frees it. */
struct sq_waits {
    _Atomic unsigned n;
};

struct sq_intercept {
    struct sq_intercept_opts o;
    char *dir, *self;
    struct sq_link link;
    struct sq_bpf bpf;
    bool bpf_asked, bpf_ok;
    char bpf_why[512];
    bool caches_asked, caches_ok; /* caches.c */
    bool hold_ok, hold6_ok;       /* SYN-hold */
    char hold_why[512];
    uint64_t netns_cookie;
    dev_t netns_dev;
    ino_t netns_ino;
    struct sq_edge_cfg *cfg;       /* [SQ_EDGES]: the BPF map, or our own memory */
    struct sq_edge_counts *counts; /* [SQ_EDGES], the same */
    size_t cfg_len, counts_len;    /* as mapped */
    struct sq_tally *tallies;      /* [SQ_TALLIES]: the BPF map, or a memfd's; shared with the proxy */
    size_t tallies_len;
    int tallies_fd; /* the memfd; -1: it is the map */
    bool tally_used[SQ_RULE_TALLIES];
    struct sq_tally_cell tally_gone[SQ_RULE_TALLIES]; /* of callers whose cell has passed to another one */
    uint32_t slot_last[SQ_CALLERS];                   /* number of the caller that had the slot last */
    int flows_fd;                                     /* of seccomp redirects: a sealed memfd */
    struct sq_flow *flows;
    int dflows_fd; /* the same of datagrams; -1: none yet */
    struct sq_flow *dflows;
    uint32_t next_flow;
    struct sq_edge *edge[SQ_EDGES];
    struct sq_caller *caller[SQ_CALLERS];
    struct sq_caller *gone;     /* newest first */
    struct sq_edge *gone_edges; /* newest first */
    uint32_t next_edge, next_caller, next_rule, next_slot;
    uint32_t hosts_turn; /* slot of the edge whose names are looked up next */
    struct sq_supervisor *sups;
    struct sq_space *space[SQ_SPACES]; /* space.c; NULL: free */
    struct sq_space *left_spaces;
    unsigned space_ticks;
    int64_t spaces_looked; /* 0: not yet */
    struct exec *exec;     /* exec.c; NULL: not attached */
    unsigned n_exec;       /* callers that it has */
    uint32_t next_space;
    pid_t parent; /* the keeper */
    struct sq_running *running;
    struct sq_natlog *natlog;     /* NULL: not open */
    struct sq_settling *settling; /* existing.c: edges that wait for connections to end */
    uv_timer_t *tick, *flush, *look;
    int diag; /* sock_diag socket; -1: not open */
    TAILQ_HEAD(, sq_holed) holed;
    unsigned n_holed;
    unsigned handles; /* open uv handles */
    uint64_t bad_calls, proxy_lost, proxy_dropped;
    bool deaf6; /* sq_dgram_bind, at home */
    struct {
        uint64_t open, bytes_up, bytes_down, rss, lost, stray;
    } said; /* by the proxy, once a second */
    struct sq_waits *waits;
    void (*freed)(void *arg);
    void *freed_arg;
};

/* intercept.c */
void sq_ic_caller_free(struct sq_caller *c);                             /* NULL is fine; unlinks nothing */
void sq_ic_event(struct sq_intercept *ic, const char *run, json_t *obj); /* takes obj; NULL is ignored */
void sq_ic_warn(struct sq_intercept *ic, const char *run, const char *fmt, ...) SQ_PRINTF(3, 4);
uv_poll_t *sq_ic_poll(struct sq_intercept *ic, int fd, int events, uv_poll_cb cb, void *data); /* NULL: no memory */
void sq_ic_unpoll(struct sq_intercept *ic, uv_poll_t **p);            /* stops now, frees later */
struct sq_caller *sq_ic_caller(struct sq_intercept *ic, uint32_t id); /* armed or gone; NULL */
struct sq_edge *sq_ic_edge(struct sq_intercept *ic, uint32_t id);
uv_timer_t *sq_ic_new_timer(struct sq_intercept *ic); /* data: ic; NULL: no memory */
void sq_ic_end_timer(uv_timer_t **t);
/* *OUT is the callee's to free, also on error; it has no id and is in no table yet. */
int sq_ic_new_caller(struct sq_intercept *ic, const char *run_id, const char *service, const char *instance,
                     struct sq_caller **out, struct sq_err *e);
void sq_ic_enter_caller(struct sq_caller *c); /* it is armed, and has an id */
/* The proxy's listener for the Unix destination DEST of EDGE, for the calls of C. */
int sq_ic_stand_in(struct sq_caller *c, const struct sq_edge *edge, size_t dest, struct sq_err *e);
/* The proxy, of one, and what links of it the proxy is to hold; again when more come. */
int sq_ic_tell_caller(struct sq_caller *c, const int *links, size_t n, struct sq_err *e);
void sq_ic_flush_soon(struct sq_intercept *ic);
void sq_ic_flush(struct sq_intercept *ic); /* failed connects to the evidence, now */
void sq_ic_proxy_died(struct sq_intercept *ic, const char *why);

/* link.c */
/* The process that makes the proxy's sockets in NETNS (proxy/maker.h); SOCK is its end. */
int sq_maker_spawn(const char *self, int netns, int sock, pid_t *pid, int *pidfd, struct sq_err *e);
int sq_link_start(struct sq_intercept *ic, struct sq_err *e); /* once; -EPIPE when it has died */
bool sq_link_alive(struct sq_intercept *ic);                  /* asks the kernel */
void sq_link_stop(struct sq_intercept *ic, bool quit);
/* Where in the proxy's page P is; -1: nowhere. */
json_int_t sq_link_offset(const struct sq_intercept *ic, const volatile void *p);
/* Takes neither msg nor fds. Blocks at most 1 s. */
int sq_link_send(struct sq_intercept *ic, const json_t *msg, const int *fds, size_t n, struct sq_err *e);
/* Handle what the proxy says until it acknowledged the epoch of the edge, at most 1 s. */
int sq_link_wait_ack(struct sq_intercept *ic, struct sq_edge *edge, uint32_t epoch, struct sq_err *e);

/* incoming.c: messages of the proxy, which are not trusted */
void sq_incoming(struct sq_intercept *ic, const char *text, size_t len);
void sq_incoming_hook(struct sq_intercept *ic, const struct sq_hook_event *ev);
/* Tell the evidence of one connect that failed before it had begun, and of one that the caller gave up after DUR ns.
 * Times: CLOCK_MONOTONIC ns. */
void sq_incoming_failed(struct sq_caller *c, struct sq_edge *edge, int64_t t_ns, uint32_t rule);
void sq_incoming_gave_up(struct sq_caller *c, struct sq_edge *edge, int64_t t_ns, int64_t dur, const char *fault);
void sq_incoming_flush(struct sq_edge *edge); /* what was gathered of those */

/* bpf.c */
int sq_bpf_try(struct sq_err *e); /* load the programs, and forget them */
int sq_bpf_open(struct sq_intercept *ic, struct sq_err *e);
void sq_bpf_close(struct sq_intercept *ic);
/* F: the callers are the processes that it follows, this one among them; NULL: whoever is in the cgroup. */
int sq_bpf_attach(struct sq_intercept *ic, struct sq_caller *c, int cgroup_fd, const struct sq_follow *f,
                  struct sq_err *e);
void sq_bpf_quiet(void); /* libbpf says nothing on its own */
void sq_bpf_detach(struct sq_caller *c);
int sq_bpf_read(struct sq_intercept *ic, uint32_t slot, struct sq_edge_cfg *out, struct sq_err *e);
void sq_bpf_drain(struct sq_intercept *ic);

const char *sq_edge_hole(const struct sq_edge *edge); /* inforce.c: the fault that is a black hole; NULL: none */

/* holed.c: FD, a socket of C's, is on its way to TO, which is shut. Best effort: without memory it is not told of. */
void sq_holed_add(struct sq_caller *c, const struct sq_edge *edge, int fd, int64_t start, const char *fault,
                  const struct sockaddr_storage *to);
void sq_holed_free(struct sq_intercept *ic);

/* dgram.c: the same for datagrams; beside sq_bpf_attach */
/* Of callers that have such edges, and of all that ran before: their edges come later. F: as there. */
int sq_dgram_attach(struct sq_intercept *ic, struct sq_caller *c, int cgroup_fd, const struct sq_follow *f,
                    struct sq_err *e);
int sq_dgram_table(struct sq_caller *c, struct sq_err *e); /* its edges have changed */
void sq_dgram_detach(struct sq_caller *c);
/* Make the socket for the datagrams of an edge, and give it to the proxy; the hooks' port is set. */
int sq_dgram_open(struct sq_edge *edge, struct sq_err *e);
/* Sockets for an edge's datagrams, in the network namespace of the calling thread. FD[1]: on ::1, -1 with *PORT6 0:
 * there is none. Ports in network byte order. *DEAF6: nothing arrived on ::1 there, so that it is not waited for as
 * long the next time. */
int sq_dgram_bind(int fd[2], uint16_t *port, uint16_t *port6, bool *deaf6, struct sq_err *e);
int sq_dgram_hello(struct sq_intercept *ic, struct sq_err *e); /* the proxy has just been started */

/* space.c: other network namespaces that callers are in. In each the proxy has listeners of each edge, and a process of
 * nobody's ("squall-sockets") makes its sockets to the dependencies. */
/* An edge was declared: for its callers that run already, wherever they are. What can't be is a warning of its run. */
void sq_space_edge(struct sq_edge *edge);
/* A caller has been seen in a namespace that its edge does not know. */
void sq_space_seen(struct sq_intercept *ic, const struct sq_hook_event *ev);
/* The same, at once, of a process whose socket is in COOKIE. Where the edge is listened for; NULL: WHY [LEN] it is not.
 */
const struct sq_space_ports *sq_space_ports(struct sq_edge *edge, pid_t pid, uint64_t cookie, char *why, size_t len);
void sq_space_unedge(const struct sq_edge *edge);         /* it is dropped; a namespace without edges is left */
void sq_space_lost(struct sq_intercept *ic, uint32_t id); /* the proxy gets no sockets there: calls go direct */
void sq_space_drop_all(struct sq_intercept *ic);          /* the proxy is dead */
void sq_space_free(struct sq_intercept *ic);
void sq_space_tick(struct sq_intercept *ic); /* once a second: those that nobody lives in are left */
void sq_space_plan(const struct sq_intercept *ic, const pid_t *pid, size_t n,
                   json_t *notes); /* of callers, for people */
uint64_t sq_space_cookie(int fd);  /* of the namespace of a socket; 0: unknown */

/* exec.c: programs that begin in other network namespaces are told to sq_space_seen before their first call. The cgroup
 * is C's. Best effort. */
void sq_exec_watch(struct sq_caller *c, int cgroup_fd);
void sq_exec_unwatch(struct sq_caller *c);
void sq_exec_forget(struct sq_intercept *ic, uint64_t cookie); /* tell of that namespace again */

/* listen.c */
int sq_listen_lo(bool gate, int *fd, uint16_t *port, struct sq_err *e); /* port in network byte order */
bool sq_lo_is_up(int fd);                                               /* in the network namespace of the socket FD */
int sq_listen_lo6(bool gate, int *fd, uint16_t *port);                  /* on ::1; -errno: there is none here */
/* The same: one that passes, and (HOLD) a gate. How many there are, from the first; the port of the other is 0. */
size_t sq_listen_pair6(bool hold, int fd[2], uint16_t *pass, uint16_t *gate);
int sq_hole_open(struct sq_hole *h, int *gate, uint16_t *port, struct sq_err *e);
int sq_hole_turn(int hole, bool shut);
void sq_hole_close(struct sq_hole *h);
#define SQ_SYNHOLD_FDS 4
/* FD: AF_PACKET and raw of IPv4, and of IPv6 (-1: none here). How many there are, from the first. */
int sq_synhold_open(int fd[SQ_SYNHOLD_FDS], struct sq_err *e);
void sq_synhold_close(int fd[SQ_SYNHOLD_FDS]);
int sq_listen_unix(const char *dir, const char *name, int *fd, struct sq_err *e);
/* Connect to a file in DIR (however long its path is), or to an address, without ever blocking. -errno. */
int sq_connect_in(int fd, const char *dir, const char *name);

/* filter.c */
/* DGRAM: datagrams are taken, too. */
int sq_filter_build(bool dgram, void **bytes, size_t *len, struct sq_err *e);

/* supervise.c */
/* PID, START: the process that loaded the filter. Owns LISTENER. */
int sq_supervise(struct sq_intercept *ic, struct sq_caller *c, uint64_t key, pid_t pid, uint64_t start, int listener,
                 struct sq_err *e);
/* After others have given theirs away: let it be known that we have it. */
void sq_supervise_door(struct sq_intercept *ic, pid_t pid, uint64_t start);
void sq_supervise_tell_proxy(struct sq_intercept *ic); /* a new one: all listeners */
void sq_supervise_end_all(struct sq_intercept *ic);

/* wait.c */
void sq_wait_leave(struct sq_waits *waits);

/* upstream.c: connect to the real Unix socket, the destination DEST of EDGE, as the run's user. A connected socket, or
 * -errno. */
int sq_upstream_connect(const struct sq_edge *edge, size_t dest);

/* edge.c */
/* EDGE begins at this service; C is an instance of the one it begins at. NULL: false. */
bool sq_edge_is_of(const struct sq_edge *edge, const char *run, const char *service);
bool sq_edge_calls(const struct sq_caller *c, const struct sq_edge *edge);
int sq_edge_choose(struct sq_intercept *ic, struct sq_err *e);     /* by BPF or not: asked once */
int sq_edge_need_hooks(struct sq_intercept *ic, struct sq_err *e); /* BPF, or else nftables; or why not */
void sq_edge_drop(struct sq_edge *edge);
const char *sq_edge_protocol(const struct sq_edge *edge);
void sq_edge_free(struct sq_edge *edge);
/* What C's edges take and what not, of streams or of datagrams, comes into force in TO, at once. -E2BIG: as it was. */
int sq_edge_table(struct sq_caller *c, bool dgram, struct sq_tables *to, struct sq_err *e);
int sq_edge_own_table(const struct sq_edge *edge, struct sq_table *out, struct sq_err *e); /* of its callers */
/* Of an edge that might be: TO and EXCEPT as a definition has them. Its slot is 0. Host names are looked up. */
int sq_edge_table_of(struct sq_intercept *ic, const json_t *to, const json_t *except, struct sq_table *out,
                     struct sq_err *e);
int sq_edge_retable(struct sq_edge *edge, struct sq_err *e); /* of all its callers */

/* hosts.c */
struct sq_netns;
bool sq_hosts_any(const struct sq_edge *edge); /* has it any? */
/* Look up the edge's host names as the inhabitants of NS do. Blocks, at most 5 s. -EHOSTUNREACH (SQ_C_NOTFOUND). */
int sq_hosts_new(struct sq_edge *edge, const struct sq_netns *ns, struct sq_err *e);
void sq_hosts_free(struct sq_edge *edge);
void sq_hosts_tick(struct sq_intercept *ic);                                  /* begin to look up again what is due */
size_t sq_hosts_count(const struct sq_edge *edge);                            /* addresses in force */
size_t sq_hosts_rules(const struct sq_edge *edge, struct sq_table_rule *out); /* so many */
json_t *sq_hosts_json(const struct sq_edge *edge); /* {"db.staging": ["10.0.0.1"]}: what they mean now */

/* tally.c: where rules count their calls */
int sq_tally_open(struct sq_intercept *ic, struct sq_err *e); /* where there is no BPF map */
void sq_tally_close(struct sq_intercept *ic);
int sq_tally_take(struct sq_intercept *ic, uint32_t *tally, struct sq_err *e); /* an empty one */
void sq_tally_give(struct sq_intercept *ic, uint32_t tally);
/* A slot for this instance: the one that it had before, so that it counts on; else one that nobody had for the longest
 * time. SQ_CALLERS: none is free. */
uint32_t sq_tally_slot(struct sq_intercept *ic, const char *run, const char *instance);
/* What a rule has counted, of all callers of the edge. */
struct sq_tally_cell sq_tally_sum(const struct sq_intercept *ic, uint32_t tally);

/* made.c: what a caller did over an edge, so far */
struct sq_made;
struct sq_past;
void sq_made_call(struct sq_edge *edge, const struct sq_caller *c, const json_t *call); /* as in wire.h, checked */
void sq_made_failed(struct sq_edge *edge, const struct sq_caller *c);                   /* a hook failed its connect */
void sq_made_leave(struct sq_intercept *ic, const struct sq_caller *c);                 /* its cells are given up */
void sq_made_over(struct sq_edge *edge, const struct sq_edge_fault *f);                 /* the fault ends */
void sq_made_free(struct sq_edge *edge);

/* inforce.c */
enum sq_push {
    SQ_PUSH_SET,   /* the proxy first, and its ack */
    SQ_PUSH_CLEAR, /* the hooks first */
    SQ_PUSH_QUIET, /* as SET, but nobody waits for the ack: the callers have changed */
};
int sq_edge_push(struct sq_edge *edge, enum sq_push how, struct sq_err *e);
const char *sq_edge_fault_of(const struct sq_edge *edge, uint32_t number); /* "" when forgotten */
/* 0: neither the hooks nor the proxy have the fault any more; -EBUSY: who has. */
int sq_edge_rule_gone(struct sq_edge *edge, const char *fault_id, struct sq_err *e);
bool sq_edge_fault_hits(const struct sq_edge_fault *f, const struct sq_caller *c);

#endif
