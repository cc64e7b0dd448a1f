/* What keeps people in control during a fault: SSH, and the probe that measures it. Exceptions, unless told otherwise
 * (spare_control: false), and said in the plan. The controller itself speaks to squalld over a Unix socket. */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/match.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "squall/proc.h"

#define SOCKETS_MOST 4096
#define PORTS_MOST 64
#define LISTENS 0x0Au /* net/tcp_states.h */
#define ESTABLISHED 0x01u

/* ---- more groups ---- */

static struct sq_group *more(struct sq_match *m, uint8_t protocol, struct sq_err *e)
{
    struct sq_group *g = realloc(m->except, (m->n_except + 1) * sizeof *g);

    if (!g) {
        sq_err(e, -ENOMEM, "out of memory");
        return NULL;
    }
    m->except = g;
    g += m->n_except++;
    *g = (struct sq_group){.protocol = protocol, .dscp = -1, .vlan = -1};
    return g;
}

static int set_ports(struct sq_range **out, size_t *n, const uint16_t *port, size_t count, struct sq_err *e)
{
    *out = calloc(count, sizeof **out);
    if (!*out)
        return sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        (*out)[i] = (struct sq_range){port[i], port[i]};
    *n = count;
    return 0;
}

static int set_host(struct sq_group *g, const struct in6_addr *addr, struct sq_err *e)
{
    g->host = calloc(1, sizeof *g->host);
    if (!g->host)
        return sq_err(e, -ENOMEM, "out of memory");
    g->host[0] = (struct sq_prefix){.addr = *addr, .len = 128};
    g->n_host = 1;
    return 0;
}

/* ---- SSH ---- */

struct ssh {
    unsigned long inode[SOCKETS_MOST];
    size_t n;
    uint16_t port[PORTS_MOST];
    size_t n_port;
    uint8_t listened[65536 / 8]; /* ports that anybody listens on */
};

/* OpenSSH's listener and sessions (sshd, sshd-session, sshd-auth), and Dropbear. */
static bool is_sshd(const char *comm)
{
    return strcmp(comm, "sshd") == 0 || strncmp(comm, "sshd-", 5) == 0 || strcmp(comm, "dropbear") == 0;
}

static int note_sockets(pid_t pid, void *arg)
{
    struct ssh *s = arg;
    struct sq_proc p;
    char path[64];

    if (sq_proc_read(pid, &p, NULL) < 0 || !is_sshd(p.comm))
        return 0;
    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    for (const struct dirent *de; d && s->n < SOCKETS_MOST && (de = readdir(d));) {
        char link[64];
        ssize_t n =
            isdigit((unsigned char)de->d_name[0]) ? readlinkat(dirfd(d), de->d_name, link, sizeof link - 1) : -1;

        if (n <= 8 || memcmp(link, "socket:[", 8) != 0)
            continue;
        link[n] = '\0';
        s->inode[s->n++] = strtoul(link + 8, NULL, 10);
    }
    if (d)
        closedir(d);
    return 0;
}

static int by_inode(const void *a, const void *b)
{
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

    return x < y ? -1 : x > y;
}

static void add_port(struct ssh *s, unsigned port)
{
    for (size_t i = 0; i < s->n_port; i++)
        if (s->port[i] == port)
            return;
    if (s->n_port < PORTS_MOST && port)
        s->port[s->n_port++] = (uint16_t)port;
}

/* Local ports of those sockets that are in this thread's network namespace: listening (state 0A), or established (01)
 * on a port that somebody listens on: systemd does for ssh.socket. What a session forwards has other ports. */
static void note_ports(struct ssh *s, const char *file, unsigned want)
{
    cleanup_fclose FILE *f = fopen(file, "re");
    cleanup_free char *line = NULL;
    size_t cap = 0;

    while (f && getline(&line, &cap, f) > 0) {
        unsigned local = 0, state = 0;
        unsigned long inode = 0;
        int n =
            sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %lu", &local, &state, &inode);

        if (n != 3 || state != want || local > 65535)
            continue;
        if (state == LISTENS)
            s->listened[local / 8] |= (uint8_t)(1u << local % 8);
        if (inode && (s->listened[local / 8] & 1u << local % 8) &&
            bsearch(&inode, s->inode, s->n, sizeof *s->inode, by_inode))
            add_port(s, local);
    }
}

static int spare_ssh(struct sq_match *m, json_t *notes, struct sq_err *e)
{
    cleanup_free struct ssh *s = calloc(1, sizeof *s);
    struct sq_group *g;
    char list[400];
    size_t used = 0;
    int r;

    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)sq_proc_each(note_sockets, s);
    qsort(s->inode, s->n, sizeof *s->inode, by_inode);
    for (size_t i = 0; i < 4; i++)
        note_ports(s, i % 2 ? "/proc/thread-self/net/tcp6" : "/proc/thread-self/net/tcp",
                   i < 2 ? LISTENS : ESTABLISHED);
    if (!s->n_port)
        return 0;
    g = more(m, IPPROTO_TCP, e);
    r = g ? set_ports(&g->local_port, &g->n_local_port, s->port, s->n_port, e) : -ENOMEM;
    if (r < 0)
        return r;
    for (size_t i = 0; i < s->n_port && used < sizeof list - 8; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%u", i ? ", " : "", s->port[i]);
    (void)json_array_append_new(notes, json_sprintf("excepted: SSH, local port %s (spare_control)", list));
    return 0;
}

/* ---- the probe ---- */

