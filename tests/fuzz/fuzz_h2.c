/* HTTP/2 answers and gRPC health answers as a hostile server might send them, in arbitrary pieces; whatever comes, each
 * request ends at most once. The first bytes choose the pieces and which requests are given up in between. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "probe/h2.h"

#define REQUESTS 4

struct setup {
    struct sq_rules rules;
    struct sq_place place;
    void *plan;
};

struct world {
    unsigned ended[REQUESTS];
    int tag[REQUESTS];
};

static void prepare(struct setup *s, const struct sq_proto *proto, const char *url)
{
    json_t *m = json_loads("[{\"id\":\"a\",\"match\":{\"header\":\"x-a: b\",\"body\":\"abab\"}}]", 0, NULL);
    json_t *o = json_pack("{s:{s:s}, s:{s:s}}", "request", "url", url, "expect", "body", "total");

    if (sq_rules_init(&s->rules, "e", json_object_get(o, "expect"), m, NULL) < 0 ||
        proto->prepare(o, NULL, &s->rules, &s->plan, &s->place, NULL) < 0)
        abort();
    json_decref(o);
    json_decref(m);
}

static void ended(void *arg, void *tag, enum sq_mux_end how, const struct sq_answer *a)
{
    struct world *w = arg;

    if (w->ended[*(int *)tag]++ || (how == SQ_MUX_ANSWERED && (a->status < 0 || a->status > 999)))
        abort();
}

static void drain(void *talk)
{
    const char *out;
    size_t n;

    while ((n = sq_h2_mux.output(talk, &out)) > 0)
        sq_h2_mux.sent(talk, n);
}

/* The next piece, in memory of its own, so that a byte read beyond it is seen; false: the conversation is over. */
static bool feed(void *talk, const uint8_t *data, size_t n)
{
    char *piece = malloc(n);
    bool good;

    memcpy(piece, data, n);
    good = sq_h2_mux.feed(talk, piece, n);
    free(piece);
    drain(talk);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char trace[] = "00-00000000000000010000000000000001-0000000000000001-01";
    static struct setup plain, grpc;
    struct world w = {.tag = {0, 1, 2, 3}};
    uint32_t seed, forget;
    void *talk;

    if (!plain.plan) {
        prepare(&plain, &sq_proto_http2, "h2c://127.0.0.1/");
        prepare(&grpc, &sq_proto_grpc, "grpc://127.0.0.1:1/shop");
    }
    if (size < 3)
        return 0;
    seed = 1u + data[0] + 256u * data[1];
    forget = data[2];
    data += 3;
    size -= 3;
    talk = sq_h2_mux.open(&w, ended);
    for (int i = 0; i < REQUESTS; i++)
        if (!sq_h2_mux.submit(talk, &w.tag[i], i & 1 ? grpc.plan : plain.plan, NULL, trace, NULL))
            w.ended[i] = 1;
    drain(talk);
    for (size_t at = 0, n; at < size; at += n) {
        unsigned i = forget & 3;

        seed = seed * 1664525u + 1013904223u;
        n = 1 + (seed >> 16) % 97;
        n = n < size - at ? n : size - at;
        if (!feed(talk, data + at, n))
            break;
        if ((forget >> 4) == at / 97 && !w.ended[i]) {
            w.ended[i] = 1;
            sq_h2_mux.forget(talk, &w.tag[i]);
        }
        (void)sq_h2_mux.room(talk);
    }
    drain(talk);
    sq_h2_mux.close(talk);
    return 0;
}
