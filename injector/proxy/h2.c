#include "proxy/h2.h"

#include <limits.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"

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

struct sq_h2 *sq_h2_new(const struct sq_h2_ops *ops)
{
    struct sq_h2 *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->ops = *ops;
    h->window = h->initial = WINDOW;
    for (int i = 0; i < 2; i++) {
        h->side[i].table = 4096;
        if (nghttp2_hd_inflate_new(&h->side[i].inf) != 0) {
            sq_h2_free(h);
            return NULL;
        }
    }
    return h;
}

static void free_held(struct sq_h2 *h, struct stream *s)
{
    while (s->head) {
        struct held *next = s->head->next;
        h->held -= s->head->n;
        free(s->head);
        s->head = next;
    }
    s->tail = NULL;
}

void sq_h2_free(struct sq_h2 *h)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            free_held(h, s);
            free(s->call.own);
            free(s);
        }
    for (int i = 0; i < 2; i++) {
        struct side *d = &h->side[i];
        sq_out_free(&d->frame);
        sq_out_free(&d->raw);
        sq_out_free(&d->block);
        sq_out_free(&d->prefix);
        if (d->inf)
            nghttp2_hd_inflate_del(d->inf);
    }
    sq_out_free(&h->early);
    free(h);
}

static struct stream *find(const struct sq_h2 *h, uint32_t id)
{
    struct stream *s = h->bucket[id / 2 % BUCKETS];
    while (s && s->id != id)
        s = s->next;
    return s;
}

static struct stream *add(struct sq_h2 *h, uint32_t id)
{
    struct stream *s = h->n < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;
    if (!s)
        return NULL;
    s->id = id;
    s->call.start = h->now;
    s->next = h->bucket[id / 2 % BUCKETS];
    h->bucket[id / 2 % BUCKETS] = s;
    h->n++;
    return s;
}

static void drop(struct sq_h2 *h, struct stream *s)
{
    struct stream **at = &h->bucket[s->id / 2 % BUCKETS];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    h->n--;
    if (s->dropped)
        h->tomb[h->tombs++ % TOMBS] = s->id;
    free_held(h, s);
    free(s->call.own);
    free(s);
}

static bool buried(const struct sq_h2 *h, uint32_t id)
{
    for (unsigned i = 0; i < TOMBS && i < h->tombs; i++)
        if (h->tomb[i] == id)
            return true;
    return false;
}

static void tell(struct sq_h2 *h, struct stream *s, enum sq_call_outcome outcome)
{
    if (!s->told)
        h->ops.done(h->ops.arg, &s->call, outcome, h->now);
    s->told = true;
}

/* Nothing can be followed any more. */
static void lose(struct sq_h2 *h)
{
    bool dropped = false;
    for (unsigned b = 0; b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            dropped = dropped || s->dropped || s->head;
    if (h->touched || dropped) {
        h->broken = true;
        return;
    }
    h->blind = true;
    for (int i = 0; i < 2; i++) {
        struct side *d = &h->side[i];
        if (d->raw.n)
            h->ops.out(h->ops.arg, i, d->raw.p, d->raw.n);
        if (d->act == A_GATHER && d->frame.n)
            h->ops.out(h->ops.arg, i, d->frame.p, d->frame.n);
        else if (d->fh_n > 0 && d->fh_n < 9)
            h->ops.out(h->ops.arg, i, (char *)d->fh, d->fh_n);
        d->raw.n = d->frame.n = d->block.n = 0;
        d->fh_n = 0;
    }
}

static void put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16 & 255);
    p[2] = (unsigned char)(v >> 8 & 255);
    p[3] = (unsigned char)(v & 255);
}

static uint32_t get32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

static void frame(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    unsigned char fh[9] = {(unsigned char)(n >> 16 & 255), (unsigned char)(n >> 8 & 255), (unsigned char)(n & 255),
                           type, flags};
    put32(fh + 5, id);
    sq_out_put(o, (char *)fh, sizeof(fh));
    sq_out_put(o, p, n);
}

