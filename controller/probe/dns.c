/* DNS over UDP (RFC 1035): dns://server[:53]/name?type=A. The answer's status is its RCODE (0: no error, 3: no such
 * name); its body is the records' data as text, one a line, so that `expect: {body: 192.0.2.1}` can look at it. One
 * query at a time on a socket, which is closed when an answer is overdue: a late one can't be taken for the next. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "probe/proto.h"
#include "probe/url.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/rng.h"

#define HEADER 12
#define NAME_MAX_LEN 255 /* in its wire form */
#define QUERY_MAX (HEADER + NAME_MAX_LEN + 4 + 11)
#define TEXT_MAX 1100 /* of a name, with escapes */
#define JUMPS_MAX 32
#define UDP_SIZE 1232 /* what we take (EDNS, RFC 6891), so that no answer is fragmented */

static const char usage[] = "dns://server/name?type=A";

static const struct {
    const char *name;
    uint16_t type;
} types[] = {{"A", 1},   {"NS", 2},   {"CNAME", 5}, {"SOA", 6},  {"PTR", 12},
             {"MX", 15}, {"TXT", 16}, {"AAAA", 28}, {"SRV", 33}, {"ANY", 255}};

struct plan {
    const struct sq_rules *rules;
    unsigned char query[QUERY_MAX];
    size_t len, question; /* question: its length, behind the header */
};

struct talk {
    const struct plan *plan;
    struct sq_match_state match;
    int status;
};

/* A message and where in it we are. */
struct reader {
    const unsigned char *p;
    size_t len, at;
};

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return sq_url_is(url, "dns");
}

/* --- the query --- */

static void put16(unsigned char *p, unsigned v)
{
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)v;
}

/* "www.example.org" (with or without a dot at its end) to its wire form; 0: not a name. */
static size_t put_name(unsigned char *to, const char *name, size_t len)
{
    size_t used = 0;

    if (len > 0 && name[len - 1] == '.')
        len--;
    while (len > 0) {
        const char *dot = memchr(name, '.', len);
        size_t n = dot ? (size_t)(dot - name) : len;

        if (n == 0 || n > 63 || used + n + 2 > NAME_MAX_LEN)
            return 0;
        to[used++] = (unsigned char)n;
        memcpy(to + used, name, n);
        used += n;
        name += n + (dot != NULL);
        len -= n + (dot != NULL);
        if (dot && len == 0)
            return 0;
    }
    to[used++] = 0;
    return used;
}

static int find_type(const char *query, uint16_t *type)
{
    *type = 1;
    if (!*query)
        return 0;
    if (strncmp(query, "?type=", 6) != 0)
        return -EINVAL;
    for (size_t i = 0; i < SQ_COUNT(types); i++)
        if (strcasecmp(query + 6, types[i].name) == 0) {
            *type = types[i].type;
            return 0;
        }
    return -EINVAL;
}

static void write_query(struct plan *p, size_t name, uint16_t type)
{
    unsigned char *q = p->query, *end = q + HEADER + name;

    put16(q, (unsigned)(sq_rng_entropy() & 0xffff));
    put16(q + 2, 0x0100); /* recursion desired */
    put16(q + 4, 1);      /* one question */
    put16(q + 10, 1);     /* one additional record: EDNS */
    put16(end, type);
    put16(end + 2, 1); /* IN */
    p->question = name + 4;
    end += 4;
    *end++ = 0;     /* the root */
    put16(end, 41); /* OPT */
    put16(end + 2, UDP_SIZE);
    memset(end + 4, 0, 6);
    p->len = (size_t)(end + 10 - q);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    const char *url = sq_json_str_or(json_object_get(endpoint, "request"), "url", ""), *name;
    struct plan *p;
    struct sq_url u;
    uint16_t type;
    size_t len;
    int rc = sq_url_split(url, 53, false, usage, place, &u, e);

    (void)names;
    if (rc < 0)
        return rc;
    if (place->path[0] || *u.rest != '/')
        return sq_url_bad(e, url, "a server and a name are wanted", usage);
    name = u.rest + 1;
    len = strcspn(name, "?");
    if (find_type(name + len, &type) < 0)
        return sq_url_bad(e, url, "its type is none of A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT, ANY", usage);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->rules = rules;
    len = len > 0 ? put_name(p->query + HEADER, name, len) : 0;
    if (len == 0) {
        free(p);
        return sq_url_bad(e, url, "not a name that DNS can carry (labels of 1 to 63 bytes, 253 in all)", usage);
    }
    write_query(p, len, type);
    place->datagram = true;
    *plan = p;
    return 0;
}

static bool repeatable(const void *plan)
{
    (void)plan;
    return false;
}

static const char *request(void *plan, const struct sq_values *v, const char *trace, size_t *len)
{
    const struct plan *p = plan;

    (void)v;
    (void)trace;
    *len = p->len;
    return (const char *)p->query;
}

/* --- the answer --- */

static int get16(struct reader *r)
{
    if (r->len - r->at < 2)
        return -1;
    r->at += 2;
    return r->p[r->at - 2] << 8 | r->p[r->at - 1];
}

