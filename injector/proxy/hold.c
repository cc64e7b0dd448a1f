/* SYN-hold: makes a connect slow without anybody blocking. The gate listener's socket filter drops every SYN whose TTL
 * is not SQ_TTL; we see the SYN on lo through an AF_PACKET socket, and at its due time send it once more with that TTL.
 * To the caller it is a slow network: non-blocking connects wait in their event loop, and connect timeouts fire. A
 * caller that stops waiting sends nothing at all, so the kernel is asked about each held connect every 10 ms. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/clock.h"

#define BUCKETS 4096u
#define SYNS_MAX 16384u
#define SYN_LEN 160 /* a SYN: IP header up to 60, TCP header up to 60, nothing else */
#define LOOK (10 * INT64_C(1000000))
#define LOOKS 256 /* at one tick */
#define READS 256
#define REMEMBER (3 * INT64_C(1000000000)) /* a SYN that was sent on: its retransmissions follow it at once */
#define LINGER (3 * INT64_C(1000000000))   /* listen on after the last rule: for SYNs sent to the gate just before */
#define RECENT (50 * INT64_C(1000000))
#define NOTHING 0x88b5 /* IEEE 802 local experimental: an ethertype that lo never carries */

struct syn {
    LIST_ENTRY(syn) link;
    TAILQ_ENTRY(syn) waits; /* of those not sent on yet */
    struct sq_timer timer;
    struct px *px;
    struct hold *hold;
    struct edge *edge; /* NULL: forgotten */
    struct sockaddr_in from, to;
    uint32_t seq, caller, epoch, hits, bh;
    uint16_t fault;
    bool sent, accepted;
    int64_t start; /* of the connect */
    int64_t due, sent_at;
    uint16_t len;
    unsigned char packet[SYN_LEN];
};

struct hold {
    struct px *px;
    struct px_space *space;
    int packet, raw;
    bool ethernet; /* packets come with a link header */
    bool bound;
    uv_poll_t poll;
    struct sq_timer look, unbind;
    unsigned n;
    LIST_HEAD(, syn) bucket[BUCKETS];
    TAILQ_HEAD(, syn) waiting;
};

static unsigned bucket_of(const struct sockaddr_in *from, const struct sockaddr_in *to)
{
    uint32_t h = from->sin_addr.s_addr * 2654435761u;
    h ^= to->sin_addr.s_addr * 2246822519u;
    h ^= (uint32_t)from->sin_port * 3266489917u + to->sin_port;
    return (h ^ h >> 15) % BUCKETS;
}

static bool same_addr(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
    return a->sin_addr.s_addr == b->sin_addr.s_addr && a->sin_port == b->sin_port;
}

static struct syn *find(struct hold *h, const struct sockaddr_in *from, const struct sockaddr_in *to)
{
    struct syn *s;
    LIST_FOREACH(s, &h->bucket[bucket_of(from, to)], link)
    {
        if (same_addr(&s->from, from) && same_addr(&s->to, to))
            return s;
    }
    return NULL;
}

static void forget(struct syn *s)
{
    struct hold *h = s->hold;
    sq_timer_stop(&s->px->timers, &s->timer);
    LIST_REMOVE(s, link);
    if (!s->sent)
        TAILQ_REMOVE(&h->waiting, s, waits);
    h->n--;
    free(s);
}

static void on_forget(struct sq_timer *t)
{
    forget((struct syn *)((char *)t - offsetof(struct syn, timer)));
}

/* RFC 1071 */
static uint32_t sum16(uint32_t sum, const unsigned char *p, size_t len)
{
    for (; len > 1; p += 2, len -= 2)
        sum += (uint32_t)(p[0] << 8 | p[1]);
    return len ? sum + (uint32_t)(p[0] << 8) : sum;
}

/* On lo a captured checksum is only that of the pseudo header: compute it as if for the wire. */
static void checksum(unsigned char *ip, size_t len)
{
    size_t ihl = (size_t)(ip[0] & 15) * 4;
    unsigned char *tcp = ip + ihl;
    tcp[16] = tcp[17] = 0;
    uint32_t sum = sum16(0, ip + 12, 8) + IPPROTO_TCP + (uint32_t)(len - ihl);
    sum = sum16(sum, tcp, len - ihl);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    tcp[16] = (unsigned char)(~sum >> 8 & 0xff);
    tcp[17] = (unsigned char)(~sum & 0xff);
}

