/* Inside the proxy: one process, one thread, one uv loop. Everything hangs off struct px; files of this folder see it,
 * nobody else does. */
#ifndef SQUALL_PROXY_PX_H
#define SQUALL_PROXY_PX_H

#include <jansson.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <time.h>
#include <uv.h>

#include "page.h"
#include "proxy/diag.h"
#include "proxy/head.h"
#include "proxy/http.h"
#include "proxy/lane.h"
#include "proxy/rules.h"
#include "proxy/space.h"
#include "proxy/timer.h"
#include "proxy/wire.h"

#define PX_BEGUN 255
#define PX_BUF (64 * 1024) /* one read */
#define PX_QUEUE                                                                                                       \
    (16 * 1024 * 1024) /* messages that squalld has not taken yet; more calls are lost, and counted as such */
#define PX_GONE (10 * INT64_C(1000000000))     /* how long the answer to a caller that left is still awaited */
#define PX_CONNECT (130 * INT64_C(1000000000)) /* the kernel's own limit for a connect is shorter */
#define PX_REST (50 * INT64_C(1000000)) /* a connection that is not HTTP is idle when nothing moved for this long */

struct web;
struct px_h2;
struct edge;
struct conn;
struct hold;
struct notify;

/* A message to squalld that its socket had no room for. */
struct msg {
    STAILQ_ENTRY(msg) link;
    size_t len;
    char text[];
};

struct wire {
    int fd; /* -1: squalld is gone */
    uv_poll_t poll;
    bool writing; /* waits for room */
    STAILQ_HEAD(, msg) out;
    size_t queued; /* bytes in `out` */
    char *calls;   /* the "calls" message being written: SQ_WIRE_MAX bytes */
    size_t calls_len;
    unsigned calls_n;
};

/* A caller: what makes its connects come here, held until it is told otherwise. */
struct caller {
    TAILQ_ENTRY(caller) link;
    uint32_t id;
    unsigned n;
    int links[SQ_WIRE_FDS];
    int table;       /* nft.c: what leads its connects here ends with this descriptor; -1: none */
    bool translated; /* by nftables */
};

enum listen_kind { PX_PASS, PX_GATE, PX_PASS6, PX_GATE6, PX_UNIX, PX_PLAIN, PX_NFT };
struct listener {
    TAILQ_ENTRY(listener) link;
    struct px_space *space;
    uv_poll_t poll;
    struct sq_timer again; /* out of descriptors: later */
    struct edge *edge;
    int fd;
    enum listen_kind kind;
    uint16_t port;         /* of an edge, network byte order */
    uint32_t caller, dest; /* PX_UNIX; PX_NFT: dest is where connects are counted */
};

enum px_protocol { PX_AUTO, PX_HTTP, PX_TCP, PX_UDP, PX_DNS };

struct edge {
    TAILQ_ENTRY(edge) link;
    struct px *px;
    uint32_t id;
    char name[128];
    enum px_protocol protocol;
    struct sq_rules rules;
    TAILQ_HEAD(listeners, listener) listeners;
    TAILQ_HEAD(, conn) conns;
    bool counted;               /* false: told to forget it; lives until its last connection has closed */
    struct plain *plain;        /* no caller's edge but a proxy with one upstream (plain.c); NULL: an edge */
    uint64_t bytes[2], sent[2]; /* by lane; `sent`: of closed connections */
    unsigned dgrams;            /* sockets that its datagrams come to, and connections of DNS */
};

enum { CALLER = 0, DEP = 1 }; /* the two ends of a connection */
enum { UP = 0, DOWN = 1 };    /* lane UP is read from CALLER and written to DEP, lane DOWN the other way */

struct end {
    struct conn *conn;
    int fd; /* -1: none (yet, or any more) */
    uv_poll_t poll;
    bool polled;  /* poll is initialised */
    int want;     /* what poll waits for */
    bool eof;     /* it sent its last byte */
    bool stamped; /* the kernel tells when its bytes came */
};

