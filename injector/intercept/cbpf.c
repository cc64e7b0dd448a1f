#include "intercept/cbpf.h"

#include <linux/bpf_common.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdlib.h>

#include "squall/cleanup.h"

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#endif
#ifndef SECCOMP_RET_USER_NOTIF
#define SECCOMP_RET_USER_NOTIF 0x7fc00000U
#endif

struct word {
    bool known;
    uint32_t v;
};

/* Before an instruction, of all ways that lead to it. */
struct state {
    bool reached;
    struct word a, x, m[BPF_MEMWORDS];
};

static const struct word UNKNOWN = {0};

static struct word is(uint32_t v)
{
    return (struct word){true, v};
}

static void meet(struct word *w, struct word other)
{
    w->known = w->known && other.known && w->v == other.v;
    if (!w->known)
        w->v = 0;
}

static void reach(struct state *to, const struct state *from)
{
    if (!to->reached) {
        *to = *from;
        return;
    }
    meet(&to->a, from->a);
    meet(&to->x, from->x);
    for (size_t i = 0; i < BPF_MEMWORDS; i++)
        meet(&to->m[i], from->m[i]);
}

static unsigned action(struct word ret)
{
    if (!ret.known)
        return SQ_SAYS_ANYTHING;
    switch (ret.v & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
        return SQ_SAYS_ALLOW;
    case SECCOMP_RET_LOG:
        return SQ_SAYS_LOG;
    case SECCOMP_RET_TRACE:
        return SQ_SAYS_TRACE;
    case SECCOMP_RET_USER_NOTIF:
        return SQ_SAYS_NOTIFY;
    case SECCOMP_RET_ERRNO:
        return SQ_SAYS_ERRNO;
    case SECCOMP_RET_TRAP:
        return SQ_SAYS_TRAP;
    default: /* KILL_PROCESS, KILL_THREAD, and what the kernel does not know, which kills as well */
        return SQ_SAYS_KILL;
    }
}

/* A word of struct seccomp_data; the machine is little-endian, as x86_64 is. */
static bool load(const struct sq_cbpf_call *call, uint32_t at, struct word *out)
{
    if (at % 4 != 0 || at >= sizeof(struct seccomp_data))
        return false;
    *out = UNKNOWN;
    if (at == offsetof(struct seccomp_data, nr)) {
        *out = is(call->nr);
    } else if (at == offsetof(struct seccomp_data, arch)) {
        *out = is(call->arch);
    } else if (at >= offsetof(struct seccomp_data, args)) {
        uint32_t i = (at - (uint32_t)offsetof(struct seccomp_data, args)) / 8;

        if (call->known & 1U << i)
            *out = is((uint32_t)(call->arg[i] >> (at % 8 ? 32 : 0)));
    }
    return true;
}

/* DIES: dividing by nothing ends the program with 0, which kills. */
static struct word alu(uint16_t op, struct word a, struct word b, bool *dies)
{
    if (op == BPF_NEG)
        return a.known ? is(0U - a.v) : UNKNOWN;
    if (op == BPF_DIV && (!b.known || b.v == 0))
        *dies = true;
    if ((op == BPF_AND || op == BPF_MUL) && ((a.known && !a.v) || (b.known && !b.v)))
        return is(0);
    if (!a.known || !b.known || (op == BPF_DIV && b.v == 0))
        return UNKNOWN;
    switch (op) {
    case BPF_ADD:
        return is(a.v + b.v);
    case BPF_SUB:
        return is(a.v - b.v);
    case BPF_MUL:
        return is(a.v * b.v);
    case BPF_DIV:
        return is(a.v / b.v);
    case BPF_OR:
        return is(a.v | b.v);
    case BPF_AND:
        return is(a.v & b.v);
    case BPF_XOR:
        return is(a.v ^ b.v);
    case BPF_LSH:
        return b.v < 32 ? is(a.v << b.v) : UNKNOWN;
    case BPF_RSH:
        return b.v < 32 ? is(a.v >> b.v) : UNKNOWN;
    default:
        return UNKNOWN;
    }
}

