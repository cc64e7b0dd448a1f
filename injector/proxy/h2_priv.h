/* Inside HTTP/2: frames (h2.c), header blocks and what is decided on them (h2block.c), answers of ours (h2own.c),
 * bodies (h2body.c), what waits and windows (h2queue.c), streams (h2stream.c), what is written (h2write.c). */
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

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, WITH_PRIORITY = 32 };
enum { TO_DEP = 0, TO_CALLER = 1 };
enum { NO_ERROR = 0, INTERNAL_ERROR = 2, REFUSED_STREAM = 7 };

/* What goes on later than it came: it is not due, or there is no room for it. */
struct held {
    struct held *next;
    int64_t due; /* INT64_MAX: a black hole has it */
    enum {
        H_BYTES,  /* whole frames, as they go on */
        H_ANSWER, /* the head of an answer that REF, of a rule, says */
        H_TEXT,   /* REF, a string, as DATA, from AT on */
    } kind;
    bool end;     /* H_TEXT: the stream ends with it */
    bool counted; /* H_TEXT: nobody else has that string */
    json_t *ref;  /* owned */
    size_t at, n;
    char p[]; /* n bytes, with their heads */
};
struct queue {
    struct held *head, *tail;
};

/* The window for DATA in one direction, of a connection or a stream. */
struct flow {
    int64_t room; /* of a stream: beyond the initial window */
    int64_t owed; /* of its credit: for bytes that the other end did not send */
};

/* A body that is changed. */
struct body {
    enum { B_CUT, B_DROP, B_COLLECT } mode;
    unsigned slot; /* of the rule */
    uint64_t left; /* B_CUT: so much may pass */
    json_t *patch; /* B_COLLECT: owned */
    struct sq_out got;
};
/* How the head of a message says so. */
struct reframe {
    bool on, encoded;
    bool opens; /* a body follows, where none would have */
    bool fresh; /* a stream begins: nothing of it can wait */
    int64_t length;
    json_t *text; /* that goes behind it, borrowed */
};

struct stream {
    struct stream *next;
    uint32_t id;
    struct sq_call call;
    bool done[2];  /* its last frame in that direction was seen */
    bool dropped;  /* the dependency knows nothing of it */
    bool reset;    /* the dependency has, but the caller was not told yet */
    bool told;     /* its call is over */
    bool slow;     /* its answer is delayed by call.delay */
    bool hole;     /* it is in a black hole, */
    bool released; /* whose end it has not noticed yet */
    bool bare;     /* our answer has no body */
    bool grpc;
    int64_t eaten;  /* of the caller's credit for it, while it was in a black hole */
    json_t *answer; /* what it will be answered, of a rule; owned; NULL: nothing, or it waits already */
    struct queue queue[2];
    struct flow flow[2];
    struct body *body[2];
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
    struct stream others; /* what waits of streams that nobody follows */
    uint32_t last;        /* highest stream of the caller */
    uint32_t unseen[2];   /* the first and the last one that nobody follows; 0: there was none */
    bool touched, blind, broken;
    bool greeted; /* the dependency's SETTINGS went out, which must be first (RFC 9113, 3.4) */
    /* Of the frames into that direction: */
    struct sq_out early[2]; /* of ours, what waits for that, or for the end of a frame that passes */
    bool unready[2];        /* something else waits for that */
    struct flow flow[2];
    int64_t initial[2]; /* of each new stream */
    size_t held[2];     /* bytes that wait */
    unsigned waiting[2];
    size_t collected[2];
    bool wake;       /* something that waits may go on */
    bool cramped[2]; /* something of ours waits until there is room in the lane */
    int64_t soonest; /* what waits for time is not due before */
    int64_t now;
    struct sq_field field[SQ_HEAD_FIELDS];
};

/* h2.c */
/* Nothing can be followed any more: blind, or broken. */
void sq_h2_lose(struct sq_h2 *h);

/* h2block.c */
/* A frame with a piece of a header block has been gathered. */
void sq_h2_on_block(struct sq_h2 *h, int lane);
/* By how much its answer is delayed is drawn. */
void sq_h2_start_delay(struct sq_h2 *h, struct stream *s);

/* h2own.c */
/* It will be answered as RULE says; the dependency is not asked. */
void sq_h2_prepare(struct stream *s, const struct sq_rule *rule, const struct sq_head *head);
/* A stream that the dependency knows nothing of: is it time for its answer? May drop it. */
void sq_h2_dropped_goes_on(struct sq_h2 *h, struct stream *s);
/* The head of that answer, as frames. */
void sq_h2_own_head(struct sq_out *o, const struct stream *s, const json_t *says);