/* RFC 7541, 5.1 with a prefix of 7 bits */
static void integer(struct sq_out *o, size_t v)
{
    unsigned char c = v < 127 ? (unsigned char)v : 127;
    sq_out_put(o, (char *)&c, 1);
    if (v < 127)
        return;
    for (v -= 127; v >= 128; v >>= 7) {
        c = (unsigned char)(v & 127) | 128;
        sq_out_put(o, (char *)&c, 1);
    }
    c = (unsigned char)v;
    sq_out_put(o, (char *)&c, 1);
}

/* A literal that is not put into the table. */
static void literal(struct sq_out *o, struct sq_text name, struct sq_text value)
{
    sq_out_put(o, "\0", 1);
    integer(o, name.n);
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i] >= 'A' && name.p[i] <= 'Z' ? (char)(name.p[i] + 'a' - 'A') : name.p[i];
        sq_out_put(o, &c, 1);
    }
    integer(o, value.n);
    sq_out_put(o, value.p, value.n);
}

static void field(struct sq_out *o, const char *name, const char *value)
{
    literal(o, (struct sq_text){name, strlen(name)}, (struct sq_text){value, strlen(value)});
}

/* A block begins: no table is used from here on. */
static void begin_block(struct sq_out *o)
{
    sq_out_put(o, "\x20", 1); /* size update to 0, which also answers every SETTINGS_HEADER_TABLE_SIZE */
}

/* HEADERS or PUSH_PROMISE with its CONTINUATIONs. */
static void block_frames(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const struct sq_out *prefix,
                         const struct sq_out *block)
{
    struct sq_out all = {0};
    if (prefix)
        sq_out_put(&all, prefix->p, prefix->n);
    sq_out_put(&all, block->p, block->n);
    size_t at = 0;
    do {
        size_t some = all.n - at < FRAME_MAX ? all.n - at : FRAME_MAX;
        uint8_t last = at + some == all.n ? END_HEADERS : 0;
        frame(o, at ? CONTINUATION : type, (uint8_t)((at ? 0 : flags) | last), id, all.p + at, some);
        at += some;
    } while (at < all.n);
    o->failed = o->failed || all.failed || block->failed;
    sq_out_free(&all);
}

static void hold(struct sq_h2 *h, struct stream *s, const char *p, size_t n, int64_t due)
{
    struct held *one = malloc(sizeof(*one) + n);
    if (!one) {
        h->broken = true;
        return;
    }
    *one = (struct held){.due = due, .n = n};
    memcpy(one->p, p, n);
    if (s->tail)
        s->tail->next = one;
    else
        s->head = one;
    s->tail = one;
    h->held += n;
}

/* The bytes of a frame that count for windows: all of DATA's payload. */
static int64_t weight(const char *p, size_t n)
{
    return n >= 9 && p[3] == DATA ? (int64_t)n - 9 : 0;
}

static void out_caller(struct sq_h2 *h, char *p, size_t n)
{
    if (h->greeted) {
        h->ops.out(h->ops.arg, TO_CALLER, p, n);
        return;
    }
    sq_out_put(&h->early, p, n);
    h->broken = h->broken || h->early.failed || h->early.n > BLOCK_MAX;
}

static void greet(struct sq_h2 *h)
{
    h->greeted = true;
    if (h->early.n > 0)
        h->ops.out(h->ops.arg, TO_CALLER, h->early.p, h->early.n);
    sq_out_free(&h->early);
}

static void out_down(struct sq_h2 *h, char *p, size_t n)
{
    h->window -= weight(p, n);
    out_caller(h, p, n);
}

static void window_update(struct sq_h2 *h, int lane, uint32_t id, int64_t n)
{
    struct sq_out o = {0};
    unsigned char p[4];
    if (n <= 0 || n > INT32_MAX)
        return;
    put32(p, (uint32_t)n);
    frame(&o, WINDOW_UPDATE, 0, id, (char *)p, sizeof(p));
    if (!o.failed && lane == TO_CALLER)
        out_caller(h, o.p, o.n);
    else if (!o.failed)
        h->ops.out(h->ops.arg, lane, o.p, o.n);
    sq_out_free(&o);
}

