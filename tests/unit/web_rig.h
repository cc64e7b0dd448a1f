/* One connection of the proxy without sockets: the real code from what was read (take.c) to what is put, with HTTP and
 * its rules; what is put is kept here. Include it in one file of a program: it stands for pump.c, conn.c and others. */
#ifndef SQUALL_TESTS_WEB_RIG_H
#define SQUALL_TESTS_WEB_RIG_H

#include <stdlib.h>
#include <string.h>

#include "proxy/head.h"
#include "proxy/px.h"

struct rig {
    struct px px;
    struct edge edge;
    struct conn conn;
    struct sq_names names;
    struct sq_out out[2]; /* to the dependency, to the caller */
    bool reset;
    bool holds; /* a latency holds what goes to the caller */
    unsigned done, failed, answered;
};

static struct rig *rig_of(struct conn *c)
{
    return (struct rig *)((char *)c - offsetof(struct rig, conn));
}

bool px_put(struct conn *c, int lane, char *p, size_t len, int64_t due, uint32_t bh, int64_t now)
{
    (void)due;
    (void)bh;
    (void)now;
    if (len == 0 || c->state == PX_CLOSED)
        return true;
    sq_out_put(&rig_of(c)->out[lane], p, len);
    c->lane[lane].in += len;
    return true;
}

void px_call(struct conn *c, enum sq_call_kind kind, enum sq_call_outcome outcome, int status,
             const struct sq_call *call, int64_t end)
{
    struct rig *r = rig_of(c);
    (void)kind;
    (void)status;
    (void)call;
    (void)end;
    r->done++;
    r->failed += outcome == SQ_OUT_FAILED;
    r->answered += outcome == SQ_OUT_ANSWERED;
}

/* As pump.c does with calls whose bytes are out. */
void px_pump(struct conn *c)
{
    struct sq_call *call;
    if (c->web && c->state == PX_OPEN)
        px_web_turn(c, 1);
    while (c->state == PX_OPEN && !rig_of(c)->holds && (call = sq_http_at(&c->http, 0)) && call->done) {
        bool failed = call->cut || (call->fate && call->status >= 400);
        px_call(c, SQ_CALL_REQUEST, failed ? SQ_OUT_FAILED : SQ_OUT_ANSWERED, call->status, call, 1);
        sq_http_pop(&c->http);
    }
    if (c->state == PX_OPEN && c->web)
        (void)px_web_reset(c);
}

void px_conn_close(struct conn *c, enum sq_call_outcome why, int status, bool reset)
{
    if (c->state == PX_CLOSED)
        return;
    px_h2_end(c, why, 1);
    for (; c->http.n > 0; sq_http_pop(&c->http))
        px_call(c, SQ_CALL_REQUEST, why, status, sq_http_at(&c->http, 0), 1);
    c->state = PX_CLOSED;
    rig_of(c)->reset = reset;
    sq_http_free(&c->http);
    px_web_free(c);
    px_h2_free(c);
    sq_out_free(&c->px->batch[0]);
    sq_out_free(&c->px->batch[1]);
}

void px_stamp(struct end *e)
{
    (void)e;
}

void px_dnstcp_rules(struct edge *e, uint32_t gone, uint32_t fresh)
{
    (void)e;
    (void)gone;
    (void)fresh;
}

void px_udp_rules(struct edge *e, uint32_t gone, uint32_t fresh)
{
    (void)e;
    (void)gone;
    (void)fresh;
}

bool px_shape_changed(struct conn *c, uint32_t gone, uint32_t fresh, int64_t now)
{
    (void)c;
    (void)gone;
    (void)fresh;
    (void)now;
    return false;
}

void px_shape_end(struct conn *c)
{
    (void)c;
}

/* RULES: as in a "rules" message; false: they are not. */
static bool rig_rules(struct rig *r, const char *rules)
{
    uint32_t gone = 0, fresh = 0;
    json_t *j = json_loads(rules, 0, NULL);
    bool ok = j && sq_rules_replace(&r->edge.rules, r->edge.rules.epoch + 1, j, &gone, &fresh, NULL) == 0;
    json_decref(j);
    if (ok && r->conn.state == PX_OPEN)
        px_rules_changed(&r->edge, gone, fresh);
    return ok;
}

static bool rig_start(struct rig *r, const char *rules)
{
    memset(r, 0, sizeof(*r));
    TAILQ_INIT(&r->edge.conns);
    r->edge.px = &r->px;
    r->edge.counted = true;
    r->edge.rules.names = &r->names;
    r->conn.px = &r->px;
    r->conn.edge = &r->edge;
    r->conn.state = PX_CONNECTING;
    for (int i = 0; i < 2; i++)
        r->conn.end[i] = (struct end){.conn = &r->conn, .fd = -1};
    sq_http_init(&r->conn.http);
    TAILQ_INSERT_TAIL(&r->edge.conns, &r->conn, link);
    bool ok = rig_rules(r, rules);
    r->conn.state = PX_OPEN;
    return ok;
}

static void rig_feed(struct rig *r, int from, const char *p, size_t len)
{
    char *copy = r->conn.state == PX_OPEN && len > 0 ? malloc(len) : NULL; /* of its own, so that ASan sees its end */
    if (!copy)
        return;
    memcpy(copy, p, len);
    px_take(&r->conn, from, copy, len, 1);
    if (r->conn.state == PX_OPEN)
        px_pump(&r->conn);
    free(copy);
}

static void rig_eof(struct rig *r, int from)
{
    if (r->conn.state != PX_OPEN || r->conn.end[from].eof)
        return;
    px_take_end(&r->conn, from, SQ_END_FIN);
    if (r->conn.state == PX_OPEN)
        px_pump(&r->conn);
}

static void rig_stop(struct rig *r)
{
    px_conn_close(&r->conn, SQ_OUT_OPEN, 0, false);
    sq_out_free(&r->out[0]);
    sq_out_free(&r->out[1]);
    sq_rules_none(&r->edge.rules);
    sq_names_free(&r->names);
}

#endif
