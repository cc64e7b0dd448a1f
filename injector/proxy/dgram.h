/* What the rules of an edge do to one message: a datagram, or a message of DNS over TCP. A message of the caller is a
 * call; the answer to it is what comes back with its id (DNS), else the next message that comes back. No sockets here.
 */
#ifndef SQUALL_PROXY_DGRAM_H
#define SQUALL_PROXY_DGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/px.h"

#define PX_ANSWER (10 * INT64_C(1000000000)) /* how long the answer to a message is awaited */
#define PX_ASKED_MAX 64                      /* messages of one flow that wait for an answer */

/* A message of the caller that no answer has come to. */
struct px_asked {
    int64_t start, held;
    uint32_t hits;
    uint16_t fault, id;
    bool answered; /* by the fault, in the dependency's stead */
};

struct px_flow_calls {
    struct edge *edge;
    uint32_t caller;
    uint32_t hits; /* of the latest message: for those that come back without being an answer */
    unsigned n, cap;
    struct px_asked *asked; /* oldest first; owned */
};

struct px_verdict {
    bool drop;
    bool twice;
    int64_t delay;
    size_t answer; /* bytes in px->out: the answer that the fault gives in the dependency's stead; 0: none */
    /* Down: the call that it ends; `ended` false: none. */
    bool ended;
    struct px_asked call;
    int status;
};

/* A message of the caller, LEN bytes at P; TCP: of DNS over TCP. It is counted. */
struct px_verdict px_dgram_up(struct px_flow_calls *f, const uint8_t *p, size_t len, bool tcp, int64_t now);
/* A message of the dependency. The caller reports the call when the message has been sent to the caller. */
struct px_verdict px_dgram_down(struct px_flow_calls *f, const uint8_t *p, size_t len);
void px_dgram_report(const struct px_flow_calls *f, const struct px_asked *call, enum sq_call_outcome outcome,
                     int status, int64_t answer, int64_t end);
/* What waits for an answer has ended so. */
void px_dgram_end(struct px_flow_calls *f, enum sq_call_outcome outcome, int64_t now);
/* Report those that have waited for too long; ALL: all of them. */
void px_dgram_expire(struct px_flow_calls *f, bool all, int64_t now);
void px_dgram_rules(struct px_flow_calls *f, uint32_t gone, uint32_t fresh);
void px_dgram_free(struct px_flow_calls *f);

#endif
