/* The terminal: colours where they are wanted (isatty(3), NO_COLOR, TERM=dumb), errors in one shape. */
#ifndef CONTROLLER_COMMANDS_TERM_H
#define CONTROLLER_COMMANDS_TERM_H

#include <stdbool.h>
#include <stdio.h>

#include "squall/err.h"

enum sq_paint { SQ_PLAIN, SQ_BOLD, SQ_DIM, SQ_RED, SQ_GREEN, SQ_YELLOW, SQ_BLUE, SQ_CYAN };

struct sq_term {
    FILE *out, *err;
    bool tty; /* out is a terminal that can redraw a line */
    bool color_out, color_err;
    int width; /* of out, in columns; 80 when unknown */
};

void sq_term_init(struct sq_term *t);
/* The escape sequence that begins P (SQ_PLAIN: ends all), "" without colour. For t->out and t->err respectively. */
const char *sq_term_out(const struct sq_term *t, enum sq_paint p);
const char *sq_term_err(const struct sq_term *t, enum sq_paint p);
/* "squall: message" and "  hint: ..." on t->err. Returns the exit code that fits (sq_exit_of). */
int sq_term_fail(const struct sq_term *t, const struct sq_err *e);
/* The same for a message of one's own; returns SQ_USAGE. HINT may be NULL. */
int sq_term_usage(const struct sq_term *t, const char *hint, const char *fmt, ...) SQ_PRINTF(3, 4);
/* TEXT wrapped at the terminal's width (at most 100), every line after INDENT spaces; the first is where the cursor is.
 */
void sq_term_wrap(const struct sq_term *t, int indent, const char *text);
/* One sentence of somebody else's, without what would drive the terminal: wrapped so for people, one line for programs.
 * At most 1,023 bytes. */
void sq_term_words(const struct sq_term *t, int indent, const char *words);
/* Flush t->out; SQ_INFRA with an error when not all of it could be written (a full disk, a closed pipe), else CODE. */
int sq_term_finish(const struct sq_term *t, int code);

#endif
