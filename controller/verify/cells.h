/* The histograms of a sample are most of its text. They are found and looked over here, so that the rest can be parsed
 * as JSON without them, and read (sq_hist_add_text) only when somebody asks. Pure; bounded by the text. */
#ifndef SQUALL_VERIFY_CELLS_H
#define SQUALL_VERIFY_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SQ_CELLS_H, SQ_CELLS_HS, SQ_CELLS_HOK, SQ_CELLS_COUNT };

/* Where the list of each is in the text, without its brackets; at 0: the record has none. */
struct sq_cells {
    uint32_t at, len;
};

/* "h", "hs", "hok"; -1: no histogram. */
int sq_cells_index(const char *name);

/* Copies the LEN bytes (< 2^32) of one JSON object into OUT (room for LEN), with a 0 in the place of each histogram:
 * what is valid JSON before is so after, and the other way round. Returns the length of the copy; 0: there is nothing
 * to take out, or it is not as squall writes it (white space in a list); OUT and CELLS then mean nothing. */
size_t sq_cells_outline(const char *line, size_t len, char *out, struct sq_cells cells[SQ_CELLS_COUNT]);

#endif