static void send_on(struct syn *s)
{
    struct hold *h = s->hold;
    s->packet[8] = SQ_TTL;
    checksum(s->packet, s->len);
    (void)sendto(h->raw, s->packet, s->len, MSG_DONTWAIT, (const struct sockaddr *)&s->to, sizeof(s->to));
    if (!s->sent) {
        s->sent = true;
        s->sent_at = sq_mono_ns();
        TAILQ_REMOVE(&h->waiting, s, waits);
    }
    if (sq_timer_set(&s->px->timers, &s->timer, sq_mono_ns() + REMEMBER, on_forget) != 0)
        forget(s);
}

static void report(struct syn *s, enum sq_call_outcome outcome)
{
    int64_t now = sq_mono_ns();
    struct sq_call call = {.start = s->start, .held = now - s->start, .fault = s->fault};
    if (s->edge)
        px_call_raw(s->px, s->edge, s->caller, SQ_CALL_CONNECT, outcome, 0, &call, now);
}

/* It has waited: whoever left meanwhile will never be accepted, and is told of here. */
static void release(struct syn *s)
{
    if (px_diag(s->hold->space->diag, &s->from, &s->to) == PX_PEER_LEFT) {
        report(s, SQ_OUT_GAVE_UP);
        forget(s);
        return;
    }
    send_on(s);
}

static void on_due(struct sq_timer *t)
{
    release((struct syn *)((char *)t - offsetof(struct syn, timer)));
}

static void schedule(struct syn *s)
{
    if (s->bh) {
        sq_timer_stop(&s->px->timers, &s->timer);
        return;
    }
    if (s->due <= sq_mono_ns() || sq_timer_set(&s->px->timers, &s->timer, s->due, on_due) != 0)
        send_on(s);
}

/* Ask about the next ones in turn; those that left are over. */
static void on_look(struct sq_timer *t)
{
    struct hold *h = (struct hold *)((char *)t - offsetof(struct hold, look));
    unsigned n = 0;
    struct syn *s;
    TAILQ_FOREACH(s, &h->waiting, waits)
    {
        if (++n == LOOKS)
            break;
    }
    for (; n > 0 && (s = TAILQ_FIRST(&h->waiting)); n--) {
        TAILQ_REMOVE(&h->waiting, s, waits);
        TAILQ_INSERT_TAIL(&h->waiting, s, waits);
        if (px_diag(h->space->diag, &s->from, &s->to) == PX_PEER_LEFT) {
            report(s, SQ_OUT_GAVE_UP);
            forget(s);
        }
    }
    if (!TAILQ_EMPTY(&h->waiting))
        (void)sq_timer_set(&h->px->timers, &h->look, sq_mono_ns() + LOOK, on_look);
}

static bool has_gate(const struct hold *h, const struct edge *e, in_port_t port)
{
    const struct listener *l;
    TAILQ_FOREACH(l, &e->listeners, link)
    {
        if (l->space == h->space && l->kind == PX_GATE && (port == 0 || l->port == port))
            return true;
    }
    return false;
}

/* Draw for this connect, and say when it may go on. */
static void judge(struct syn *s, const struct sq_flow *f, int64_t now)
{
    struct sq_rules *r = &s->edge->rules;
    struct sq_drawn drawn = {.hits = f->hits};
    memcpy(drawn.rule, f->rule, sizeof(f->rule));
    s->epoch = r->epoch;
    s->hits = sq_rules_calls(r) ? sq_rules_draw(r, sq_rules_calls(r), s->caller, &drawn) : 0;
    s->fault = sq_rules_fault(r, s->hits);
    s->bh = sq_rules_of(r, s->hits, SQ_R_BLACKHOLE);
    int64_t flow = (int64_t)f->t_ns;
    s->start = flow <= now && now - flow < RECENT ? flow : now;
    s->due = s->start + (s->hits ? sq_rules_delay(r, s->hits) : 0);
}