/* 1: it jumps; 0: it does not; -1: either; -2: no such jump. */
static int jumps(uint16_t op, struct word a, struct word b)
{
    if (op != BPF_JEQ && op != BPF_JGT && op != BPF_JGE && op != BPF_JSET)
        return -2;
    if (!a.known || !b.known)
        return -1;
    return op == BPF_JEQ ? a.v == b.v : op == BPF_JGT ? a.v > b.v : op == BPF_JGE ? a.v >= b.v : (a.v & b.v) != 0;
}

static bool do_load(const struct sock_filter *in, const struct sq_cbpf_call *call, struct state *s)
{
    struct word *to = BPF_CLASS(in->code) == BPF_LD ? &s->a : &s->x;

    if (BPF_SIZE(in->code) != BPF_W)
        return false;
    switch (BPF_MODE(in->code)) {
    case BPF_IMM:
        *to = is(in->k);
        return true;
    case BPF_LEN:
        *to = is(sizeof(struct seccomp_data));
        return true;
    case BPF_MEM:
        if (in->k >= BPF_MEMWORDS)
            return false;
        *to = s->m[in->k];
        return true;
    case BPF_ABS:
        return to == &s->a && load(call, in->k, to);
    default:
        return false;
    }
}

static bool do_store(const struct sock_filter *in, struct state *s)
{
    if (in->k >= BPF_MEMWORDS)
        return false;
    s->m[in->k] = BPF_CLASS(in->code) == BPF_ST ? s->a : s->x;
    return true;
}

/* The instruction at AT, which is no RET: what it does, and where it leads. False: no filter has such a one. */
static bool step(const struct sock_filter *prog, size_t n, size_t at, const struct sq_cbpf_call *call, struct state *st,
                 unsigned *says)
{
    const struct sock_filter *in = &prog[at];
    struct state s = st[at];
    struct word b = BPF_SRC(in->code) == BPF_X ? s.x : is(in->k);
    uint64_t to[2] = {at + 1, at + 1};
    bool good = true, dies = false;
    int jump = -1;

    switch (BPF_CLASS(in->code)) {
    case BPF_LD:
    case BPF_LDX:
        good = do_load(in, call, &s);
        break;
    case BPF_ST:
    case BPF_STX:
        good = do_store(in, &s);
        break;
    case BPF_ALU:
        s.a = alu(BPF_OP(in->code), s.a, b, &dies);
        break;
    case BPF_MISC:
        if (BPF_MISCOP(in->code) == BPF_TAX)
            s.x = s.a;
        else
            s.a = s.x;
        break;
    case BPF_JMP:
        if (BPF_OP(in->code) == BPF_JA) {
            to[0] = to[1] = at + 1 + in->k;
            break;
        }
        jump = jumps(BPF_OP(in->code), s.a, b);
        good = jump != -2 && at + 1 + in->jt < n && at + 1 + in->jf < n;
        to[0] = at + 1 + (jump == 0 ? in->jf : in->jt);
        to[1] = at + 1 + (jump == 1 ? in->jt : in->jf);
        break;
    default:
        good = false;
    }
    if (!good || to[0] >= n || to[1] >= n)
        return false;
    *says |= dies ? SQ_SAYS_KILL : 0;
    reach(&st[to[0]], &s);
    if (to[1] != to[0])
        reach(&st[to[1]], &s);
    return true;
}

unsigned sq_cbpf_says(const struct sock_filter *prog, size_t n, const struct sq_cbpf_call *call)
{
    unsigned says = 0;

    if (n == 0 || n > BPF_MAXINSNS)
        return SQ_SAYS_ANYTHING;
    cleanup_free struct state *st = calloc(n, sizeof(*st));
    if (!st)
        return 0;
    st[0] = (struct state){.reached = true, .a = is(0), .x = is(0)};
    for (size_t i = 0; i < n; i++) {
        const struct sock_filter *in = &prog[i];

        if (!st[i].reached)
            continue;
        if (BPF_CLASS(in->code) == BPF_RET)
            says |= action(BPF_RVAL(in->code) == BPF_A ? st[i].a : BPF_RVAL(in->code) == BPF_K ? is(in->k) : UNKNOWN);
        else if (!step(prog, n, i, call, st, &says))
            return SQ_SAYS_ANYTHING;
    }
    return says;
}
