/* What HTTP/1.1, HTTP/2 and gRPC have in common: what the scenario says about a request. */
#ifndef SQUALL_PROBE_HTTP_H
#define SQUALL_PROBE_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "probe/proto.h"
#include "probe/template.h"
#include "squall/err.h"

#define SQ_REQUEST_MAX ((size_t)2 << 20)

struct sq_http {
    const char *method, *path; /* of the JSON; path: with its query, at least "/" */
    char authority[300];       /* host[:port], as it is sent */
    const json_t *headers;     /* checked; NULL: none */
    const json_t *body;
    bool tls;
    bool head, repeatable, close;
};

/* Reads "request" of ENDPOINT and says where it goes. SCHEMES: "http", "https"; the one that ends with s has TLS. */
int sq_http_read(const json_t *endpoint, const char *plain, const char *secure, struct sq_http *out,
                 struct sq_place *place, struct sq_err *e);
/* A text without its length. */
int sq_http_add(struct sq_template *t, const char *text, enum sq_hole how, const struct sq_names *names,
                struct sq_err *e);

#endif
