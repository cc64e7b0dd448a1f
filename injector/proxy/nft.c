/* Connections that nftables led here (intercept/nft.h): where they wanted to go, and the tables whose sockets are ours.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"

#define ORIGINAL_DST 80 /* of both families: SO_ORIGINAL_DST (linux/netfilter_ipv4.h), IP6T_SO_ORIGINAL_DST */
#define LINGER (3 * INT64_C(1000000000)) /* behind the last one: its last segments may be on their way */

/* Refusals were drawn by the kernel, which let this one through: they are not drawn again for its first request. */
static void note_drawn(const struct edge *e, struct origin *o)
{
    const struct sq_rules *r = &e->rules;
    unsigned n = 0;
    for (unsigned i = 0; i < r->n && n < SQ_FLOW_RULES; i++) {
        const struct sq_rule *one = &r->slot[r->order[i]];
        if (one->kind != SQ_R_ERROR || !sq_rule_concerns(one, o->caller))
            continue;
        o->drawn.rule[n++] = one->number;
        if (e->px->tallies && one->tally < SQ_RULE_TALLIES)
            __sync_fetch_and_add(&e->px->tallies[one->tally].of[o->caller % SQ_TALLY_CALLERS].seen, 1);
    }
}

bool px_nft_dest(int fd, union px_addr *to)
{
    socklen_t n = px_addr_len(to);
    return getsockopt(fd, to->sa.sa_family == AF_INET6 ? SOL_IPV6 : SOL_IP, ORIGINAL_DST, to, &n) == 0;
}

bool px_nft_origin(struct edge *e, int fd, uint32_t tally, struct origin *o)
{
    union px_addr local = {0}, to = {0};
    socklen_t n = sizeof(local);
    if (getsockname(fd, &local.sa, &n) != 0)
        return false;
    to.sa.sa_family = local.sa.sa_family;
    if (!px_nft_dest(fd, &to) || px_addr_same(&to, &local))
        return false; /* somebody called us */
    o->to_len = px_addr_len(&to);
    memcpy(&o->to, &to, o->to_len);
    if (e->px->tallies && tally < SQ_TALLIES)
        __sync_fetch_and_add(&e->px->tallies[tally].of[o->caller % SQ_TALLY_CALLERS].seen, 1);
    note_drawn(e, o);
    return true;
}

static void swap(int *slot, int fd)
{
    int old = *slot;
    *slot = fd;
    if (old >= 0)
        (void)close(old);
}

/* Whoever holds the table that keeps NAT may let go of it. */
static void let_go(int fd)
{
    if (fd < 0)
        return;
    (void)!write(fd, "", 1);
    (void)close(fd);
}

void px_nft_table(struct px *px, uint32_t caller, bool keep, int fd)
{
    struct caller *c;
    TAILQ_FOREACH(c, &px->callers, link)
    {
        if (c->id == caller)
            break;
    }
    if (keep && c && !px->draining) { /* one is as good as another */
        c->translated = true;
        if (px->nft_keep < 0)
            px->nft_keep = fd;
        else
            let_go(fd);
    } else if (keep) {
        let_go(fd);
    } else if (c && !px->draining) {
        swap(&c->table, fd);
    } else if (fd >= 0) {
        (void)close(fd);
    }
}

/* NAT is needed while somebody may be led here, or was. */
void px_nft_look(struct px *px, int64_t now)
{
    struct caller *c;
    if (px->nft_keep < 0)
        return;
    TAILQ_FOREACH(c, &px->callers, link)
    {
        if (c->translated)
            return;
    }
    if (px->nft_open == 0 && (px->nft_last == 0 || now - px->nft_last >= LINGER)) {
        let_go(px->nft_keep);
        px->nft_keep = -1;
    }
}