static void on_syn(struct hold *h, const unsigned char *ip, size_t len, int64_t now)
{
    size_t ihl = (size_t)(ip[0] & 15) * 4;
    const unsigned char *tcp = ip + ihl;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    uint32_t seq;
    memcpy(&from.sin_addr, ip + 12, 4);
    memcpy(&to.sin_addr, ip + 16, 4);
    memcpy(&from.sin_port, tcp, 2);
    memcpy(&to.sin_port, tcp + 2, 2);
    memcpy(&seq, tcp + 4, 4);
    struct syn *s = find(h, &from, &to);
    if (s && s->seq == seq) { /* a retransmission */
        if (s->sent && !s->accepted)
            send_on(s);
        return;
    }
    if (s)
        forget(s); /* the same port again: another connect */
    const struct sq_flow *shared = px_flow(h->px, ntohl(to.sin_addr.s_addr));
    if (!shared || h->n >= SYNS_MAX)
        return;
    struct sq_flow f;
    memcpy(&f, shared, sizeof(f));
    struct edge *e = px_edge_find(h->px, f.edge);
    if (!e || !has_gate(h, e, to.sin_port) || !(s = calloc(1, sizeof(*s))))
        return;
    *s = (struct syn){.px = h->px,
                      .hold = h,
                      .edge = e,
                      .from = from,
                      .to = to,
                      .seq = seq,
                      .caller = f.caller,
                      .len = (uint16_t)len};
    memcpy(s->packet, ip, len);
    LIST_INSERT_HEAD(&h->bucket[bucket_of(&from, &to)], s, link);
    TAILQ_INSERT_TAIL(&h->waiting, s, waits);
    h->n++;
    judge(s, &f, now);
    if (!h->look.at)
        (void)sq_timer_set(&h->px->timers, &h->look, now + LOOK, on_look);
    schedule(s);
}

/* Whole, TCP, a SYN, and not one of ours? The socket filter let little else through. */
static bool is_syn(const unsigned char *ip, size_t len)
{
    if (len < 40 || len > SYN_LEN || ip[0] >> 4 != 4 || ip[9] != IPPROTO_TCP || ip[8] == SQ_TTL)
        return false;
    size_t ihl = (size_t)(ip[0] & 15) * 4;
    size_t total = (size_t)(ip[2] << 8 | ip[3]);
    return ihl >= 20 && total == len && len >= ihl + 20 && (ip[ihl + 13] & 0x12) == 0x02 && (ip[6] & 0x3f) == 0 &&
           ip[7] == 0;
}

static void on_packets(uv_poll_t *p, int status, int events)
{
    struct hold *h = p->data;
    (void)events;
    if (status < 0) { /* lo went down, or was; libuv stops at an error */
        int err;
        socklen_t n = sizeof(err);
        (void)getsockopt(h->packet, SOL_SOCKET, SO_ERROR, &err, &n);
        (void)uv_poll_start(p, UV_READABLE, on_packets);
    }
    for (int i = 0; i < READS; i++) {
        unsigned char buf[2048];
        ssize_t n = recv(h->packet, buf, sizeof(buf), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        size_t skip = h->ethernet ? sizeof(struct ethhdr) : 0;
        if (n > (ssize_t)skip && is_syn(buf + skip, (size_t)n - skip))
            on_syn(h, buf + skip, (size_t)n - skip, sq_mono_ns());
    }
}

/* First SYNs to our addresses only: lo may carry gigabits that are none of our business. */
static int filter(int fd)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + 8), /* TTL */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_TTL, 11, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + 9), /* protocol */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 9),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (uint32_t)SKF_NET_OFF + 16), /* destination */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_NET_BPF >> 16, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SQ_NET_SECCOMP >> 16, 0, 6),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x45, 0, 3),                /* with IP options: look at it here */
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + 33), /* TCP flags */
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 2048),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) == 0 ? 0 : -errno;
}

static void bind_to(struct hold *h, uint16_t ethertype)
{
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ethertype), .sll_ifindex = (int)if_nametoindex("lo")};
    h->bound = bind(h->packet, (const struct sockaddr *)&at, sizeof(at)) == 0 && ethertype == ETH_P_IP;
}

static void on_unbind(struct sq_timer *t)
{
    struct hold *h = (struct hold *)((char *)t - offsetof(struct hold, unbind));
    if (TAILQ_EMPTY(&h->waiting))
        bind_to(h, NOTHING);
    else
        (void)sq_timer_set(&h->px->timers, &h->unbind, sq_mono_ns() + LINGER, on_unbind);
}

