/* udp://host:port: one datagram out, one back: the same one, or one with the text of `expect` in it. */
#include "probe/echo.h"
#include "probe/url.h"

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "udp");
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    (void)names;
    return sq_echo_prepare(endpoint, "udp", true, rules, plan, place, e);
}

const struct sq_proto sq_proto_udp = {
    .name = "udp",
    .speaks = speaks,
    .prepare = prepare,
    .release = sq_echo_release,
    .repeatable = sq_echo_repeatable,
    .request = sq_echo_request,
    .talk_size = sizeof(struct sq_echo_talk),
    .open = sq_echo_open,
    .begin = sq_echo_begin,
    .feed = sq_echo_feed,
    .eof = sq_echo_eof,
    .answer = sq_echo_answer,
};
