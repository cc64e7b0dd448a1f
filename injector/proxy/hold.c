/* SYN-hold: makes a connect slow without anybody blocking. The gate listener's socket filter drops every SYN whose TTL
 * (of IPv6: hop limit) is not SQ_TTL; we see the SYN on lo through an AF_PACKET socket, and at its due time send it
 * once more with that TTL.
 * To the caller it is a slow network: non-blocking connects wait in their event loop, and connect timeouts fire. A
 * caller that stops waiting sends nothing at all, so the kernel is asked about each held connect every 10 ms. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
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

/* What is where in an IP header. */
struct layout {
    unsigned version, hop, addr, addr_len;
    uint16_t ethertype;
};
static const struct layout LAYOUT[] = {[PX_IPV4] = {4, 8, 12, 4, ETH_P_IP}, [PX_IPV6] = {6, 7, 8, 16, ETH_P_IPV6}};

struct syn {
    LIST_ENTRY(syn) link;
    TAILQ_ENTRY(syn) waits; /* of those not sent on yet */
    struct sq_timer timer;
    struct px *px;
    struct hold *hold;
    struct edge *edge; /* NULL: forgotten */
    union px_addr from, to;
    uint32_t seq, caller, epoch, hits, bh;
    uint16_t fault;
    bool sent, accepted;
    int64_t start; /* of the connect */
    int64_t due, sent_at;
    uint16_t len, head; /* head: of the IP header */
    unsigned char packet[SYN_LEN];
};

struct hold {
    struct px *px;
    struct px_space *space;
    const struct layout *at;
    enum listen_kind gate;
    int packet, raw;
    bool ethernet; /* packets come with a link header */
    bool bound;
    uv_poll_t poll;
    struct sq_timer look, unbind;
    unsigned n;
    LIST_HEAD(, syn) bucket[BUCKETS];
    TAILQ_HEAD(, syn) waiting;
};

static uint32_t last_word(const union px_addr *a)
{
    uint32_t w = a->in.sin_addr.s_addr;
    if (a->sa.sa_family == AF_INET6)
        memcpy(&w, &a->in6.sin6_addr.s6_addr[12], sizeof(w));
    return w;
}

static unsigned bucket_of(const union px_addr *from, const union px_addr *to)
{
    uint32_t h = last_word(from) * 2654435761u;
    h ^= last_word(to) * 2246822519u;
    h ^= (uint32_t)from->in.sin_port * 3266489917u + to->in.sin_port;
    return (h ^ h >> 15) % BUCKETS;
}

