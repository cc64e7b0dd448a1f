/* Destinations of an edge, as people write them:
 * "10.0.0.1:80", "10.0.0.0/8:5432", "127.0.0.1:8000-8010", "[::1]:80", "[fd00::/8]:80", "unix:/run/db.sock",
 * "unix:@abstract". */
#ifndef SQUALL_INTERCEPT_DEST_H
#define SQUALL_INTERCEPT_DEST_H

#include <stdbool.h>
#include <stddef.h>

#include "intercept/rules.h"
#include "squall/err.h"

struct sq_dest {
    bool is_unix;
    struct sq_matcher m; /* TCP; m.slot is left 0 */
    char path[108];      /* Unix: as in sun_path; an abstract name begins with NUL */
    size_t path_len;     /* bytes of path, without the final NUL of a file name */
};

/* -EINVAL (SQ_C_INPUT) with what is wrong and, as hint, what would be right. */
int sq_dest_parse(const char *s, struct sq_dest *d, struct sq_err *e);
bool sq_matcher_hit(const struct sq_matcher *m, const uint32_t addr[4], uint16_t port);

#endif
