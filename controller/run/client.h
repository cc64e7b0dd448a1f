/* HTTP client to one injector: requests over its Unix socket by libcurl's multi interface on the caller's uv loop, so
 * that the loop that renews the lease never blocks. Requests run side by side; order among them is the caller's
 * business. */
#ifndef CONTROLLER_RUN_CLIENT_H
#define CONTROLLER_RUN_CLIENT_H

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "squall/err.h"

/* The largest answer that is taken; more is an error. */
#define SQ_CLIENT_MAX_BODY (64 * 1024 * 1024)

struct sq_client;

/* SOCKET is the path of an api.sock (at most 107 bytes, unix(7)); nothing is connected yet. */
int sq_client_new(uv_loop_t *loop, const char *socket, struct sq_client **out, struct sq_err *e);
const char *sq_client_socket(const struct sq_client *c);

/* The answer. STATUS is the HTTP status, 0 when there was none (E->code is then -ECONNREFUSED, -ECONNRESET, -ETIMEDOUT,
 * -ENOENT, -EPROTO, -ECANCELED, ...). BODY is borrowed, may be NULL. E is NULL for 2xx, else carries the injector's
 * message and hint, with the class that fits the status. */
typedef void sq_client_done(void *arg, int status, json_t *body, const struct sq_err *e);

/* One request. PATH starts with "/v1/". BODY (may be NULL) is taken over. DONE is called exactly once, from the loop
 * (never from within this call) unless sq_client_close comes first: then from there, with -ECANCELED. */
void sq_client_call(struct sq_client *c, const char *method, const char *path, json_t *body, int64_t timeout_ns,
                    sq_client_done *done, void *arg);
/* Requests under way. */
unsigned sq_client_busy(const struct sq_client *c);
/* Cancel what is under way and free. CLOSED (may be NULL) is called from the loop when the last handle is closed. */
void sq_client_close(struct sq_client *c, void (*closed)(void *arg), void *arg);

/* The same, blocking, on a loop of its own: for verbs that do one thing. *out (may be NULL) is a new reference. Returns
 * the HTTP status, or -errno when there was none; E is filled as above when it is not 2xx. */
int sq_client_ask(const char *socket, const char *method, const char *path, json_t *body, int64_t timeout_ns,
                  json_t **out, struct sq_err *e);

#endif
