/* Processes that ran before they were intercepted, and what they fork: the map that the hooks ask (follow.bpf.c). */
#ifndef SQUALL_INTERCEPT_FOLLOW_H
#define SQUALL_INTERCEPT_FOLLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "intercept/tgids.h"
#include "squall/err.h"

#define SQ_FOLLOW_LINKS 2

struct sq_follow;

/* Can it be done here? Loads the programs and forgets them. */
int sq_follow_check(struct sq_err *e);
/* The programs run from here on; the map is empty. */
int sq_follow_open(struct sq_follow **out, struct sq_err *e);
void sq_follow_close(struct sq_follow *f); /* our descriptors; NULL is fine */
/* A process that was pinned by its pidfd. */
int sq_follow_add(struct sq_follow *f, pid_t pid, uint32_t caller, uint32_t slot, struct sq_err *e);
/* The descendants that these had before, but for Squall's own processes and theirs. */
int sq_follow_descendants(struct sq_follow *f, struct sq_err *e);
int sq_follow_map(const struct sq_follow *f);
/* Descriptors of the two links, to be held by whoever is to end them; and ours closed. */
void sq_follow_links(const struct sq_follow *f, int fds[SQ_FOLLOW_LINKS]);
void sq_follow_unlink(struct sq_follow *f);
/* Whose is it? False: nobody's. */
bool sq_follow_has(const struct sq_follow *f, pid_t pid, struct sq_tgid *whose);
/* Calls FN for each process that is followed now. */
void sq_follow_each(const struct sq_follow *f, void (*fn)(pid_t pid, const struct sq_tgid *whose, void *arg),
                    void *arg);
uint64_t sq_follow_lost(const struct sq_follow *f); /* children that are not followed, for there are too many */

#endif
