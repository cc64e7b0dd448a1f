/* tcp://host:port and tcp+unix:/path: connect; with `send` or `expect`, an exchange of bytes. */
#include "probe/echo.h"
#include "probe/url.h"

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "tcp");
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    const json_t *tls = json_object_get(json_object_get(endpoint, "request"), "tls");
    int rc = sq_echo_prepare(endpoint, "tcp", false, rules, plan, place, e);

    (void)names;
    place->tls = tls && !json_is_null(tls);
    return rc;
}

static enum sq_feed sent(void *talk)
{
    const struct sq_echo_talk *t = talk;

    return t->plan->len == 0 && t->plan->rules->expect_needle < 0 ? SQ_FEED_DONE : SQ_FEED_MORE;
}

const struct sq_proto sq_proto_tcp = {
    .name = "tcp",
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
    .sent = sent,
};
