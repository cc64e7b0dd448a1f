/* The injector's API (API.md): HTTP/1.1 and JSON on a Unix socket. api.c speaks HTTP (libmicrohttpd, on the uv loop);
 * api_routes.c is what is asked and answered, and knows nothing of HTTP but method, path and status. */
#ifndef SQUALL_API_H
#define SQUALL_API_H

#include <stddef.h>
#include <uv.h>

#include "engine.h"

#define SQ_BODY_MAX (1024u * 1024)

/* The answer to one request: an HTTP status and JSON text (malloc'd, now the callee's; NULL: no memory). */
typedef void sq_api_done(void *arg, int status, char *body, size_t len);

/* Ask. TARGET is the path with its query, as it came over the wire. DONE is called exactly once, from within or later
 * from the loop. Everything may be hostile but PEER. */
void sq_api_handle(struct sq_engine *eng, const struct sq_peer *peer, const char *method, const char *target,
                   const char *body, size_t len, sq_api_done *done, void *arg);

/* An error as the API words it. malloc'd; NULL: no memory. */
char *sq_api_error(const struct sq_err *e, int *status, size_t *len);

struct sq_api;

/* Listen on PATH. GROUP (may be NULL): who beside root may connect (mode 0660), if there is such a group and we are
 * root; else only the own user (0600). */
int sq_api_new(uv_loop_t *loop, struct sq_engine *eng, const char *path, const char *group, struct sq_api **out,
               struct sq_err *e);
/* No new connection and no new request from now on; those under way are still answered. */
void sq_api_quiesce(struct sq_api *api);
/* All requests have been answered: close. done() when the handles are closed; the socket file is removed. */
void sq_api_free(struct sq_api *api, void (*done)(void *arg), void *arg);

#endif
