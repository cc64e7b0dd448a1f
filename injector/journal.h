/* The undo journal: one preallocated file of fixed slots, so that neither the record nor its completion can fail for
 * want of space after a fault was applied. A slot goes free -> held (written, fsynced, before the kernel is touched) ->
 * free (a state byte overwritten, fsynced). Each slot carries the boot id and a checksum: another boot's records and
 * torn ones are discarded. Several processes may open it; only squalld writes while it lives, its keeper or a sweep
 * after it. */
#ifndef SQUALL_JOURNAL_H
#define SQUALL_JOURNAL_H

#include <jansson.h>
#include <stdint.h>

#include "squall/err.h"

struct sq_journal;

/* Create (preallocating `slots` slots of 4 KiB) or open an existing one (slots 0: it must exist). -ENOSPC when the disk
 * is full. */
int sq_journal_open(const char *path, unsigned slots, struct sq_journal **out, struct sq_err *e);
void sq_journal_close(struct sq_journal *j);
/* Read the file again, through the descriptor that is open: what another process held since (keeper). */
int sq_journal_reload(struct sq_journal *j, struct sq_err *e);
/* Write one record durably: {"run","fault" or "service","kind","undo":{...}}. *slot identifies it. -ENOSPC: all slots
 * are held; -E2BIG: it does not fit a slot. */
int sq_journal_hold(struct sq_journal *j, const json_t *record, unsigned *slot, struct sq_err *e);
/* Replace the record of a held slot durably (same size limits; never needs space). */
int sq_journal_update(struct sq_journal *j, unsigned slot, const json_t *record, struct sq_err *e);
/* It has been taken back. */
int sq_journal_release(struct sq_journal *j, unsigned slot, struct sq_err *e);
/* Held records of this boot, newest first (LIFO). fn returns 0 to release the slot, else it stays. Returns how many
 * stay. */
int sq_journal_each(struct sq_journal *j, int (*fn)(const json_t *record, unsigned slot, void *arg), void *arg,
                    struct sq_err *e);
unsigned sq_journal_held(struct sq_journal *j);

#endif
