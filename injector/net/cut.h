/* The partitions of one injector, alive: one nftables table and one netlink socket each, counted and looked after once
 * a second, host names looked up anew every five. On the loop's thread, but for the looking up. */
#ifndef SQUALL_CUT_H
#define SQUALL_CUT_H

#include <jansson.h>
#include <stddef.h>

#include "squall/err.h"

struct sq_engine;
struct sq_fault;
struct sq_cut;  /* one partition; opaque */
struct sq_cuts; /* those of an engine (sq_engine_cuts); opaque */

/* Can this kernel do it? Tried in a network namespace of its own. */
int sq_cut_check(struct sq_err *e);
/* From F's target and `with`; host names are looked up (up to 5 s; the engine beats meanwhile), and what is to be
 * spared is found and said in NOTES (array). Touches nothing. */
int sq_cut_new(struct sq_fault *f, json_t *notes, struct sq_cut **out, struct sq_err *e);
void sq_cut_free(struct sq_cut *c); /* NULL: nothing. The table, if any, is not the caller's affair: sq_cut_revert */
const char *sq_cut_where(const struct sq_cut *c);
size_t sq_cut_addresses(const struct sq_cut *c); /* intervals, in both groups */
/* What alone undoes it; names the table. New reference, NULL: no memory. */
json_t *sq_cut_record(struct sq_cut *c, const char *dir, const char *fault);
int sq_cut_apply(struct sq_cut *c, const char *run, const char *fault, struct sq_err *e);
int sq_cut_readback(struct sq_cut *c, json_t **out, struct sq_err *e);
int sq_cut_change(struct sq_cut *c, const json_t *with, struct sq_err *e);
/* {"packets", "bytes", "out": {...}, "in": {...}, "intact"}: what it has cut so far, and whether its rules are what
 * they should be. New reference. */
json_t *sq_cut_felt(struct sq_cut *c);
/* By the record alone; ENG NULL in keeper and sweep. */
int sq_cut_revert(struct sq_engine *eng, const json_t *record, struct sq_err *e);
int sq_cut_gone(const json_t *record, struct sq_err *e);

#endif