struct conn {
    TAILQ_ENTRY(conn) link;         /* of the edge */
    TAILQ_ENTRY(conn) pending_link; /* of those that wait for squalld to connect them */
    struct px *px;
    struct edge *edge;
    struct px_space *space; /* where its caller is, and its dependency is looked for */
    uint32_t caller;
    struct sq_drawn drawn; /* for its connect, which its first request shares */
    enum { PX_CONNECTING, PX_OPEN, PX_CLOSED } state;
    bool local;      /* a Unix socket */
    bool translated; /* led here by nftables */
    bool pending;
    bool opaque;      /* bytes, not calls */
    bool judged;      /* `hits` was drawn */
    bool carried;     /* at least one HTTP call */
    bool fin_seen;    /* the caller closed its side, behind bytes that we have not read */
    bool gone;        /* nobody reads at the caller's end */
    bool deaf;        /* nobody reads at the dependency's end */
    bool ended[2];    /* the end of that lane has been passed on */
    uint32_t req;     /* of the "upstream" request */
    uint32_t dest;    /* which Unix socket of the edge */
    uint32_t hits;    /* rules that hit the connection (opaque), or its latest call */
    uint32_t shaped;  /* rules on bytes that hit the connection */
    int closing;      /* uv handles that are not closed yet */
    int64_t accepted; /* ns */
    uint16_t held_by; /* the fault that held its connect, and may be over; 0: none */
    int64_t flow_ns;  /* when the caller called connect; 0: unknown */
    int64_t moved;    /* last byte in any direction */
    int64_t late;     /* so long ago came what is being taken; 0: unknown */
    int64_t deadline; /* 0: none */
    struct sq_timer timer;
    struct end end[2];
    struct sq_lane lane[2];
    struct sq_http http;
    struct sq_call whole;  /* of a connection that never carries HTTP */
    struct web *web;       /* rules on HTTP were on when a request began; NULL: never */
    bool tls;              /* opaque, and it begins as TLS does */
    struct px_h2 *h2;      /* opaque, but HTTP/2: its requests are seen; NULL: no */
    uint8_t preface;       /* so many bytes of HTTP/2's preface are held; PX_BEGUN: it is known what it is */
    struct lookup *lookup; /* of the upstream of a plain proxy; NULL: none */
};

/* Where an accepted connection wants to go. */
struct origin {
    struct px_space *space;
    uint32_t caller, dest;
    bool translated;
    struct sq_drawn drawn;
    int64_t flow_ns;
    int64_t waited_ns; /* how long its connect was held, also when what held it has ended meanwhile: */
    uint16_t held_by;  /* the fault that did; 0: none */
    uint32_t hits;     /* drawn when its SYN came, valid when `judged` */
    bool judged;
    struct sockaddr_storage to;
    socklen_t to_len; /* 0: ask squalld (a Unix socket) */
};

/* The upstream of a plain proxy. */
struct plain {
    char host[256];
    uint16_t port;
    struct sockaddr_storage to; /* when `host` is an address */
    socklen_t to_len;           /* 0: a name, looked up for each connection */
};

struct px {
    uv_loop_t loop;
    struct sq_timers timers;
    struct wire wire;
    uv_timer_t tick, beat_timer, stats_timer;
    _Atomic int64_t *beat; /* NULL until "hello" */
    void *beat_page;
    const volatile uint64_t *held; /* SQ_MAX_HELD ids of what squalld answers later; may be NULL */
    size_t beat_len;
    const struct sq_flow *flows[2];   /* BPF, seccomp; by index, */
    const struct sq_flow *cookies[2]; /* and by cookie; NULL: they have no such half */
    struct sq_tally *tallies;         /* shared with squalld and the hooks; NULL: none */
    const struct sq_flow *dflows[2];  /* of datagrams, by BPF and by seccomp; NULL: none */
    struct dgrams *dgrams;            /* udp.c; NULL: none */
    LIST_HEAD(, dnstcp) dnstcp;       /* dnstcp.c */
    TAILQ_HEAD(, edge) edges;
    TAILQ_HEAD(, caller) callers;
    TAILQ_HEAD(, conn) pending;
    TAILQ_HEAD(, notify) listeners; /* seccomp listeners */
    struct sq_names names;
    struct px_space home;
    TAILQ_HEAD(, px_space) spaces; /* home first */
    int nft_keep;                  /* nft.c: connections that were led here stay whole while this is open; -1: none */
    uint64_t nft_open;             /* such connections, */
    int64_t nft_last;              /* and when the last one closed; 0: there was none */
    uint32_t last_req;
    bool draining;  /* squalld is gone, or said quit */
    bool answering; /* squalld is gone: answer seccomp notifications */
    bool alarm_set;
    timer_t alarm;                        /* ends a blocked receive, see notify.c */
    int64_t drain_at;                     /* when the listeners are closed; 0: not yet decided, or done */
    uint64_t open, bytes[2], lost, stray; /* stray: accepted, but of no known flow */
    uint64_t dropped;                     /* datagrams that could not be passed on */
    size_t web_held;                      /* bytes of messages that rules on HTTP wait for the rest of */
    char *buf;                            /* PX_BUF bytes, for whoever is reading now */
    char *out;                            /* the same, for an answer that a fault gives */
    struct sq_out batch[2];               /* by lane, of the connection of HTTP/2 that is being fed */
};

