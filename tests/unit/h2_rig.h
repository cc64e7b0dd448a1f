/* Both ends of a connection of HTTP/2, by hand. Include it in one file of a program, behind cmocka.h. */
#ifndef SQUALL_TESTS_H2_RIG_H
#define SQUALL_TESTS_H2_RIG_H

#include <stdlib.h>
#include <string.h>

#include "proxy/h2.h"

struct world {
    struct sq_rules rules;
    struct sq_names names;
    struct sq_out out[2];
    struct sq_h2 *h;
    unsigned done, failed, answered, spared, unseen;
    bool full; /* the lanes take nothing of ours */
    size_t bodies;
};

static void on_out(void *arg, int lane, char *p, size_t len)
{
    struct world *w = arg;
    sq_out_put(&w->out[lane], p, len);
}

static void on_request(void *arg, struct sq_call *call, const struct sq_head *h)
{
    struct world *w = arg;
    call->hits = sq_rules_matching(&w->rules, w->rules.http, h);
    if (h->path.n > 1 && h->path.p[1] >= 'x') /* /x, /y, /z: what is no HTTP hits those */
        call->hits |= sq_rules_calls(&w->rules);
}

static int64_t on_delay(void *arg, struct sq_call *call)
{
    struct world *w = arg;
    return sq_rules_delay(&w->rules, call->hits);
}

static void on_done(void *arg, struct sq_call *call, enum sq_call_outcome outcome, int64_t end)
{
    struct world *w = arg;
    (void)call;
    (void)end;
    w->done++;
    w->failed += outcome == SQ_OUT_FAILED;
    w->answered += outcome == SQ_OUT_ANSWERED;
}

static bool on_room(void *arg, int lane)
{
    (void)lane;
    return !((struct world *)arg)->full;
}

static void on_spared(void *arg, unsigned slot)
{
    (void)slot;
    ((struct world *)arg)->spared++;
}

static void on_unseen(void *arg)
{
    ((struct world *)arg)->unseen++;
}

static void start(struct world *w, const char *rules)
{
    uint32_t gone, fresh;
    memset(w, 0, sizeof(*w));
    w->rules.names = &w->names;
    json_t *j = json_loads(rules, 0, NULL);
    assert_non_null(j);
    assert_int_equal(sq_rules_replace(&w->rules, 1, j, &gone, &fresh, NULL), 0);
    json_decref(j);
    struct sq_h2_ops ops = {.arg = w,
                            .out = on_out,
                            .request = on_request,
                            .delay = on_delay,
                            .done = on_done,
                            .rules = &w->rules,
                            .room = on_room,
                            .spared = on_spared,
                            .unseen = on_unseen,
                            .bodies = &w->bodies};
    w->h = sq_h2_new(&ops);
    assert_non_null(w->h);
}

static void stop(struct world *w)
{
    sq_h2_free(w->h);
    sq_out_free(&w->out[0]);
    sq_out_free(&w->out[1]);
    sq_rules_none(&w->rules);
    sq_names_free(&w->names);
}

/* A frame of one of the ends (lane 0: of the caller). */
static inline void send_frame(struct world *w, int lane, uint8_t type, uint8_t flags, uint32_t id, const char *p,
                              size_t n)
{
    char *buf = malloc(9 + n);
    assert_non_null(buf);
    memcpy(buf, (char[]){0, (char)(n >> 8), (char)n, (char)type, (char)flags, 0, 0, (char)(id >> 8), (char)id}, 9);
    memcpy(buf + 9, p, n);
    sq_h2_feed(w->h, lane, buf, 9 + n, 1);
    free(buf);
    assert_false(sq_h2_broken(w->h));
    assert_false(sq_h2_blind(w->h));
}

/* :method GET, :scheme http, :path /X as a literal */
static inline void get(struct world *w, uint32_t id, char x, uint8_t flags)
{
    char block[] = {(char)0x82, (char)0x86, 0x04, 2, '/', x};
    send_frame(w, 0, 1, flags, id, block, sizeof(block));
}

static inline void greet(struct world *w)
{
    send_frame(w, 0, 4, 0, 0, "", 0);
    send_frame(w, 1, 4, 0, 0, "", 0);
}

/* How many frames of a type, for a stream, are in what came out? -1: what came out is no row of frames. */
static inline int count(const struct sq_out *o, int type, uint32_t id)
{
    int n = 0;
    size_t at = 0;
    while (at + 9 <= o->n) {
        const unsigned char *u = (const unsigned char *)o->p + at;
        n += u[3] == type && ((uint32_t)u[7] << 8 | u[8]) == id;
        at += 9 + ((size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2]);
    }
    return at == o->n ? n : -1;
}

#endif
