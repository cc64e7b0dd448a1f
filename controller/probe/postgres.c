/* PostgreSQL `select 1` (protocol 3.0): postgres://user@host[:5432]/database and postgres+unix:/path/.s.PGSQL.5432:/db.
 * Logs in by trust, a clear password, MD5 or SCRAM-SHA-256, with the password from the environment variable that
 * `password_env` names; no TLS. The answer's status is 0, or 1 for an error; its body is the row, or the error's
 * SQLSTATE and text. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe/proto.h"
#include "probe/scram.h"
#include "probe/url.h"
#include "squall/json.h"

#define PAYLOAD_MAX 2048        /* of a message, as much as we look at */
#define MESSAGE_MAX (16u << 20) /* a longer one is no answer to `select 1` */
#define PASSWORD_LEN 256

static const char usage[] = "postgres://user@host:port/database or postgres+unix:/path/.s.PGSQL.5432:/database";
static const char query[] = "Q\0\0\0\rselect 1";

struct plan {
    const struct sq_rules *rules;
    struct sq_buf startup;
    char user[SQ_USER_MAX], password[PASSWORD_LEN];
    bool has_password;
    struct sq_scram_key key;
};

struct talk {
    struct plan *plan;
    struct sq_match_state match;
    struct sq_scram scram;
    int status;
    bool ready, surplus;
    unsigned char head[5];
    size_t head_len, left, len; /* left: of the message, still to come; len: of it in payload */
    char payload[PAYLOAD_MAX + 1];
};

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "postgres") || sq_url_is(url, "postgresql");
}

static void put32(char *p, size_t v)
{
    p[0] = (char)(v >> 24);
    p[1] = (char)(v >> 16);
    p[2] = (char)(v >> 8);
    p[3] = (char)v;
}

static void write_startup(struct plan *p, const char *database)
{
    static const char version[] = {0, 3, 0, 0};
    char len[4] = {0};

    sq_buf_put(&p->startup, len, 4);
    sq_buf_put(&p->startup, version, 4);
    sq_buf_put(&p->startup, "user", 5);
    sq_buf_put(&p->startup, p->user, strlen(p->user) + 1);
    sq_buf_put(&p->startup, "database", 9);
    sq_buf_put(&p->startup, database, strlen(database) + 1);
    sq_buf_put(&p->startup, "application_name", 17);
    sq_buf_put(&p->startup, "squall\0", 8); /* with the list's end */
    if (!p->startup.failed)
        put32(p->startup.data, p->startup.len);
}

static void release(void *plan)
{
    struct plan *p = plan;

    if (p)
        sq_buf_free(&p->startup);
    free(p);
}

static int read_password(struct plan *p, const char *env, struct sq_err *e)
{
    const char *password = env ? getenv(env) : NULL;

    if (!env)
        return 0;
    if (!password || strlen(password) >= sizeof p->password)
        return sq_err_cls(e, SQ_C_INPUT, -ENOENT, "password_env: there is no %.60s in the environment%s", env,
                          password ? " that is short enough" : "");
    memcpy(p->password, password, strlen(password) + 1);
    p->has_password = true;
    return 0;
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    const json_t *request = json_object_get(endpoint, "request");
    const char *url = sq_json_str_or(request, "url", ""), *database;
    struct plan *p;
    struct sq_url u;
    int rc = sq_url_split(url, 5432, true, usage, place, &u, e);

    (void)names;
    if (rc < 0)
        return rc;
    if (json_object_get(request, "tls"))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "tls: the probe speaks PostgreSQL without TLS only");
    database = *u.rest == '/' && u.rest[1] ? u.rest + 1 : u.user[0] ? u.user : "postgres";
    if (strlen(database) > 63 || strpbrk(database, "/?"))
        return sq_url_bad(e, url, "a database's name is behind the host, nothing else", usage);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->rules = rules;
    (void)snprintf(p->user, sizeof p->user, "%s", u.user[0] ? u.user : "postgres");
    write_startup(p, database);
    rc = read_password(p, sq_json_str_or(request, "password_env", NULL), e);
    if (rc < 0)
        release(p);
    else
        *plan = p;
    return rc;
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
    *len = sizeof query;
    return query;
}

static void begin(void *talk, const void *plan, struct sq_keep *keep)
{
    struct talk *t = talk;

    (void)keep;
    t->plan = (struct plan *)(uintptr_t)plan;
    t->status = 0;
    t->surplus = false;
    t->head_len = 0;
    sq_match_begin(t->plan->rules, &t->match);
}

static void open_talk(void *talk, const void *plan)
{
    struct talk *t = talk;

    t->ready = false;
    begin(talk, plan, NULL);
}

/* --- messages --- */

/* Up to a whole message: its type is t->head[0], its first PAYLOAD_MAX bytes t->payload (ends with a 0). */
static enum sq_feed take_message(struct talk *t, const char **data, size_t *len)
{
    while (*len > 0) {
        size_t n;

        if (t->head_len < sizeof t->head) {
            t->head[t->head_len++] = (unsigned char)*(*data)++;
            (*len)--;
            if (t->head_len < sizeof t->head)
                continue;
            t->left = (size_t)t->head[1] << 24 | (size_t)t->head[2] << 16 | (size_t)t->head[3] << 8 | t->head[4];
            if (t->left < 4 || t->left > MESSAGE_MAX)
                return SQ_FEED_BAD;
            t->left -= 4;
            t->len = 0;
        }
        n = t->left < *len ? t->left : *len;
        if (t->len < PAYLOAD_MAX) {
            size_t room = PAYLOAD_MAX - t->len, take = n < room ? n : room;

            memcpy(t->payload + t->len, *data, take);
            t->len += take;
        }
        *data += n;
        *len -= n;
        t->left -= n;
        if (t->left == 0) {
            t->payload[t->len] = '\0';
            t->head_len = 0;
            return SQ_FEED_DONE;
        }
    }
    return SQ_FEED_MORE;
}

