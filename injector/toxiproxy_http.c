/* The server of Toxiproxy's API: HTTP/1.1 on TCP by libmicrohttpd, driven from squalld's loop. Requests are answered at
 * once. It has no authentication, as Toxiproxy has none: whoever can connect can use it. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "httpd.h"
#include "patience.h"
#include "squall/cleanup.h"
#include "squall/rng.h"
#include "squall/version.h"
#include "toxiproxy.h"

#define CONNECTIONS 256u
#define IDLE_S 60u

struct sq_toxi_server {
    struct sq_toxi toxi;
    struct sq_toxi_link *link;
    struct sq_httpd http;
    struct sq_rng rng;
    struct sq_patience *patience; /* borrowed */
};

struct body {
    char *text;
    size_t len, cap;
    bool too_big;
};

/* ---- one request ---- */

static enum MHD_Result reply(struct sq_toxi_server *s, struct MHD_Connection *conn, struct sq_toxi_answer *a)
{
    char id[24];
    size_t len = a->body ? strlen(a->body) : 0;
    struct MHD_Response *r = a->body
                                 ? MHD_create_response_from_buffer(len, a->body, MHD_RESPMEM_MUST_FREE)
                                 : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!r) {
        free(a->body);
        return MHD_NO;
    }
    (void)snprintf(id, sizeof(id), "%016" PRIx64, sq_rng_u64(&s->rng));
    (void)MHD_add_response_header(r, "X-Toxiproxy-Request-Id", id);
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_SERVER, "squalld/" SQUALL_VERSION);
    if (a->type)
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, a->type);
    enum MHD_Result ok = MHD_queue_response(conn, (unsigned)a->status, r);
    MHD_destroy_response(r);
    return ok;
}

static void carry_out(struct sq_toxi_server *s, const char *method, const char *url, const char *body, size_t len,
                      struct sq_toxi_answer *a)
{
    sq_patience_begin(s->patience, SQ_PATIENCE_NS);
    sq_toxi_handle(&s->toxi, method, url, body, len, a);
    sq_patience_end(s->patience);
}

static enum MHD_Result handle(struct sq_toxi_server *s, struct MHD_Connection *conn, const char *url,
                              const char *method, const struct body *b)
{
    const char *agent = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_USER_AGENT);
    struct sq_toxi_answer a = {0};
    if (agent && strncmp(agent, "Mozilla/", 8) == 0) /* a web page may not drive it */
        a = (struct sq_toxi_answer){403, "text/plain; charset=utf-8", strdup("User agent not allowed\n")};
    else if (b->too_big)
        sq_toxi_fail(&a, 413, "the body is larger than 1 MiB");
    else
        carry_out(s, method, url, b->text ? b->text : "", b->len, &a);
    return reply(s, conn, &a);
}

static int append(struct body *b, const char *data, size_t len)
{
    if (b->too_big || b->len + len > SQ_TOXI_BODY) {
        b->too_big = true; /* read on and throw away, so that the answer reaches a client that is still sending */
        return 0;
    }
    if (b->len + len > b->cap) {
        size_t cap = b->cap ? b->cap : 1024;
        while (cap < b->len + len)
            cap *= 2;
        char *p = realloc(b->text, cap);
        if (!p)
            return -ENOMEM;
        b->text = p;
        b->cap = cap;
    }
    memcpy(b->text + b->len, data, len);
    b->len += len;
    return 0;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **con_cls)
{
    struct body *b = *con_cls;
    (void)version;
    if (!b) {
        *con_cls = calloc(1, sizeof(*b));
        return *con_cls ? MHD_YES : MHD_NO;
    }
    if (*size) {
        int rc = append(b, data, *size);
        *size = 0;
        return rc < 0 ? MHD_NO : MHD_YES;
    }
    return handle(cls, conn, url, method, b);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode how)
{
    struct body *b = *con_cls;
    (void)cls;
    (void)conn;
    (void)how;
    *con_cls = NULL;
    if (b)
        free(b->text);
    free(b);
}

/* ---- beginning and end ---- */

static int start_mhd(struct sq_toxi_server *s, uv_loop_t *loop, int fd, struct sq_err *e)
{
    struct MHD_Daemon *mhd = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd,
                                              MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_CONNECTION_LIMIT,
                                              CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_END);
    if (sq_httpd_drive(&s->http, loop, mhd, fd) < 0)
        return sq_err(e, -EIO, "the HTTP server of Toxiproxy's API does not start");
    return 0;
}

static int read_file(const char *path, char **text, size_t *len, struct sq_err *e)
{
    cleanup_fclose FILE *f = fopen(path, "re");
    struct stat st;
    if (!f || fstat(fileno(f), &st) < 0)
        return sq_err_sys(e, -errno, "cannot read %s", path);
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)SQ_TOXI_BODY)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: not a file of at most 1 MiB", path);
    *text = malloc((size_t)st.st_size + 1);
    if (!*text)
        return sq_err(e, -ENOMEM, "out of memory");
    *len = fread(*text, 1, (size_t)st.st_size, f);
    return 0;
}

static int configure(struct sq_toxi_server *s, const char *path, struct sq_err *e)
{
    cleanup_free char *text = NULL;
    struct sq_toxi_answer a = {0};
    size_t len = 0;
    int rc = read_file(path, &text, &len, e);
    if (rc < 0)
        return rc;
    carry_out(s, "POST", "/populate", text, len, &a);
    if (a.status != 201)
        rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s: %.500s", path, a.body ? a.body : "out of memory");
    free(a.body);
    return rc;
}

int sq_toxi_server_new(uv_loop_t *loop, const char *self, const struct sq_toxi_opts *o, struct sq_patience *patience,
                       struct sq_toxi_server **out, struct sq_err *e)
{
    struct sq_toxi_server *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    int fd = sq_httpd_listen(o->listen, "--toxiproxy", "127.0.0.1:8474", "Toxiproxy's API", 128, e);
    int rc = fd < 0 ? fd : sq_toxi_link_new(loop, self, &s->toxi, &s->link, e);
    if (rc < 0) {
        if (fd >= 0)
            (void)close(fd);
        free(s);
        return rc;
    }
    s->patience = patience;
    s->toxi.seed = o->seed;
    s->toxi.metrics = o->metrics;
    sq_rng_seed(&s->rng, sq_rng_entropy());
    rc = start_mhd(s, loop, fd, e);
    if (rc < 0) {
        sq_toxi_link_free(s->link); /* which frees itself in the loop, and uses s no more */
        free(s);
        return rc;
    }
    *out = s;
    rc = o->config ? configure(s, o->config, e) : 0;
    if (rc < 0)
        sq_toxi_server_free(SQ_TAKE(*out));
    return rc;
}

static void on_closed(struct sq_httpd *h)
{
    free((char *)h - offsetof(struct sq_toxi_server, http));
}

void sq_toxi_server_free(struct sq_toxi_server *s)
{
    if (!s)
        return;
    sq_toxi_link_free(s->link);
    sq_httpd_close(&s->http, on_closed);
}
