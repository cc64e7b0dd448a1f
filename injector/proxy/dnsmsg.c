#include "proxy/dnsmsg.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/json.h"

#define UDP_SIZE 512 /* without EDNS */
#define OUR_SIZE 1232
#define TTL 1       /* of a wrong answer: nobody may keep it beyond the fault */
#define RECORDS 256 /* of a query that are looked at for its OPT */
#define QR 0x80
#define OPCODE 0x78
#define TC 0x02
#define RD 0x01
#define RA 0x80
#define CD 0x10
#define OPT_LEN 11 /* an empty one */

enum answer {
    SAYS_NXDOMAIN,
    SAYS_SERVFAIL,
    SAYS_REFUSED,
    SAYS_NODATA,
    SAYS_TIMEOUT,
    SAYS_WRONG,
    SAYS_REAL,
    SAYS_ANSWERS
};
static const char *const answers[SAYS_ANSWERS] = {"nxdomain", "servfail", "refused", "nodata",
                                                  "timeout",  "wrong",    "real"};
static const uint8_t rcodes[SAYS_ANSWERS] = {3, 2, 5, 0, 0, 0, 0};

static const struct {
    const char *name;
    uint16_t type;
} TYPES[] = {{"A", 1},    {"NS", 2},    {"CNAME", 5}, {"SOA", 6},   {"PTR", 12},   {"MX", 15},
             {"TXT", 16}, {"AAAA", 28}, {"SRV", 33},  {"SVCB", 64}, {"HTTPS", 65}, {"ANY", 255}};
#define N_TYPES (sizeof(TYPES) / sizeof(TYPES[0]))

struct sq_dns_rule {
    enum answer answer;
    unsigned n_names, n_types, n_v4, n_v6;
    uint16_t type[SQ_DNS_TYPES];
    uint8_t v4[SQ_DNS_ADDRESSES][4], v6[SQ_DNS_ADDRESSES][16];
    char name[SQ_DNS_NAMES][256];
};

static int bad(struct sq_err *e, const char *what)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a rule of DNS: %s", what);
}

static int parse_name(struct sq_dns_rule *r, const char *s)
{
    size_t n = strlen(s);
    if (n > 0 && s[n - 1] == '.')
        n--;
    if (n == 0 || n >= sizeof(r->name[0]) || r->n_names == SQ_DNS_NAMES)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        r->name[r->n_names][i] = (char)tolower((unsigned char)s[i]);
    r->n_names++;
    return 0;
}

static int parse_type(struct sq_dns_rule *r, const char *s)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcasecmp(s, TYPES[i].name) == 0 && r->n_types < SQ_DNS_TYPES) {
            r->type[r->n_types++] = TYPES[i].type;
            return 0;
        }
    return -EINVAL;
}

static int parse_address(struct sq_dns_rule *r, const char *s)
{
    if (r->n_v4 < SQ_DNS_ADDRESSES && inet_pton(AF_INET, s, r->v4[r->n_v4]) == 1)
        r->n_v4++;
    else if (r->n_v6 < SQ_DNS_ADDRESSES && inet_pton(AF_INET6, s, r->v6[r->n_v6]) == 1)
        r->n_v6++;
    else
        return -EINVAL;
    return 0;
}

static int each(const json_t *list, struct sq_dns_rule *r, int (*take)(struct sq_dns_rule *r, const char *s))
{
    const json_t *v;
    size_t i;
    if (list && !json_is_array(list))
        return -EINVAL;
    json_array_foreach(list, i, v)
    {
        const char *s = json_string_value(v);
        if (!s || take(r, s) != 0)
            return -EINVAL;
    }
    return 0;
}

int sq_dns_rule_parse(const json_t *o, struct sq_dns_rule **out, struct sq_err *e)
{
    const char *answer = sq_json_str_or(o, "answer", "");
    struct sq_dns_rule *r = calloc(1, sizeof(*r));
    int rc = 0;
    if (!r)
        return sq_err(e, -ENOMEM, "no memory for a rule");
    while (r->answer < SAYS_ANSWERS && strcmp(answers[r->answer], answer) != 0)
        r->answer++;
    if (r->answer == SAYS_ANSWERS)
        rc = bad(e, "no such answer");
    else if (each(json_object_get(o, "names"), r, parse_name) != 0)
        rc = bad(e, "names: at most 32, each a name, or *.suffix");
    else if (each(json_object_get(o, "types"), r, parse_type) != 0)
        rc = bad(e, "types: at most 16 of A, AAAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT, ANY");
    else if (each(json_object_get(o, "address"), r, parse_address) != 0)
        rc = bad(e, "address: at most 16 IPv4 and 16 IPv6 addresses");
    else if ((r->answer == SAYS_WRONG) != (r->n_v4 + r->n_v6 > 0))
        rc = bad(e, "a wrong answer, and no other, needs an address");
    if (rc == 0)
        *out = r;
    else
        free(r);
    return rc;
}

static const char *type_name(uint16_t type)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (TYPES[i].type == type)
            return TYPES[i].name;
    return "";
}