static void reset_stream(struct sq_h2 *h, uint32_t id, uint32_t why)
{
    struct sq_out o = {0};
    unsigned char p[4];
    put32(p, why);
    frame(&o, RST_STREAM, 0, id, (char *)p, sizeof(p));
    if (!o.failed)
        out_caller(h, o.p, o.n);
    sq_out_free(&o);
}

/* Whole frames of an answer, one or (a header block) several that belong together. */
static void answer_bytes(struct sq_h2 *h, struct stream *s, char *p, size_t n)
{
    if (s && (s->slow || s->head))
        hold(h, s, p, n, h->now + (s->slow ? s->call.delay : 0));
    else if (s && h->owed > 0 && weight(p, n) > h->window)
        hold(h, s, p, n, h->now);
    else
        out_down(h, p, n);
}

/* All of its bytes are out. */
static void maybe_over(struct sq_h2 *h, struct stream *s)
{
    if (!s->down_done || s->head)
        return;
    bool failed = s->call.fate && (s->call.status >= 400 || s->call.cut);
    tell(h, s, failed ? SQ_OUT_FAILED : s->call.cut && !s->call.fate ? SQ_OUT_BROKEN : SQ_OUT_ANSWERED);
    if (s->dropped && !s->up_done)
        reset_stream(h, s->id, NO_ERROR); /* what it still sends is of no use (RFC 9113, 8.1) */
    if (s->up_done || s->dropped)
        drop(h, s);
}

void sq_h2_due(struct sq_h2 *h, int64_t now)
{
    h->now = now;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS && !h->broken; b++)
        for (struct stream *s = h->bucket[b], *next; s; s = next) {
            next = s->next;
            bool any = false;
            while (s->head && s->head->due <= now && (h->owed <= 0 || weight(s->head->p, s->head->n) <= h->window)) {
                struct held *one = s->head;
                s->head = one->next;
                if (!s->head)
                    s->tail = NULL;
                h->held -= one->n;
                out_down(h, one->p, one->n);
                free(one);
                any = true;
            }
            if (any)
                maybe_over(h, s);
        }
}

int64_t sq_h2_next(const struct sq_h2 *h)
{
    int64_t first = INT64_MAX;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            if (s->head && s->head->due < first && (h->owed <= 0 || weight(s->head->p, s->head->n) <= h->window))
                first = s->head->due;
    return first;
}

int64_t sq_h2_last(const struct sq_h2 *h)
{
    int64_t last = 0;
    for (unsigned b = 0; h->held > 0 && b < BUCKETS; b++)
        for (const struct stream *s = h->bucket[b]; s; s = s->next)
            if (s->tail && s->tail->due > last)
                last = s->tail->due;
    return last;
}

static void start_delay(struct sq_h2 *h, struct stream *s)
{
    if (s->slow || s->call.delayed || s->head)
        return;
    int64_t delay = h->ops.delay(h->ops.arg, &s->call);
    if (delay <= 0)
        return;
    s->slow = h->touched = true;
    s->call.delay = delay;
    s->call.held += delay;
}

static const struct sq_rule *status_rule(const struct sq_h2 *h, const struct sq_call *call)
{
    uint32_t of = sq_rules_of(h->ops.rules, call->hits, SQ_R_HTTP_STATUS);
    return of ? &h->ops.rules->slot[__builtin_ctz(of)] : NULL;
}

/* gRPC over HTTP/2, Responses: Percent-Encoded */
static void percent_encoded(struct sq_out *block, const char *name, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    struct sq_out value = {0};
    for (; *s; s++) {
        char code[3] = {'%', hex[(unsigned char)*s >> 4], hex[*s & 15]};
        bool plain = *s >= ' ' && *s <= '~' && *s != '%';
        sq_out_put(&value, plain ? s : code, plain ? 1 : 3);
    }
    literal(block, (struct sq_text){name, strlen(name)}, (struct sq_text){value.p, value.n});
    block->failed = block->failed || value.failed;
    sq_out_free(&value);
}

