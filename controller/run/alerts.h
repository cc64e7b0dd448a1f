/* A receiver of Alertmanager's webhook (version 4 of its JSON), on the run's own loop: what it is told becomes records
 * of type `alert` (EVIDENCE.md). Bodies come from outside: everything is bounded, and nothing that is sent can do more
 * than be refused. One request a connection.
 * https://prometheus.io/docs/alerting/latest/configuration/#webhook_config */
#ifndef CONTROLLER_RUN_ALERTS_H
#define CONTROLLER_RUN_ALERTS_H

#include <jansson.h>
#include <uv.h>

#include "squall/err.h"

#define SQ_ALERTS_BODY (1024u * 1024) /* bytes of one notification; more is refused with 413 */
#define SQ_ALERTS_EACH 1000u          /* alerts of one notification; more are left out, with a warning */
#define SQ_ALERTS_RUN 10000u          /* alerts of one run; more are left out, with a warning */
#define SQ_ALERTS_CONNS 16            /* connections at a time; more wait */
#define SQ_ALERTS_WITHIN_MS 10000     /* a request takes no longer */

struct sq_alerts;
/* TYPE: "alert" or "warning"; REC is taken over. From the loop. */
typedef void sq_alerts_put(void *arg, const char *type, json_t *rec);

/* LISTEN: "127.0.0.1:9095", "[::1]:9095"; port 0: any. Errors: SQ_C_INPUT for what is no address; the port is taken:
 * -EADDRINUSE. */
int sq_alerts_open(uv_loop_t *loop, const char *listen, sq_alerts_put *put, void *arg, struct sq_alerts **out,
                   struct sq_err *e);
/* Nothing more is put. It is freed once the loop has closed its handles. NULL is fine. */
void sq_alerts_close(struct sq_alerts *a);

/* The alerts of one notification as records, put in their order; *n counts those of the run and is kept below
 * SQ_ALERTS_RUN. -EINVAL: it is no webhook of version 4. Pure but for PUT. */
int sq_alerts_read(const char *body, size_t len, size_t *n, sq_alerts_put *put, void *arg, struct sq_err *e);

#endif
