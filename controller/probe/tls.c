#include "probe/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"

#define ALPN_MAX 256

struct sq_tls {
    SSL_CTX *ctx;
    SSL_SESSION *session; /* the newest one that the server gave; NULL: none, or not wanted */
    bool resume;
    char *name; /* SNI, and whom the certificate must name; NULL: no name */
    bool verify;
    char why[160]; /* the last handshake failed */
};

static int input(struct sq_err *e, const char *what, const char *which)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "tls: %s \"%.200s\": %s", what, which, why ? why : "not usable");
}

/* Called by OpenSSL when the server gives a session (with TLS 1.3 after the handshake, several times). */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct sq_tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    SSL_SESSION_free(t->session);
    t->session = session;
    return 1; /* the reference is ours now */
}

/* A connection that ends without close_notify may have been cut by anybody (RFC 8446, 6.1). OpenSSL would call that an
 * error and never resume its session again, which many servers do not deserve: so it is told to take it for an end, and
 * which of the two it was is noted here. */
static void on_info(const SSL *ssl, int where, int what)
{
    if (where == SSL_CB_READ_ALERT && (what & 0xff) == SSL_AD_CLOSE_NOTIFY)
        SSL_set_app_data((SSL *)(uintptr_t)ssl, SSL_get_SSL_CTX(ssl)); /* not NULL */
}

/* "h2", "http/1.1" -> the list in its wire form (RFC 7301, 3.1). */
static int set_alpn(struct sq_tls *t, const json_t *list, const char *own, struct sq_err *e)
{
    unsigned char wire[ALPN_MAX];
    size_t used = 0, i = 0, n = json_is_array(list) ? json_array_size(list) : own ? 1 : 0;

    for (; i < n; i++) {
        const char *name = json_is_array(list) ? json_string_value(json_array_get(list, i)) : own;
        size_t len = name ? strlen(name) : 0;

        if (len == 0 || len > 64 || used + len + 1 > sizeof wire)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "tls: alpn is a short list of names of protocols");
        wire[used++] = (unsigned char)len;
        memcpy(wire + used, name, len);
        used += len;
    }
    if (used > 0 && SSL_CTX_set_alpn_protos(t->ctx, wire, (unsigned)used) != 0)
        return sq_err(e, -ENOMEM, "no memory");
    return 0;
}

static int set_files(struct sq_tls *t, const json_t *o, struct sq_err *e)
{
    const char *ca = sq_json_str_or(o, "ca", NULL), *cert = sq_json_str_or(o, "cert", NULL);
    const char *key = sq_json_str_or(o, "key", cert);

    if (ca && SSL_CTX_load_verify_file(t->ctx, ca) != 1)
        return input(e, "ca", ca);
    if (!ca && t->verify && SSL_CTX_set_default_verify_paths(t->ctx) != 1)
        return input(e, "ca", "the system's");
    if (cert && SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1)
        return input(e, "cert", cert);
    if (cert && SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1)
        return input(e, "key", key);
    return 0;
}