/* wire.c */
int px_wire_open(struct px *px, int fd);
void px_wire_close(struct px *px);
void px_wire_flush(struct px *px);
void px_calls_flush(struct px *px);
void px_send_upstream(struct px *px, const struct conn *c);
void px_send_stats(struct px *px);
void px_send_json(struct px *px, json_t *o); /* takes o */
/* One call for squalld. Ignored when the edge is not counted any more or squalld is gone. */
void px_call(struct conn *c, enum sq_call_kind kind, enum sq_call_outcome outcome, int status,
             const struct sq_call *call, int64_t end);
void px_call_raw(struct px *px, const struct edge *e, uint32_t caller, enum sq_call_kind kind,
                 enum sq_call_outcome outcome, int status, const struct sq_call *call, int64_t end);

/* control.c: what squalld says */
void px_control(struct px *px, const char *text, size_t len, int *fds, size_t nfds);

/* edge.c */
struct edge *px_edge_find(struct px *px, uint32_t id);
int px_edge_add(struct px *px, uint32_t id, const char *name, const char *protocol, int *fds, size_t nfds);
int px_edge_listen(struct edge *e, struct px_space *space, int *fds, size_t nfds); /* takes what it uses, as above */
int px_edge_unix(struct edge *e, uint32_t caller, uint32_t dest, int fd);
int px_listen(struct edge *e, struct px_space *space, int fd, enum listen_kind kind, uint32_t caller, uint32_t dest);
void px_edge_drop(struct edge *e); /* stop listening and counting, no rules any more */
void px_edge_unlisten(struct edge *e);
void px_edges_unlisten(struct px *px, const struct px_space *space); /* all of them, there */
void px_edge_unused(struct edge *e);                                 /* free it when nothing uses it any more */
int px_caller_add(struct px *px, uint32_t id, int *fds, size_t nfds);
void px_caller_drop(struct px *px, uint32_t id);
void px_callers_drop(struct px *px);
/* A copy of what was noted of the connect from FROM to TO, one of our addresses; false: there is nothing. */
bool px_flow(const struct px_space *space, const union px_addr *from, const union px_addr *to, struct sq_flow *out);

/* nft.c */
/* The original destination of a connection of O->caller, counted at TALLY. False: it was not led here. */
bool px_nft_origin(struct edge *e, int fd, uint32_t tally, struct origin *o);
/* Of such a connection, whose own address TO is: the destination. To its caller's socket that is the peer. */
bool px_nft_dest(int fd, union px_addr *to);
/* Owns FD (-1: none): the caller's table in the place of the one before; KEEP: the one that keeps NAT. */
void px_nft_table(struct px *px, uint32_t caller, bool keep, int fd);
void px_nft_look(struct px *px, int64_t now); /* is NAT still needed? */

/* conn.c */
void px_conn_new(struct edge *e, int fd, bool local, const struct origin *o);
void px_conn_upstream(struct px *px, uint32_t req, int fd, int err); /* squalld's answer; owns fd */
/* The dependency's end is connected (err 0) or cannot be (a positive errno). */
void px_conn_connected(struct conn *c, int err);
/* Over. `why` is the outcome of the calls that are open (their own gave_up comes first). */
void px_conn_close(struct conn *c, enum sq_call_outcome why, int status, bool reset);
void px_conn_leave(struct conn *c); /* its edge is dropped: report what is open as open; may close it */
/* Connect to the dependency: 0, EINPROGRESS or another errno. */
int px_conn_dial(struct conn *c, const struct sockaddr *to, socklen_t len);

/* pump.c */
void px_end_poll(struct end *e, int want);
void px_pump(struct conn *c); /* write what is due, pass on ends, say what to wait for; may close it */