/* The answer that the dependency is not asked for, as frames kept with the call until it is time. */
static void prepare(struct sq_h2 *h, struct stream *s, const struct sq_rule *rule, const struct sq_head *head)
{
    const char *body = sq_json_str_or(rule->http, "body", ""), *name;
    json_t *v;
    bool grpc = sq_head_is_grpc(head) && json_is_integer(json_object_get(rule->http, "grpc_status"));
    int status = grpc ? 200 : (int)sq_json_int_or(rule->http, "status", 503);
    bool none =
        grpc || status == 204 || status == 304 || (head->method.n == 4 && memcmp(head->method.p, "HEAD", 4) == 0);
    int64_t len = (int64_t)strlen(body);
    struct sq_out block = {0}, o = {0};
    char text[32];
    if (len > h->window || len > h->initial || len > FRAME_MAX) { /* the caller has no room for it */
        body = "";
        len = 0;
    }
    begin_block(&block);
    (void)snprintf(text, sizeof(text), "%d", status);
    field(&block, ":status", text);
    json_object_foreach(json_object_get(rule->http, "headers"), name, v) field(&block, name, json_string_value(v));
    if (grpc) {
        (void)snprintf(text, sizeof(text), "%d", (int)sq_json_int_or(rule->http, "grpc_status", 0));
        field(&block, "content-type", "application/grpc");
        field(&block, "grpc-status", text);
        percent_encoded(&block, "grpc-message", body);
        s->call.cut = sq_json_int_or(rule->http, "grpc_status", 0) != 0;
        s->call.ready = true; /* a stream of messages may have no end */
    } else if (status != 204 && status != 304) {
        (void)snprintf(text, sizeof(text), "%lld", (long long)len);
        field(&block, "content-length", text);
    }
    block_frames(&o, HEADERS, none || len == 0 ? END_STREAM : 0, s->id, NULL, &block);
    if (!none && len > 0)
        frame(&o, DATA, END_STREAM, s->id, body, (size_t)len);
    sq_out_free(&block);
    s->call.status = (uint16_t)status;
    s->call.own = o.p;
    s->call.own_len = o.n;
    h->broken = h->broken || o.failed;
}

/* Its turn, at once: streams wait for nobody. */
static void give_own(struct sq_h2 *h, struct stream *s)
{
    char *p = s->call.own;
    size_t n = s->call.own_len;
    s->call.own = NULL;
    start_delay(h, s);
    for (size_t at = 0; p && at + 9 <= n;) { /* frame by frame: DATA has its weight */
        const unsigned char *u = (const unsigned char *)p + at;
        size_t some = 9 + ((size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2]);
        h->owed += weight(p + at, some);
        answer_bytes(h, s, p + at, some);
        at += some;
    }
    free(p);
    s->down_done = true;
    maybe_over(h, s);
}

/* A new request. True: it goes to the dependency. */
static bool decide(struct sq_h2 *h, struct stream *s, const struct sq_head *head)
{
    h->ops.request(h->ops.arg, &s->call, head);
    const struct sq_rule *rule = status_rule(h, &s->call);
    s->call.no_body = head->method.n == 4 && memcmp(head->method.p, "HEAD", 4) == 0;
    if (sq_rules_of(h->ops.rules, s->call.hits, SQ_R_HTTP_ABORT)) {
        s->call.fate = SQ_FATE_RESET;
    } else if (rule) {
        s->call.fate = SQ_FATE_ANSWER;
        prepare(h, s, rule, head);
    } else {
        return true;
    }
    s->dropped = h->touched = true;
    return false;
}

static void dropped_goes_on(struct sq_h2 *h, struct stream *s)
{
    if (s->call.fate == SQ_FATE_RESET) {
        reset_stream(h, s->id, INTERNAL_ERROR);
        tell(h, s, SQ_OUT_FAILED);
        drop(h, s);
    } else if (s->call.own && (s->call.ready || s->up_done)) {
        give_own(h, s);
    } else if (s->down_done) {
        maybe_over(h, s);
    } else if (s->told) { /* its edge was dropped meanwhile: nobody answers it */
        reset_stream(h, s->id, INTERNAL_ERROR);
        drop(h, s);
    }
}

