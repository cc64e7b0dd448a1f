/* Inside HTTP/2: frames (h2.c), header blocks and what is decided on them (h2block.c), streams, what waits and windows
 * (h2stream.c), what is written (h2write.c). */
#ifndef SQUALL_PROXY_H2_PRIV_H
#define SQUALL_PROXY_H2_PRIV_H

#include <nghttp2/nghttp2.h>

#include "proxy/h2.h"

#define STREAMS_MAX 1024
#define BUCKETS 64u
#define BLOCK_MAX (64 * 1024)
#define BLOCK_KEPT 4096
#define UNPACKED_MAX (256 * 1024)
#define FRAME_MAX 16384 /* of what we write: the least that everybody takes */
#define GATHER_MAX (BLOCK_MAX + 64)
#define TABLE_MAX (128 * 1024)
#define WINDOW 65535
/* Dropped streams that are over: to the dependency they are idle, and a frame for an idle stream ends the connection
 * (RFC 9113, 5.1). Their caller may still send some: DATA, credit for what it read, a reset. */
#define TOMBS 256

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, WITH_PRIORITY = 32 };
enum { TO_DEP = 0, TO_CALLER = 1 };
enum { NO_ERROR = 0, INTERNAL_ERROR = 2 };

/* A frame of an answer that is not due yet, or that the caller's window has no room for. */
struct held {
    struct held *next;
    int64_t due;
    size_t n;
    char p[]; /* with its head */
};

struct stream {
    struct stream *next;
    uint32_t id;
    struct sq_call call;
    bool up_done, down_done; /* its last frame in that direction was seen */
    bool dropped;            /* the dependency knows nothing of it */
    bool told;               /* its call is over */
    bool slow;               /* its answer is delayed by call.delay */
    struct held *head, *tail;
};

enum act { A_PASS, A_DROP, A_GATHER };
struct side {
    unsigned char fh[9];
    unsigned fh_n;
    uint32_t left, len, id; /* of the frame */
    uint8_t type, flags;
    enum act act;
    struct sq_out frame;  /* gathered, with its head */
    struct sq_out raw;    /* the frames of a header block as they came */
    struct sq_out block;  /* that block */
    struct sq_out prefix; /* of a PUSH_PROMISE: the promised stream */
    bool in_block;
    uint32_t block_id;
    uint8_t block_flags, block_type;
    nghttp2_hd_inflater *inf;
    size_t table; /* what it may use at most */
};

struct sq_h2 {
    struct sq_h2_ops ops;
    struct side side[2];
    struct stream *bucket[BUCKETS];
    unsigned n;
    uint32_t last; /* highest stream of the caller */
    uint32_t tomb[TOMBS];
    unsigned tombs;
    bool touched, blind, broken;
    bool greeted;        /* the dependency's SETTINGS went out, which must be first (RFC 9113, 3.4) */
    struct sq_out early; /* of ours, what waits for that */
    size_t held;
    int64_t window;  /* what the caller takes, in all */
    int64_t initial; /* of each new stream */
    int64_t owed;    /* of the caller's credit: for bytes that the dependency did not send */
    int64_t now;
    struct sq_field field[SQ_HEAD_FIELDS];
};

/* h2.c */
/* Nothing can be followed any more: blind, or broken. */
void sq_h2_lose(struct sq_h2 *h);

/* h2block.c */
/* A frame with a piece of a header block has been gathered. */
void sq_h2_on_block(struct sq_h2 *h, int lane);
/* A stream that the dependency knows nothing of: is it time for its answer? May drop it. */
void sq_h2_dropped_goes_on(struct sq_h2 *h, struct stream *s);

/* h2stream.c */
void sq_h2_free_held(struct sq_h2 *h, struct stream *s);
struct stream *sq_h2_find(const struct sq_h2 *h, uint32_t id);
struct stream *sq_h2_add(struct sq_h2 *h, uint32_t id);
/* It is over, and freed. */
void sq_h2_drop(struct sq_h2 *h, struct stream *s);
/* Was it dropped, and is over? Nothing for it may reach the dependency. */
bool sq_h2_buried(const struct sq_h2 *h, uint32_t id);
void sq_h2_tell(struct sq_h2 *h, struct stream *s, enum sq_call_outcome outcome);
void sq_h2_hold(struct sq_h2 *h, struct stream *s, const char *p, size_t n, int64_t due);
/* The bytes of a frame that count for windows: all of DATA's payload. */
int64_t sq_h2_weight(const char *p, size_t n);
/* Behind the dependency's SETTINGS, which must be first. */
void sq_h2_out_caller(struct sq_h2 *h, char *p, size_t n);
void sq_h2_greet(struct sq_h2 *h);
void sq_h2_window_update(struct sq_h2 *h, int lane, uint32_t id, int64_t n);
void sq_h2_reset_stream(struct sq_h2 *h, uint32_t id, uint32_t why);
/* Whole frames of an answer, one or (a header block) several that belong together. */
void sq_h2_answer_bytes(struct sq_h2 *h, struct stream *s, char *p, size_t n);
/* All of its bytes are out? May drop it. */
void sq_h2_maybe_over(struct sq_h2 *h, struct stream *s);

/* h2write.c */
void sq_h2_put32(unsigned char *p, uint32_t v);
uint32_t sq_h2_get32(const char *p);
void sq_h2_frame(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n);
/* A literal that is not put into the table. */
void sq_h2_literal(struct sq_out *o, struct sq_text name, struct sq_text value);
void sq_h2_field(struct sq_out *o, const char *name, const char *value);
/* gRPC over HTTP/2, Responses: Percent-Encoded */
void sq_h2_percent_encoded(struct sq_out *block, const char *name, const char *s);
/* A block begins: no table is used from here on. */
void sq_h2_begin_block(struct sq_out *o);
/* HEADERS or PUSH_PROMISE with its CONTINUATIONs. */
void sq_h2_block_frames(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const struct sq_out *prefix,
                        const struct sq_out *block);

#endif
