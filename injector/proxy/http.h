/* Follows the HTTP/1.1 calls of one connection (llhttp, both directions), without altering a byte. Pure: no sockets, no
 * clock. The pump feeds what it read; the tracker says where calls begin and end, so that the pump can draw a fault at
 * a request's first byte and delay exactly its answer. */
#ifndef SQUALL_PROXY_HTTP_H
#define SQUALL_PROXY_HTTP_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SQ_HTTP_PIPELINE 128 /* open calls of one connection; with more it is opaque from then on */

/* What the caller gets for a call in place of an answer of the dependency, see web.c. */
enum sq_fate { SQ_FATE_NONE, SQ_FATE_ANSWER, SQ_FATE_RESET };

/* One call. The tracker owns trace, status, done and the method flags; the pump the rest. Times: CLOCK_MONOTONIC ns.
 * trace: 32 hex digits, or none, also before the request's headers are complete. */
struct sq_call {
    int64_t start;    /* first byte of the request (or of the connect that was held for it) */
    int64_t answer;   /* the (final) answer's first byte came from the dependency; 0: not yet */
    int64_t held;     /* delay that we added */
    int64_t delay;    /* drawn once for an answer; valid when `delayed` */
    int64_t bh_since; /* a black hole holds its bytes since then; 0: none does */
    int64_t gave_up;  /* the caller closed; 0: no */
    int64_t ended;    /* its answer's last byte came from the dependency; valid when `done` */
    uint64_t end_off; /* offset in the stream to the caller behind its last byte; valid when `done` */
    uint32_t hits;    /* rules that hit it: sq_rules slots */
    uint16_t fault;   /* the fault that counts, see sq_name_of; 0: none */
    uint16_t status;
    bool drawn;
    bool delayed;
    bool done;    /* its answer is complete */
    bool cut;     /* but the caller will not have all of it: a fault on bytes kept some */
    bool no_body; /* HEAD */
    bool connect; /* CONNECT */
    bool ready;   /* its own answer may go out when it is its turn */
    bool closes;  /* and is the last one of the connection */
    uint8_t fate; /* enum sq_fate */
    char *own;    /* that answer, `own_len` bytes; owned by the ring */
    size_t own_len;
    char trace[33];
};

enum sq_http_ev {
    SQ_HTTP_NONE,  /* consumed, nothing happened */
    SQ_HTTP_BEGIN, /* at the byte behind the consumed ones: up, a request (sq_http_newest); down, an answer (_oldest) */
    SQ_HTTP_HEAD,  /* of a watched message: the consumed bytes end its head (up: sq_http_newest, down: _oldest). Call
                      again, also with nothing: the message may be complete */
    SQ_HTTP_END,   /* the consumed bytes end a message: up, a request; down, an answer (sq_http_ended) */
    SQ_HTTP_OPAQUE, /* what follows the consumed bytes is not (or no longer) HTTP: do not call again */
};

/* What a watched message's body is, without its framing. P lies within the bytes being fed. */
typedef void sq_http_body_fn(void *arg, bool up, const char *p, size_t len);

struct sq_http {
    llhttp_t req, res;
    sq_http_body_fn *body; /* of watched messages; NULL: nobody cares */
    void *body_arg;
    bool headed; /* the last call ended a head */
    struct sq_call *ring;
    unsigned cap, head,
        n; /* calls, oldest first; `answered` of them are done, and wait for their bytes to be written */
    unsigned answered;
    unsigned ended;    /* index of the call that the last SQ_HTTP_END of an answer ended; n: it answered nothing */
    uint64_t requests; /* complete request lines seen */
    bool up_open, down_open; /* inside a message */
    bool cur;                /* the newest call is the request being read */
    bool interim;            /* the answer being read is a 1xx */
    bool switched;           /* 101, or CONNECT accepted: opaque, and the call was answered */
    bool opaque;
    bool fresh;       /* a header field name begins */
    uint8_t name_len; /* of the header field: matched so far against "traceparent"; 255: another one */
    uint8_t value_len;
    char trace[33]; /* of the request whose headers are being read: so much as has come */
};

void sq_http_init(struct sq_http *h);
void sq_http_free(struct sq_http *h);
/* Feed bytes from the caller (up) or the dependency (down). Returns how many were consumed (<= len): call again with
 * the rest until all are, or the event is SQ_HTTP_OPAQUE. BEGIN may consume nothing. */
size_t sq_http_up(struct sq_http *h, const char *p, size_t len, enum sq_http_ev *ev);
size_t sq_http_down(struct sq_http *h, const char *p, size_t len, enum sq_http_ev *ev);
/* Watch the message that has just begun: SQ_HTTP_HEAD, and its body. Until its end, or until it is told otherwise. */
void sq_http_watch(struct sq_http *h, bool up, bool on);
/* The oldest call was answered by us. */
void sq_http_own_answer(struct sq_http *h);
/* The dependency closed: true when that ended an answer (as SQ_HTTP_END). */
bool sq_http_down_eof(struct sq_http *h);

/* NULL when there is none. Pointers are valid until the next sq_http_up or _pop. */
struct sq_call *sq_http_newest(struct sq_http *h); /* the request being read */
struct sq_call *sq_http_oldest(struct sq_http *h); /* the one whose answer is read or awaited */
struct sq_call *sq_http_ended(struct sq_http *h);
struct sq_call *sq_http_at(struct sq_http *h, unsigned i); /* 0 <= i < h->n, oldest first */
void sq_http_pop(struct sq_http *h);                       /* forget the very oldest */
/* Opaque, and never carried a request: what it carries is a connection, not calls. */
bool sq_http_never(const struct sq_http *h);

#endif