static bool unpack(struct side *d, struct sq_out *text, struct sq_head *head, size_t *off)
{
    const uint8_t *in = d->block.n ? (const uint8_t *)d->block.p : (const uint8_t *)"";
    size_t left = d->block.n;
    bool ok = true;
    while (ok) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd2(d->inf, &nv, &flags, in, left, 1);
        if (n < 0)
            return false;
        in += n;
        left -= (size_t)n;
        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
            ok = head->n < SQ_HEAD_FIELDS && text->n + nv.namelen + nv.valuelen <= UNPACKED_MAX;
            if (!ok)
                break;
            off[head->n] = text->n;
            head->field[head->n++] =
                (struct sq_field){.name = {NULL, nv.namelen}, .value = {NULL, nv.valuelen}, .line = {NULL, 0}};
            sq_out_put(text, (const char *)nv.name, nv.namelen);
            sq_out_put(text, (const char *)nv.value, nv.valuelen);
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) {
            (void)nghttp2_hd_inflate_end_headers(d->inf);
            break;
        }
        if (left == 0 && !(flags & NGHTTP2_HD_INFLATE_EMIT))
            break;
    }
    return ok && !text->failed;
}

static bool is_field(const struct sq_field *f, const char *name)
{
    return f->name.n == strlen(name) && memcmp(f->name.p, name, f->name.n) == 0;
}

/* What the block says: method, path and status beside the fields. */
static void read_pseudo(struct sq_head *head)
{
    head->path = (struct sq_text){"", 0};
    for (unsigned i = 0; i < head->n; i++) {
        const struct sq_field *f = &head->field[i];
        if (is_field(f, ":method"))
            head->method = f->value;
        else if (is_field(f, ":path"))
            head->path = f->value;
        else if (is_field(f, ":status") && f->value.n == 3)
            head->status = (f->value.p[0] - '0') * 100 + (f->value.p[1] - '0') * 10 + (f->value.p[2] - '0');
    }
}

/* The block as literals, with the fields that rules set or remove. */
static void repack(struct sq_h2 *h, struct sq_out *o, const struct sq_head *head, uint32_t hits, bool request)
{
    const struct sq_rules *r = h->ops.rules;
    uint32_t edits = hits ? sq_rules_side(r, hits, SQ_R_HTTP_HEADER, request) : 0;
    begin_block(o);
    for (unsigned i = 0; i < head->n; i++) {
        const struct sq_field *f = &head->field[i];
        if (!edits || !sq_rules_edit_field(r, edits, request, f->name.p, f->name.n))
            literal(o, f->name, f->value);
    }
    for (unsigned i = 0; edits && i < r->n; i++) {
        const char *name;
        json_t *v;
        if (!(edits & (UINT32_C(1) << r->order[i])))
            continue;
        json_object_foreach(json_object_get(r->slot[r->order[i]].http, "set"), name,
                            v) if (!sq_rules_set_later(r, edits, i, name)) field(o, name, json_string_value(v));
    }
}

/* A header block goes on, as it came or written anew. */
static void pass_block(struct sq_h2 *h, int lane, struct stream *s, const struct sq_head *head, uint32_t hits)
{
    struct side *d = &h->side[lane];
    struct sq_out block = {0}, o = {0};
    if (h->touched) {
        repack(h, &block, head, hits, lane == TO_DEP);
        block_frames(&o, d->block_type, d->block_flags & END_STREAM, d->block_id,
                     d->block_type == PUSH_PROMISE ? &d->prefix : NULL, &block);
        h->broken = h->broken || o.failed;
    }
    char *p = h->touched ? o.p : d->raw.p;
    size_t n = h->touched ? o.n : d->raw.n;
    if (!h->broken && lane == TO_DEP)
        h->ops.out(h->ops.arg, lane, p, n);
    else if (!h->broken)
        answer_bytes(h, s, p, n);
    sq_out_free(&block);
    sq_out_free(&o);
}

