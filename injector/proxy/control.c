/* The messages of squalld (wire.h). It is trusted, but a message that makes no sense is answered or ignored, never
 * fatal. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/json.h"

struct packet {
    const json_t *o;
    int *fds; /* those that were taken are set to -1 */
    size_t nfds;
};

static uint32_t number(const json_t *o, const char *key)
{
    int64_t v = sq_json_int_or(o, key, -1);
    return v < 0 || v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static void map_beat(struct px *px, int fd, int64_t offset)
{
    struct stat st;
    if (px->beat || offset < 0 || offset % 8 || fstat(fd, &st) != 0 || offset + 8 > st.st_size ||
        st.st_size > (1 << 24))
        return;
    px->beat_len = (size_t)st.st_size;
    void *p = mmap(NULL, px->beat_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return;
    px->beat_page = p;
    px->beat = (_Atomic int64_t *)(void *)((char *)p + offset);
}

/* N words of that page; NULL: they are not in it. */
static const volatile uint64_t *word(const struct px *px, int64_t offset, int64_t n)
{
    if (!px->beat_page || offset < 0 || offset % 8 || offset > (int64_t)px->beat_len - 8 * n)
        return NULL;
    return (const volatile uint64_t *)(const void *)((const char *)px->beat_page + offset);
}

static const struct sq_flow *map_flows(int fd, size_t entries)
{
    struct stat st;
    size_t len = entries * sizeof(struct sq_flow);
    /* A BPF map has no size; a file that is too short would be a SIGBUS later. */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < (off_t)len)
        return NULL;
    void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

static struct sq_tally *map_tallies(int fd)
{
    struct stat st;
    size_t len = SQ_TALLIES * sizeof(struct sq_tally);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < (off_t)len)
        return NULL;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void on_hello(struct px *px, struct packet *p)
{
    if (p->nfds < 3)
        return;
    map_beat(px, p->fds[0], sq_json_int_or(p->o, "beat_offset", -1));
    px->held = word(px, sq_json_int_or(p->o, "held", -1), SQ_MAX_HELD);
    for (int i = 0; i < 2; i++)
        if (!px->flows[i]) {
            px->flows[i] = map_flows(p->fds[1 + i], 2 * (size_t)SQ_FLOWS);
            px->cookies[i] = px->flows[i] ? px->flows[i] + SQ_FLOWS : NULL;
            if (!px->flows[i])
                px->flows[i] = map_flows(p->fds[1 + i], SQ_FLOWS);
        }
    if (p->nfds >= 4 && !px->tallies)
        px->tallies = map_tallies(p->fds[3]);
}

static void on_raw(struct px *px, struct packet *p)
{
    px_hold_open(&px->home, p->fds, p->nfds);
}

static void on_edge(struct px *px, struct packet *p)
{
    (void)px_edge_add(px, number(p->o, "id"), sq_json_str_or(p->o, "name", ""),
                      sq_json_str_or(p->o, "protocol", "auto"), p->fds, p->nfds);
}

static void on_dgrams(struct px *px, struct packet *p)
{
    uint32_t net = number(p->o, "net");
    if (p->nfds >= 1 && net < 2 && !px->dflows[net])
        px->dflows[net] = map_flows(p->fds[0], SQ_FLOWS);
}

static struct px_space *space_of(struct px *px, const struct packet *p)
{
    return json_object_get(p->o, "space") ? px_space_find(px, number(p->o, "space")) : &px->home;
}

/* We don't listen there, while the hooks may send calls: they are to go direct. */
static void not_there(struct px *px, const struct packet *p)
{
    if (json_object_get(p->o, "space"))
        px_send_json(px, json_pack("{s:s,s:I}", "op", "lost", "space", (json_int_t)number(p->o, "space")));
}

static void on_dgram(struct px *px, struct packet *p)
{
    struct edge *e = px_edge_find(px, number(p->o, "edge"));
    struct px_space *space = space_of(px, p);
    int rc = space ? 0 : -ENOENT;
    for (size_t i = 0; e && !px->draining && rc == 0 && i < p->nfds && i < 2; i++)
        if ((rc = px_udp_add(e, space, p->fds[i])) == 0)
            p->fds[i] = -1;
    if (rc < 0)
        not_there(px, p);
}

static void on_space(struct px *px, struct packet *p)
{
    if (!px->draining && p->nfds >= 4)
        (void)px_space_add(px, number(p->o, "id"), p->fds, p->nfds);
}

static void on_unspace(struct px *px, struct packet *p)
{
    struct px_space *space = px_space_find(px, number(p->o, "id"));
    if (!space || space == &px->home)
        return;
    px_edges_unlisten(px, space);
    px_udp_leave_space(px, space);
    px_space_leave(space);
}

static void on_listen(struct px *px, struct packet *p)
{
    struct edge *e = px_edge_find(px, number(p->o, "edge"));
    struct px_space *space = space_of(px, p);
    int rc = space ? 0 : -ENOENT;
    if (e && space && !px->draining)
        rc = px_edge_listen(e, space, p->fds, p->nfds);
    if (rc < 0)
        not_there(px, p);
    px_hold_rules(px); /* they may have a fault already */
}

static void on_unix(struct px *px, struct packet *p)
{
    struct edge *e = px_edge_find(px, number(p->o, "edge"));
    if (e && p->nfds >= 1 && px_edge_unix(e, number(p->o, "caller"), number(p->o, "dest"), p->fds[0]) == 0)
        p->fds[0] = -1;
}

static void on_caller(struct px *px, struct packet *p)
{
    (void)px_caller_add(px, number(p->o, "id"), p->fds, p->nfds);
}

static void on_nft(struct px *px, struct packet *p)
{
    struct edge *e = px_edge_find(px, number(p->o, "edge"));
    for (size_t i = 0; e && !px->draining && i < p->nfds && i < 2; i++)
        if (px_listen(e, &px->home, p->fds[i], PX_NFT, number(p->o, "caller"), number(p->o, "tally")) == 0)
            p->fds[i] = -1;
}

static void on_nat(struct px *px, struct packet *p)
{
    int fd = p->nfds ? p->fds[0] : -1;
    if (fd >= 0)
        p->fds[0] = -1;
    px_nft_table(px, number(p->o, "caller"), sq_json_bool_or(p->o, "keep", false), fd);
}

static void on_uncaller(struct px *px, struct packet *p)
{
    px_caller_drop(px, number(p->o, "id"));
}

static void on_unedge(struct px *px, struct packet *p)
{
    struct edge *e = px_edge_find(px, number(p->o, "id"));
    if (e)
        px_edge_drop(e);
    px_hold_rules(px);
}

static json_t *ack_of(const struct edge *e, uint32_t id, uint32_t epoch)
{
    json_t *ack =
        json_pack("{s:s,s:I,s:I,s:o}", "op", "ack", "edge", (json_int_t)id, "epoch",
                  (json_int_t)(e ? e->rules.epoch : epoch), "rules", e ? sq_rules_json(&e->rules) : json_array());
    if (ack && e && e->plain)
        px_plain_json(e, ack);
    return ack;
}

static void refuse(json_t *ack, int rc)
{
    if (rc != 0)
        json_object_set_new(ack, "error", json_string(strerror(-rc)));
}

static void on_plain(struct px *px, struct packet *p)
{
    uint32_t id = number(p->o, "id");
    int rc = px_plain_add(px, id, sq_json_str_or(p->o, "host", ""), sq_json_int_or(p->o, "port", 0), p->fds, p->nfds);
    json_t *ack = ack_of(px_edge_find(px, id), id, 0);
    refuse(ack, rc);
    px_send_json(px, ack);
}

static void on_unplain(struct px *px, struct packet *p)
{
    uint32_t id = number(p->o, "id");
    struct edge *e = px_edge_find(px, id);
    if (e && e->plain)
        px_plain_drop(e);
    px_send_json(px, ack_of(NULL, id, 0));
}

static void on_ask(struct px *px, struct packet *p)
{
    uint32_t id = number(p->o, "edge");
    px_send_json(px, ack_of(px_edge_find(px, id), id, 0));
}

static void on_rules(struct px *px, struct packet *p)
{
    struct sq_err err = {0};
    uint32_t gone = 0, fresh = 0, id = number(p->o, "edge"), epoch = number(p->o, "epoch");
    struct edge *e = px_edge_find(px, id);
    int rc = e ? sq_rules_replace(&e->rules, epoch, json_object_get(p->o, "rules"), &gone, &fresh, &err)
               : sq_err(&err, -ENOENT, "no such edge");
    if (rc == 0) {
        px_hold_rules(px);
        px_rules_changed(e, gone, fresh);
    }
    json_t *ack = ack_of(e, id, epoch);
    if (rc != 0)
        json_object_set_new(ack, "error", json_string(err.msg));
    px_send_json(px, ack);
}

static void on_listener(struct px *px, struct packet *p)
{
    uint64_t key = (uint64_t)sq_json_int_or(p->o, "key", 0);
    if (p->nfds == 0)
        px_notify_drop(px, key);
    else if (px_notify_add(px, key, (int[]){p->fds[0], p->nfds > 1 ? p->fds[1] : -1},
                           word(px, sq_json_int_or(p->o, "seen", -1), 1)) == 0)
        p->fds[0] = p->fds[p->nfds > 1] = -1;
}

static void on_upstream(struct px *px, struct packet *p)
{
    int fd = p->nfds ? p->fds[0] : -1;
    if (fd >= 0)
        p->fds[0] = -1;
    int err = (int)(sq_json_int_or(p->o, "error", 0) & 0xfff);
    if (fd < 0 && err == 0)
        err = EPROTO;
    px_conn_upstream(px, number(p->o, "req"), fd, fd >= 0 ? 0 : err);
}

static void on_quit(struct px *px, struct packet *p)
{
    (void)p;
    px_drain(px);
}

static const struct {
    const char *op;
    void (*fn)(struct px *px, struct packet *p);
} OPS[] = {
    {"hello", on_hello},       {"raw", on_raw},           {"edge", on_edge},     {"caller", on_caller},
    {"unix", on_unix},         {"uncaller", on_uncaller}, {"unedge", on_unedge}, {"rules", on_rules},
    {"listener", on_listener}, {"upstream", on_upstream}, {"quit", on_quit},     {"ask", on_ask},
    {"nft", on_nft},           {"nat", on_nat},           {"dgrams", on_dgrams}, {"dgram", on_dgram},
    {"plain", on_plain},       {"unplain", on_unplain},   {"space", on_space},   {"unspace", on_unspace},
    {"listen", on_listen},
};

void px_control(struct px *px, const char *text, size_t len, int *fds, size_t nfds)
{
    cleanup_json json_t *o = NULL;
    struct packet p = {.fds = fds, .nfds = nfds};
    if (sq_json_parse(text, len, &o, NULL) != 0 || !json_is_object(o))
        return;
    p.o = o;
    const char *op = sq_json_str_or(o, "op", "");
    for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++)
        if (strcmp(op, OPS[i].op) == 0)
            OPS[i].fn(px, &p);
}