/* "127.0.0.1:8080", "[::1]:8080" */
static int read_place(const char *text, struct in6_addr *addr, uint16_t *port, struct sq_err *e)
{
    const char *colon = strrchr(text, ':');
    char host[64];
    uint16_t to;
    uint8_t len;
    size_t n = colon ? (size_t)(colon - text) : 0;

    if (!n || n >= sizeof host)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "probe: \"%.80s\" is not address:port", text);
    if (text[0] == '[' && text[n - 1] == ']')
        (void)snprintf(host, sizeof host, "%.*s", (int)n - 2, text + 1);
    else
        (void)snprintf(host, sizeof host, "%.*s", (int)n, text);
    if (sq_parse_network(host, addr, &len, NULL) < 0 || len != 128 || sq_parse_ports(colon + 1, port, &to, NULL) < 0 ||
        *port != to)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "probe: \"%.80s\" is not address:port", text);
    return 0;
}

/* Where packets to ADDR come from, seen from this thread's namespace: nothing is sent. */
static int source_of(const struct in6_addr *addr, struct in6_addr *from)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = *addr, .sin6_port = htons(9)}, own = {0};
    socklen_t len = sizeof own;
    cleanup_close int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_port = htons(9)}, own4 = {0};

    if (s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0 &&
        getsockname(s, (struct sockaddr *)&own, &len) == 0) {
        *from = own.sin6_addr;
        return 0;
    }
    if (!IN6_IS_ADDR_V4MAPPED(addr))
        return -EHOSTUNREACH;
    cleanup_close int s4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* a host without IPv6 */
    memcpy(&to4.sin_addr, &addr->s6_addr[12], 4);
    len = sizeof own4;
    if (s4 < 0 || connect(s4, (struct sockaddr *)&to4, sizeof to4) < 0 ||
        getsockname(s4, (struct sockaddr *)&own4, &len) < 0)
        return -EHOSTUNREACH;
    *from = *addr; /* the mapped prefix */
    memcpy(&from->s6_addr[12], &own4.sin_addr, 4);
    return 0;
}

json_t *sq_match_probe(const json_t *probe, struct sq_err *e)
{
    cleanup_json json_t *out = json_array();
    const json_t *v;
    size_t i;

    if (probe && (!json_is_array(probe) || json_array_size(probe) > 256)) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"probe\" must be a list of at most 256 address:port");
        return NULL;
    }
    json_array_foreach(probe, i, v)
    {
        char text[INET6_ADDRSTRLEN] = "";
        struct in6_addr addr, from;
        uint16_t port;

        if (!json_is_string(v)) {
            sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"probe\" must be a list of address:port");
            return NULL;
        }
        if (read_place(json_string_value(v), &addr, &port, e) < 0)
            return NULL;
        if (source_of(&addr, &from) == 0)
            (void)inet_ntop(AF_INET6, &from, text, sizeof text);
        if (json_array_append_new(out, json_pack("{s:O,s:s}", "to", v, "from", text)) < 0) {
            sq_err(e, -ENOMEM, "out of memory");
            return NULL;
        }
    }
    return SQ_TAKE(out);
}

static bool has_port(const struct sq_range *r, size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++)
        if (r[i].from <= port && port <= r[i].to)
            return true;
    return n == 0;
}

/* Is that path all that some group of `match` means? */
static bool is_named(const struct sq_match *m, const struct in6_addr *addr, const struct in6_addr *from, uint16_t port)
{
    for (size_t i = 0; i < m->n_match; i++) {
        const struct sq_group *g = &m->match[i];
        bool all = g->n_host > 0;

        if (g->protocol == IPPROTO_ICMP)
            continue;
        for (size_t k = 0; k < g->n_host; k++)
            all &= g->host[k].len == 128 && (memcmp(&g->host[k].addr, addr, sizeof *addr) == 0 ||
                                             memcmp(&g->host[k].addr, from, sizeof *from) == 0);
        if (all && has_port(g->port, g->n_port, port) && has_port(g->local_port, g->n_local_port, port))
            return true;
        if (!g->n_host && g->n_local_port == 1 && g->local_port[0].from == port && g->local_port[0].to == port)
            return true;
    }
    return false;
}

static int spare_path(struct sq_match *m, const char *to, const char *from_text, json_t *notes, struct sq_err *e)
{
    struct in6_addr addr, from = {0};
    struct sq_group *g;
    uint16_t port;
    int r = read_place(to, &addr, &port, e);

    if (r < 0)
        return r;
    if (inet_pton(AF_INET6, from_text, &from) != 1)
        from = addr;
    g = more(m, 0, e);
    r = g ? set_host(g, &addr, e) : -ENOMEM;
    r = r ? r : set_ports(&g->port, &g->n_port, &port, 1, e);
    if (r < 0)
        return r;
    g = more(m, 0, e); /* the answers, where the service itself is in that namespace */
    r = g ? set_host(g, &from, e) : -ENOMEM;
    r = r ? r : set_ports(&g->local_port, &g->n_local_port, &port, 1, e);
    if (r < 0)
        return r;
    if (is_named(m, &addr, &from, port))
        (void)json_array_append_new(
            notes,
            json_sprintf("the target names what the probe measures: the probe's own packets to %s are excepted all the "
                         "same; spare_control: false includes them",
                         to));
    else
        (void)json_array_append_new(notes, json_sprintf("excepted: the probe's path to %s (spare_control)", to));
    return 0;
}

int sq_match_spare(struct sq_match *m, const json_t *run_probe, json_t *notes, struct sq_err *e)
{
    cleanup_json json_t *seen = json_object();
    const json_t *v;
    size_t i;
    int r = spare_ssh(m, notes, e);

    json_array_foreach(run_probe, i, v)
    {
        const char *to = json_is_object(v) ? sq_json_str_or(v, "to", "") : json_string_value(v);

        if (r < 0 || !to || json_object_get(seen, to))
            continue;
        (void)json_object_set_new(seen, to, json_true());
        r = spare_path(m, to, sq_json_str_or(v, "from", ""), notes, e);
    }
    return r;
}
