/* HTTP/2: https:// with tls: {alpn: [h2]}, and h2c://, which is cleartext by prior knowledge (RFC 9113, 3.3). */
#include <string.h>

#include "probe/h2.h"
#include "probe/url.h"

static bool speaks(const char *url, const json_t *request)
{
    const char *alpn = json_string_value(json_array_get(json_object_get(json_object_get(request, "tls"), "alpn"), 0));

    return sq_url_is(url, "h2c") || (sq_url_is(url, "https") && alpn && strcmp(alpn, "h2") == 0);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    struct sq_http h;
    struct sq_h2_plan *p = NULL;
    int rc = sq_http_read(endpoint, "h2c", "https", &h, place, e);

    if (rc == 0)
        rc = sq_h2_plan(&h, names, rules, &p, e);
    if (rc == 0)
        *plan = p;
    return rc;
}

const struct sq_proto sq_proto_http2 = {
    .name = "http2",
    .speaks = speaks,
    .flow = SQ_FLOW_MUX,
    .good_from = 200,
    .good_to = 399,
    .holes = true,
    .prepare = prepare,
    .release = sq_h2_release,
    .repeatable = sq_h2_repeatable,
    .mux = &sq_h2_mux,
};
