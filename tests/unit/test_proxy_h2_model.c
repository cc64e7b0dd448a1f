/* Two ends of HTTP/2 that keep to the windows (RFC 9113, 5.2), and rules of every kind between them, by chance but from
 * seeds: no end gets more than it gave credit for, nor a frame behind the end of a stream; every call ends at the
 * caller and is told once; and when all is over, both connections' windows are what they were. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "h2_rig.h"

#define RUNS 150
#define CALLS 24
#define IDS (2 * CALLS + 2)
#define WINDOW 65535
#define IDLE 400 /* turns in which nothing happens: it is over */
#define BODY 150000

enum { DATA = 0, HEADERS = 1, RST = 3, SETTINGS = 4, CREDIT = 8 };

/* One lane: its receiver's and its sender's side. They differ by what is on its way. */
struct receiver {
    int64_t room, stream_room[IDS];
    int64_t eaten, stream_eaten[IDS]; /* not given back yet */
    bool begun[IDS], end[IDS], reset[IDS];
    size_t at; /* in what came out */
};
struct sender {
    int64_t room, stream_room[IDS];
    size_t left[IDS];
    bool begun[IDS], ended[IDS], reset[IDS];
};

struct model {
    struct world w;
    struct receiver rx[2];
    struct sender tx[2];
    int64_t initial[2]; /* of each stream, as the receiver of that lane said */
    unsigned frame_max, seed;
    uint32_t next; /* stream */
    int64_t now;
    char body[BODY];
};