/* take.c */
/* Bytes that this end sent; P may be changed. May close it. */
void px_take(struct conn *c, int from, char *p, size_t len, int64_t now);
/* No more from this end: what follows its bytes on the other side. May close it. */
void px_take_end(struct conn *c, int from, enum sq_lane_end how);
/* It is not HTTP/2: what was held as the beginning of its preface is passed on. May close it. */
void px_no_preface(struct conn *c, int64_t now);
/* When that is certain, because the rest does not come; INT64_MAX: nothing is held. */
int64_t px_preface_due(const struct conn *c);

/* plain.c: proxies of the Toxiproxy kind */
int px_plain_add(struct px *px, uint32_t id, const char *host, int64_t port, int *fds, size_t nfds);
void px_plain_drop(struct edge *e); /* with all its connections, now */
int px_plain_dial(struct conn *c);  /* as px_conn_dial */
/* The connect failed: is another address tried? */
bool px_plain_again(struct conn *c);
void px_plain_forget(struct conn *c); /* closed */
void px_plain_json(const struct edge *e, json_t *ack);

/* shape.c: rules on bytes */
/* A new connection: draw. */
void px_shape_new(struct conn *c);
/* Rules of the edge have changed. True: close it, for its bytes are not whole. */
bool px_shape_changed(struct conn *c, uint32_t gone, uint32_t fresh, int64_t now);
/* Bytes were read: what is left of them, and when they are due. */
size_t px_shape_take(struct conn *c, int lane, char *p, size_t len, int64_t *due, int64_t now);
/* What a timeout or a reset is due for, is done; true: it is closed. */
bool px_shape_fire(struct conn *c, int64_t now);
int64_t px_shape_next(const struct conn *c);
void px_shape_end(
    struct conn *c); /* closed in order, by a limit: after what is unread, so that the kernel sends no reset */

/* What this end sends is delayed: from now on that is counted from when the kernel had it, not from when it was read
 * (on a processor that slept, or has much to do, that is later). */
void px_stamp(struct end *e);

/* False: a rule on bytes kept some of them for good. May close it. */
bool px_put(struct conn *c, int lane, char *p, size_t len, int64_t due, uint32_t bh, int64_t now);
/* When bytes are due that the dependency sent now as (part of) the answer to this call (NULL: no calls here); 0: at
 * once. */
int64_t px_due(struct conn *c, struct sq_call *call, int64_t now);

/* web.c: rules on HTTP/1. Messages that such a rule may mean are held until their head is complete. */
/* A message begins; false: it is none of our business, its bytes are put as ever. */
void px_web_begin(struct conn *c, int lane, int64_t now);
/* Does it take the bytes of that lane? */
bool px_web_has(const struct conn *c, int lane);
/* Bytes that the tracker consumed, and what it said of them. */
void px_web_take(struct conn *c, int lane, char *p, size_t len, enum sq_http_ev ev, int64_t now);
void px_web_turn(struct conn *c, int64_t now); /* answers of our own that are next */
/* Does a call wait for an answer of ours, or a reset? Nobody else can answer it. */
bool px_web_owes(struct conn *c);
/* Nothing but a reset of our own can come next: what the dependency still says answers later calls. */
bool px_web_doomed(struct conn *c);
/* Is it time for a reset of our own? True: it is closed. */
bool px_web_reset(struct conn *c);
/* It ends after our answer: what the caller still sends is nobody's. */
bool px_web_closing(const struct conn *c);
bool px_web_lingers(const struct conn *c); /* and it must not be closed before the caller does */
void px_web_opaque(struct conn *c);        /* no HTTP any more: what is held goes on as it came */
void px_web_free(struct conn *c);

/* h2conn.c: HTTP/2 without TLS */
bool px_h2_begin(struct conn *c);                                            /* behind its preface; false: no memory */
void px_h2_feed(struct conn *c, int lane, char *p, size_t len, int64_t now); /* may close it */
void px_h2_stop(struct conn *c);                                             /* it is no HTTP/2 */
void px_h2_ends(struct conn *c, int lane);                                   /* no more comes on that lane */
void px_h2_pump(struct conn *c, int64_t now);                                /* what is due; may close it */
bool px_h2_reads(const struct conn *c);                                      /* its requests are (still) seen */
int64_t px_h2_next(const struct conn *c);
bool px_h2_holds(const struct conn *c, int lane); /* something waits to go on in that lane */
bool px_h2_full(const struct conn *c, int lane);  /* read nothing more for that lane */
bool px_h2_waits(const struct conn *c);           /* for answers */
void px_h2_end(struct conn *c, enum sq_call_outcome why, int64_t now);
void px_h2_changed(struct conn *c, uint32_t fresh, int64_t now); /* new rules, while its requests are seen */
void px_h2_release(struct conn *c, uint32_t gone, int64_t now);
void px_h2_free(struct conn *c);

