/* Requests to other people's HTTP servers (Prometheus) by libcurl's multi interface on the caller's uv loop, so that
 * the loop that renews the lease never blocks. No redirects, no proxies; answers are bounded. */
#ifndef CONTROLLER_RUN_FETCH_H
#define CONTROLLER_RUN_FETCH_H

#include <stdint.h>
#include <uv.h>

#include "squall/err.h"

#define SQ_FETCH_MAX_BODY (16u * 1024 * 1024) /* bytes of an answer; more is an error */

struct sq_fetch;
/* The answer: HTTP status and body (borrowed, not NUL-terminated), whatever the status; E when there was none. */
typedef void sq_fetch_done(void *arg, int status, const char *body, size_t len, const struct sq_err *e);

int sq_fetch_new(uv_loop_t *loop, struct sq_fetch **out, struct sq_err *e);
/* POST of the form FORM (application/x-www-form-urlencoded, copied) to URL (http or https). DONE is called exactly
 * once, from the loop, unless sq_fetch_close comes first: then never. An error: nothing was begun, DONE is not called.
 */
int sq_fetch_post(struct sq_fetch *f, const char *url, const char *form, int64_t timeout_ns, sq_fetch_done *done,
                  void *arg, struct sq_err *e);
/* Gives up what is under way. Freed once the loop has closed its handles. NULL is fine. */
void sq_fetch_close(struct sq_fetch *f);
/* TEXT as part of a form; malloc'd, NULL: no memory. */
char *sq_fetch_escape(const char *text);

#endif