static unsigned chance(struct model *m, unsigned n)
{
    m->seed = m->seed * 1103515245u + 12345u;
    return (m->seed >> 8) % n;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void say(struct model *m, int lane, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    char *buf = malloc(9 + n);
    assert_non_null(buf);
    memcpy(buf, (char[]){(char)(n >> 16), (char)(n >> 8), (char)n, (char)type, (char)flags, 0, 0, 0, (char)id}, 9);
    memcpy(buf + 9, p, n);
    for (size_t at = 0, some; at < 9 + n; at += some) {
        some = 1 + chance(m, 20000);
        some = some < 9 + n - at ? some : 9 + n - at;
        sq_h2_feed(m->w.h, lane, buf + at, some, m->now);
        if (chance(m, 4) == 0)
            sq_h2_due(m->w.h, m->now);
    }
    free(buf);
    assert_false(sq_h2_broken(m->w.h));
    assert_false(sq_h2_blind(m->w.h));
}

static void say_number(struct model *m, int lane, uint8_t type, uint32_t id, int64_t n)
{
    char p[4] = {(char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n};
    say(m, lane, type, 0, id, p, sizeof(p));
}

static void say_window(struct model *m, int lane, int64_t n)
{
    char p[6] = {0, 4, (char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n};
    say(m, lane, SETTINGS, 0, 0, p, sizeof(p));
}

static void on_hole(void *arg, struct sq_call *call, int64_t now)
{
    struct model *m = arg;
    if (!chance(m, 2))
        return;
    call->hits |= sq_rules_of(&m->w.rules, m->w.rules.mask, SQ_R_BLACKHOLE);
    call->bh_since = now;
}

/* The rig's callbacks have the world, which is the first in the model. */
_Static_assert(offsetof(struct model, w) == 0, "on_hole");

static void begin(struct model *m, unsigned run)
{
    static const char rules[] =
        "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"%s\"}},"
        "{\"fault\":\"b\",\"kind\":\"http_body\",\"match\":{\"path\":\"/b\"},\"http\":{\"replace\":\"%s\"}},"
        "{\"fault\":\"c\",\"kind\":\"http_body\",\"match\":{\"path\":\"/c\"},\"http\":{\"truncate\":%u}},"
        "{\"fault\":\"d\",\"kind\":\"http_body\",\"match\":{\"path\":\"/d\"},\"http\":{\"patch\":{\"k\":1}}},"
        "{\"fault\":\"f\",\"kind\":\"http_body\",\"match\":{\"path\":\"/f\"},"
        "\"http\":{\"of\":\"request\",\"patch\":{\"k\":1}}},"
        "{\"fault\":\"g\",\"kind\":\"http_body\",\"match\":{\"path\":\"/g\"},"
        "\"http\":{\"of\":\"request\",\"replace\":\"%s\"}},"
        "{\"fault\":\"e\",\"kind\":\"latency\",\"delay\":50},{\"fault\":\"h\",\"kind\":\"blackhole\"}]";
    char text[5000], said[1200] = {0};
    memset(m, 0, sizeof(*m));
    m->seed = run * 7919 + 1;
    m->now = m->next = 1;
    memset(said, 'R', 1 + chance(m, 1100));
    (void)snprintf(text, sizeof(text), rules, said, said, chance(m, 60000), said);
    start(&m->w, text);
    m->frame_max = chance(m, 3) ? 16384 : 70000;
    for (int lane = 0; lane < 2; lane++) {
        m->initial[lane] = chance(m, 2) ? WINDOW : 1000 + chance(m, 70000);
        m->rx[lane].room = m->tx[lane].room = WINDOW;
        for (int i = 0; i < IDS; i++)
            m->rx[lane].stream_room[i] = m->tx[lane].stream_room[i] = m->initial[lane];
    }
    say_window(m, 0, m->initial[1]);
    say_window(m, 1, m->initial[0]);
}

static void got_data(struct model *m, int lane, uint32_t id, size_t len, bool end)
{
    struct receiver *r = &m->rx[lane];
    assert_false(r->end[id]);
    r->room -= (int64_t)len;
    r->stream_room[id] -= (int64_t)len;
    r->eaten += (int64_t)len;
    r->stream_eaten[id] += (int64_t)len;
    assert_true(len == 0 || (r->room >= 0 && r->stream_room[id] >= 0));
    r->end[id] = end;
}

static void got_credit(struct model *m, int lane, uint32_t id, const char *p)
{
    struct sender *s = &m->tx[1 - lane];
    const unsigned char *u = (const unsigned char *)p;
    int64_t n = (int64_t)u[0] << 24 | u[1] << 16 | u[2] << 8 | u[3];
    assert_true(n > 0);
    *(id ? &s->stream_room[id] : &s->room) += n;
    assert_true(s->room <= WINDOW);
    assert_true(s->stream_room[id] <= m->initial[1 - lane] || s->ended[id]);
}

/* What came out of a lane. True: something did. */
static bool receive(struct model *m, int lane)
{
    const struct sq_out *o = &m->w.out[lane];
    struct receiver *r = &m->rx[lane];
    size_t from = r->at;
    while (r->at + 9 <= o->n) {
        const char *p = o->p + r->at;
        const unsigned char *u = (const unsigned char *)p;
        size_t len = (size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2];
        uint32_t id = u[8];
        if (r->at + 9 + len > o->n)
            break;
        r->at += 9 + len;
        assert_true(id < IDS);
        if (u[3] == DATA) {
            got_data(m, lane, id, len, u[4] & 1);
        } else if (u[3] == HEADERS) {
            assert_false(r->end[id]);
            r->begun[id] = true;
            r->end[id] = u[4] & 1;
        } else if (u[3] == RST) {
            r->reset[id] = m->tx[1 - lane].reset[id] = true;
        } else if (u[3] == CREDIT) {
            got_credit(m, lane, id, p + 9);
        }
    }
    return r->at > from;
}

static void give_back(struct model *m, int lane, uint32_t id)
{
    struct receiver *r = &m->rx[lane];
    int64_t *eaten = id ? &r->stream_eaten[id] : &r->eaten, n = *eaten;
    *(id ? &r->stream_room[id] : &r->room) += n;
    *eaten = 0;
    say_number(m, 1 - lane, CREDIT, id, n);
}

/* Credit, when half of a window has been used. */
static bool credit(struct model *m, int lane)
{
    struct receiver *r = &m->rx[lane];
    bool any = r->eaten >= WINDOW / 2;
    if (any)
        give_back(m, lane, 0);
    for (uint32_t id = 1; id < 2 * CALLS; id += 2) {
        int64_t n = r->stream_eaten[id];
        if (r->end[id] || r->reset[id] || n == 0 || 2 * n < m->initial[lane])
            continue;
        give_back(m, lane, id);
        any = true;
    }
    return any;
}

static bool ask(struct model *m)
{
    static const char paths[] = "abcdefgmmxn";
    if (m->next >= 2 * CALLS || chance(m, 6))
        return false;
    bool body = chance(m, 2);
    char block[] = {(char)0x82, (char)0x86, 0x04, 2, '/', paths[chance(m, sizeof(paths) - 1)]};
    m->tx[0].begun[m->next] = true;
    m->tx[0].left[m->next] = body ? chance(m, BODY) : 0;
    m->tx[0].ended[m->next] = !body;
    say(m, 0, HEADERS, body ? 4 : 5, m->next, block, sizeof(block));
    m->next += 2;
    return true;
}

static bool answer(struct model *m)
{
    bool any = false;
    for (uint32_t id = 1; id < m->next; id += 2) {
        if (!m->rx[0].begun[id] || m->tx[1].begun[id] || chance(m, 3))
            continue;
        m->tx[1].begun[id] = any = true;
        m->tx[1].left[id] = chance(m, BODY);
        say(m, 1, HEADERS, 4, id, "\x88", 1);
    }
    return any;
}

/* A frame of DATA of some stream, if its windows let it. */
static bool send_some(struct model *m, int lane)
{
    struct sender *s = &m->tx[lane];
    uint32_t id = 1 + 2 * chance(m, CALLS);
    if (!s->begun[id] || s->ended[id] || s->reset[id])
        return false;
    int64_t n = least((int64_t)s->left[id], m->frame_max), room = least(s->room, s->stream_room[id]);
    if (n > 0 && room <= 0)
        return false;
    n = least(n, room > 0 ? room : 0);
    if (n > 0 && chance(m, 3) == 0)
        n = 1 + chance(m, (unsigned)n);
    bool end = (size_t)n == s->left[id];
    s->left[id] -= (size_t)n;
    s->room -= n;
    s->stream_room[id] -= n;
    s->ended[id] = end;
    say(m, lane, DATA, end, id, m->body, (size_t)n);
    return true;
}

/* An end gives a stream up. */
static void reset(struct model *m, int from)
{
    uint32_t id = 1 + 2 * chance(m, m->next / 2 + 1);
    struct sender *s = &m->tx[from];
    struct receiver *r = &m->rx[1 - from];
    bool knows = from == 0 ? id < m->next && !r->end[id] : m->rx[0].begun[id] && !s->ended[id];
    if (!knows || s->reset[id] || r->reset[id])
        return;
    s->reset[id] = r->reset[id] = s->begun[id] = true;
    say_number(m, from, RST, id, 8);
}

static void rules(struct model *m, unsigned idle)
{
    if (chance(m, 200) == 0)
        sq_h2_catch(m->w.h, on_hole, m->now);
    if (chance(m, 100) && idle != IDLE / 2)
        return;
    sq_h2_release(m->w.h, sq_rules_of(&m->w.rules, m->w.rules.mask, SQ_R_BLACKHOLE), m->now);
    sq_h2_due(m->w.h, m->now);
}

static void play(struct model *m)
{
    for (unsigned idle = 0; idle < IDLE; idle++) {
        bool any = false;
        m->now += chance(m, 5);
        sq_h2_due(m->w.h, m->now);
        for (int lane = 0; lane < 2; lane++)
            any = receive(m, lane) || any;
        for (int lane = 0; lane < 2; lane++)
            any = credit(m, lane) || any;
        any = ask(m) || any;
        any = answer(m) || any;
        for (int lane = 0; lane < 2; lane++)
            any = send_some(m, lane) || any;
        rules(m, idle);
        if (chance(m, 40) == 0)
            reset(m, 0);
        if (chance(m, 60) == 0)
            reset(m, 1);
        idle = any ? 0 : idle;
    }
}

static void test_model(void **state)
{
    struct model *m = malloc(sizeof(*m));
    (void)state;
    assert_non_null(m);
    for (unsigned run = 0; run < RUNS; run++) {
        begin(m, run);
        play(m);
        while (m->rx[0].eaten > 0 || m->rx[1].eaten > 0) { /* less than half a window is left */
            for (int lane = 0; lane < 2; lane++)
                if (m->rx[lane].eaten > 0)
                    give_back(m, lane, 0);
            play(m);
        }
        for (int lane = 0; lane < 2; lane++) {
            assert_int_equal(m->tx[lane].room, WINDOW);
            assert_int_equal(m->rx[lane].room, WINDOW);
        }
        assert_int_equal(m->next, 2 * CALLS + 1);
        for (uint32_t id = 1; id < m->next; id += 2)
            assert_true(m->rx[1].end[id] || m->rx[1].reset[id]);
        assert_int_equal(m->w.done, CALLS);
        stop(&m->w);
    }
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
