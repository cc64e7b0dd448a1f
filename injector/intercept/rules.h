/* What the connect hooks (BPF) and the seccomp supervisor share: the edges' rules as both read them, one memory when
 * BPF is there (an mmapable map), and one decision, so that both ways of interception act alike.
 *
 * Rules are switched whole: the writer fills slot[(epoch + 1) & 1] and then stores epoch + 1. */
#ifndef SQUALL_INTERCEPT_RULES_H
#define SQUALL_INTERCEPT_RULES_H

#include <stdint.h>

#include "proxy/count.h"
#include "proxy/wire.h"

#define SQ_EDGES 256u      /* edges at once, of all runs */
#define SQ_CALLERS 256u    /* armed instances at once */
#define SQ_EDGE_RULES 4u   /* faults on one edge at once that the hooks know: not those on bytes */
#define SQ_EDGE_FAULTS 16u /* faults on one edge at once */
#define SQ_ALWAYS (1ull << 32)

enum { SQ_RULE_NONE = 0, SQ_RULE_LATENCY = 1, SQ_RULE_ERROR = 2, SQ_RULE_BLACKHOLE = 3 };

struct sq_rule {
    uint64_t threshold;                /* hit when a random uint32 is below it; SQ_ALWAYS: every time */
    uint64_t callers[SQ_CALLERS / 64]; /* bit per caller slot */
    uint32_t kind;
    uint32_t err;    /* positive errno */
    uint32_t number; /* unique within the injector's life: says in a hook event which fault it was */
    uint32_t hold;   /* latency: the connect can be held, too */
    uint32_t tally;  /* where its calls are counted; SQ_TALLY_NONE: nowhere */
    struct sq_nth count;
};

_Static_assert(SQ_CALLERS == SQ_TALLY_CALLERS, "a caller's slot is its cell");
_Static_assert(SQ_EDGES == SQ_EDGE_TALLIES, "an edge's slot is its tally");
_Static_assert(SQ_EDGE_RULES == SQ_FLOW_RULES, "a flow has room for all that was drawn");

struct sq_rules {
    uint32_t n;
    uint32_t pad;
    struct sq_rule rule[SQ_EDGE_RULES];
};

struct sq_edge_cfg {
    uint32_t epoch;
    uint32_t id;   /* the edge's number for the proxy */
    uint16_t pass; /* ports of the proxy's listeners, network byte order; 0: not there */
    uint16_t gate;
    uint16_t dgram;  /* of its socket for datagrams */
    uint16_t pass6;  /* on ::1, for sockets that can only speak IPv6 */
    uint16_t gate6;  /* 0: their connects can't be held */
    uint16_t dgram6; /* on ::1, for what unconnected sockets send to IPv6 addresses */
    uint16_t pad[2];
    struct sq_rules slot[2];
};

struct sq_edge_counts {
    uint64_t connects;   /* that matched the edge */
    uint64_t redirected; /* to the proxy */
    uint64_t failed;     /* with an errno, by a fault */
    uint64_t bypassed;   /* could not be redirected */
    uint64_t why;        /* bits of enum sq_bypass: why not */
    uint64_t lost;       /* failed, but the event did not fit the ring buffer */
};

enum sq_bypass {
    SQ_BY_DEVICE = 1,
    SQ_BY_V6 = 2, /* there is no ::1 */
    SQ_BY_NETNS = 4,
    SQ_BY_FLOW = 8,
    SQ_BY_LO = 16,
    /* of datagrams */
    SQ_BY_ONLY6 = 32,  /* connected, and can't reach a v4-mapped address */
    SQ_BY_SOURCE = 64, /* IPV6_PKTINFO */
    SQ_BY_SCOPE = 128, /* link-local */
    SQ_BY_DGRAM6 = 256 /* there is no way to ::1 */
};

#define SQ_SPACES 16u                         /* other network namespaces that the proxy listens in at once */
#define SQ_SPACE_PORTS (SQ_SPACES * SQ_EDGES) /* (namespace, edge) */

/* Where an edge's listeners are in another network namespace; all 0: it was seen, and there are none (yet). */
struct sq_space_key {
    uint64_t cookie; /* of the namespace */
    uint32_t slot;   /* of the edge */
    uint32_t pad;
};
struct sq_space_ports { /* as in struct sq_edge_cfg */
    uint16_t pass, gate, dgram, pass6, gate6, dgram6;
    uint16_t pad[2];
};

