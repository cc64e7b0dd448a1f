/* URLs of the probe: where an endpoint is, and what is left for its protocol. */
#ifndef SQUALL_PROBE_URL_H
#define SQUALL_PROBE_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "probe/proto.h"
#include "squall/err.h"

#define SQ_URL_MAX 4096
#define SQ_USER_MAX 64

/* "scheme://[user@]host[:port]rest" or "scheme+unix:/socket[:/rest]" (for HTTP also "unix:..."). */
struct sq_url {
    char user[SQ_USER_MAX]; /* "": none */
    const char *rest;       /* in the URL: "" or what begins with / or ? */
};

/* Does URL begin with SCHEME followed by "://", or by "+unix:"? */
bool sq_url_is(const char *url, const char *scheme);
/* Fills *place (host and port, or path) and *out. USAGE: how such a URL is written, for the hint. USER: may it have
 * one? Errors: SQ_C_INPUT. */
int sq_url_split(const char *url, unsigned port, bool user, const char *usage, struct sq_place *place,
                 struct sq_url *out, struct sq_err *e);
/* -EINVAL with class SQ_C_INPUT. */
int sq_url_bad(struct sq_err *e, const char *url, const char *why, const char *usage);

#endif