/* An ErrorResponse: the SQLSTATE and the text. */
static void note_error(struct talk *t)
{
    t->status = 1;
    for (size_t at = 0; at < t->len && t->payload[at];) {
        const char *field = t->payload + at;
        size_t n = strlen(field);

        if (*field == 'C' || *field == 'M')
            sq_match_body(t->plan->rules, &t->match, field + 1, n - 1);
        at += n + 1;
    }
}

/* --- logging in --- */

static void put_message(struct sq_buf *out, const char *data, size_t len)
{
    char head[5] = {'p'};

    put32(head + 1, len + 4);
    sq_buf_put(out, head, 5);
    sq_buf_put(out, data, len);
}

static void hex_md5(const void *a, size_t a_len, const void *b, size_t b_len, char out[33])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned n = 0;

    out[0] = '\0';
    if (ctx && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) == 1 && EVP_DigestUpdate(ctx, a, a_len) == 1 &&
        EVP_DigestUpdate(ctx, b, b_len) == 1 && EVP_DigestFinal_ex(ctx, digest, &n) == 1)
        for (unsigned i = 0; i < 16; i++)
            (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
    EVP_MD_CTX_free(ctx);
}

/* md5(md5(password + user) + salt) */
static void answer_md5(const struct talk *t, struct sq_buf *out)
{
    char inner[33], outer[36] = "md5";

    hex_md5(t->plan->password, strlen(t->plan->password), t->plan->user, strlen(t->plan->user), inner);
    hex_md5(inner, 32, t->payload + 4, 4, outer + 3);
    put_message(out, outer, 36);
}

static void answer_sasl(struct talk *t, struct sq_buf *out)
{
    static const char name[] = "SCRAM-SHA-256";
    char first[SQ_SCRAM_TEXT], m[sizeof name + 4 + SQ_SCRAM_TEXT];

    sq_scram_first(&t->scram, first);
    memcpy(m, name, sizeof name);
    put32(m + sizeof name, strlen(first));
    memcpy(m + sizeof name + 4, first, strlen(first));
    put_message(out, m, sizeof name + 4 + strlen(first));
}

/* An Authentication message; false: a way in that we don't know, or no password for it. */
static bool authenticate(struct talk *t, struct sq_buf *out)
{
    char text[SQ_SCRAM_TEXT];
    const char *data = t->payload + 4;
    size_t len = t->len - 4;

    if (t->len < 4 || t->len >= PAYLOAD_MAX || t->payload[0] || t->payload[1] || t->payload[2])
        return false;
    if (t->payload[3] != 0 && !t->plan->has_password)
        return false;
    switch (t->payload[3]) {
    case 0: /* done */
        return true;
    case 3:
        put_message(out, t->plan->password, strlen(t->plan->password) + 1);
        return true;
    case 5:
        if (len != 4)
            return false;
        answer_md5(t, out);
        return true;
    case 10: /* a list of mechanisms */
        for (size_t at = 0; at < len && data[at]; at += strlen(data + at) + 1)
            if (strcmp(data + at, "SCRAM-SHA-256") == 0) {
                answer_sasl(t, out);
                return true;
            }
        return false;
    case 11:
        if (!t->scram.first[0] || !sq_scram_final(&t->scram, &t->plan->key, t->plan->password, data, len, text))
            return false;
        put_message(out, text, strlen(text));
        return true;
    case 12:
        return t->scram.first[0] && sq_scram_verify(&t->scram, data, len);
    default:
        return false;
    }
}

static enum sq_feed hello(void *talk, const char *data, size_t len, struct sq_buf *out)
{
    struct talk *t = talk;
    enum sq_feed fed;

    if (!data) {
        t->scram.first[0] = '\0';
        sq_buf_put(out, t->plan->startup.data, t->plan->startup.len);
        return SQ_FEED_MORE;
    }
    while (!t->ready && (fed = take_message(t, &data, &len)) != SQ_FEED_MORE) {
        if (fed == SQ_FEED_BAD || t->head[0] == 'E' || (t->head[0] == 'R' && !authenticate(t, out)))
            return SQ_FEED_BAD;
        t->ready = t->head[0] == 'Z';
    }
    return t->ready ? SQ_FEED_DONE : SQ_FEED_MORE;
}

static enum sq_feed feed(void *talk, const char *data, size_t len)
{
    struct talk *t = talk;
    enum sq_feed fed;

    while ((fed = take_message(t, &data, &len)) == SQ_FEED_DONE) {
        switch (t->head[0]) {
        case 'D':
            if (t->len > 6)
                sq_match_body(t->plan->rules, &t->match, t->payload + 6, t->len - 6);
            break;
        case 'E':
            note_error(t);
            break;
        case 'Z':
            t->surplus = len > 0;
            return SQ_FEED_DONE;
        case 'T': /* what the row looks like, what was done, what somebody may want to know */
        case 'C':
        case 'N':
        case 'S':
            break;
        default:
            return SQ_FEED_BAD;
        }
    }
    return fed;
}

static enum sq_feed eof(void *talk)
{
    struct talk *t = talk;

    t->surplus = true;
    return t->status == 1 ? SQ_FEED_DONE : SQ_FEED_BAD; /* a server that shuts down says so, and closes */
}

static void answer(const void *talk, struct sq_answer *out)
{
    const struct talk *t = talk;

    out->status = t->status;
    out->keep = !t->surplus;
    out->bytes = t->match.bytes;
    sq_match_end(t->plan->rules, &t->match, t->status, &out->matched);
}

const struct sq_proto sq_proto_postgres = {
    .name = "postgres",
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
