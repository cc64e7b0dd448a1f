/* HTTP answers as a hostile server might send them, in arbitrary pieces. Beyond not crashing: how an answer is cut into
 * pieces must change nothing about what the probe makes of it. The first bytes of the input choose method, rules and
 * cuts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "probe/proto.h"

struct setup {
    struct sq_rules rules;
    void *plan;
    struct sq_place place;
};

static void prepare(struct setup *s, const char *method, const char *matchers)
{
    json_t *m = matchers ? json_loads(matchers, 0, NULL) : NULL;
    json_t *o = json_pack("{s:{s:s, s:s}, s:{s:s}}", "request", "method", method, "url", "http://127.0.0.1/", "expect",
                          "body", "total");

    if (sq_rules_init(&s->rules, "e", json_object_get(o, "expect"), m, NULL) < 0 ||
        sq_proto_http1.prepare(o, NULL, &s->rules, &s->plan, &s->place, NULL) < 0)
        abort();
    json_decref(o);
    json_decref(m);
}

/* SEED 0: all at once. */
static enum sq_feed converse(void *talk, const struct setup *s, const uint8_t *data, size_t len, uint32_t seed,
                             struct sq_answer *a)
{
    enum sq_feed fed = SQ_FEED_MORE;

    memset(a, 0, sizeof *a);
    sq_proto_http1.open(talk, s->plan);
    for (size_t at = 0; at < len && fed != SQ_FEED_BAD;) {
        size_t n = len - at, cut;
        char *piece;

        if (seed) {
            seed = seed * 1664525u + 1013904223u;
            cut = 1 + (seed >> 16) % 23;
            n = cut < n ? cut : n;
        }
        piece = malloc(n); /* of its own, so that a byte read beyond it is seen */
        memcpy(piece, data + at, n);
        fed = sq_proto_http1.feed(talk, piece, n);
        free(piece);
        at += n;
    }
    if (fed == SQ_FEED_MORE)
        fed = sq_proto_http1.eof(talk);
    if (fed == SQ_FEED_DONE)
        sq_proto_http1.answer(talk, a);
    return fed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct setup setups[4];
    static void *talk;
    const struct setup *s;
    struct sq_answer whole, pieces;
    enum sq_feed a, b;
    uint32_t seed;

    if (!talk) {
        const char *rules =
            "[{\"id\":\"a\",\"match\":{\"status\":200,\"header\":\"x-a: b\",\"body\":\"abab\"},\"forbid\":{"
            "\"empty\":true,\"body\":[\"ababc\",\"\\r\\n\"]}},{\"id\":\"b\",\"match\":{\"header\":\"x\"}}]";

        prepare(&setups[0], "GET", NULL);
        prepare(&setups[1], "GET", rules);
        prepare(&setups[2], "HEAD", NULL);
        prepare(&setups[3], "HEAD", rules);
        talk = malloc(sq_proto_http1.talk_size);
    }
    if (size < 3)
        return 0;
    s = &setups[data[0] & 3];
    seed = 1u + data[1] + 256u * data[2];
    a = converse(talk, s, data + 3, size - 3, 0, &whole);
    b = converse(talk, s, data + 3, size - 3, seed, &pieces);
    if (a != b || whole.status != pieces.status || whole.keep != pieces.keep || whole.bytes != pieces.bytes ||
        whole.matched.match != pieces.matched.match || whole.matched.forbid != pieces.matched.forbid ||
        whole.matched.status_ok != pieces.matched.status_ok || whole.matched.body_ok != pieces.matched.body_ok)
        abort();
    return 0;
}
