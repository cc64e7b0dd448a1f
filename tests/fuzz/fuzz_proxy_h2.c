/* HTTP/2 of both ends as hostile as it comes, in arbitrary pieces, while rules begin and end. Untouched by a rule the
 * streams that come out are the bytes that went in; touched or not, they are rows of frames whose header blocks can be
 * read with one table, and what waits is bounded. */
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/h2.h"

struct world {
    struct sq_rules rules;
    struct sq_out out[2];
    unsigned begun, done;
    bool hits, full;
    size_t bodies;
};

static const enum sq_rule_kind KINDS[] = {SQ_R_ERROR, SQ_R_BLACKHOLE, SQ_R_LATENCY};

static void on_out(void *arg, int lane, char *p, size_t len)
{
    struct world *w = arg;
    sq_out_put(&w->out[lane], p, len);
}

static void on_request(void *arg, struct sq_call *call, const struct sq_head *h)
{
    struct world *w = arg;
    w->begun++;
    if (w->hits)
        call->hits = sq_rules_matching(&w->rules, w->rules.http, h);
    if (w->hits && h->path.n > 1 && h->path.p[1] >= 'x' && h->path.p[1] <= 'z') /* /x, /y, /z: error, hole, latency */
        call->hits |= sq_rules_of(&w->rules, sq_rules_calls(&w->rules), KINDS[h->path.p[1] - 'x']);
}

static void on_catch(void *arg, struct sq_call *call, int64_t now)
{
    struct world *w = arg;
    if (call->start & 1)
        call->hits |= sq_rules_of(&w->rules, w->rules.mask, SQ_R_BLACKHOLE);
    call->bh_since = now;
}

static bool on_room(void *arg, int lane)
{
    (void)lane;
    return !((struct world *)arg)->full;
}

static int64_t on_delay(void *arg, struct sq_call *call)
{
    struct world *w = arg;
    return sq_rules_delay(&w->rules, call->hits);
}

static void on_done(void *arg, struct sq_call *call, enum sq_call_outcome outcome, int64_t end)
{
    struct world *w = arg;
    if (++w->done > w->begun + 4096 || outcome > SQ_OUT_OPEN || call->status > 999 || end < 0)
        abort();
}

static void set_rules(struct sq_rules *r)
{
    static struct sq_names names;
    uint32_t gone, fresh;
    json_t *j = json_loads(
        "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/"
        "a*\"},\"http\":{\"body\":\"no\",\"grpc_status\":14}},"
        "{\"fault\":\"b\",\"kind\":\"http_abort\",\"match\":{\"path\":\"/b*\"},\"http\":{}},"
        "{\"fault\":\"c\",\"kind\":\"http_delay\",\"delay\":5,\"match\":{\"path\":\"/c*\"},\"http\":{}},"
        "{\"fault\":\"d\",\"kind\":\"http_header\",\"match\":{\"header\":{\"x\":true}},\"http\":{\"set\":{"
        "\"y\":\"1\"}}},"
        "{\"fault\":\"e\",\"kind\":\"http_body\",\"match\":{\"path\":\"/e*\"},\"http\":{\"replace\":\"another\"}},"
        "{\"fault\":\"f\",\"kind\":\"http_body\",\"match\":{\"path\":\"/f*\"},\"http\":{\"truncate\":5}},"
        "{\"fault\":\"g\",\"kind\":\"http_body\",\"match\":{\"path\":\"/g*\"},\"http\":{\"patch\":{\"a\":1}}},"
        "{\"fault\":\"h\",\"kind\":\"http_body\",\"match\":{\"path\":\"*1\"},\"http\":{\"of\":\"request\","
        "\"replace\":\"other\"}},"
        "{\"fault\":\"i\",\"kind\":\"http_body\",\"match\":{\"path\":\"*2\"},\"http\":{\"of\":\"request\","
        "\"patch\":{}}},"
        "{\"fault\":\"j\",\"kind\":\"error\",\"percent\":50},"
        "{\"fault\":\"k\",\"kind\":\"blackhole\",\"percent\":50},"
        "{\"fault\":\"l\",\"kind\":\"latency\",\"percent\":50,\"delay\":3}]",
        0, NULL);
    r->names = &names;
    if (!j || sq_rules_replace(r, 1, j, &gone, &fresh, NULL) < 0)
        abort();
    json_decref(j);
}

static void check_block(nghttp2_hd_inflater *inf, const struct sq_out *block)
{
    const uint8_t *in = (const uint8_t *)block->p;
    size_t left = block->n;
    int flags = 0;
    while (left > 0 && !(flags & NGHTTP2_HD_INFLATE_FINAL)) {
        nghttp2_nv nv;
        ssize_t n = nghttp2_hd_inflate_hd2(inf, &nv, &flags, in, left, 1);
        if (n < 0)
            abort();
        in += n;
        left -= (size_t)n;
    }
    (void)nghttp2_hd_inflate_end_headers(inf);
}

