/* The health check of gRPC (grpc.health.v1.Health/Check) over HTTP/2: grpc://host:port[/service], grpcs:// with TLS.
 * The answer's status is gRPC's (0: OK); what is not SERVING counts as 14 (UNAVAILABLE), as clients treat it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/h2.h"
#include "probe/url.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define SERVICE_MAX 127 /* so that its length is one byte of a varint */
#define SERVING 1       /* HealthCheckResponse.ServingStatus */
#define UNKNOWN 2
#define UNAVAILABLE 14

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "grpc") || sq_url_is(url, "grpcs");
}

/* A varint at *p; -1: cut off. */
static int64_t varint(const unsigned char **p, const unsigned char *end)
{
    uint64_t v = 0;

    for (unsigned shift = 0; *p < end && shift < 63; shift += 7) {
        unsigned char c = *(*p)++;

        v |= (uint64_t)(c & 127) << shift;
        if (!(c & 128))
            return (int64_t)v;
    }
    return -1;
}

/* HealthCheckResponse: field 1 is the status, others are passed over; -1: not such a message. */
static int64_t serving_status(const unsigned char *p, const unsigned char *end)
{
    int64_t status = 0;

    while (p < end) {
        int64_t key = varint(&p, end), n;

        if (key < 0)
            return -1;
        switch (key & 7) {
        case 0:
            n = varint(&p, end);
            if (n < 0)
                return -1;
            if (key >> 3 == 1)
                status = n;
            continue;
        case 1:
            n = 8;
            break;
        case 2:
            n = varint(&p, end);
            break;
        case 5:
            n = 4;
            break;
        default:
            return -1;
        }
        if (n < 0 || n > end - p)
            return -1;
        p += n;
    }
    return status;
}

static int status(int http, int grpc, const char *body, size_t len)
{
    const unsigned char *b = (const unsigned char *)body;
    uint32_t size;

    if (http != 200)
        return http;
    if (grpc != 0)
        return grpc < 0 ? UNKNOWN : grpc;
    if (len < 5 || b[0] != 0)
        return UNKNOWN;
    size = (uint32_t)b[1] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 8 | b[4];
    if (size > len - 5)
        return UNKNOWN;
    return serving_status(b + 5, b + 5 + size) == SERVING ? 0 : UNAVAILABLE;
}

static const struct sq_h2_over over = {status};

/* A message: no compression, its length, HealthCheckRequest {1: service}. */
static json_t *message(const char *service)
{
    unsigned char m[7 + SERVICE_MAX] = {0};
    size_t n = strlen(service), len = n > 0 ? n + 2 : 0;

    m[4] = (unsigned char)len;
    m[5] = 0x0a;
    m[6] = (unsigned char)n;
    memcpy(m + 7, service, n);
    return json_stringn_nocheck((const char *)m, 5 + len);
}

static int read_plan(const json_t *endpoint, const struct sq_rules *rules, const json_t *headers, const char *service,
                     struct sq_h2_plan **out, struct sq_place *place, struct sq_err *e)
{
    struct sq_http h;
    cleanup_json json_t *body = message(service);
    int rc = sq_http_read(endpoint, "grpc", "grpcs", &h, place, e);

    if (rc < 0)
        return rc;
    if (!body)
        return sq_err(e, -ENOMEM, "no memory");
    h.method = "POST";
    h.path = "/grpc.health.v1.Health/Check";
    h.headers = headers;
    h.body = body;
    h.repeatable = true;
    h.head = false;
    return sq_h2_plan(&h, NULL, rules, out, e);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    json_t *request = json_object_get(endpoint, "request");
    const char *url = sq_json_str_or(request, "url", "");
    cleanup_json json_t *headers = json_copy(json_object_get(request, "headers"));
    struct sq_h2_plan *p = NULL;
    struct sq_url u;
    int rc;

    (void)names;
    if (!headers)
        headers = json_object();
    (void)json_object_set_new(headers, "content-type", json_string("application/grpc"));
    (void)json_object_set_new(headers, "te", json_string("trailers"));
    rc = sq_url_split(url, sq_url_is(url, "grpcs") ? 443 : 0, false, "grpc://host:port or grpc://host:port/service",
                      place, &u, e);
    if (rc < 0)
        return rc;
    if (*u.rest == '/')
        u.rest++;
    if (strlen(u.rest) > SERVICE_MAX)
        return sq_url_bad(e, url, "a service's name has at most 127 bytes", "grpc://host:port/service");
    rc = read_plan(endpoint, rules, headers, u.rest, &p, place, e);
    if (rc < 0)
        return rc;
    p->over = &over;
    place->alpn = "h2";
    *plan = p;
    return 0;
}

const struct sq_proto sq_proto_grpc = {
    .name = "grpc",
    .speaks = speaks,
    .flow = SQ_FLOW_MUX,
    .good_from = 0,
    .good_to = 0,
    .prepare = prepare,
    .release = sq_h2_release,
    .repeatable = sq_h2_repeatable,
    .mux = &sq_h2_mux,
};
