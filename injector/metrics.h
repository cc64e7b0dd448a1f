/* What squalld knows of calls, as Prometheus reads it (text format 0.0.4): API.md lists the names. */
#ifndef SQUALL_METRICS_H
#define SQUALL_METRICS_H

#include <jansson.h>
#include <uv.h>

#include "squall/err.h"

#define SQ_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct sq_engine;
struct sq_peer;
struct sq_metrics_server;

/* EDGES and PROXY as sq_intercept_edges and sq_intercept_proxy give them. malloc'd; NULL: no memory. */
char *sq_metrics_of(const json_t *edges, const json_t *proxy);
/* Of the runs that PEER may see: its own, root all; NULL: of all. */
char *sq_metrics_text(struct sq_engine *eng, const struct sq_peer *peer);

/* Serve GET /metrics on ADDRESS ("127.0.0.1:9464"), in the loop. Whoever can connect can read it. */
int sq_metrics_server_new(uv_loop_t *loop, struct sq_engine *eng, const char *address, struct sq_metrics_server **out,
                          struct sq_err *e);
void sq_metrics_server_free(struct sq_metrics_server *s); /* NULL is fine; frees itself in the loop */

#endif