/* What came out is a row of frames, of which the last may not be whole; header blocks are whole, and can be read. */
static void check_out(const struct sq_out *o)
{
    nghttp2_hd_inflater *inf;
    struct sq_out block = {0};
    bool open = false;
    if (nghttp2_hd_inflate_new(&inf) != 0 || nghttp2_hd_inflate_change_table_size(inf, 128 * 1024) != 0)
        abort();
    for (size_t at = 0; at + 9 <= o->n;) {
        const unsigned char *u = (const unsigned char *)o->p + at;
        size_t len = (size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2], skip = 0, pad = 0;
        bool whole = at + 9 + len <= o->n;
        at += 9 + len;
        if (open != (u[3] == 9))
            abort(); /* something came between the pieces of a block */
        if (u[3] != 1 && u[3] != 5 && u[3] != 9)
            continue;
        if (!whole)
            abort();
        if (u[3] != 9) {
            skip = (u[4] & 8 ? 1u : 0u) + (u[3] == 5 ? 4u : 0u) + (u[3] == 1 && (u[4] & 32) ? 5u : 0u);
            pad = u[4] & 8 && len > 0 ? u[9] : 0;
        }
        if (skip + pad > len)
            abort();
        sq_out_put(&block, (const char *)u + 9 + skip, len - skip - pad);
        open = !(u[4] & 4);
        if (!open) {
            check_block(inf, &block);
            block.n = 0;
        }
    }
    sq_out_free(&block);
    nghttp2_hd_inflate_del(inf);
}

static void event(struct world *w, struct sq_h2 *h, uint8_t what, int64_t *now)
{
    uint32_t calls = sq_rules_calls(&w->rules);
    if (what % 4 == 0 && w->hits)
        sq_h2_catch(h, on_catch, *now);
    else if (what % 4 == 1)
        sq_h2_release(h, what & 4 ? calls : w->rules.mask, *now);
    else if (what % 4 == 2)
        w->full = !w->full;
    else
        *now += what;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    struct sq_out in[2] = {{0}};
    if (size < 2)
        return 0;
    w.hits = data[0] & 1;
    size_t piece = 1 + (data[0] >> 1);
    set_rules(&w.rules);
    struct sq_h2_ops ops = {.arg = &w,
                            .out = on_out,
                            .request = on_request,
                            .delay = on_delay,
                            .done = on_done,
                            .rules = &w.rules,
                            .room = on_room,
                            .bodies = &w.bodies};
    struct sq_h2 *h = sq_h2_new(&ops);
    if (!h)
        abort();
    int64_t now = 1;
    for (size_t at = 1; at + 1 < size && !sq_h2_broken(h); now++) { /* a lane and a length, then so many bytes */
        int lane = data[at] & 1;
        if (data[at] >> 1 == 127) { /* or something that happens */
            event(&w, h, data[at + 1], &now);
            at += 2;
            sq_h2_due(h, now);
            continue;
        }
        size_t len = data[at] >> 1 > 0 ? (size_t)(data[at] >> 1) * 4 : 1;
        at++;
        len = len < size - at ? len : size - at;
        for (size_t done = 0; done < len && !sq_h2_broken(h);) {
            char buf[256];
            size_t some = len - done < piece ? len - done : piece;
            memcpy(buf, data + at + done, some);
            sq_out_put(&in[lane], buf, some);
            sq_h2_feed(h, lane, buf, some, now);
            done += some;
        }
        at += len;
        sq_h2_due(h, now);
        if (sq_h2_next(h) < now || w.bodies > SQ_H2_HELD * 2 + 65536)
            abort();
    }
    bool blind = sq_h2_blind(h), broken = sq_h2_broken(h);
    for (int i = 0; i < 2 && !w.hits; i++) /* what is held is the rest of a frame */
        if (broken || w.out[i].n > in[i].n || (blind && w.out[i].n != in[i].n) ||
            (w.out[i].n && memcmp(w.out[i].p, in[i].p, w.out[i].n) != 0))
            abort();
    for (int i = 0; i < 2 && !blind && !broken; i++)
        check_out(&w.out[i]);
    for (int i = 0; i < 2 && !w.hits; i++) { /* which is all, when no more comes */
        sq_h2_ends(h, i);
        if (w.out[i].n != in[i].n || (in[i].n && memcmp(w.out[i].p, in[i].p, in[i].n) != 0))
            abort();
    }
    sq_h2_end(h, SQ_OUT_OPEN, now);
    sq_h2_free(h);
    if (w.bodies != 0)
        abort();
    for (int i = 0; i < 2; i++) {
        sq_out_free(&w.out[i]);
        sq_out_free(&in[i]);
    }
    sq_rules_none(&w.rules);
    return 0;
}
