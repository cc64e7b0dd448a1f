/* Distribution tables of netem: value = mu + sigma * table[random] / SQ_DIST_SCALE (net/sched/sch_netem.c, tabledist).
 * The named ones are iproute2's to the bit (netem/normal.c, pareto.c, paretonormal.c: NIST's, public domain), made here
 * so that none depends on where a distribution installs them. */
#ifndef SQUALL_DIST_H
#define SQUALL_DIST_H

#include <stddef.h>
#include <stdint.h>

#include "net/impair.h"
#include "squall/err.h"

#define SQ_DIST_POINTS 4096 /* of iproute2's tables and of those made from recordings */

const char *sq_dist_name(enum sq_dist d); /* "normal"; "table" */
/* A named one, a new table in *out (NULL for uniform, which netem does without). */
int sq_dist_named(enum sq_dist d, struct sq_dist_table **out, struct sq_err *e);
/* The uniform distribution as a table: a netem that exists keeps its table until another one replaces it. */
int sq_dist_uniform(struct sq_dist_table **out, struct sq_err *e);
/* tc's .dist format: numbers -32768..32767 separated by white space, lines that begin with # are comments. TEXT need
 * not end with 0. NAME is for messages. */
int sq_dist_parse(const char *name, const char *text, size_t len, struct sq_dist_table **out, struct sq_err *e);
/* Read a file whole: regular, absolute, at most MAX bytes, never blocking (a FIFO or a device is refused). With the
 * calling thread's rights. *text is malloc'd, with a 0 behind it. */
int sq_dist_slurp(const char *path, size_t max, char **text, size_t *len, struct sq_err *e);

#endif