static void request_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_DEP];
    struct stream *s = find(h, d->block_id);
    bool fresh = !s && (d->block_id & 1) && d->block_id > h->last;
    bool first = false;
    if (buried(h, d->block_id))
        return;
    if (fresh) {
        h->last = d->block_id;
        s = add(h, d->block_id);
        first = s != NULL;
    }
    if (s && (d->block_flags & END_STREAM))
        s->up_done = true;
    if (first && !decide(h, s, head)) {
        dropped_goes_on(h, s);
        return;
    }
    if (s && s->dropped) {
        dropped_goes_on(h, s);
        return;
    }
    if (first && sq_rules_side(h->ops.rules, s->call.hits, SQ_R_HTTP_HEADER, true))
        h->touched = true;
    pass_block(h, TO_DEP, s, head, first ? s->call.hits : 0);
    if (s && s->up_done && s->down_done && !s->head)
        drop(h, s);
}

static void answer_block(struct sq_h2 *h, const struct sq_head *head)
{
    struct side *d = &h->side[TO_CALLER];
    struct stream *s = d->block_type == HEADERS ? find(h, d->block_id) : NULL;
    uint32_t hits = 0;
    if (s && !s->call.answer && head->status / 100 != 1) {
        s->call.answer = h->now;
        s->call.status = (uint16_t)(head->status >= 0 && head->status <= 999 ? head->status : 0);
        hits = s->call.hits;
        start_delay(h, s);
        if (hits && sq_rules_side(h->ops.rules, hits, SQ_R_HTTP_HEADER, false))
            h->touched = true;
    }
    pass_block(h, TO_CALLER, s, head, hits);
    if (s && (d->block_flags & END_STREAM)) {
        s->down_done = true;
        maybe_over(h, s);
    }
}

static void end_of_block(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct sq_out text = {0};
    size_t off[SQ_HEAD_FIELDS];
    struct sq_head head = {.field = h->field};
    d->in_block = false;
    if (d->block.failed || d->raw.failed || !unpack(d, &text, &head, off)) {
        lose(h);
    } else {
        const char *base = text.p ? text.p : "";
        for (unsigned i = 0; i < head.n; i++) {
            head.field[i].name.p = base + off[i];
            head.field[i].value.p = base + off[i] + head.field[i].name.n;
        }
        read_pseudo(&head);
        if (lane == TO_DEP)
            request_block(h, &head);
        else
            answer_block(h, &head);
    }
    sq_out_free(&text);
    d->raw.n = d->block.n = 0;
    if (d->raw.cap > BLOCK_KEPT) {
        sq_out_free(&d->raw);
        sq_out_free(&d->block);
        sq_out_free(&d->frame);
    }
}

/* A frame with a piece of a header block. */
static void on_block(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    char *p = d->frame.p + 9;
    size_t n = d->frame.n - 9, pad = 0;
    if (d->type != CONTINUATION) {
        d->block.n = d->raw.n = d->prefix.n = 0;
        d->block_id = d->id;
        d->block_type = d->type;
        d->block_flags = d->flags;
        size_t skip = (d->flags & PADDED ? 1u : 0u) + (d->type == PUSH_PROMISE ? 4u : 0u) +
                      (d->type == HEADERS && (d->flags & WITH_PRIORITY) ? 5u : 0u);
        pad = d->flags & PADDED && n > 0 ? (unsigned char)*p : 0;
        if (n < skip + pad) {
            lose(h);
            return;
        }
        if (d->type == PUSH_PROMISE)
            sq_out_put(&d->prefix, p + (d->flags & PADDED ? 1 : 0), 4);
        p += skip;
        n -= skip + pad;
    }
    sq_out_put(&d->block, p, n);
    sq_out_put(&d->raw, d->frame.p, d->frame.n);
    d->frame.n = 0;
    d->in_block = true;
    if (d->raw.n > BLOCK_MAX || d->raw.failed || d->block.failed)
        lose(h);
    else if (d->flags & END_HEADERS)
        end_of_block(h, lane);
}

static void on_settings(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane], *other = &h->side[1 - lane];
    for (size_t at = 9; !(d->flags & ACK) && at + 6 <= d->frame.n; at += 6) {
        const unsigned char *u = (const unsigned char *)d->frame.p + at;
        unsigned key = (unsigned)u[0] << 8 | u[1];
        uint32_t v = get32(d->frame.p + at + 2);
        /* A smaller table is announced by the encoder itself. */
        if (key == 1 && v > other->table) {
            other->table = v < TABLE_MAX ? v : TABLE_MAX;
            (void)nghttp2_hd_inflate_change_table_size(other->inf, other->table);
        } else if (key == 4 && lane == TO_DEP) {
            h->initial = v;
        }
    }
}

