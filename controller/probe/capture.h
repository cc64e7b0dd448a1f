/* What a session takes from one answer into its next requests. */
#ifndef SQUALL_PROBE_CAPTURE_H
#define SQUALL_PROBE_CAPTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "probe/buf.h"
#include "squall/err.h"

#define SQ_CAPTURES_MAX 32
#define SQ_KEEP_BODY ((size_t)256 << 10) /* how much of a body is looked at */
#define SQ_KEEP_VALUE 4096               /* a longer value is not found */

enum sq_capture_how { SQ_CAPTURE_HEADER, SQ_CAPTURE_BETWEEN, SQ_CAPTURE_JSON };

struct sq_capture {
    enum sq_capture_how how;
    size_t index; /* among the session's values */
    char *a, *b;  /* the header's name; the texts before and behind; the JSON pointer (RFC 6901) */
};

struct sq_captures {
    size_t n;
    struct sq_capture list[SQ_CAPTURES_MAX];
    bool header, body; /* does any of them look there? */
};

/* One answer's. */
struct sq_keep {
    const struct sq_captures *captures;
    struct sq_buf body;
    char **value; /* the session's values; malloc'd */
};

/* SPEC: {name: {header: x} | {between: [a, b]} | {json: /a/b}, ...}; NAMES: those of the session's values, which gives
 * the indices. */
int sq_captures_init(struct sq_captures *c, const json_t *spec, const char *const *names, size_t n, struct sq_err *e);
void sq_captures_clear(struct sq_captures *c);

void sq_keep_header(struct sq_keep *k, const char *name, const char *value, size_t len);
void sq_keep_body(struct sq_keep *k, const char *data, size_t len);
/* The answer is whole: was everything found? */
bool sq_keep_done(struct sq_keep *k);

#endif