/* apply.c: rules on connections */
/* Rules on HTTP that are on, and cannot read this connection. */
void px_not_judged(const struct conn *c, uint32_t slots);
void px_hit(struct conn *c, struct sq_call *call, uint32_t hits, int64_t now);
int64_t px_latency(struct conn *c, struct sq_call *call);
uint32_t px_blackhole(const struct conn *c, uint32_t hits);
/* A request began: draw. True: it must fail. */
bool px_begin(struct conn *c, struct sq_call *call, int64_t now);
/* A stream of HTTP/2 begins: draw. JUDGED: its connect was, with hits FIRST, which the first one shares. */
uint32_t px_begin_stream(struct conn *c, struct sq_call *call, bool judged, uint32_t first, int64_t now);
/* Rules begin while a call is under way. */
void px_catch(struct conn *c, struct sq_call *call, uint32_t fresh, int64_t now);
uint32_t px_draw(struct conn *c, uint32_t among); /* what was drawn for its connect stands */
void px_judge(struct conn *c);                    /* the connection as a whole (opaque) */
void px_go_opaque(struct conn *c);
void px_rules_changed(struct edge *e, uint32_t gone, uint32_t fresh);

/* hold.c: SYNs of connects that are to be slow */
/* FDS: AF_PACKET and raw of IPv4, then of IPv6, or less; takes what it uses: sets it to -1. */
void px_hold_open(struct px_space *space, int *fds, size_t nfds);
void px_hold_rules(struct px *px); /* rules of some edge have changed */
bool px_hold_waits(const struct px *px);
void px_hold_close(struct px_space *space);
void px_hold_forget(struct px *px, const struct edge *e);
/* The SYN of an accepted connection was held: how long, and what was drawn for it. */
void px_hold_accepted(struct px_space *space, const union px_addr *peer, const union px_addr *local, struct origin *o);

int px_hold_raw(const struct px_space *space, enum px_ip ip); /* a raw socket, or -1 */

/* udp.c: datagrams */
int px_udp_add(struct edge *e, struct px_space *space, int fd); /* owns fd when it returns 0 */
void px_udp_leave(struct edge *e); /* count no more; its sockets stay while somebody is connected to them */
void px_udp_leave_space(struct px *px, const struct px_space *space); /* as if the edges were dropped there */
void px_udp_rules(struct edge *e, uint32_t gone, uint32_t fresh);
void px_udp_close(struct px *px);

/* udprefuse.c */
/* Nobody is there: say so to the caller's socket as the kernel would, with the start of what it sent. A connected
 * socket then has its ECONNREFUSED. It takes the raw socket of the held connects; without that the datagram is lost.
 * PORT, in network byte order, and LOCAL: where it was sent to. */
void px_udp_refuse(const struct px_space *space, const struct sockaddr_in *peer, struct in_addr local, uint16_t port);

/* dnstcp.c: DNS over TCP, on edges with protocol dns */
void px_dnstcp_new(struct edge *e, int fd, const struct origin *o); /* owns fd */
void px_dnstcp_leave(struct edge *e);                               /* count no more */
void px_dnstcp_rules(struct edge *e, uint32_t gone, uint32_t fresh);
void px_dnstcp_close(struct px *px);

/* notify.c: seccomp listeners */
/* Owns FD, the listener and its door (-1: none), in the place of what had KEY. SEEN: the id of what squalld received
 * last; may be NULL. */
int px_notify_add(struct px *px, uint64_t key, const int fd[2], const volatile uint64_t *seen);
void px_notify_drop(struct px *px, uint64_t key);
void px_notify_start(struct px *px);
bool px_notify_any(const struct px *px);
void px_notify_close(struct px *px);

/* proxy.c */
void px_orphaned(struct px *px); /* squalld is gone */
void px_drain(struct px *px);
void px_maybe_leave(struct px *px);

#endif