/* Of the caller's credit that part goes on which is not for bytes of ours. False: nothing of it. */
static bool on_credit(struct sq_h2 *h)
{
    struct side *d = &h->side[TO_DEP];
    struct stream *s = d->id ? find(h, d->id) : NULL;
    if (d->frame.n < 13)
        return true;
    if (d->id)
        return !(s && s->dropped) && !buried(h, d->id);
    int64_t n = get32(d->frame.p + 9) & 0x7fffffff;
    int64_t ours = n < h->owed ? n : h->owed;
    h->window += n;
    h->owed -= ours;
    if (ours > 0)
        put32((unsigned char *)d->frame.p + 9, (uint32_t)(n - ours));
    return n > ours || n == 0;
}

/* False: the frame goes nowhere. */
static bool on_reset(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    struct stream *s = find(h, d->id);
    int64_t lost = 0;
    if (!s)
        return lane == TO_CALLER || !buried(h, d->id);
    if (lane == TO_CALLER && s->head) { /* behind what waits */
        s->down_done = s->up_done = true;
        s->call.cut = true;
        hold(h, s, d->frame.p, d->frame.n, h->now + (s->slow ? s->call.delay : 0));
        return false;
    }
    for (const struct held *one = s->head; one; one = one->next)
        lost += weight(one->p, one->n);
    if (s->dropped) {
        h->owed -= lost;
        lost = 0;
    }
    bool pass = !s->dropped;
    tell(h, s, lane == TO_DEP ? SQ_OUT_GAVE_UP : s->down_done ? SQ_OUT_ANSWERED : SQ_OUT_BROKEN);
    if (lane == TO_DEP)
        s->up_done = true;
    drop(h, s);
    window_update(h, TO_DEP, 0, lost);
    return pass;
}

static void on_gathered(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    bool pass = true;
    if (d->frame.failed) {
        h->broken = true;
        return;
    }
    if (d->type == HEADERS || d->type == PUSH_PROMISE || d->type == CONTINUATION) {
        on_block(h, lane);
        return;
    }
    if (d->type == SETTINGS)
        on_settings(h, lane);
    else if (d->type == RST_STREAM)
        pass = on_reset(h, lane);
    else if (d->type == WINDOW_UPDATE && lane == TO_DEP)
        pass = on_credit(h);
    if (d->type == DATA) {
        struct stream *s = find(h, d->id);
        answer_bytes(h, s, d->frame.p, d->frame.n);
    } else if (pass) {
        h->ops.out(h->ops.arg, lane, d->frame.p, d->frame.n);
    }
    d->frame.n = 0;
    if (d->type == SETTINGS && lane == TO_CALLER && !h->greeted)
        greet(h);
    if (d->type == WINDOW_UPDATE && lane == TO_DEP)
        sq_h2_due(h, h->now);
}

static void frame_end(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    if (d->act == A_GATHER)
        on_gathered(h, lane);
    d->fh_n = 0;
    if (d->type != DATA || h->blind || h->broken)
        return;
    struct stream *s = find(h, d->id);
    if (lane == TO_DEP && d->act == A_DROP && d->len > 0) {
        window_update(h, TO_CALLER, 0, d->len);
        if (s && !(d->flags & END_STREAM))
            window_update(h, TO_CALLER, d->id, d->len);
    }
    if (!s || !(d->flags & END_STREAM))
        return;
    if (lane == TO_CALLER) {
        s->down_done = true;
        maybe_over(h, s);
        return;
    }
    s->up_done = true;
    if (s->dropped)
        dropped_goes_on(h, s);
    else if (s->down_done && !s->head)
        drop(h, s);
}

