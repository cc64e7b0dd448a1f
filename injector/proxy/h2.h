/* Follows the calls of one connection of HTTP/2 without TLS (RFC 9113, prior knowledge), both directions from the
 * preface on, so that a fault can begin at any time. Pure: no sockets, no clock.
 *
 * Bytes pass as they came until a fault touches the connection for the first time. From then on header blocks are
 * written anew in both directions, as literals that use no table, so that one can be left out, put in, changed or held
 * without the other side's HPACK state (RFC 7541) suffering. Windows: what is dropped is given back to who sent it,
 * what is put in is kept from the dependency's credit, and what would be too much then waits.
 *
 * Bounded: 1,024 streams (those above are passed on, and not seen), 64 KiB a header block and 256 KiB of it unpacked,
 * 1 MiB held. What goes beyond, or is no HTTP/2, makes it blind: bytes pass as they come, or, if it was touched,
 * broken: the connection must be closed. */
#ifndef SQUALL_PROXY_H2_H
#define SQUALL_PROXY_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/head.h"
#include "proxy/http.h"

#define SQ_H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SQ_H2_PREFACE_LEN 24
#define SQ_H2_HELD (1024 * 1024) /* bytes of delayed answers; above it nothing more is read from the dependency */

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
};

struct sq_h2 *sq_h2_new(const struct sq_h2_ops *ops); /* NULL: no memory */
void sq_h2_free(struct sq_h2 *h);                     /* without telling of open calls */
/* Bytes that were read, behind the preface on lane 0. */
void sq_h2_feed(struct sq_h2 *h, int lane, char *p, size_t len, int64_t now);
/* Held answers that are due. When is the next one? INT64_MAX: none waits for time. */
void sq_h2_due(struct sq_h2 *h, int64_t now);
int64_t sq_h2_next(const struct sq_h2 *h);
int64_t sq_h2_last(const struct sq_h2 *h); /* the last one that waits; 0: none */
/* It is no HTTP/2 after all: blind, or broken when it was touched. */
void sq_h2_stop(struct sq_h2 *h);
bool sq_h2_full(const struct sq_h2 *h);
bool sq_h2_broken(const struct sq_h2 *h);
bool sq_h2_blind(const struct sq_h2 *h);
unsigned sq_h2_open(const struct sq_h2 *h);
/* The connection ends: all open calls are done with this outcome. */
void sq_h2_end(struct sq_h2 *h, enum sq_call_outcome outcome, int64_t now);
/* These rules have ended. */
void sq_h2_release(struct sq_h2 *h, uint32_t gone);

#endif