/* h2body.c */
/* The head of a message passes: is its body changed, and how? END: it has none. */
void sq_h2_body_begin(struct sq_h2 *h, int lane, struct stream *s, const struct sq_head *head, bool end,
                      struct reframe *how);
/* A frame of such a body has been gathered. */
void sq_h2_body_data(struct sq_h2 *h, int lane, struct stream *s);
/* Trailers follow. */
void sq_h2_body_end(struct sq_h2 *h, int lane, struct stream *s);
void sq_h2_body_free(struct sq_h2 *h, int lane, struct stream *s);

/* h2stream.c */
struct stream *sq_h2_find(const struct sq_h2 *h, uint32_t id);
struct stream *sq_h2_add(struct sq_h2 *h, uint32_t id);
/* It is over, and freed. */
void sq_h2_drop(struct sq_h2 *h, struct stream *s);
/* Of a stream that is over, nothing may reach the dependency: when it was dropped it is idle there, and a frame for an
 * idle stream ends the connection (RFC 9113, 5.1). Its caller may still send some: DATA, credit for what it read, a
 * reset. */
bool sq_h2_buried(const struct sq_h2 *h, uint32_t id);
void sq_h2_tell(struct sq_h2 *h, struct stream *s, enum sq_call_outcome outcome);
/* All of its bytes are out? May drop it. */
void sq_h2_maybe_over(struct sq_h2 *h, struct stream *s);
/* A black hole has ended that had it. May drop it. */
void sq_h2_come_out(struct sq_h2 *h, struct stream *s);

/* h2queue.c */
/* Whole frames go on, one or (a header block) several that belong together: now, or behind what waits. S NULL: a stream
 * that nobody follows. */
void sq_h2_pass(struct sq_h2 *h, int lane, struct stream *s, char *p, size_t n);
/* What we say ourselves, behind what waits. TEXT: a string. COUNTED: nobody else has it. */
void sq_h2_say_head(struct sq_h2 *h, struct stream *s, json_t *says);
void sq_h2_say_text(struct sq_h2 *h, int lane, struct stream *s, json_t *text, bool end, bool counted);
/* What waits goes nowhere. Returns its bytes of DATA that were sent by somebody. */
int64_t sq_h2_discard(struct sq_h2 *h, int lane, struct stream *s);
/* Has that frame, of DATA, room? S may be NULL. */
bool sq_h2_has_room(const struct sq_h2 *h, int lane, const struct stream *s, int64_t weight);
void sq_h2_take_room(struct sq_h2 *h, int lane, struct stream *s, int64_t weight);
/* A WINDOW_UPDATE or RST_STREAM of ours. N <= 0: nothing. */
void sq_h2_window_update(struct sq_h2 *h, int lane, uint32_t id, int64_t n);
void sq_h2_reset_stream(struct sq_h2 *h, int lane, uint32_t id, uint32_t why);
/* N bytes of DATA that came on LANE go nowhere: their sender gets its credit back; ID 0: for the connection alone. */
void sq_h2_give_back(struct sq_h2 *h, int lane, uint32_t id, int64_t n);
/* A frame that passed is at its end; the SETTINGS are out: what waited for that. */
void sq_h2_ready(struct sq_h2 *h, int lane);
/* All of what waits of it that can go on, does. */
bool sq_h2_run(struct sq_h2 *h, int lane, struct stream *s);

/* h2write.c */
void sq_h2_put32(unsigned char *p, uint32_t v);
uint32_t sq_h2_get32(const char *p);
void sq_h2_frame(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n);
/* A literal that is not put into the table; SECRET: nor into any other on its way. */
void sq_h2_literal(struct sq_out *o, struct sq_text name, struct sq_text value, bool secret);
void sq_h2_field(struct sq_out *o, const char *name, const char *value);
/* gRPC over HTTP/2, Responses: Percent-Encoded */
void sq_h2_percent_encoded(struct sq_out *block, const char *name, const char *s);
/* A block begins: no table is used from here on. */
void sq_h2_begin_block(struct sq_out *o);
/* HEADERS or PUSH_PROMISE with its CONTINUATIONs. */
void sq_h2_block_frames(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const struct sq_out *prefix,
                        const struct sq_out *block);

#endif