static enum act act_of(const struct sq_h2 *h, int lane)
{
    const struct side *d = &h->side[lane];
    const struct stream *s;
    switch (d->type) {
    case HEADERS:
    case PUSH_PROMISE:
    case CONTINUATION:
    case SETTINGS:
    case RST_STREAM:
    case WINDOW_UPDATE:
        return A_GATHER;
    case DATA:
        s = find(h, d->id);
        if (lane == TO_DEP)
            return (s && s->dropped) || buried(h, d->id) ? A_DROP : A_PASS;
        return s && (s->slow || s->head || (h->owed > 0 && (int64_t)d->len > h->window)) ? A_GATHER : A_PASS;
    default:
        return A_PASS;
    }
}

static void frame_begin(struct sq_h2 *h, int lane)
{
    struct side *d = &h->side[lane];
    d->len = d->left = (uint32_t)d->fh[0] << 16 | (uint32_t)d->fh[1] << 8 | d->fh[2];
    d->type = d->fh[3];
    d->flags = d->fh[4];
    d->id = get32((const char *)d->fh + 5) & 0x7fffffff;
    d->act = act_of(h, lane);
    if (d->act == A_GATHER) {
        d->frame.n = 0;
        sq_out_put(&d->frame, (const char *)d->fh, 9);
    }
    if (d->in_block != (d->type == CONTINUATION) || (d->in_block && d->id != d->block_id) ||
        (d->act == A_GATHER && d->type != DATA && d->len > GATHER_MAX)) {
        lose(h);
        if (h->blind && d->act == A_PASS)
            h->ops.out(h->ops.arg, lane, (char *)d->fh, 9);
        return;
    }
    if (d->act == A_GATHER && d->type == DATA && d->len > SQ_H2_HELD) {
        h->broken = true; /* more than may be held */
        return;
    }
    if (lane == TO_CALLER && !h->greeted && d->type != SETTINGS)
        greet(h); /* it does not keep to the order itself */
    if (d->act == A_PASS) {
        if (lane == TO_CALLER && d->type == DATA)
            h->window -= d->len;
        h->ops.out(h->ops.arg, lane, (char *)d->fh, 9);
    }
}

static size_t payload(struct sq_h2 *h, int lane, char *p, size_t len)
{
    struct side *d = &h->side[lane];
    size_t some = len < d->left ? len : d->left;
    if (d->act == A_PASS && some > 0)
        h->ops.out(h->ops.arg, lane, p, some);
    else if (d->act == A_GATHER)
        sq_out_put(&d->frame, p, some);
    d->left -= (uint32_t)some;
    if (d->left == 0)
        frame_end(h, lane);
    return some;
}

void sq_h2_feed(struct sq_h2 *h, int lane, char *p, size_t len, int64_t now)
{
    struct side *d = &h->side[lane];
    h->now = now;
    while (len > 0 && !h->broken && !h->blind) {
        size_t some = 0;
        if (d->fh_n < 9) {
            some = 9 - d->fh_n < len ? 9 - d->fh_n : len;
            memcpy(d->fh + d->fh_n, p, some);
            d->fh_n += (unsigned)some;
            if (d->fh_n == 9)
                frame_begin(h, lane);
            if (d->fh_n == 9 && d->left == 0 && !h->blind && !h->broken)
                (void)payload(h, lane, p, 0);
        } else {
            some = payload(h, lane, p, len);
        }
        p += some;
        len -= some;
    }
    if (h->blind && len > 0)
        h->ops.out(h->ops.arg, lane, p, len);
}

void sq_h2_stop(struct sq_h2 *h)
{
    if (!h->blind)
        lose(h);
}

bool sq_h2_full(const struct sq_h2 *h)
{
    return h->held >= SQ_H2_HELD;
}

bool sq_h2_broken(const struct sq_h2 *h)
{
    return h->broken;
}

bool sq_h2_blind(const struct sq_h2 *h)
{
    return h->blind;
}

unsigned sq_h2_open(const struct sq_h2 *h)
{
    return h->n;
}

void sq_h2_end(struct sq_h2 *h, enum sq_call_outcome outcome, int64_t now)
{
    h->now = now;
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next) {
            free(s->call.own);
            s->call.own = NULL;
            tell(h, s, outcome);
        }
}

void sq_h2_release(struct sq_h2 *h, uint32_t gone)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        for (struct stream *s = h->bucket[b]; s; s = s->next)
            s->call.hits &= ~gone;
}