/* A connect that a hook failed; or, with NETNS, a caller in a namespace that its edges do not know. */
struct sq_hook_event {
    uint64_t t_ns;
    uint32_t caller;
    uint32_t edge; /* number */
    uint32_t err;
    uint32_t rule;  /* number */
    uint64_t netns; /* cookie; 0: a connect failed */
    uint32_t pid;   /* of the process that called */
    uint32_t pad;
};

/* The original destination, for getpeername(2), by socket cookie. */
struct sq_peer_addr {
    uint32_t addr[4]; /* as in the socket's own family: IPv4 in the first */
    uint16_t port;
    uint16_t pad;
    uint32_t family;
};

/* A destination of datagrams: what its number (SQ_NET_DGRAM) is kept by. */
struct sq_dgram_dest {
    uint32_t caller;    /* id */
    uint16_t port, via; /* network byte order; via: as in struct sq_flow */
    uint32_t addr[4], src[4];
};

enum { SQ_GO_PASS = 0, SQ_GO_GATE = 1, SQ_GO_FAIL = 2 };

struct sq_decision {
    uint32_t go;
    uint32_t err;
    uint32_t rule;
    uint32_t hits; /* as struct sq_flow has both */
    uint32_t drawn[SQ_EDGE_RULES];
};

#ifndef SQ_NO_DECISIONS /* a program of hooks that makes none */

#ifdef __bpf__
#define SQ_RND() bpf_get_prandom_u32()
/* Beside the map, in edge.bpf.c. */
static __attribute__((always_inline)) inline struct sq_tally_cell *sq_cell(struct sq_tally *unused, uint32_t tally,
                                                                           uint32_t slot);
#else
uint32_t sq_decide_rnd(void);
#define SQ_RND() sq_decide_rnd()
static inline struct sq_tally_cell *sq_cell(struct sq_tally *tallies, uint32_t tally, uint32_t slot)
{
    return tallies && tally < SQ_TALLIES ? &tallies[tally].of[slot % SQ_TALLY_CALLERS] : 0;
}
#endif

static __attribute__((always_inline)) inline bool sq_rule_hits(const struct sq_rule *r, struct sq_tally *tallies,
                                                               uint32_t slot)
{
    if (r->threshold == 0 || (r->threshold < SQ_ALWAYS && SQ_RND() >= r->threshold))
        return false;
    return sq_nth_take(&r->count, sq_cell(tallies, r->tally, slot));
}

/* What happens to a connect of the caller at SLOT over this edge, now. Errors come first: a connect that one fails is
 * no call for the others, and takes no ticket of theirs. Nor is one that can't go through the proxy (DIRECT). Black
 * holes win over latency. TALLIES: where calls are counted (the hooks have their map instead). */
static __attribute__((always_inline)) inline void sq_decide(const struct sq_edge_cfg *cfg, struct sq_tally *tallies,
                                                            uint32_t slot, bool direct, struct sq_decision *d)
{
    const struct sq_rules *rs = &cfg->slot[*(const volatile uint32_t *)&cfg->epoch & 1];
    uint32_t i;

    d->go = SQ_GO_PASS;
    d->err = 0;
    d->rule = 0;
    d->hits = 0;
    for (i = 0; i < SQ_EDGE_RULES; i++)
        d->drawn[i] = 0;
    for (i = 0; i < 2 * SQ_EDGE_RULES; i++) {
        uint32_t k = i & (SQ_EDGE_RULES - 1);
        const struct sq_rule *r = &rs->rule[k];

        if (direct && i >= SQ_EDGE_RULES)
            break;
        if (k >= rs->n || (r->kind == SQ_RULE_ERROR) != (i < SQ_EDGE_RULES))
            continue;
        if (!(r->callers[(slot / 64) & (SQ_CALLERS / 64 - 1)] & (1ull << (slot & 63))))
            continue;
        d->drawn[k] = r->number;
        if (!sq_rule_hits(r, tallies, slot))
            continue;
        d->hits |= 1u << k;
        if (r->kind == SQ_RULE_ERROR) {
            d->go = SQ_GO_FAIL;
            d->err = r->err;
            d->rule = r->number;
            return;
        }
        if (r->kind == SQ_RULE_BLACKHOLE || r->hold)
            d->go = SQ_GO_GATE;
    }
}

#endif

#endif
