/* Requests that differ: texts with ${data.column} and ${session.name} in them, compiled once and filled in for each
 * request. A value can never end the line that it stands in, or leave its part of a URL. */
#ifndef SQUALL_PROBE_TEMPLATE_H
#define SQUALL_PROBE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "probe/buf.h"
#include "squall/err.h"

/* What holes may refer to. */
struct sq_names {
    size_t n_columns, n_session;
    const char *const *column;  /* ${data.<column>} */
    const char *const *session; /* ${session.<name>} */
};

/* The values for one request, in the order of the names; a NULL is an empty text. */
struct sq_values {
    const char *const *column;
    char *const *session;
};

/* How a value is written where it stands. */
enum sq_hole {
    SQ_HOLE_RAW,    /* as it is: bodies */
    SQ_HOLE_URL,    /* what is not unreserved as %XX (RFC 3986, 2.3) */
    SQ_HOLE_HEADER, /* control characters left out */
};

struct sq_piece {
    int column, session; /* -1: not such a one; both -1: text */
    enum sq_hole how;
    size_t at, len; /* of the text */
};

struct sq_template {
    char *text;
    size_t n;
    struct sq_piece *piece;
    bool holes; /* false: it is one text */
};

/* Are there holes in TEXT? Only a `${data.` or `${session.` is one. */
bool sq_has_holes(const char *text);
/* Adds TEXT to the template (zeroed at first). Errors: SQ_C_INPUT for a name that NAMES (may be NULL) lacks. */
int sq_template_add(struct sq_template *t, const char *text, size_t len, enum sq_hole how, const struct sq_names *names,
                    struct sq_err *e);
void sq_template_free(struct sq_template *t);
/* V may be NULL: every value is empty. */
void sq_template_fill(const struct sq_template *t, const struct sq_values *v, struct sq_buf *out);

#endif
