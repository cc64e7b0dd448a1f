/* HTTP/1 of both ends as hostile as it comes, in arbitrary pieces, through the real code and a few rules that come and
 * go. Whom no rule hits gets the bytes that were sent; and whatever is done to them, what the caller gets are answers
 * to what it has sent. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unit/web_rig.h"

static const char *const RULES[] = {
    "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/s*\"},\"http\":{\"body\":\"no\"}},"
    "{\"fault\":\"b\",\"kind\":\"http_abort\",\"match\":{\"path\":\"/b*\"},\"http\":{}},"
    "{\"fault\":\"c\",\"kind\":\"http_header\",\"match\":{\"header\":{\"x\":true}},"
    "\"http\":{\"of\":\"request\",\"set\":{\"Y\":\"1\"},\"remove\":[\"x\"]}},"
    "{\"fault\":\"d\",\"kind\":\"http_header\",\"match\":{\"path\":\"/h*\"},\"http\":{\"set\":{\"Y\":\"1\"}}},"
    "{\"fault\":\"e\",\"kind\":\"http_body\",\"match\":{\"path\":\"/p*\"},\"http\":{\"patch\":{\"a\":[1]}}},"
    "{\"fault\":\"f\",\"kind\":\"http_body\",\"match\":{\"path\":\"/t*\"},\"http\":{\"truncate\":3}},"
    "{\"fault\":\"g\",\"kind\":\"http_body\",\"match\":{\"path\":\"/r*\"},\"http\":{\"replace\":\"xyz\"}},"
    "{\"fault\":\"h\",\"kind\":\"http_body\",\"match\":{\"path\":\"/u*\"},"
    "\"http\":{\"of\":\"request\",\"truncate\":3}},"
    "{\"fault\":\"i\",\"kind\":\"http_body\",\"match\":{\"path\":\"/v*\"},"
    "\"http\":{\"of\":\"request\",\"patch\":{\"a\":1}}}]",
    "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/s*\"},\"http\":{\"body\":\"no\"}},"
    "{\"fault\":\"j\",\"kind\":\"blackhole\",\"percent\":50.0,\"seed\":1}]",
    "[]",
    /* hits nobody: all is read, nothing is changed */
    "[{\"fault\":\"z\",\"kind\":\"http_header\",\"match\":{\"method\":[\"NONE\"]},\"http\":{\"set\":{\"Y\":\"1\"}}},"
    "{\"fault\":\"y\",\"kind\":\"http_body\",\"percent\":0.0,\"http\":{\"replace\":\"no\"}}]",
};
enum { NOBODY = 3 };

/* A head or a preface may still be held; all that is out is what came in. */
static void check_same(const struct rig *r, const struct sq_out *in)
{
    for (int i = 0; i < 2; i++)
        if (r->out[i].n > in[i].n || (r->out[i].n && memcmp(r->out[i].p, in[i].p, r->out[i].n) != 0))
            abort();
    if (r->conn.state == PX_OPEN && r->conn.opaque && !r->conn.h2 && r->out[UP].n != in[UP].n)
        abort();
}

/* Another reader, which sees what the caller sends and what it gets. */
struct reader {
    struct sq_http http;
    size_t at[2];
    bool lost;
};

static void follow(struct reader *t, int lane, const struct sq_out *bytes)
{
    while (t->at[lane] < bytes->n && !t->lost) {
        const char *p = bytes->p + t->at[lane];
        size_t left = bytes->n - t->at[lane];
        enum sq_http_ev ev;
        t->at[lane] += lane == UP ? sq_http_up(&t->http, p, left, &ev) : sq_http_down(&t->http, p, left, &ev);
        t->lost = ev == SQ_HTTP_OPAQUE || t->http.opaque;
        while (sq_http_at(&t->http, 0) && sq_http_at(&t->http, 0)->done)
            sq_http_pop(&t->http);
    }
}

/* As long as we know what is a call, the caller does. */
static void check_readable(struct reader *t, struct rig *r, const struct sq_out *in)
{
    if (px_web_closing(&r->conn)) /* what comes behind the last call is nobody's */
        return;
    follow(t, UP, &in[UP]);
    follow(t, DOWN, &r->out[DOWN]);
    if (t->lost && r->conn.state == PX_OPEN && !r->conn.opaque && r->conn.preface == PX_BEGUN)
        abort();
}

static void check_end(const struct rig *r)
{
    if (r->px.web_held != 0 || r->failed + r->answered > r->done)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rig *r = malloc(sizeof(*r));
    struct sq_out in[2] = {{0}};
    if (!r || size < 2) {
        free(r);
        return 0;
    }
    struct reader reader = {0};
    sq_http_init(&reader.http);
    bool nobody = data[0] & 1;
    if (!rig_start(r, RULES[nobody ? NOBODY : 0]))
        abort();
    for (size_t at = 1; at + 1 < size && r->conn.state == PX_OPEN;) { /* an end and a length, then so many bytes */
        int from = data[at] & 1;
        size_t len = data[at] >> 1;
        at++;
        if (len == 0) {
            rig_eof(r, from);
        } else if (len == 1 && !nobody) {
            if (!rig_rules(r, RULES[data[at] % NOBODY]))
                abort();
        } else {
            len = len < size - at ? len : size - at;
            if (!r->conn.end[from].eof) {
                sq_out_put(&in[from == CALLER ? UP : DOWN], (const char *)data + at, len);
                rig_feed(r, from, (const char *)data + at, len);
            }
            at += len;
        }
        check_readable(&reader, r, in);
    }
    if (nobody)
        check_same(r, in);
    px_conn_close(&r->conn, SQ_OUT_OPEN, 0, false);
    check_end(r);
    rig_stop(r);
    sq_http_free(&reader.http);
    free(r);
    sq_out_free(&in[0]);
    sq_out_free(&in[1]);
    return 0;
}
