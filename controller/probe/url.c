#include "probe/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool sq_url_is(const char *url, const char *scheme)
{
    size_t n = strlen(scheme);

    return strncasecmp(url, scheme, n) == 0 && (strncmp(url + n, "://", 3) == 0 || strncmp(url + n, "+unix:", 6) == 0);
}

int sq_url_bad(struct sq_err *e, const char *url, const char *why, const char *usage)
{
    (void)sq_err_cls(e, SQ_C_INPUT, -EINVAL, "url \"%.200s\": %s", url, why);
    sq_err_hint(e, "write %s", usage);
    return -EINVAL;
}

static int split_unix(const char *url, const char *sock, const char *usage, struct sq_place *place, struct sq_url *out,
                      struct sq_err *e)
{
    const char *end = strstr(sock, ":/");
    size_t len = end ? (size_t)(end - sock) : strlen(sock);

    if (len == 0 || sock[0] != '/')
        return sq_url_bad(e, url, "the socket's path must be absolute", usage);
    if (len >= sizeof place->path)
        return sq_url_bad(e, url, "a socket's path has at most 107 bytes (unix(7))", usage);
    memcpy(place->path, sock, len);
    out->rest = end ? end + 1 : "";
    return 0;
}

static int take_port(const char *url, const char *port, const char *end, unsigned standard, const char *usage,
                     struct sq_place *place, struct sq_err *e)
{
    unsigned long n = standard;
    char *tail = NULL;

    if (port != end) {
        n = *port == ':' && isdigit((unsigned char)port[1]) ? strtoul(port + 1, &tail, 10) : 0;
        if (n < 1 || n > 65535 || tail != end)
            return sq_url_bad(e, url, "a port is a number from 1 to 65535", usage);
    }
    if (n == 0)
        return sq_url_bad(e, url, "its port is missing", usage);
    (void)snprintf(place->port, sizeof place->port, "%hu", (unsigned short)n);
    return 0;
}

static int split_net(const char *url, const char *host, unsigned standard, bool user, const char *usage,
                     struct sq_place *place, struct sq_url *out, struct sq_err *e)
{
    const char *end = host + strcspn(host, "/?#"), *stop, *port, *at = memchr(host, '@', (size_t)(end - host));

    if (at && !user)
        return sq_url_bad(e, url, "no user or password in it, send an authorization header instead", usage);
    if (at) {
        size_t len = (size_t)(at - host);

        if (len == 0 || len >= sizeof out->user || memchr(host, ':', len))
            return sq_url_bad(e, url, "a user of at most 63 bytes, no password: password_env says where it is", usage);
        memcpy(out->user, host, len);
        host = at + 1;
    }
    if (*host == '[') {
        stop = memchr(host, ']', (size_t)(end - host));
        if (!stop)
            return sq_url_bad(e, url, "no ] after the address", usage);
        host++;
        port = stop + 1;
    } else {
        stop = memchr(host, ':', (size_t)(end - host));
        port = stop = stop ? stop : end;
    }
    if (stop == host || (size_t)(stop - host) >= sizeof place->host)
        return sq_url_bad(e, url, "no host in it", usage);
    memcpy(place->host, host, (size_t)(stop - host));
    out->rest = end;
    return take_port(url, port, end, standard, usage, place, e);
}

int sq_url_split(const char *url, unsigned port, bool user, const char *usage, struct sq_place *place,
                 struct sq_url *out, struct sq_err *e)
{
    const char *net = strstr(url, "://"), *sock = strstr(url, "unix:");
    int rc;

    memset(place, 0, sizeof *place);
    memset(out, 0, sizeof *out);
    if (strlen(url) > SQ_URL_MAX)
        return sq_url_bad(e, url, "too long", usage);
    for (const char *c = url; *c; c++)
        if (*c <= ' ' || *c == 0x7f || (unsigned char)*c > 0x7f)
            return sq_url_bad(e, url, "a blank or a byte that must be written as %XX", usage);
    if (sock && (!net || sock < net))
        rc = split_unix(url, sock + 5, usage, place, out, e);
    else if (net)
        rc = split_net(url, net + 3, port, user, usage, place, out, e);
    else
        rc = sq_url_bad(e, url, "no scheme in it", usage);
    if (rc == 0 && strchr(out->rest, '#'))
        return sq_url_bad(e, url, "a fragment (#...) is never sent", usage);
    return rc;
}
