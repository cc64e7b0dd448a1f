/* Redis PING (RESP): redis://[user@]host[:6379] and redis+unix:/path; a password from the environment variable that
 * `password_env` names. The answer's status is 0 for PONG, 1 for an error, whose text is the body. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/proto.h"
#include "probe/url.h"
#include "squall/json.h"

#define LINE_MAX_LEN 512

static const char usage[] = "redis://host, redis://user@host:port or redis+unix:/path";
static const char ping[] = "*1\r\n$4\r\nPING\r\n";

struct plan {
    const struct sq_rules *rules;
    struct sq_buf auth; /* empty: none */
};

struct talk {
    const struct plan *plan;
    struct sq_match_state match;
    int status;
    bool authorized, surplus;
    size_t len;
    char line[LINE_MAX_LEN];
};

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "redis") || sq_url_is(url, "rediss");
}

static void put_bulk(struct sq_buf *b, const char *s)
{
    char n[32];

    (void)snprintf(n, sizeof n, "$%zu\r\n", strlen(s));
    sq_buf_text(b, n);
    sq_buf_text(b, s);
    sq_buf_text(b, "\r\n");
}

static void release(void *plan)
{
    struct plan *p = plan;

    if (p)
        sq_buf_free(&p->auth);
    free(p);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    const json_t *request = json_object_get(endpoint, "request");
    const char *url = sq_json_str_or(request, "url", ""), *env = sq_json_str_or(request, "password_env", NULL);
    const char *password = env ? getenv(env) : NULL;
    struct plan *p;
    struct sq_url u;
    int rc = sq_url_split(url, 6379, true, usage, place, &u, e);

    (void)names;
    if (rc < 0)
        return rc;
    if (*u.rest && strcmp(u.rest, "/") != 0)
        return sq_url_bad(e, url, "a PING needs no database", usage);
    if (env && !password)
        return sq_err_cls(e, SQ_C_INPUT, -ENOENT, "password_env: there is no %.60s in the environment", env);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->rules = rules;
    place->tls = sq_url_is(url, "rediss");
    if (password) {
        sq_buf_text(&p->auth, u.user[0] ? "*3\r\n" : "*2\r\n");
        put_bulk(&p->auth, "AUTH");
        if (u.user[0])
            put_bulk(&p->auth, u.user);
        put_bulk(&p->auth, password);
    }
    *plan = p;
    return 0;
}

static bool repeatable(const void *plan)
{
    (void)plan;
    return true;
}

static const char *request_bytes(void *plan, const struct sq_values *v, const char *trace, size_t *len)
{
    (void)plan;
    (void)v;
    (void)trace;
    *len = sizeof ping - 1;
    return ping;
}

static void begin(void *talk, const void *plan, struct sq_keep *keep)
{
    struct talk *t = talk;

    (void)keep;
    t->plan = plan;
    t->status = 0;
    t->len = 0;
    t->surplus = false;
    sq_match_begin(t->plan->rules, &t->match);
}

static void open_talk(void *talk, const void *plan)
{
    ((struct talk *)talk)->authorized = false;
    begin(talk, plan, NULL);
}

/* Up to a whole line in t->line, without its end; *used: of DATA. */
static enum sq_feed take_line(struct talk *t, const char *data, size_t len, size_t *used)
{
    for (*used = 0; *used < len;) {
        char c = data[(*used)++];

        if (c == '\n' && t->len > 0 && t->line[t->len - 1] == '\r') {
            t->line[--t->len] = '\0';
            return t->len > 0 ? SQ_FEED_DONE : SQ_FEED_BAD;
        }
        if (t->len == sizeof t->line - 1)
            return SQ_FEED_BAD;
        t->line[t->len++] = c;
    }
    return SQ_FEED_MORE;
}

static enum sq_feed hello(void *talk, const char *data, size_t len, struct sq_buf *out)
{
    struct talk *t = talk;
    enum sq_feed fed;
    size_t used;

    if (t->plan->auth.len == 0 || t->authorized)
        return SQ_FEED_DONE;
    if (!data) {
        sq_buf_put(out, t->plan->auth.data, t->plan->auth.len);
        return SQ_FEED_MORE;
    }
    fed = take_line(t, data, len, &used);
    if (fed != SQ_FEED_DONE)
        return fed;
    t->len = 0;
    t->authorized = strcmp(t->line, "+OK") == 0 && used == len;
    return t->authorized ? SQ_FEED_DONE : SQ_FEED_BAD;
}

static enum sq_feed feed(void *talk, const char *data, size_t len)
{
    struct talk *t = talk;
    size_t used;
    enum sq_feed fed = take_line(t, data, len, &used);

    if (fed != SQ_FEED_DONE)
        return fed;
    t->surplus = used < len;
    if (t->line[0] == '-')
        t->status = 1;
    else if (strcmp(t->line, "+PONG") != 0)
        return SQ_FEED_BAD;
    sq_match_body(t->plan->rules, &t->match, t->line + 1, t->len - 1);
    return SQ_FEED_DONE;
}

static enum sq_feed eof(void *talk)
{
    (void)talk;
    return SQ_FEED_BAD;
}

static void answer(const void *talk, struct sq_answer *out)
{
    const struct talk *t = talk;

    out->status = t->status;
    out->keep = !t->surplus;
    out->bytes = t->match.bytes;
    sq_match_end(t->plan->rules, &t->match, t->status, &out->matched);
}

const struct sq_proto sq_proto_redis = {
    .name = "redis",
    .speaks = speaks,
    .prepare = prepare,
    .release = release,
    .repeatable = repeatable,
    .request = request_bytes,
    .talk_size = sizeof(struct talk),
    .open = open_talk,
    .begin = begin,
    .feed = feed,
    .eof = eof,
    .answer = answer,
    .hello = hello,
};
