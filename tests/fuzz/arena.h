/* jansson's memory for fuzzers whose inputs make thousands of small values: from one piece, that is given back whole
 * after each input. The sanitizer's own allocator takes most of the time there. Nothing is lost by it: what is freed is
 * never used again before the input ends and stays poisoned, there is a poisoned gap behind each value, and a value
 * that is left at the end (a leak) ends the fuzzer at once. */
#ifndef SQUALL_FUZZ_ARENA_H
#define SQUALL_FUZZ_ARENA_H

#include <jansson.h>
#include <sanitizer/asan_interface.h>
#include <stddef.h>
#include <stdlib.h>

#define ARENA_SIZE ((size_t)16 << 20) /* a larger need is malloc's */
#define ARENA_GAP 16
#define ARENA_UNSEEN __attribute__((no_sanitize("coverage"))) /* nothing to be learned from it */

static _Alignas(16) unsigned char arena[ARENA_SIZE];
static size_t arena_used, arena_live;

void __real_free(void *ptr);
void __wrap_free(void *ptr);

/* Before each value, in the half of its gap that is not poisoned: how large it is. */
ARENA_UNSEEN static inline void *arena_take(size_t n)
{
    size_t room = (n + ARENA_GAP - 1) / ARENA_GAP * ARENA_GAP + ARENA_GAP;

    if (n > ARENA_SIZE || room > ARENA_SIZE - arena_used)
        return malloc(n);
    unsigned char *gap = arena + arena_used, *p = gap + ARENA_GAP;
    ASAN_UNPOISON_MEMORY_REGION(gap, sizeof n);
    *(size_t *)(void *)gap = n;
    ASAN_UNPOISON_MEMORY_REGION(p, n);
    arena_used += room;
    arena_live++;
    return p;
}

ARENA_UNSEEN void __wrap_free(void *ptr)
{
    unsigned char *p = ptr;

    if (p < arena || p >= arena + ARENA_SIZE) {
        __real_free(ptr);
        return;
    }
    unsigned char *gap = p - ARENA_GAP;
#if defined(__has_feature) && __has_feature(address_sanitizer)
    if (__asan_address_is_poisoned(p)) /* freed twice (values of no bytes jansson does not ask for) */
        abort();
#endif
    ASAN_POISON_MEMORY_REGION(p, *(size_t *)(void *)gap);
    arena_live--;
}

/* libFuzzer's, before jansson is used. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    ASAN_POISON_MEMORY_REGION(arena, sizeof arena);
    json_set_alloc_funcs(arena_take, __wrap_free);
    return 0;
}

/* After each input: nothing may be left. */
static inline void arena_end(void)
{
    if (arena_live)
        abort();
    ASAN_POISON_MEMORY_REGION(arena, arena_used);
    arena_used = 0;
}

#endif
