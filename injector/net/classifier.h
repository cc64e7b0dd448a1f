/* The classifier of one device and direction, in user space: a loaded BPF program with its maps, and the rules of the
 * faults in it. Adding or removing one fault touches only its own entries; a fault becomes visible at once as a whole
 * (its rules are switched on last, and off first). */
#ifndef SQUALL_CLASSIFIER_H
#define SQUALL_CLASSIFIER_H

#include <stdbool.h>
#include <stdint.h>

#include "net/match.h"

struct sq_classifier;

/* The maps of a BPF object that includes net/classify.bpf.h, already loaded; descriptors borrowed. */
struct sq_classify_maps {
    int rules, n_rules, prefixes, ports, counts;
};
int sq_classifier_new(const struct sq_classify_maps *maps, bool egress, struct sq_classifier **out, struct sq_err *e);
void sq_classifier_free(struct sq_classifier *c);
/* A free bit for a new fault: 0.., or -ENOSPC. Taken until sq_classifier_remove. */
int sq_classifier_add(struct sq_classifier *c, const struct sq_match *m, struct sq_err *e);
/* The same fault with other addresses (names resolved anew): added first, then removed; no packet is misjudged. */
int sq_classifier_change(struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e);
void sq_classifier_remove(struct sq_classifier *c, int bit);
int sq_classifier_count(const struct sq_classifier *c, int bit, struct sq_classify_count *out, struct sq_err *e);
/* Is what is in the kernel's maps for BIT what was asked? Fills E with the first difference. */
bool sq_classifier_same(const struct sq_classifier *c, int bit, const struct sq_match *m, struct sq_err *e);

#endif
