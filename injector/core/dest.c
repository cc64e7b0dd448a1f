/* Destinations of an edge: an address, a network or a host name with ports, or a Unix socket. */
#include "squall/dest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "squall/netspec.h"

#define HINT                                                                                                           \
    "write 127.0.0.1:80, 10.0.0.0/8:5432, 127.0.0.1:8000-8010, [::1]:80, db.staging:5432, unix:/run/db.sock or "       \
    "unix:@name"

static int bad(struct sq_err *e, const char *s, const char *why)
{
    int rc = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "destination '%.200s': %s", s, why);

    sq_err_hint(e, HINT);
    return rc;
}

static int parse_unix(const char *path, const char *s, struct sq_dest *d, struct sq_err *e)
{
    size_t n = strlen(path);

    d->kind = SQ_DEST_UNIX;
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

/* HOST is what stands before the port, without brackets. */
static int parse_host(const char *host, bool brackets, const char *s, struct sq_dest *d, struct sq_err *e)
{
    struct sq_err why = {0};

    if (!brackets && strchr(host, ':'))
        return bad(e, s, "an IPv6 address goes in brackets: [address]:port");
    if (brackets && !strchr(host, ':'))
        return bad(e, s, "not an IPv6 address");
    if (sq_parse_network(host, &d->addr, &d->bits, &why) == 0)
        return 0;
    if (!brackets && !strchr(host, '/') && sq_is_hostname(host)) {
        d->kind = SQ_DEST_NAME;
        memcpy(d->name, host, strlen(host) + 1); /* a host name has at most 253 bytes */
        return 0;
    }
    return bad(e, s, why.msg);
}

int sq_dest_parse(const char *s, struct sq_dest *d, struct sq_err *e)
{
    struct sq_err why = {0};
    char host[256];
    const char *open = s, *colon;
    bool brackets;
    size_t n;
    int rc;

    memset(d, 0, sizeof(*d));
    if (strstr(s, "://"))
        return bad(e, s, "a URL is no destination: only its host and port are");
    if (strncmp(s, "unix:", 5) == 0)
        return parse_unix(s + 5, s, d, e);
    brackets = s[0] == '[';
    if (brackets) {
        open = s + 1;
        colon = strchr(open, ']');
        if (!colon || colon[1] != ':')
            return bad(e, s, "an IPv6 destination is [address]:port");
    } else {
        colon = strrchr(s, ':');
        if (!colon)
            return bad(e, s, "the port is missing at the end");
    }
    n = (size_t)(colon - open);
    if (n == 0 || n >= sizeof(host))
        return bad(e, s, "there is no address before the port");
    memcpy(host, open, n);
    host[n] = '\0';
    rc = parse_host(host, brackets, s, d, e);
    if (rc == 0 && sq_parse_ports(colon + (brackets ? 2 : 1), &d->from, &d->to, &why) < 0)
        rc = bad(e, s, why.msg);
    return rc;
}