int px_hold_open(struct px_space *space, int packet_fd, int raw_fd)
{
    struct px *px = space->px;
    struct hold *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    int type = 0;
    socklen_t n = sizeof(type);
    int rc = getsockopt(packet_fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0 ? -errno : filter(packet_fd);
    if (rc == 0)
        rc = uv_poll_init(&px->loop, &h->poll, packet_fd);
    if (rc < 0) {
        free(h);
        return rc;
    }
    h->px = px;
    h->space = space;
    h->packet = packet_fd;
    h->raw = raw_fd;
    h->ethernet = type == SOCK_RAW;
    h->poll.data = h;
    TAILQ_INIT(&h->waiting);
    (void)uv_poll_start(&h->poll, UV_READABLE, on_packets);
    space->hold = h;
    px_hold_rules(px);
    return 0;
}

int px_hold_raw(const struct px_space *space)
{
    return space->hold ? space->hold->raw : -1;
}

static bool holds(const struct hold *h, const struct edge *e)
{
    uint32_t m = e->rules.mask;
    return m && has_gate(h, e, 0) &&
           (sq_rules_of(&e->rules, m, SQ_R_LATENCY) || sq_rules_of(&e->rules, m, SQ_R_BLACKHOLE));
}

/* Those that a black hole of before held go on; delays that were drawn stay. */
static void reconsider(struct syn *s, int64_t now)
{
    const struct sq_rules *r = &s->edge->rules;
    uint32_t bh = sq_rules_of(r, s->bh, SQ_R_BLACKHOLE);
    s->hits &= r->mask;
    if (bh == s->bh)
        return;
    s->bh = bh;
    if (!bh && s->due <= now)
        release(s);
    else
        schedule(s);
}

static void follow_rules(struct hold *h)
{
    struct px *px = h->px;
    struct edge *e;
    bool any = false;
    TAILQ_FOREACH(e, &px->edges, link)
    {
        any = any || holds(h, e);
    }
    int64_t now = sq_mono_ns();
    struct syn *next;
    for (struct syn *s = TAILQ_FIRST(&h->waiting); s; s = next) {
        next = TAILQ_NEXT(s, waits);
        if (s->edge)
            reconsider(s, now);
    }
    if (any) {
        sq_timer_stop(&px->timers, &h->unbind);
        if (!h->bound)
            bind_to(h, ETH_P_IP);
    } else if (h->bound && !h->unbind.at) {
        (void)sq_timer_set(&px->timers, &h->unbind, now + LINGER, on_unbind);
    }
}

void px_hold_rules(struct px *px)
{
    struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        if (s->hold)
            follow_rules(s->hold);
    }
}

static void forget_edge(struct hold *h, const struct edge *e)
{
    for (unsigned b = 0; b < BUCKETS; b++) {
        struct syn *next;
        for (struct syn *s = LIST_FIRST(&h->bucket[b]); s; s = next) {
            next = LIST_NEXT(s, link);
            if (s->edge != e)
                continue;
            if (!s->sent)
                report(s, SQ_OUT_OPEN);
            s->edge = NULL;
            if (!s->sent)
                send_on(s);
        }
    }
}

/* Its edge ends: what still waits is let go. */
void px_hold_forget(struct px *px, const struct edge *e)
{
    struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        if (s->hold)
            forget_edge(s->hold, e);
    }
}

bool px_hold_waits(const struct px *px)
{
    const struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        if (s->hold && !TAILQ_EMPTY(&s->hold->waiting))
            return true;
    }
    return false;
}

static void on_hold_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void px_hold_close(struct px_space *space)
{
    struct px *px = space->px;
    struct hold *h = space->hold;
    if (!h)
        return;
    for (unsigned b = 0; b < BUCKETS; b++)
        while (!LIST_EMPTY(&h->bucket[b]))
            forget(LIST_FIRST(&h->bucket[b]));
    sq_timer_stop(&px->timers, &h->look);
    sq_timer_stop(&px->timers, &h->unbind);
    uv_close((uv_handle_t *)&h->poll, on_hold_closed);
    (void)close(h->packet);
    (void)close(h->raw);
    space->hold = NULL;
}

void px_hold_accepted(struct px_space *space, const struct sockaddr_in *peer, const struct sockaddr_in *local,
                      struct origin *o)
{
    struct syn *s = space->hold ? find(space->hold, peer, local) : NULL;
    if (!s || !s->sent || s->accepted)
        return;
    s->accepted = true;
    o->judged = s->edge && s->epoch == s->edge->rules.epoch;
    o->hits = s->hits;
    if (!s->fault)
        return;
    o->held_by = s->fault;
    o->waited_ns = s->sent_at - s->start;
    o->flow_ns = s->start;
    if (s->hits != 0)
        o->hold_ns = o->waited_ns;
}