/* A name at r->at as text into OUT (NULL: passed over); false: broken. Each jump goes back, so it ends. */
static bool get_name(struct reader *r, char *out, size_t room)
{
    size_t at = r->at, used = 0, end = 0, limit = r->len;

    for (int jumps = 0; at < r->len;) {
        unsigned n = r->p[at];

        if (n == 0) {
            if (out)
                out[used] = '\0';
            r->at = end ? end : at + 1;
            return true;
        }
        if ((n & 0xc0) == 0xc0) {
            size_t to;

            if (at + 1 >= r->len || ++jumps > JUMPS_MAX)
                return false;
            to = (size_t)(n & 0x3f) << 8 | r->p[at + 1];
            end = end ? end : at + 2;
            if (to >= limit || to >= at)
                return false;
            limit = at = to;
            continue;
        }
        if (n > 63 || at + 1 + n > r->len)
            return false;
        for (unsigned i = 0; out && i < n; i++) {
            if (used + 2 >= room)
                return false;
            out[used++] = isgraph(r->p[at + 1 + i]) ? (char)r->p[at + 1 + i] : '?';
        }
        if (out)
            out[used++] = '.';
        at += 1 + n;
    }
    return false;
}

/* The data of a record as text; "" for kinds that nobody would look at; false: broken. */
static bool record_text(const struct reader *whole, size_t len, int type, char *out, size_t room)
{
    struct reader r = {whole->p, whole->at + len, whole->at};
    const unsigned char *d = r.p + r.at;
    int a, b, c;

    out[0] = '\0';
    switch (type) {
    case 1:
        return len == 4 && inet_ntop(AF_INET, d, out, (socklen_t)room);
    case 28:
        return len == 16 && inet_ntop(AF_INET6, d, out, (socklen_t)room);
    case 2:
    case 5:
    case 12:
        return get_name(&r, out, room);
    case 15:
        a = get16(&r);
        (void)snprintf(out, room, "%d ", a);
        return a >= 0 && get_name(&r, out + strlen(out), room - strlen(out));
    case 33:
        a = get16(&r);
        b = get16(&r);
        c = get16(&r);
        (void)snprintf(out, room, "%d %d %d ", a, b, c);
        return c >= 0 && get_name(&r, out + strlen(out), room - strlen(out));
    case 16:
        for (size_t used = 0; r.at < r.len;) {
            size_t n = r.p[r.at++];

            if (n > r.len - r.at || used + n >= room)
                return false;
            memcpy(out + used, r.p + r.at, n);
            out[used += n] = '\0';
            r.at += n;
        }
        return true;
    default:
        return true;
    }
}

/* The answer section, record by record. */
static bool read_records(struct talk *t, struct reader *r, int n)
{
    char text[TEXT_MAX + 64];

    for (; n > 0; n--) {
        int type, len;

        if (!get_name(r, NULL, 0) || (type = get16(r)) < 0 || get16(r) < 0 || get16(r) < 0 || get16(r) < 0 ||
            (len = get16(r)) < 0 || (size_t)len > r->len - r->at)
            return false;
        if (!record_text(r, (size_t)len, type, text, sizeof text - 1))
            return false;
        r->at += (size_t)len;
        if (!*text)
            continue;
        (void)strcat(text, "\n");
        sq_match_body(t->plan->rules, &t->match, text, strlen(text));
    }
    return true;
}

static bool same_question(const unsigned char *a, const unsigned char *b, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (tolower(a[i]) != tolower(b[i]))
            return false;
    return true;
}

static enum sq_feed feed(void *talk, const char *data, size_t len)
{
    struct talk *t = talk;
    const struct plan *p = t->plan;
    struct reader r = {(const unsigned char *)data, len, HEADER};
    int questions, answers;

    if (len < HEADER || memcmp(data, p->query, 2) != 0 || !(r.p[2] & 0x80))
        return SQ_FEED_MORE; /* not the answer to this */
    questions = r.p[4] << 8 | r.p[5];
    answers = r.p[6] << 8 | r.p[7];
    t->status = r.p[3] & 15;
    if (questions > 1 || (questions == 0 && t->status == 0))
        return SQ_FEED_BAD;
    if (questions == 1) {
        /* Case may differ (RFC 1035, 2.3.3), the rest is what was asked. */
        if (len < HEADER + p->question || !same_question(r.p + HEADER, p->query + HEADER, p->question))
            return SQ_FEED_BAD;
        r.at += p->question;
    }
    return read_records(t, &r, answers) ? SQ_FEED_DONE : SQ_FEED_BAD;
}

static void begin(void *talk, const void *plan, struct sq_keep *keep)
{
    struct talk *t = talk;

    (void)keep;
    t->plan = plan;
    t->status = 0;
    sq_match_begin(t->plan->rules, &t->match);
}

static void open_talk(void *talk, const void *plan)
{
    begin(talk, plan, NULL);
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
    out->keep = true;
    out->bytes = t->match.bytes;
    sq_match_end(t->plan->rules, &t->match, t->status, &out->matched);
}

const struct sq_proto sq_proto_dns = {
    .name = "dns",
    .speaks = speaks,
    .prepare = prepare,
    .release = free,
    .repeatable = repeatable,
    .request = request,
    .talk_size = sizeof(struct talk),
    .open = open_talk,
    .begin = begin,
    .feed = feed,
    .eof = eof,
    .answer = answer,
};
