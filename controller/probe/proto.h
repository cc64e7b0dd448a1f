/* What a probe protocol is to the engine: bytes out for a request, bytes in until its answer is whole. A protocol does
 * no I/O and knows no time; it is one file and a line in protocols.def. */
#ifndef SQUALL_PROBE_PROTO_H
#define SQUALL_PROBE_PROTO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "probe/match.h"
#include "squall/err.h"

#define SQ_ADDRS_MAX 8

/* Where an endpoint is. Several addresses: tried in turn until one takes the connection. */
struct sq_place {
    char host[256];
    char port[8];
    char path[108]; /* Unix socket; host is empty then */
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

struct sq_proto {
    const char *name;
    bool (*speaks)(const char *url);
    /* Reads an endpoint of spec.load ("request") into *plan (owned by the caller, `release` frees it) and says where it
     * goes (host, port, path; addresses are the caller's task). `rules` outlives the plan. */
    int (*prepare)(const json_t *endpoint, const struct sq_rules *rules, void **plan, struct sq_place *place,
                   struct sq_err *e);
    void (*release)(void *plan);
    /* May a request be sent again when its kept-alive connection turns out to be closed (RFC 9110, 9.2.2)? */
    bool (*repeatable)(const void *plan);
    /* The bytes of a request with this trace context; valid until the next call for the same plan. */
    const char *(*request)(void *plan, const char *trace, size_t *len);
    /* A conversation: `talk_size` bytes for each connection, set up once by `open`, again by `begin` for each request.
     */
    size_t talk_size;
    void (*open)(void *talk, const void *plan);
    void (*begin)(void *talk);
    enum sq_feed (*feed)(void *talk, const char *data, size_t len);
    enum sq_feed (*eof)(void *talk);
    void (*answer)(const void *talk, struct sq_answer *out);
};

#define SQ_PROTOCOL(p) extern const struct sq_proto p;
#include "probe/protocols.def"
#undef SQ_PROTOCOL

#endif
