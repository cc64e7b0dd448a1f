/* The rules of an edge: which calls a fault hits, and what it does to them. Pure, except for the names of faults.
 * A rule lives in a slot; a call or connection remembers by a bit mask which slots hit it. Replacing the rules keeps
 * the slot (and its random sequence) of a rule whose fault, kind, percent and seed are the same. */
#ifndef SQUALL_PROXY_RULES_H
#define SQUALL_PROXY_RULES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/count.h"
#include "proxy/jitter.h"
#include "proxy/wire.h"
#include "squall/err.h"
#include "squall/rng.h"

#define SQ_RULES_MAX 16 /* of one edge */
#define SQ_RULE_SLOTS 32
#define SQ_RULE_CALLERS 64

/* The first three act on calls, those from SQ_R_HTTP on requests of HTTP that match (head.h), those from SQ_R_BYTES on
 * bytes of one direction of a connection, in this order (bytes.h). */
enum sq_rule_kind {
    SQ_R_LATENCY,
    SQ_R_ERROR,
    SQ_R_BLACKHOLE,
    SQ_R_HTTP_STATUS,
    SQ_R_HTTP_DELAY,
    SQ_R_HTTP_ABORT,
    SQ_R_HTTP_HEADER,
    SQ_R_HTTP_BODY,
    SQ_R_TIMEOUT,
    SQ_R_RESET,
    SQ_R_LOSS,
    SQ_R_CORRUPT,
    SQ_R_LIMIT,
    SQ_R_DELAY,
    SQ_R_SLICER,
    SQ_R_BANDWIDTH,
    SQ_R_SLOW_CLOSE,
    SQ_R_NOOP,
    SQ_R_DUPLICATE, /* those two: of datagrams (dgram.h) */
    SQ_R_DNS,
};
#define SQ_R_LAST SQ_R_DNS
#define SQ_R_HTTP SQ_R_HTTP_STATUS
#define SQ_R_BYTES SQ_R_TIMEOUT
#define SQ_STREAM_BOTH 2

struct sq_rule {
    uint16_t fault; /* sq_name_intern */
    enum sq_rule_kind kind;
    double percent;          /* 0..100 */
    int64_t delay, jitter;   /* ns */
    struct sq_jitter *table; /* of a latency's jitter; owned; NULL: uniform */
    int err;                 /* what a failed connect returns; an open connection can only be reset */
    uint8_t stream;          /* of bytes: 0 to the dependency, 1 to the caller; of datagrams also SQ_STREAM_BOTH */
    double rate;             /* bandwidth: bytes a second; 0: none passes */
    int64_t size, vary;      /* slicer: bytes; limit: `size` */
    double share, corr;   /* loss, corrupt, duplicate: probability 0..1 of a chunk; loss: 0..1 of the chunk before it */
    uint64_t acts, acted; /* of bytes and HTTP: how often it acted; of bytes: on how many bytes */
    json_t *match, *http; /* of HTTP: the requests meant, what is done (wire.h); owned; NULL: {} */
    uint64_t unjudged;    /* of HTTP: requests or connections that could not be read, and were spared */
    uint64_t tls;         /* of HTTP: connections that carry TLS, spared too */
    struct sq_dns_rule *dns; /* owned; NULL unless SQ_R_DNS */
    uint64_t seed;
    struct sq_rng rng;
    uint32_t number; /* as in struct sq_flow; 0: none */
    uint32_t tally;  /* SQ_TALLY_NONE: calls are not counted */
    struct sq_nth count;
    unsigned ncallers; /* 0: all */
    uint32_t callers[SQ_RULE_CALLERS];
};

bool sq_rule_is_http(const struct sq_rule *r);

/* Fault ids as small numbers, so that a call can carry one; never forgotten while calls may carry them (a run has few).
 * 0 is "". Ids are [A-Za-z0-9._-]{1,31}, at most 65,535 of them. */
struct sq_names {
    char (*name)[32];
    unsigned n, cap;
};
uint16_t sq_name_intern(struct sq_names *names, const char *id); /* 0: not an id, or no room */
const char *sq_name_of(const struct sq_names *names, uint16_t n);
void sq_names_free(struct sq_names *names);

struct sq_rules {
    struct sq_names *names;    /* shared by all edges */
    struct sq_tally **tallies; /* [SQ_TALLIES], the same; NULL (or at NULL): none */
    uint32_t epoch;
    uint32_t mask;  /* slots in use */
    uint32_t bytes; /* those of them that act on bytes */
    uint32_t http;  /* those of them that act on requests of HTTP */
    unsigned n;
    uint8_t order[SQ_RULES_MAX]; /* slots, in the order of the message */
    struct sq_rule slot[SQ_RULE_SLOTS];
};

/* Replace all rules by those of a "rules" message (wire.h). On error nothing is changed. *gone and *fresh: the slots
 * that ended and those that are new. */
int sq_rules_replace(struct sq_rules *r, uint32_t epoch, const json_t *rules, uint32_t *gone, uint32_t *fresh,
                     struct sq_err *e);
/* Those that are drawn for connects and calls, whatever they carry. */
static inline uint32_t sq_rules_calls(const struct sq_rules *r)
{
    return r->mask & ~(r->bytes | r->http);
}
/* What is in force, as in the message. New reference. */
json_t *sq_rules_json(const struct sq_rules *r);

/* No rule any more. */
void sq_rules_none(struct sq_rules *r);

/* What was drawn for a connect already, as in struct sq_flow. */
struct sq_drawn {
    uint32_t rule[SQ_FLOW_RULES];
    uint8_t hits;
};

bool sq_rule_concerns(const struct sq_rule *r, uint32_t caller);
/* Draw for one request or connection of `caller`: which of the slots in `among` hit it. What was drawn for its connect
 * (NULL: nothing) stands. One that an error hits is no call for the other rules. */
uint32_t sq_rules_draw(struct sq_rules *r, uint32_t among, uint32_t caller, const struct sq_drawn *before);
/* Of these hits: those of a kind. */
uint32_t sq_rules_of(const struct sq_rules *r, uint32_t hits, enum sq_rule_kind kind);
/* The first of these in the order of the message; NULL: none. */
const struct sq_rule *sq_rules_first(const struct sq_rules *r, uint32_t among);
/* The fault that counts when these hit: an error before a black hole before an abort before a status of HTTP before a
 * latency before one on bytes; 0: none. */
uint16_t sq_rules_fault(const struct sq_rules *r, uint32_t hits);
/* Draw the delay of one rule; without a table it may be negative when the jitter is larger. */
int64_t sq_rule_delay(struct sq_rule *r);
/* Draw the delay that the latencies and HTTP delays among these hits add up to, >= 0. */
int64_t sq_rules_delay(struct sq_rules *r, uint32_t hits);
/* Rules of this kind that hit every call of `caller`: not those that count. */
uint32_t sq_rules_certain(const struct sq_rules *r, uint32_t among, uint32_t caller, enum sq_rule_kind kind);

/* Errors and black holes that hit every call of `caller`: those of a whole connection, whatever it carries. */
uint32_t sq_rules_sure(const struct sq_rules *r, uint32_t among, uint32_t caller);

#endif
