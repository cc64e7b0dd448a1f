/* What a probe protocol is to the engine: bytes out for a request, bytes in until its answer is whole. A protocol does
 * no I/O and knows no time; it is one file and a line in protocols.def. */
#ifndef SQUALL_PROBE_PROTO_H
#define SQUALL_PROBE_PROTO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "probe/buf.h"
#include "probe/capture.h"
#include "probe/match.h"
#include "probe/template.h"
#include "squall/err.h"

#define SQ_ADDRS_MAX 8

/* Where an endpoint is. Several addresses: tried in turn until one takes the connection. */
struct sq_place {
    char host[256];
    char port[8];
    char path[108]; /* Unix socket; host is empty then */
    bool datagram;  /* UDP */
    bool tls;
    const char *alpn; /* what TLS offers unless the scenario says otherwise; NULL: nothing */
    size_t n;
    struct {
        struct sockaddr_storage sa;
        socklen_t len;
    } addr[SQ_ADDRS_MAX];
};

/* Trace context (W3C), "00-<32 hex>-<16 hex>-01", without a final 0. */
#define SQ_TRACE_LEN 55

enum sq_feed {
    SQ_FEED_MORE, /* the answer goes on */
    SQ_FEED_DONE, /* the answer is whole: see `answer` */
    SQ_FEED_BAD,  /* not the protocol, or ended in the middle */
};

struct sq_answer {
    int status;
    bool keep;      /* the connection can carry another request */
    uint64_t bytes; /* of the body */
    struct sq_matched matched;
};

/* How requests of a protocol travel. */
enum sq_flow {
    SQ_FLOW_STREAM,  /* one at a time on a connection (conn.c) */
    SQ_FLOW_MUX,     /* several at once on a connection (mux.c): see struct sq_mux */
    SQ_FLOW_COMMAND, /* each is a process (command.c): see struct sq_program */
};

/* What happened to a request on a connection that has several. */
enum sq_mux_end {
    SQ_MUX_ANSWERED,
    SQ_MUX_RESET,   /* the server gave it up */
    SQ_MUX_REFUSED, /* and says that it did not look at it: it may be sent again */
    SQ_MUX_BAD,     /* not the protocol */
};

/* A conversation of several requests at once. TAG is the caller's name for one of them. */
struct sq_mux {
    /* NULL: no memory. ENDED may be called from within `feed`, once for each tag. */
    void *(*open)(void *arg, void (*ended)(void *arg, void *tag, enum sq_mux_end how, const struct sq_answer *a));
    void (*close)(void *talk);
    /* How many requests may be on the way at once, as far as the peer has said. */
    unsigned (*room)(const void *talk);
    /* Begin a request; KEEP as in struct sq_proto. False: this conversation takes no more. */
    bool (*submit)(void *talk, void *tag, void *plan, const struct sq_values *v, const char *trace,
                   struct sq_keep *keep);
    void (*forget)(void *talk, void *tag);                  /* its answer is not wanted any more */
    bool (*feed)(void *talk, const char *data, size_t len); /* false: the connection is of no use any more */
    /* What it wants sent, at most until the next call; 0: nothing. Then `sent` says how much of it went. */
    size_t (*output)(void *talk, const char **data);
    void (*sent)(void *talk, size_t len);
};

/* A request that is a process. */
struct sq_program {
    const char *const *argv; /* ends with NULL; argv[0] is the program, searched in PATH */
    const struct sq_rules *rules;
};

struct sq_proto {
    const char *name;
    bool (*speaks)(const char *url, const json_t *request);
    enum sq_flow flow;
    int good_from, good_to; /* statuses of a good answer, unless `expect` says otherwise */
    bool holes;             /* may its requests have ${data.x} and ${session.x} in them? */
    /* Reads one request of an endpoint ("request", "expect") into *plan (owned by the caller, `release` frees it) and
     * says where it goes (host, port, path; addresses are the caller's task). NAMES: what holes may refer to. `rules`
     * outlives the plan. */
    int (*prepare)(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e);
    void (*release)(void *plan);
    /* May a request be sent again when its kept-alive connection turns out to be closed (RFC 9110, 9.2.2)? */
    bool (*repeatable)(const void *plan);

    /* SQ_FLOW_STREAM */
    /* The bytes of a request with these values and this trace context; valid until the next call for the same plan, and
     * the same for the same arguments. *len 0 and NULL: they can't be made (too long). */
    const char *(*request)(void *plan, const struct sq_values *v, const char *trace, size_t *len);
    /* A conversation: `talk_size` bytes for each connection, set up once by `open`, again by `begin` for each request
     * (what is to be kept of its answer goes into KEEP; NULL: nothing). */
    size_t talk_size;
    void (*open)(void *talk, const void *plan);
    void (*begin)(void *talk, const void *plan, struct sq_keep *keep);
    enum sq_feed (*feed)(void *talk, const char *data, size_t len);
    enum sq_feed (*eof)(void *talk);
    void (*answer)(const void *talk, struct sq_answer *out);
    /* Optional. What is said before the first request: called with nothing when connected, then with what comes, until
     * it is done; puts what it wants sent into OUT. */
    enum sq_feed (*hello)(void *talk, const char *data, size_t len, struct sq_buf *out);
    /* Optional: the request's bytes are all sent. SQ_FEED_DONE: and that is all there is to it. */
    enum sq_feed (*sent)(void *talk);

    const struct sq_mux *mux;                              /* SQ_FLOW_MUX */
    const struct sq_program *(*program)(const void *plan); /* SQ_FLOW_COMMAND */
};

#define SQ_PROTOCOL(p) extern const struct sq_proto p;
#include "probe/protocols.def"
#undef SQ_PROTOCOL

#endif
