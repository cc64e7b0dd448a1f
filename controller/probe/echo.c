#include "probe/echo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/url.h"
#include "squall/json.h"

#define SEND_MAX 65000
#define DATAGRAM_MAX 65507 /* what UDP over IPv4 carries */

int sq_echo_prepare(const json_t *endpoint, const char *scheme, bool datagram, const struct sq_rules *rules,
                    void **plan, struct sq_place *place, struct sq_err *e)
{
    const json_t *request = json_object_get(endpoint, "request"), *send = json_object_get(request, "send");
    const char *url = sq_json_str_or(request, "url", "");
    struct sq_echo_plan *p;
    char usage[64];
    struct sq_url u;
    int rc;

    (void)snprintf(usage, sizeof usage, "%s://host:port", scheme);
    if ((rc = sq_url_split(url, 0, false, usage, place, &u, e)) < 0)
        return rc;
    if (*u.rest && strcmp(u.rest, "/") != 0)
        return sq_url_bad(e, url, "there is no path in it", usage);
    if (json_string_length(send) > (datagram ? DATAGRAM_MAX : SEND_MAX))
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "send: at most %d bytes", SEND_MAX);
    if (datagram && json_string_length(send) == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "send: what a datagram carries is missing");
    p = calloc(1, sizeof *p);
    if (!p || (json_string_length(send) > 0 && !(p->send = malloc(json_string_length(send))))) {
        free(p);
        return sq_err(e, -ENOMEM, "no memory");
    }
    p->rules = rules;
    p->len = json_string_length(send);
    if (p->len > 0)
        memcpy(p->send, json_string_value(send), p->len);
    p->datagram = place->datagram = datagram;
    *plan = p;
    return 0;
}

void sq_echo_release(void *plan)
{
    struct sq_echo_plan *p = plan;

    if (p)
        free(p->send);
    free(p);
}

bool sq_echo_repeatable(const void *plan)
{
    return !((const struct sq_echo_plan *)plan)->datagram;
}

const char *sq_echo_request(void *plan, const struct sq_values *v, const char *trace, size_t *len)
{
    const struct sq_echo_plan *p = plan;

    (void)v;
    (void)trace;
    *len = p->len;
    return p->len > 0 ? p->send : "";
}

void sq_echo_open(void *talk, const void *plan)
{
    sq_echo_begin(talk, plan, NULL);
}

void sq_echo_begin(void *talk, const void *plan, struct sq_keep *keep)
{
    struct sq_echo_talk *t = talk;

    (void)keep;
    t->plan = plan;
    t->open = true;
    sq_match_begin(t->plan->rules, &t->match);
}

enum sq_feed sq_echo_feed(void *talk, const char *data, size_t len)
{
    struct sq_echo_talk *t = talk;
    const struct sq_echo_plan *p = t->plan;
    int needle = p->rules->expect_needle;
    uint64_t at = t->match.bytes;

    if (p->datagram && needle < 0 && (len != p->len || memcmp(data, p->send, len) != 0))
        return SQ_FEED_MORE; /* somebody else's, or too late */
    sq_match_body(p->rules, &t->match, data, len);
    if (p->datagram)
        return SQ_FEED_DONE;
    if (needle >= 0)
        return (t->match.needles >> needle & 1) || t->match.bytes >= SQ_MATCH_BODY ? SQ_FEED_DONE : SQ_FEED_MORE;
    if (at + len > p->len || memcmp(data, p->send + at, len) != 0)
        return SQ_FEED_BAD;
    return at + len == p->len ? SQ_FEED_DONE : SQ_FEED_MORE;
}

enum sq_feed sq_echo_eof(void *talk)
{
    struct sq_echo_talk *t = talk;

    t->open = false;
    return t->plan->rules->expect_needle >= 0 && t->match.bytes > 0 ? SQ_FEED_DONE : SQ_FEED_BAD;
}

void sq_echo_answer(const void *talk, struct sq_answer *out)
{
    const struct sq_echo_talk *t = talk;

    out->status = 0;
    out->keep = t->open && t->plan->len > 0;
    out->bytes = t->match.bytes;
    sq_match_end(t->plan->rules, &t->match, 0, &out->matched);
}
