/* The HTTP call tracker, fed with arbitrary bytes in both directions, twice: in the pieces of the input, and in other
 * pieces. Where calls begin and end must not depend on how the bytes were cut.
 * Input: a seed of 4 bytes, then segments: 2 bytes (bit 15: from the dependency; bits 0-9: length) and their bytes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/http.h"
#include "squall/rng.h"

#define EVENTS 512

struct event {
    uint64_t at; /* bytes of its direction consumed before it */
    int what;    /* enum sq_http_ev, + 16 from the dependency */
    uint16_t status;
    char trace[33];
};

struct run {
    struct sq_http h;
    struct event ev[EVENTS];
    size_t n;
    uint64_t at[2];
    size_t opaque_segment; /* 0: not opaque */
};

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "violated: %s\n", #c);                                                               \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void note(struct run *r, int down, enum sq_http_ev what)
{
    if (what == SQ_HTTP_NONE || what == SQ_HTTP_OPAQUE || r->n == EVENTS)
        return;
    struct event *e = &r->ev[r->n++];
    *e = (struct event){.at = r->at[down], .what = (int)what + 16 * down};
    struct sq_call *c = down && what == SQ_HTTP_END ? sq_http_ended(&r->h) : NULL;
    if (!c)
        return;
    MUST(c->done);
    e->status = c->status;
    memcpy(e->trace, c->trace, sizeof(e->trace));
    MUST(memchr(c->trace, 0, sizeof(c->trace)) && (c->trace[0] == 0 || strlen(c->trace) == 32));
}

static void invariants(struct run *r)
{
    struct sq_http *h = &r->h;
    MUST(h->n <= SQ_HTTP_PIPELINE && h->answered <= h->n && h->n <= h->cap);
    MUST(!sq_http_newest(h) || h->up_open || h->opaque);
    for (unsigned i = 0; i < h->n; i++)
        MUST(sq_http_at(h, i)->done == (i < h->answered));
    MUST(!sq_http_at(h, h->n));
}

static void feed(struct run *r, int down, const char *p, size_t len, size_t segment)
{
    unsigned idle = 0;
    while (len > 0) {
        enum sq_http_ev ev;
        size_t used = down ? sq_http_down(&r->h, p, len, &ev) : sq_http_up(&r->h, p, len, &ev);
        MUST(used <= len);
        p += used;
        len -= used;
        r->at[down] += used;
        note(r, down, ev);
        invariants(r);
        if (ev == SQ_HTTP_OPAQUE) {
            MUST(r->h.opaque);
            if (!r->opaque_segment)
                r->opaque_segment = segment;
            return;
        }
        idle = used ? 0 : idle + 1;
        MUST(idle < 3);
        /* The pump forgets answered calls when their bytes are written. */
        if (ev == SQ_HTTP_END && down && r->h.n > 3)
            sq_http_pop(&r->h);
    }
}

static void play(struct run *r, const uint8_t *data, size_t size, struct sq_rng *cut)
{
    memset(r, 0, sizeof(*r));
    sq_http_init(&r->h);
    for (size_t segment = 1; size >= 2 && !r->opaque_segment; segment++) {
        int down = data[0] >> 7;
        size_t len = (size_t)(data[0] & 3) << 8 | data[1];
        data += 2;
        size -= 2;
        len = len < size ? len : size;
        for (size_t done = 0; done < len && !r->opaque_segment;) {
            size_t part = cut ? 1 + sq_rng_below(cut, len - done) : len;
            part = cut && sq_rng_below(cut, 2) ? 1 + part % 3 : part;
            part = part < len - done ? part : len - done;
            char *copy = malloc(part); /* so that reading beyond it is seen */
            MUST(copy);
            memcpy(copy, data + done, part);
            feed(r, down, copy, part, segment);
            free(copy);
            done += part;
        }
        data += len;
        size -= len;
    }
    if (!r->opaque_segment && sq_http_down_eof(&r->h))
        note(r, 1, SQ_HTTP_END);
    invariants(r);
    sq_http_free(&r->h);
}

static void compare(const struct run *a, const struct run *b)
{
    MUST((a->opaque_segment == 0) == (b->opaque_segment == 0));
    MUST(a->opaque_segment == b->opaque_segment);
    /* A parser may see the end of a message before the error behind it, or not, depending on the cut. */
    size_t n = a->n < b->n ? a->n : b->n;
    MUST(a->opaque_segment || a->n == b->n);
    for (size_t i = 0; i < n; i++) {
        MUST(a->ev[i].what == b->ev[i].what && a->ev[i].at == b->ev[i].at);
        MUST(a->ev[i].status == b->ev[i].status && strcmp(a->ev[i].trace, b->ev[i].trace) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run a, b;
    uint32_t seed;
    if (size < sizeof(seed))
        return 0;
    memcpy(&seed, data, sizeof(seed));
    struct sq_rng cut;
    sq_rng_seed(&cut, seed);
    play(&a, data + sizeof(seed), size - sizeof(seed), NULL);
    play(&b, data + sizeof(seed), size - sizeof(seed), &cut);
    compare(&a, &b);
    return 0;
}
