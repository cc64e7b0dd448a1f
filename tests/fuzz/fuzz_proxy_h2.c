/* HTTP/2 of both ends as hostile as it comes, in arbitrary pieces. Untouched by a rule the streams that come out are
 * the bytes that went in; touched or not, what comes out to the caller is whole frames. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/h2.h"

struct world {
    struct sq_rules rules;
    struct sq_out out[2];
    unsigned begun, done;
    bool hits;
};

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
    json_t *j =
        json_loads("[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/"
                   "a*\"},\"http\":{\"body\":\"no\",\"grpc_status\":14}},"
                   "{\"fault\":\"b\",\"kind\":\"http_abort\",\"match\":{\"path\":\"/b*\"},\"http\":{}},"
                   "{\"fault\":\"c\",\"kind\":\"http_delay\",\"delay\":5,\"match\":{\"path\":\"/c*\"},\"http\":{}},"
                   "{\"fault\":\"d\",\"kind\":\"http_header\",\"match\":{\"header\":{\"x\":true}},\"http\":{\"set\":{"
                   "\"y\":\"1\"}}}]",
                   0, NULL);
    r->names = &names;
    if (!j || sq_rules_replace(r, 1, j, &gone, &fresh, NULL) < 0)
        abort();
    json_decref(j);
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
    struct sq_h2_ops ops = {&w, on_out, on_request, on_delay, on_done, &w.rules};
    struct sq_h2 *h = sq_h2_new(&ops);
    if (!h)
        abort();
    int64_t now = 1;
    for (size_t at = 1; at + 1 < size && !sq_h2_broken(h); now++) { /* a lane and a length, then so many bytes */
        int lane = data[at] & 1;
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
        if (sq_h2_next(h) < now)
            abort();
    }
    bool blind = sq_h2_blind(h), broken = sq_h2_broken(h);
    for (int i = 0; i < 2 && !w.hits; i++) /* what is held is the rest of a frame */
        if (broken || w.out[i].n > in[i].n || (blind && w.out[i].n != in[i].n) ||
            (w.out[i].n && memcmp(w.out[i].p, in[i].p, w.out[i].n) != 0))
            abort();
    sq_h2_end(h, SQ_OUT_OPEN, now);
    sq_h2_free(h);
    for (int i = 0; i < 2; i++) {
        sq_out_free(&w.out[i]);
        sq_out_free(&in[i]);
    }
    sq_rules_none(&w.rules);
    return 0;
}
