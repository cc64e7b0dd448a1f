/* TLS below a protocol of the probe, by OpenSSL. Certificates are verified unless the scenario says otherwise. */
#ifndef SQUALL_PROBE_TLS_H
#define SQUALL_PROBE_TLS_H

#include <jansson.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <sys/types.h>

#include "squall/err.h"

struct sq_tls; /* an endpoint's: certificates, and the session that the next connection takes up */

/* OPTIONS: request.tls (NULL: all defaults): {ca, cert, key: files, server_name, verify: bool (true), resume: bool
 * (true), alpn: list}. HOST: whom the certificate must name unless server_name does. ALPN: what the protocol offers by
 * itself; NULL: nothing. Errors: SQ_C_INPUT. */
int sq_tls_new(const json_t *options, const char *host, const char *alpn, struct sq_tls **out, struct sq_err *e);
void sq_tls_free(struct sq_tls *t);

SSL *sq_tls_open(struct sq_tls *t, int fd); /* NULL: no memory */
/* Why the last handshake of any of its connections failed, for people; "": none did. */
const char *sq_tls_why(const struct sq_tls *t);
/* 0: done; -EAGAIN: *WANT_WRITE says for what; -EPROTO: it failed. */
int sq_tls_handshake(SSL *ssl, bool *want_write);
/* As recv(2) and send(2), but -errno; -EAGAIN as above, 0 of read: closed in good order. */
ssize_t sq_tls_read(SSL *ssl, char *buf, size_t len);
ssize_t sq_tls_write(SSL *ssl, const char *buf, size_t len);
/* Ends it without waiting for the peer. */
void sq_tls_close(SSL *ssl);

#endif
