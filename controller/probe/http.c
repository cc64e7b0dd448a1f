#include "probe/http.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "probe/url.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static const char usage[] = "http://host:port/path, https://host/path or unix:/path/to.sock:/path";

static bool is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
            return false;
    return true;
}

static int bad_header(struct sq_err *e, const char *name, const char *why)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "headers: %.100s: %s", name, why);
}

static int check_headers(const json_t *headers, struct sq_err *e)
{
    static const char *const ours[] = {"traceparent", "content-length", "transfer-encoding", "expect", "upgrade"};
    const char *name;
    json_t *v;

    if (headers && !json_is_object(headers) && !json_is_null(headers))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "headers: a mapping of names to values");
    json_object_foreach((json_t *)(uintptr_t)headers, name, v)
    {
        const char *text = json_string_value(v);

        if (!is_token(name))
            return bad_header(e, name, "not a header name");
        if (!text || strlen(text) != json_string_length(v) || strpbrk(text, "\r\n"))
            return bad_header(e, name, "its value must be a text of one line");
        for (size_t i = 0; i < SQ_COUNT(ours); i++)
            if (strcasecmp(name, ours[i]) == 0)
                return bad_header(e, name, "the probe decides about this one itself");
    }
    return 0;
}

static int read_url(const json_t *request, const char *plain, const char *secure, struct sq_http *h,
                    struct sq_place *place, struct sq_err *e)
{
    const char *url, *path;
    struct sq_url u;
    int rc = sq_json_str(request, "url", &url, e);

    if (rc < 0)
        return rc;
    h->tls = sq_url_is(url, secure);
    if ((rc = sq_url_split(url, h->tls ? 443 : strcmp(plain, "grpc") == 0 ? 0 : 80, false, usage, place, &u, e)) < 0)
        return rc;
    if (strchr(place->host, '$'))
        return sq_url_bad(e, url, "only what is behind the host may differ from request to request", usage);
    place->tls = h->tls;
    path = sq_json_str_or(request, "path", u.rest);
    h->path = *path ? path : "/";
    for (const char *c = h->path; *c; c++)
        if (*c <= ' ' || *c >= 0x7f || *c == '#')
            return sq_url_bad(e, h->path, "a blank, a # or a byte that must be written as %XX", usage);
    return 0;
}

static void write_authority(struct sq_http *h, const struct sq_place *place)
{
    bool v6 = strchr(place->host, ':') != NULL, standard = strcmp(place->port, h->tls ? "443" : "80") == 0;

    if (place->path[0])
        (void)snprintf(h->authority, sizeof h->authority, "localhost");
    else
        (void)snprintf(h->authority, sizeof h->authority, "%s%s%s%s%s", v6 ? "[" : "", place->host, v6 ? "]" : "",
                       standard ? "" : ":", standard ? "" : place->port);
}

int sq_http_read(const json_t *endpoint, const char *plain, const char *secure, struct sq_http *out,
                 struct sq_place *place, struct sq_err *e)
{
    /* Methods that may be sent twice without harm: RFC 9110, 9.2.2. */
    static const char *const idempotent[] = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"};
    json_t *request;
    int rc;

    memset(out, 0, sizeof *out);
    if ((rc = sq_json_obj(endpoint, "request", &request, e)) < 0 ||
        (rc = read_url(request, plain, secure, out, place, e)) < 0)
        return rc;
    out->method = sq_json_str_or(request, "method", "GET");
    if (!is_token(out->method) || strlen(out->method) > 32 || strcmp(out->method, "CONNECT") == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "method: \"%.40s\" is none that can be sent", out->method);
    out->head = strcmp(out->method, "HEAD") == 0;
    for (size_t i = 0; i < SQ_COUNT(idempotent); i++)
        out->repeatable = out->repeatable || strcmp(out->method, idempotent[i]) == 0;
    out->headers = json_object_get(request, "headers");
    out->body = json_object_get(request, "body");
    out->close = !sq_json_bool_or(request, "keep_alive", true);
    if (json_string_length(out->body) > SQ_REQUEST_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "a request has at most 2 MiB");
    write_authority(out, place);
    return check_headers(out->headers, e);
}

int sq_http_add(struct sq_template *t, const char *text, enum sq_hole how, const struct sq_names *names,
                struct sq_err *e)
{
    return sq_template_add(t, text, strlen(text), how, names, e);
}