void sq_dns_rule_json(const struct sq_dns_rule *r, json_t *o)
{
    json_t *names = json_array(), *types = json_array(), *address = json_array();
    char text[INET6_ADDRSTRLEN];
    for (unsigned i = 0; i < r->n_names; i++)
        json_array_append_new(names, json_string(r->name[i]));
    for (unsigned i = 0; i < r->n_types; i++)
        json_array_append_new(types, json_string(type_name(r->type[i])));
    for (unsigned i = 0; i < r->n_v4; i++)
        json_array_append_new(address, json_string(inet_ntop(AF_INET, r->v4[i], text, sizeof(text))));
    for (unsigned i = 0; i < r->n_v6; i++)
        json_array_append_new(address, json_string(inet_ntop(AF_INET6, r->v6[i], text, sizeof(text))));
    json_object_set_new(o, "answer", json_string(answers[r->answer]));
    json_object_set_new(o, "names", names);
    json_object_set_new(o, "types", types);
    json_object_set_new(o, "address", address);
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static int read_name(const uint8_t *p, size_t len, struct sq_dns_question *q)
{
    unsigned char wire[NS_MAXCDNAME];
    int n = ns_name_unpack(p, p + len, p + NS_HFIXEDSZ, wire, sizeof(wire));
    if (n < 0 || (p[NS_HFIXEDSZ] & NS_CMPRSFLGS) || ns_name_ntop(wire, q->name, sizeof(q->name)) < 0)
        return -EBADMSG;
    for (char *c = q->name; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    if (strcmp(q->name, ".") == 0)
        q->name[0] = '\0';
    q->end = NS_HFIXEDSZ + (size_t)n;
    return 0;
}

/* One that is damaged has no OPT, as far as anybody can tell. */
static void find_opt(const uint8_t *p, size_t len, struct sq_dns_question *q)
{
    unsigned n = (unsigned)get16(p + 6) + get16(p + 8) + get16(p + 10);
    const unsigned char *at = p + q->end, *end = p + len;
    q->size = UDP_SIZE;
    for (unsigned i = 0; i < n && i < RECORDS; i++) {
        bool root = at < end && *at == 0;
        if (ns_name_skip(&at, end) < 0 || end - at < 10)
            return;
        size_t data = get16(at + 8);
        if ((size_t)(end - at) < 10 + data)
            return;
        if (root && get16(at) == 41) {
            q->edns = true;
            q->size = get16(at + 2) > UDP_SIZE ? get16(at + 2) : UDP_SIZE;
            return;
        }
        at += 10 + data;
    }
}

int sq_dns_question(const uint8_t *p, size_t len, struct sq_dns_question *q)
{
    memset(q, 0, sizeof(*q));
    if (len < NS_HFIXEDSZ || (p[2] & (QR | OPCODE)) || get16(p + 4) != 1 || read_name(p, len, q) != 0 ||
        len < q->end + NS_QFIXEDSZ)
        return -EBADMSG;
    q->type = get16(p + q->end);
    q->class = get16(p + q->end + 2);
    q->end += NS_QFIXEDSZ;
    find_opt(p, len, q);
    return 0;
}

static bool name_is(const char *pattern, const char *name)
{
    size_t n = strlen(name), k;
    if (strcmp(pattern, "*") == 0)
        return true;
    if (pattern[0] != '*' || pattern[1] != '.')
        return strcmp(pattern, name) == 0;
    k = strlen(pattern + 1);
    return n > k && strcmp(name + n - k, pattern + 1) == 0;
}

bool sq_dns_concerns(const struct sq_dns_rule *r, const struct sq_dns_question *q)
{
    bool name = r->n_names == 0, type = r->n_types == 0;
    for (unsigned i = 0; i < r->n_names && !name; i++)
        name = name_is(r->name[i], q->name);
    for (unsigned i = 0; i < r->n_types && !type; i++)
        type = r->type[i] == q->type;
    /* A wrong address is the answer to a question for an address only. */
    if (r->answer == SAYS_WRONG && q->type != ns_t_a && q->type != ns_t_aaaa)
        return false;
    return name && type && q->class == ns_c_in;
}

bool sq_dns_swallows(const struct sq_dns_rule *r)
{
    return r->answer == SAYS_TIMEOUT;
}

static uint8_t *put_address(uint8_t *p, uint16_t type, const uint8_t *addr, size_t len)
{
    put16(p, 0xc000 | NS_HFIXEDSZ); /* the name of the question */
    put16(p + 2, type);
    put16(p + 4, ns_c_in);
    put16(p + 6, 0);
    put16(p + 8, TTL);
    put16(p + 10, (unsigned)len);
    memcpy(p + 12, addr, len);
    return p + 12 + len;
}

static uint8_t *put_opt(uint8_t *p)
{
    memset(p, 0, OPT_LEN);
    put16(p + 1, 41);
    put16(p + 3, OUR_SIZE);
    return p + OPT_LEN;
}

size_t sq_dns_answer(const struct sq_dns_rule *r, const struct sq_dns_question *q, const uint8_t *p, bool tcp,
                     uint8_t *out, size_t cap)
{
    bool v4 = q->type == ns_t_a;
    unsigned n = r->answer != SAYS_WRONG ? 0 : v4 ? r->n_v4 : r->n_v6;
    size_t one = 12 + (v4 ? 4 : 16), opt = q->edns ? OPT_LEN : 0;
    size_t room = tcp || q->size > cap ? cap : q->size;
    if (r->answer == SAYS_REAL || r->answer == SAYS_TIMEOUT || q->end + opt > room)
        return 0;
    bool cut = q->end + n * one + opt > room;
    uint8_t *at = out + q->end;
    n = cut ? 0 : n;
    memcpy(out, p, q->end); /* the id, and the question with its case */
    out[2] = (uint8_t)(QR | (cut ? TC : 0) | (p[2] & RD));
    out[3] = (uint8_t)(RA | (p[3] & CD) | rcodes[r->answer]);
    put16(out + 6, n);
    put16(out + 8, 0);
    put16(out + 10, q->edns);
    for (unsigned i = 0; i < n; i++)
        at = put_address(at, q->type, v4 ? r->v4[i] : r->v6[i], v4 ? 4 : 16);
    if (q->edns)
        at = put_opt(at);
    return (size_t)(at - out);
}

int sq_dns_rcode(const uint8_t *p, size_t len)
{
    return len >= NS_HFIXEDSZ ? p[3] & 15 : 0;
}