int sq_tls_new(const json_t *options, const char *host, const char *alpn, struct sq_tls **out, struct sq_err *e)
{
    const char *name = sq_json_str_or(options, "server_name", host);
    struct sq_tls *t = calloc(1, sizeof *t);
    int rc;

    if (!t || !(t->ctx = SSL_CTX_new(TLS_client_method())) || (name && *name && !(t->name = strdup(name)))) {
        sq_tls_free(t);
        return sq_err(e, -ENOMEM, "no memory");
    }
    t->verify = sq_json_bool_or(options, "verify", true);
    t->resume = sq_json_bool_or(options, "resume", true);
    SSL_CTX_set_app_data(t->ctx, t);
    (void)SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_info_callback(t->ctx, on_info);
    SSL_CTX_set_verify(t->ctx, t->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    (void)SSL_CTX_set_session_cache_mode(t->ctx, t->resume ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL
                                                           : SSL_SESS_CACHE_OFF);
    if (t->resume)
        SSL_CTX_sess_set_new_cb(t->ctx, on_session);
    if ((rc = set_files(t, options, e)) < 0 || (rc = set_alpn(t, json_object_get(options, "alpn"), alpn, e)) < 0) {
        sq_tls_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void sq_tls_free(struct sq_tls *t)
{
    if (!t)
        return;
    SSL_SESSION_free(t->session);
    SSL_CTX_free(t->ctx);
    free(t->name);
    free(t);
}

/* The name in the hello and in the certificate; an address is never sent as a name (RFC 6066, 3). */
static bool set_name(const struct sq_tls *t, SSL *ssl)
{
    unsigned char addr[16];

    if (!t->name)
        return true;
    if (inet_pton(AF_INET, t->name, addr) == 1 || inet_pton(AF_INET6, t->name, addr) == 1)
        return !t->verify || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), t->name) == 1;
    return SSL_set_tlsext_host_name(ssl, t->name) == 1 && (!t->verify || SSL_set1_host(ssl, t->name) == 1);
}

SSL *sq_tls_open(struct sq_tls *t, int fd)
{
    SSL *ssl = SSL_new(t->ctx);

    if (!ssl || !set_name(t, ssl) || SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    if (t->resume && t->session)
        (void)SSL_set_session(ssl, t->session);
    SSL_set_connect_state(ssl);
    return ssl;
}

static int outcome(SSL *ssl, int rc)
{
    int saved = errno;

    switch (SSL_get_error(ssl, rc)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return SSL_get_app_data(ssl) ? 0 : -ECONNRESET;
    case SSL_ERROR_SYSCALL:
        return saved ? -saved : -ECONNRESET;
    default:
        return -EPROTO;
    }
}

const char *sq_tls_why(const struct sq_tls *t)
{
    return t->why;
}

/* The errors of OpenSSL are those of the handshake that just failed. */
static void note_why(SSL *ssl)
{
    struct sq_tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    long verified = SSL_get_verify_result(ssl);

    if (t->verify && verified != X509_V_OK)
        (void)snprintf(t->why, sizeof t->why, "certificate not trusted: %s", X509_verify_cert_error_string(verified));
    else
        (void)snprintf(t->why, sizeof t->why, "%s", reason ? reason : "the server closed the connection");
}

int sq_tls_handshake(SSL *ssl, bool *want_write)
{
    int rc;

    ERR_clear_error();
    errno = 0;
    rc = SSL_do_handshake(ssl);
    *want_write = false;
    if (rc == 1)
        return 0;
    *want_write = SSL_get_error(ssl, rc) == SSL_ERROR_WANT_WRITE;
    rc = outcome(ssl, rc);
    if (rc != -EAGAIN)
        note_why(ssl);
    return rc == 0 ? -EPROTO : rc;
}

ssize_t sq_tls_read(SSL *ssl, char *buf, size_t len)
{
    size_t n = 0;
    int rc;

    ERR_clear_error();
    errno = 0;
    rc = SSL_read_ex(ssl, buf, len, &n);
    return rc == 1 ? (ssize_t)n : outcome(ssl, rc);
}

ssize_t sq_tls_write(SSL *ssl, const char *buf, size_t len)
{
    size_t n = 0;
    int rc;

    if (len == 0)
        return 0;
    ERR_clear_error();
    errno = 0;
    rc = SSL_write_ex(ssl, buf, len, &n);
    if (rc == 1)
        return (ssize_t)n;
    rc = outcome(ssl, rc);
    return rc == 0 ? -EPIPE : rc;
}

void sq_tls_close(SSL *ssl)
{
    if (!ssl)
        return;
    ERR_clear_error();
    if (SSL_is_init_finished(ssl))
        (void)SSL_shutdown(ssl); /* says close_notify once; the answer is not waited for */
    SSL_free(ssl);
}
