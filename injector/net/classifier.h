/* The classifier of one device and direction, in user space: a loaded BPF program with its maps, and the rules of the
 * faults in it. Adding or removing one fault touches only its own entries; a fault becomes visible at once as a whole
 * (its rules are switched on last, and off first). */
#ifndef SQUALL_CLASSIFIER_H
#define SQUALL_CLASSIFIER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "net/match.h"

struct sq_classifier;

/* A range of ports as prefixes of 16 bits: each covers the ports that share its first LEN bits. At most 30. */
#define SQ_RANGE_PREFIXES 30
struct sq_range_prefix {
    uint16_t port;
    uint8_t len;
};
unsigned sq_range_prefixes(struct sq_range range, struct sq_range_prefix out[SQ_RANGE_PREFIXES]);

/* The maps of a BPF object that includes net/classify.bpf.h, already loaded; descriptors borrowed. */
struct sq_classify_maps {
    int rules, n_rules, prefixes, ports, counts;
    struct sq_classify_env env; /* as the program was loaded with */
    bool l3;                    /* the device's packets have no Ethernet header (tun, wireguard) */
};
/* For `sq_classify_env` in the read-only data of a program, before it is loaded; and below in the maps. Reads the
 * kernel's BTF (some 50 ms): once. */
void sq_classify_look(struct sq_classify_env *env);
#define SQ_CLASSIFY_LOOK(rodata)                                                                                       \
    do {                                                                                                               \
        struct sq_classify_env sq_env_;                                                                                \
        sq_classify_look(&sq_env_);                                                                                    \
        memcpy((void *)(uintptr_t) & (rodata)->sq_classify_env, &sq_env_, sizeof sq_env_);                             \
    } while (0)
/* And of a loaded one, for its maps. */
static inline struct sq_classify_env sq_classify_env_of(const volatile void *from)
{
    struct sq_classify_env env;

    memcpy(&env, (const void *)(uintptr_t)from, sizeof env);
    return env;
}
int sq_classifier_new(const struct sq_classify_maps *maps, bool egress, struct sq_classifier **out, struct sq_err *e);
void sq_classifier_free(struct sq_classifier *c);
/* The bit of a new fault: the lowest that is free, or -ENOSPC. Taken until sq_classifier_remove. M's names must be
 * resolved, its `of` too. The counters of the bit start at 0. */
int sq_classifier_add(struct sq_classifier *c, const struct sq_match *m, struct sq_err *e);
/* The same fault with other conditions (names resolved anew): what is new is added first, then what is old removed; no
 * packet that both mean is missed. Where only addresses and ports differ, only these are touched. */
int sq_classifier_change(struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e);
void sq_classifier_remove(struct sq_classifier *c, int bit);
int sq_classifier_count(const struct sq_classifier *c, int bit, struct sq_classify_count *out, struct sq_err *e);
/* Is what is in the kernel's maps for BIT what was asked? Fills E with the first difference. */
bool sq_classifier_same(const struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e);

#endif
