#include "packet/pool.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#define ARENA ((size_t)2 << 20)
#define CLASSES 7
#define KEEP 8 /* unused arenas that are not given back */
#define HEADER 64

_Static_assert(HEADER % 64 == 0, "slots are aligned");

static const uint32_t size_of[CLASSES] = {256, 640, 2048, 4096, 10240, 24576, SQ_POOL_MAX};

struct arena {
    struct arena *next, *prev; /* of those of a class that have room, or of the unused */
    void *free;                /* slots that came back */
    uint32_t cls, used, cut, room;
    bool touched;
};

struct sq_pool {
    char *map, *base;
    size_t map_len, n, taken, kept;
    struct arena *room[CLASSES], *unused;
};

struct sq_pool *sq_pool_new(size_t max)
{
    struct sq_pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->n = max / ARENA > 8 ? max / ARENA : 8;
    p->map_len = (p->n + 1) * ARENA;
    void *m = mmap(NULL, p->map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) {
        free(p);
        return NULL;
    }
    p->map = m;
    p->base = p->map + (ARENA - (uintptr_t)m % ARENA) % ARENA;
    return p;
}

void sq_pool_free(struct sq_pool *p)
{
    if (!p)
        return;
    (void)munmap(p->map, p->map_len);
    free(p);
}

static void push(struct arena **list, struct arena *a)
{
    a->prev = NULL;
    a->next = *list;
    if (*list)
        (*list)->prev = a;
    *list = a;
}

static void unlink_arena(struct arena **list, struct arena *a)
{
    if (a->prev)
        a->prev->next = a->next;
    else
        *list = a->next;
    if (a->next)
        a->next->prev = a->prev;
}

static struct arena *take_arena(struct sq_pool *p, uint32_t cls)
{
    struct arena *a = p->unused;
    if (a) {
        unlink_arena(&p->unused, a);
        p->kept -= a->touched;
    } else if (p->taken < p->n) {
        a = (struct arena *)(void *)(p->base + p->taken++ * ARENA);
    } else {
        return NULL;
    }
    a->free = NULL;
    a->cls = cls;
    a->used = a->cut = 0;
    a->room = (uint32_t)((ARENA - HEADER) / size_of[cls]);
    a->touched = true;
    push(&p->room[cls], a);
    return a;
}

void *sq_pool_get(struct sq_pool *p, size_t len)
{
    uint32_t cls = 0;
    while (cls < CLASSES && size_of[cls] < len)
        cls++;
    if (cls == CLASSES)
        return NULL;
    struct arena *a = p->room[cls] ? p->room[cls] : take_arena(p, cls);
    if (!a)
        return NULL;
    void *slot = a->free;
    if (slot)
        a->free = *(void **)slot;
    else
        slot = (char *)a + HEADER + (size_t)a->cut++ * size_of[cls];
    if (++a->used == a->room)
        unlink_arena(&p->room[cls], a);
    return slot;
}

void sq_pool_put(struct sq_pool *p, void *slot)
{
    struct arena *a = (struct arena *)(void *)((char *)slot - (uintptr_t)slot % ARENA);
    *(void **)slot = a->free;
    a->free = slot;
    if (a->used-- == a->room)
        push(&p->room[a->cls], a);
    if (a->used > 0 || (p->room[a->cls] == a && !a->next))
        return; /* a class keeps its last one */
    unlink_arena(&p->room[a->cls], a);
    if (p->kept >= KEEP) { /* the page with the list's links stays */
        (void)madvise((char *)a + 4096, ARENA - 4096, MADV_DONTNEED);
        a->touched = false;
    } else {
        p->kept++;
    }
    push(&p->unused, a);
}

size_t sq_pool_resident(const struct sq_pool *p)
{
    size_t given_back = 0;
    for (const struct arena *a = p->unused; a; a = a->next)
        given_back += !a->touched;
    return (p->taken - given_back) * ARENA;
}
