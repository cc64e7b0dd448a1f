/* Some host names, each with its own addresses, as the inhabitants of a network namespace see them: what the groups of
 * a network fault are resolved with (match.h), for whoever has names alone. */
#ifndef SQUALL_LOOKUP_H
#define SQUALL_LOOKUP_H

#include <netinet/in.h>
#include <stddef.h>

#include "squall/err.h"

struct sq_lookup;
struct sq_netns;

struct sq_lookup *sq_lookup_new(void); /* NULL: no memory */
int sq_lookup_add(struct sq_lookup *l, const char *name, struct sq_err *e);
/* All of them, A and AAAA. Blocks, at most 5 s. -EHOSTUNREACH (SQ_C_NOTFOUND): which one has none, and why. */
int sq_lookup_now(struct sq_lookup *l, const struct sq_netns *ns, struct sq_err *e);
/* Again, without blocking: a child asks, *FD (borrowed) is readable when sq_lookup_end may be called. NS is not kept.
 */
int sq_lookup_begin(struct sq_lookup *l, const struct sq_netns *ns, int *fd, struct sq_err *e);
/* -EAGAIN: call again when readable; else as sq_lookup_now. Names that fail keep the addresses that they had. */
int sq_lookup_end(struct sq_lookup *l, struct sq_err *e);
void sq_lookup_stop(struct sq_lookup *l); /* ends the child, if there is one */
/* The K'th address of the I'th name, IPv4 as ::ffff:a.b.c.d; NULL: it has no more. */
const struct in6_addr *sq_lookup_get(const struct sq_lookup *l, size_t i, size_t k);
void sq_lookup_free(struct sq_lookup *l); /* NULL is fine */

#endif
