/* What `squall probe` shows: a live view while it runs, and the summary. */
#ifndef CONTROLLER_COMMANDS_PROBE_VIEW_H
#define CONTROLLER_COMMANDS_PROBE_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "commands/term.h"
#include "run/adhoc.h"

#define SQ_HEAT_ROWS 16 /* half decades from 10 us on */
#define SQ_HEAT_COLUMNS 60
#define SQ_VIEW_LINES (SQ_HEAT_ROWS + 5)

/* Where the latencies of each stretch of time lie; a column is 1, 2, 4, ... seconds, so that all of the load fits. */
struct sq_heat {
    unsigned per, n; /* seconds a column, columns in use */
    int64_t first;   /* the load's first second in the record */
    uint64_t cell[SQ_HEAT_COLUMNS][SQ_HEAT_ROWS];
    uint64_t all[SQ_HEAT_COLUMNS], bad[SQ_HEAT_COLUMNS];
};

struct sq_probe_view {
    FILE *to;
    bool tty, colour, utf8, quiet;
    char title[200];
    struct sq_heat heat;
    struct sq_hist *scratch;             /* NULL: no heat */
    unsigned drawn, wide[SQ_VIEW_LINES]; /* lines that are on the screen, and their columns */
    int64_t every_ns, said_ns;
};

/* QUIET: nothing at all. COLOUR: false for --no-color. */
int sq_probe_view_init(struct sq_probe_view *v, FILE *to, bool quiet, bool colour, const char *title, int64_t total_ns);
void sq_probe_view_tick(void *view, const struct sq_adhoc_view *now);
void sq_probe_view_second(void *view, const json_t *sample);
/* Takes the block off the screen. */
void sq_probe_view_end(struct sq_probe_view *v);

/* May the blocks and lines of Unicode be used? */
bool sq_term_utf8(void);
/* "12,345"; buf of at least 32 bytes. */
char *sq_fmt_count(uint64_t n, char *buf);

/* probe_show.c: all after the load. VIEW gives the heat. */
void sq_probe_show(const struct sq_term *t, const char *title, const json_t *scenario, const struct sq_adhoc *a,
                   const struct sq_heat *heat);
/* The heat map; PAINT(p) gives a colour's sequence. Returns the lines that were written. */
unsigned sq_heat_print(FILE *to, const struct sq_heat *heat, bool utf8, bool colour, unsigned width, const char *eol);
/* What `--json` prints (squall.1); new reference, NULL: no memory. */
json_t *sq_probe_json(const json_t *scenario, const struct sq_adhoc *a);

#endif