static struct syn *find(struct hold *h, const union px_addr *from, const union px_addr *to)
{
    struct syn *s;
    LIST_FOREACH(s, &h->bucket[bucket_of(from, to)], link)
    {
        if (px_addr_same(&s->from, from) && px_addr_same(&s->to, to))
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
static void checksum(struct syn *s)
{
    const struct layout *at = s->hold->at;
    unsigned char *tcp = s->packet + s->head;
    size_t len = (size_t)s->len - s->head;
    tcp[16] = tcp[17] = 0;
    uint32_t sum = sum16(0, s->packet + at->addr, 2 * (size_t)at->addr_len) + IPPROTO_TCP + (uint32_t)len;
    sum = sum16(sum, tcp, len);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    tcp[16] = (unsigned char)(~sum >> 8 & 0xff);
    tcp[17] = (unsigned char)(~sum & 0xff);
}

static void send_on(struct syn *s)
{
    struct hold *h = s->hold;
    union px_addr to = s->to;
    to.in.sin_port = 0; /* of a raw IPv6 socket it is a protocol */
    s->packet[h->at->hop] = SQ_TTL;
    checksum(s);
    (void)sendto(h->raw, s->packet, s->len, MSG_DONTWAIT, &to.sa, px_addr_len(&to));
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

/* PORT 0: any. */
static bool has_gate(const struct hold *h, const struct edge *e, in_port_t port)
{
    const struct listener *l;
    TAILQ_FOREACH(l, &e->listeners, link)
    {
        if (l->space == h->space && l->kind == h->gate && (port == 0 || l->port == port))
            return true;
    }
    return false;
}

static struct edge *gate_of(const struct hold *h, in_port_t port)
{
    struct edge *e;
    TAILQ_FOREACH(e, &h->px->edges, link)
    {
        if (has_gate(h, e, port))
            return e;
    }
    return NULL;
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

/* FROM and TO of the packet, whose TCP header is at TCP. */
static void addresses(const struct layout *at, const unsigned char *ip, const unsigned char *tcp, union px_addr *from,
                      union px_addr *to)
{
    union px_addr *a[2] = {from, to};
    bool six = at->version == 6;
    for (unsigned i = 0; i < 2; i++) {
        memset(a[i], 0, sizeof(*a[i]));
        a[i]->sa.sa_family = six ? AF_INET6 : AF_INET;
        memcpy(six ? (void *)&a[i]->in6.sin6_addr : &a[i]->in.sin_addr, ip + at->addr + i * at->addr_len, at->addr_len);
        memcpy(&a[i]->in.sin_port, tcp + (size_t)2 * i, 2);
    }
}

static void on_syn(struct hold *h, const unsigned char *ip, size_t head, size_t len, int64_t now)
{
    const unsigned char *tcp = ip + head;
    union px_addr from, to;
    uint32_t seq;
    addresses(h->at, ip, tcp, &from, &to);
    memcpy(&seq, tcp + 4, 4);
    struct syn *s = find(h, &from, &to);
    if (s && s->seq == seq) { /* a retransmission */
        if (s->sent && !s->accepted)
            send_on(s);
        return;
    }
    if (s)
        forget(s); /* the same port again: another connect */
    struct edge *e = h->n < SYNS_MAX ? gate_of(h, to.in.sin_port) : NULL;
    struct sq_flow f;
    if (!e || !px_flow(h->space, &from, &to, &f) || f.edge != e->id || !(s = calloc(1, sizeof(*s))))
        return;
    *s = (struct syn){.px = h->px,
                      .hold = h,
                      .edge = e,
                      .from = from,
                      .to = to,
                      .seq = seq,
                      .caller = f.caller,
                      .len = (uint16_t)len,
                      .head = (uint16_t)head};
    memcpy(s->packet, ip, len);
    LIST_INSERT_HEAD(&h->bucket[bucket_of(&from, &to)], s, link);
    TAILQ_INSERT_TAIL(&h->waiting, s, waits);
    h->n++;
    judge(s, &f, now);
    if (!h->look.at)
        (void)sq_timer_set(&h->px->timers, &h->look, now + LOOK, on_look);
    schedule(s);
}

/* The length of the IP header before TCP's. 0: not such a packet, or not a whole one. */
static size_t ip_header(const struct layout *at, const unsigned char *ip, size_t len)
{
    if (len < 40 || len > SYN_LEN || ip[0] >> 4 != at->version)
        return 0;
    if (at->version == 6)
        return ip[6] == IPPROTO_TCP && (size_t)(ip[4] << 8 | ip[5]) + 40 == len ? 40 : 0;
    size_t ihl = (size_t)(ip[0] & 15) * 4;
    bool whole = (size_t)(ip[2] << 8 | ip[3]) == len && (ip[6] & 0x3f) == 0 && ip[7] == 0;
    return ip[9] == IPPROTO_TCP && whole && ihl >= 20 ? ihl : 0;
}

/* 0: not a SYN, or one of ours; else the length of its IP header. The socket filter let little else through. */
static size_t is_syn(const struct layout *at, const unsigned char *ip, size_t len)
{
    size_t head = ip_header(at, ip, len);
    return head && len >= head + 20 && ip[at->hop] != SQ_TTL && (ip[head + 13] & 0x12) == 0x02 ? head : 0;
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
        size_t len = n > (ssize_t)skip ? (size_t)n - skip : 0, head = is_syn(h->at, buf + skip, len);
        if (head)
            on_syn(h, buf + skip, head, len, sq_mono_ns());
    }
}

#define LOAD(size, at) BPF_STMT(BPF_LD | (size) | BPF_ABS, (uint32_t)SKF_NET_OFF + (at))
#define IS(what, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, what, yes, no)

/* SYNs to our addresses only: lo may carry gigabits that are none of our business. */
static int filter(int fd, const struct layout *at)
{
    struct sock_filter four[] = {
        LOAD(BPF_B, 8), /* TTL */
        IS(SQ_TTL, 11, 0),
        LOAD(BPF_B, 9), /* protocol */
        IS(IPPROTO_TCP, 0, 9),
        LOAD(BPF_H, 16), /* destination */
        IS(SQ_NET_BPF >> 16, 1, 0),
        IS(SQ_NET_SECCOMP >> 16, 0, 6),
        LOAD(BPF_B, 0),
        IS(0x45, 0, 3),  /* with IP options: look at it here */
        LOAD(BPF_B, 33), /* TCP flags */
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        IS(0x02, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 2048),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_filter six[] = {
        LOAD(BPF_B, 7), /* hop limit */
        IS(SQ_TTL, 14, 0),
        LOAD(BPF_B, 6), /* next header */
        IS(IPPROTO_TCP, 0, 12),
        LOAD(BPF_W, 24), /* destination: ::1 */
        IS(0, 0, 10),
        LOAD(BPF_W, 28),
        IS(0, 0, 8),
        LOAD(BPF_W, 32),
        IS(0, 0, 6),
        LOAD(BPF_W, 36),
        IS(1, 0, 4),
        LOAD(BPF_B, 53), /* TCP flags */
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        IS(0x02, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 2048),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog prog = {.len = sizeof(four) / sizeof(four[0]), .filter = four};
    if (at->version == 6)
        prog = (struct sock_fprog){.len = sizeof(six) / sizeof(six[0]), .filter = six};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) == 0 ? 0 : -errno;
}

static void bind_to(struct hold *h, uint16_t ethertype)
{
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ethertype), .sll_ifindex = (int)if_nametoindex("lo")};
    h->bound = bind(h->packet, (const struct sockaddr *)&at, sizeof(at)) == 0 && ethertype == h->at->ethertype;
}

static void on_unbind(struct sq_timer *t)
{
    struct hold *h = (struct hold *)((char *)t - offsetof(struct hold, unbind));
    if (TAILQ_EMPTY(&h->waiting))
        bind_to(h, NOTHING);
    else
        (void)sq_timer_set(&h->px->timers, &h->unbind, sq_mono_ns() + LINGER, on_unbind);
}

static int open_one(struct px_space *space, enum px_ip ip, int packet_fd, int raw_fd)
{
    struct px *px = space->px;
    struct hold *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    int type = 0;
    socklen_t n = sizeof(type);
    int rc = getsockopt(packet_fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0 ? -errno : filter(packet_fd, &LAYOUT[ip]);
    if (rc == 0)
        rc = uv_poll_init(&px->loop, &h->poll, packet_fd);
    if (rc < 0) {
        free(h);
        return rc;
    }
    h->px = px;
    h->space = space;
    h->at = &LAYOUT[ip];
    h->gate = ip == PX_IPV6 ? PX_GATE6 : PX_GATE;
    h->packet = packet_fd;
    h->raw = raw_fd;
    h->ethernet = type == SOCK_RAW;
    h->poll.data = h;
    TAILQ_INIT(&h->waiting);
    (void)uv_poll_start(&h->poll, UV_READABLE, on_packets);
    space->hold[ip] = h;
    return 0;
}

void px_hold_open(struct px_space *space, int *fds, size_t nfds)
{
    for (size_t ip = 0; ip < PX_IPS && 2 * ip + 1 < nfds; ip++)
        if (!space->hold[ip] && open_one(space, (enum px_ip)ip, fds[2 * ip], fds[2 * ip + 1]) == 0)
            fds[2 * ip] = fds[2 * ip + 1] = -1;
    px_hold_rules(space->px);
}

int px_hold_raw(const struct px_space *space, enum px_ip ip)
{
    return space->hold[ip] ? space->hold[ip]->raw : -1;
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
            bind_to(h, h->at->ethertype);
    } else if (h->bound && !h->unbind.at) {
        (void)sq_timer_set(&px->timers, &h->unbind, now + LINGER, on_unbind);
    }
}

void px_hold_rules(struct px *px)
{
    struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        for (int ip = 0; ip < PX_IPS; ip++)
            if (s->hold[ip])
                follow_rules(s->hold[ip]);
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
        for (int ip = 0; ip < PX_IPS; ip++)
            if (s->hold[ip])
                forget_edge(s->hold[ip], e);
    }
}

bool px_hold_waits(const struct px *px)
{
    const struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        for (int ip = 0; ip < PX_IPS; ip++)
            if (s->hold[ip] && !TAILQ_EMPTY(&s->hold[ip]->waiting))
                return true;
    }
    return false;
}

static void on_hold_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void close_one(struct hold *h)
{
    for (unsigned b = 0; b < BUCKETS; b++)
        while (!LIST_EMPTY(&h->bucket[b]))
            forget(LIST_FIRST(&h->bucket[b]));
    sq_timer_stop(&h->px->timers, &h->look);
    sq_timer_stop(&h->px->timers, &h->unbind);
    uv_close((uv_handle_t *)&h->poll, on_hold_closed);
    (void)close(h->packet);
    (void)close(h->raw);
}

void px_hold_close(struct px_space *space)
{
    for (int ip = 0; ip < PX_IPS; ip++) {
        if (space->hold[ip])
            close_one(space->hold[ip]);
        space->hold[ip] = NULL;
    }
}

void px_hold_accepted(struct px_space *space, const union px_addr *peer, const union px_addr *local, struct origin *o)
{
    struct hold *h = space->hold[local->sa.sa_family == AF_INET6 ? PX_IPV6 : PX_IPV4];
    struct syn *s = h ? find(h, peer, local) : NULL;
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
}
