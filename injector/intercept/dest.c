#include "intercept/dest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HINT "write 127.0.0.1:80, 10.0.0.0/8:5432, 127.0.0.1:8000-8010, [::1]:80, unix:/run/db.sock or unix:@name"

static int bad(struct sq_err *e, const char *s, const char *why)
{
    int rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "destination '%.200s': %s", s, why);

    sq_err_hint(e, HINT);
    return rc;
}

/* Digits only, no sign, no blanks; *end is the first byte behind them. */
static int number(const char *s, unsigned max, unsigned *out, const char **end)
{
    unsigned v = 0;
    const char *p = s;

    while (*p >= '0' && *p <= '9' && p - s < 6)
        v = v * 10 + (unsigned)(*p++ - '0');
    if (p == s || (*p >= '0' && *p <= '9') || v > max)
        return -EINVAL;
    *out = v;
    *end = p;
    return 0;
}

static int parse_ports(const char *p, const char *s, struct sq_matcher *m, struct sq_err *e)
{
    unsigned lo, hi;

    if (number(p, 65535, &lo, &p) < 0 || lo == 0)
        return bad(e, s, "the port must be 1 to 65535");
    hi = lo;
    if (*p == '-' && (number(p + 1, 65535, &hi, &p) < 0 || hi < lo))
        return bad(e, s, "the port range must be low-high");
    if (*p)
        return bad(e, s, "unexpected text after the port");
    m->port_lo = (uint16_t)lo;
    m->port_hi = (uint16_t)hi;
    return 0;
}

static void set_mask(struct sq_matcher *m, unsigned bits)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned n = bits > i * 32 ? bits - i * 32 : 0;

        m->mask[i] = n >= 32 ? 0xffffffffu : n == 0 ? 0 : htonl(~0u << (32 - n));
    }
}

static int parse_ip(const char *host, bool v6, const char *s, struct sq_matcher *m, struct sq_err *e)
{
    char buf[64];
    unsigned bits = v6 ? 128 : 32;
    char *slash;
    const char *end;

    if (strlen(host) >= sizeof(buf))
        return bad(e, s, "not an IP address");
    memcpy(buf, host, strlen(host) + 1);
    slash = strchr(buf, '/');
    if (slash) {
        *slash = '\0';
        if (number(slash + 1, bits, &bits, &end) < 0 || *end)
            return bad(e, s, v6 ? "the prefix length must be 0 to 128" : "the prefix length must be 0 to 32");
    }
    memset(m->addr, 0, sizeof(m->addr));
    if (v6) {
        if (inet_pton(AF_INET6, buf, m->addr) != 1)
            return bad(e, s, "not an IPv6 address");
        set_mask(m, bits);
    } else {
        m->addr[2] = htonl(0xffff);
        if (inet_pton(AF_INET, buf, &m->addr[3]) != 1)
            return bad(e, s, "not an IPv4 address (names are not resolved here)");
        set_mask(m, bits + 96);
    }
    for (unsigned i = 0; i < 4; i++)
        if (m->addr[i] & ~m->mask[i])
            return bad(e, s, "the address has bits set behind its prefix");
    return 0;
}

static int parse_unix(const char *path, const char *s, struct sq_dest *d, struct sq_err *e)
{
    size_t n = strlen(path);

    d->is_unix = true;
    if (path[0] != '/' && path[0] != '@')
        return bad(e, s, "a Unix socket is an absolute path, or @name for an abstract one");
    if (n < 2)
        return bad(e, s, "empty name of a Unix socket");
    if (n >= sizeof(d->path))
        return bad(e, s, "a Unix socket's path has at most 107 bytes");
    memcpy(d->path, path, n + 1);
    d->path_len = n;
    if (path[0] == '@')
        d->path[0] = '\0';
    return 0;
}

int sq_dest_parse(const char *s, struct sq_dest *d, struct sq_err *e)
{
    char host[64];
    const char *open = s, *colon;
    bool v6;
    size_t n;
    int rc;

    memset(d, 0, sizeof(*d));
    if (strncmp(s, "unix:", 5) == 0)
        return parse_unix(s + 5, s, d, e);
    v6 = s[0] == '[';
    if (v6) {
        open = s + 1;
        colon = strchr(open, ']');
        if (!colon || colon[1] != ':')
            return bad(e, s, "an IPv6 destination is [address]:port");
    } else {
        colon = strchr(s, ':');
        if (!colon)
            return bad(e, s, "no port");
        if (strchr(colon + 1, ':'))
            return bad(e, s, "an IPv6 address goes in brackets: [address]:port");
    }
    n = (size_t)(colon - open);
    if (n == 0 || n >= sizeof(host))
        return bad(e, s, "not an IP address");
    memcpy(host, open, n);
    host[n] = '\0';
    rc = parse_ip(host, v6, s, &d->m, e);
    return rc < 0 ? rc : parse_ports(v6 ? colon + 2 : colon + 1, s, &d->m, e);
}

bool sq_matcher_hit(const struct sq_matcher *m, const uint32_t addr[4], uint16_t port)
{
    if (port < m->port_lo || port > m->port_hi)
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((addr[i] & m->mask[i]) != m->addr[i])
            return false;
    return true;
}
