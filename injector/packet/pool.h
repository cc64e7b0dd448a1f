/* Memory for held packets: slots of a few sizes, cut from arenas of 2 MiB of one reserved range. Bounded; an arena that
 * nobody uses any more serves another size, or goes back to the kernel. O(1). */
#ifndef SQUALL_POOL_H
#define SQUALL_POOL_H

#include <stddef.h>
#include <stdint.h>

#define SQ_POOL_MAX 69632u /* bytes of the largest slot */

struct sq_pool;

/* MAX: bytes, at least 16 MiB are taken. NULL: no memory. */
struct sq_pool *sq_pool_new(size_t max);
void sq_pool_free(struct sq_pool *p); /* and everything in it */
/* Aligned to 64 bytes, not cleared. NULL: LEN > SQ_POOL_MAX, or the bound is reached. */
void *sq_pool_get(struct sq_pool *p, size_t len);
void sq_pool_put(struct sq_pool *p, void *slot);
size_t sq_pool_resident(const struct sq_pool *p); /* bytes of arenas in use or kept */

#endif
