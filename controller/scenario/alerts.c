/* Where the run receives alerts. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scenario/normalize.h"
#include "squall/json.h"

void sq_finish_alerts(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *listen = sq_json_str_or(o, "listen", ""), *colon = strrchr(listen, ':');
    const struct sq_node *v = sq_node_get(n, "listen");
    size_t len = colon ? (size_t)(colon - listen) : 0;
    char host[64], *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    struct in6_addr addr;

    if (!v)
        return;
    bool six = len > 2 && listen[0] == '[' && listen[len - 1] == ']';
    (void)snprintf(host, sizeof host, "%.*s",
                   (int)(six                 ? len - 2
                         : len < sizeof host ? len
                                             : 0),
                   six ? listen + 1 : listen);
    if (!colon || end == colon + 1 || *end || port < 1 || port > 65535 ||
        inet_pton(six ? AF_INET6 : AF_INET, host, &addr) != 1)
        sq_diag_error(c->d, v->pos, "listen: 127.0.0.1:9095", "%s: \"%.60s\" is no address and port to listen on",
                      label, listen);
}
