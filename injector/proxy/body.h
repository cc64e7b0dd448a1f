/* What call/http_body makes of a whole body. Pure. */
#ifndef SQUALL_PROXY_BODY_H
#define SQUALL_PROXY_BODY_H

#include <jansson.h>
#include <stddef.h>

#define SQ_PATCH_MAX (256 * 1024)        /* bytes of a body that is patched */
#define SQ_BODIES_MAX (64 * 1024 * 1024) /* held for that, of all connections together */

/* The JSON document with the merge patch (RFC 7396) applied, malloc'd; NULL: it is none, or no memory. */
char *sq_body_patch(const char *p, size_t n, const json_t *patch);

#endif
