/* Follows the calls of one connection of HTTP/2 without TLS (RFC 9113, prior knowledge), both directions from the
 * preface on, so that a fault can begin at any time. Pure: no sockets, no clock.
 *
 * Bytes pass as they came until a fault touches the connection for the first time. From then on header blocks are
 * written anew in both directions, as literals that use no table, so that one can be left out, put in, changed or held
 * without the other side's HPACK state (RFC 7541) suffering. Windows: what is dropped is given back to who sent it;
 * what is put in needs room, and is taken out of the credit that the other end gets; what then has no room waits.
 *
 * Bounded: 1,024 streams (those above are passed on, and counted as not seen), 64 KiB a header block and 256 KiB of it
 * unpacked. In each direction 1 MiB waits, in both together 2 (sq_h2_full), and 1 MiB of bodies is collected. What a
 * fault says in place of the dependency takes no memory of its own until it is written. What goes beyond, or is no
 * HTTP/2, makes it blind: bytes pass as they come, or, if it was touched, broken: the connection must be closed. */
#ifndef SQUALL_PROXY_H2_H
#define SQUALL_PROXY_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/head.h"
#include "proxy/http.h"

#define SQ_H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SQ_H2_PREFACE_LEN 24
#define SQ_H2_HELD (1024 * 1024) /* bytes that wait in one direction; above it nothing more is read for it */

struct sq_h2;

struct sq_h2_ops {
    void *arg;
    /* These bytes go on (lane 0: to the dependency, 1: to the caller). P may be changed. */
    void (*out)(void *arg, int lane, char *p, size_t len);
    /* A request's head: draw what hits it into CALL. */
    void (*request)(void *arg, struct sq_call *call, const struct sq_head *h);
    /* How much later than now does its answer come? */
    int64_t (*delay)(void *arg, struct sq_call *call);
    /* It is over. */
    void (*done)(void *arg, struct sq_call *call, enum sq_call_outcome outcome, int64_t end);
    const struct sq_rules *rules; /* what CALL's hits mean */
    const uint32_t *whole;        /* black holes among these hold all bytes of the connection, elsewhere; NULL: none */
    /* May more be put into that lane that nobody sent? NULL: always. */
    bool (*room)(void *arg, int lane);
    /* The body of a message that this rule (slot) hit stays as it came. NULL: nobody cares. */
    void (*spared)(void *arg, unsigned slot);
    void (*unseen)(void *arg); /* a request passed that nobody follows; NULL: nobody cares */
    size_t *bodies;            /* bytes of bodies collected, of all connections together; NULL: not counted */
};

struct sq_h2 *sq_h2_new(const struct sq_h2_ops *ops); /* NULL: no memory */
void sq_h2_free(struct sq_h2 *h);                     /* without telling of open calls */
/* Bytes that were read, behind the preface on lane 0. */
void sq_h2_feed(struct sq_h2 *h, int lane, char *p, size_t len, int64_t now);
/* What waits, and can go on now. When is it time for that? INT64_MAX: nothing waits for time. */
void sq_h2_due(struct sq_h2 *h, int64_t now);
int64_t sq_h2_next(const struct sq_h2 *h);
/* Should its source send no more: does anything wait that can still go on in that lane? */
bool sq_h2_holds(const struct sq_h2 *h, int lane);
/* It is no HTTP/2 after all: blind, or broken when it was touched. */
void sq_h2_stop(struct sq_h2 *h);
/* No more comes on that lane. In the middle of a frame that is no HTTP/2: blind, if it was not touched. */
void sq_h2_ends(struct sq_h2 *h, int lane);
/* The connection is gone: what is still being fed is nothing any more. */
void sq_h2_break(struct sq_h2 *h);
bool sq_h2_full(const struct sq_h2 *h, int lane); /* read nothing more for it */
bool sq_h2_broken(const struct sq_h2 *h);
bool sq_h2_blind(const struct sq_h2 *h);
unsigned sq_h2_open(const struct sq_h2 *h);
/* The connection ends: all open calls are done with this outcome. */
void sq_h2_end(struct sq_h2 *h, enum sq_call_outcome outcome, int64_t now);
/* New rules: HIT draws what hits a call that is under way. */
void sq_h2_catch(struct sq_h2 *h, void (*hit)(void *arg, struct sq_call *call, int64_t now), int64_t now);
/* These rules have ended. What they held goes on with the next sq_h2_due. */
void sq_h2_release(struct sq_h2 *h, uint32_t gone, int64_t now);

#endif
