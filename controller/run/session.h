/* An injector for a verb that is no scenario: a named one, or a private one that ends with the verb. Blocking calls on
 * a loop of its own, which the verb may also run for its own handles. */
#ifndef CONTROLLER_RUN_SESSION_H
#define CONTROLLER_RUN_SESSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "run/client.h"
#include "squall/err.h"

struct sq_session;

/* SOCKET NULL: start a private injector. What it said at its start is part of the error when that fails. */
int sq_session_open(const char *socket, struct sq_session **out, struct sq_err *e);
uv_loop_t *sq_session_loop(struct sq_session *s);
struct sq_client *sq_session_client(struct sq_session *s);
/* One request; runs the loop until it is answered. *out (may be NULL) is a new reference. 0 for 2xx, else E->code. */
int sq_session_ask(struct sq_session *s, const char *method, const char *path, json_t *body, json_t **out,
                   struct sq_err *e);
/* End a private injector, close everything. *left (may be NULL): what could not be taken back, an array (new
 * reference); empty when all is well. NULL is fine. */
void sq_session_close(struct sq_session *s, json_t **left);

#endif
