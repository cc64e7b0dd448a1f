#include "net/nft.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/json.h"

#define COMMAND_MAX 512

#define SOCKETS_MAX 256 /* netfilter sockets of this process that are looked at */

struct sq_nft {
    struct nft_ctx *ctx;
    int fd; /* its socket; -1: not known */
};

/* This process's netfilter sockets: so many, and the first MAX of them. */
static size_t sockets(int *out, size_t max)
{
    DIR *d = opendir("/proc/self/fd");
    const struct dirent *de;
    size_t n = 0;

    while (d && (de = readdir(d)) != NULL) {
        int fd = (int)strtol(de->d_name, NULL, 10), domain = 0, protocol = 0;
        socklen_t dl = sizeof domain, pl = sizeof protocol;

        if (de->d_name[0] != '.' && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &dl) == 0 && domain == AF_NETLINK &&
            getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &pl) == 0 && protocol == NETLINK_NETFILTER && n < max)
            out[n++] = fd;
    }
    if (d)
        (void)closedir(d);
    return n;
}

static bool among(int fd, const int *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] == fd)
            return true;
    return false;
}

/* libnftables' socket is inherited by what is executed (libmnl opens it without SOCK_CLOEXEC), and an owner's table
 * lives as long as any copy of it: a killed squalld's table would stay with its services. No netfilter socket is for
 * them. It is the one that was not there BEFORE; -1 when that is not exactly one. */
static int keep_to_ourselves(const int *before, size_t n_before)
{
    int now[SOCKETS_MAX], found = -1;
    size_t n = sockets(now, SOCKETS_MAX), fresh = 0;

    for (size_t i = 0; i < n; i++) {
        (void)fcntl(now[i], F_SETFD, FD_CLOEXEC);
        if (among(now[i], before, n_before))
            continue;
        found = now[i];
        fresh++;
    }
    return fresh == 1 && n < SOCKETS_MAX ? found : -1;
}

static int open_here(void *arg, struct sq_err *e)
{
    struct sq_nft *nft = arg;
    /* nft_ctx_new ends the process when it gets no socket: so ask first. */
    cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    int before[SOCKETS_MAX];
    size_t n_before = sockets(before, SOCKETS_MAX);

    nft->fd = -1;
    if (fd < 0) {
        int r = sq_err_cls(e, SQ_C_UNSUPPORTED, -errno, "this kernel has no nftables: %s", strerror(errno));
        sq_err_hint(e, "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET are needed");
        return r;
    }
    nft->ctx = nft_ctx_new(NFT_CTX_DEFAULT);
    if (!nft->ctx)
        return sq_err(e, -ENOMEM, "out of memory");
    nft->fd = keep_to_ourselves(before, n_before);
    return 0;
}

int sq_nft_open(const struct sq_netns *ns, struct sq_nft **out, struct sq_err *e)
{
    struct sq_nft *nft = calloc(1, sizeof *nft);
    int r = nft ? sq_netns_call(ns, open_here, nft, e) : sq_err(e, -ENOMEM, "out of memory");

    if (r == 0) {
        nft_ctx_output_set_flags(nft->ctx, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_ALL);
        if (nft_ctx_buffer_output(nft->ctx) != 0 || nft_ctx_buffer_error(nft->ctx) != 0)
            r = sq_err(e, -ENOMEM, "out of memory");
    }
    if (r < 0) {
        sq_nft_close(nft);
        return r;
    }
    *out = nft;
    return 0;
}

void sq_nft_close(struct sq_nft *nft)
{
    if (!nft)
        return;
    if (nft->ctx)
        nft_ctx_free(nft->ctx);
    free(nft);
}

/* libnftables tells what went wrong by text alone, which ends in the kernel's errno. */
static int errno_of(const char *text)
{
    static const int known[] = {EPERM, ENOENT, EEXIST, EOPNOTSUPP, EINVAL,
                                EBUSY, ENOMEM, ENOSPC, EMSGSIZE,   EAFNOSUPPORT};

    for (size_t i = 0; i < SQ_COUNT(known); i++)
        if (strstr(text, strerror(known[i])))
            return -known[i];
    return -EIO;
}

/* 0, or -errno with libnftables' own words in WHY (one line). */
static int run(struct sq_nft *nft, const char *command, char *why, size_t len)
{
    const char *text;
    int r = nft_run_cmd_from_buffer(nft->ctx, command);

    text = nft_ctx_get_error_buffer(nft->ctx);
    (void)snprintf(why, len, "%.*s", (int)strcspn(text, "\n"), text);
    return r == 0 ? 0 : errno_of(text);
}

static int refused(int r, const char *what, const char *table, const char *why, struct sq_err *e)
{
    if (r == -EPERM)
        return sq_err_cls(e, SQ_C_DENIED, r, "%s nftables table %s needs root (CAP_NET_ADMIN)", what, table);
    return sq_err_cls(e, r == -EOPNOTSUPP ? SQ_C_UNSUPPORTED : SQ_C_INTERNAL, r, "%s nftables table %s: %s", what,
                      table, why[0] ? why : strerror(-r));
}

int sq_nft_create(struct sq_nft *nft, const char *family, const char *table, bool *owner, struct sq_err *e)
{
    char command[COMMAND_MAX], why[256];
    int r;

    for (;; *owner = false) {
        (void)snprintf(command, sizeof command, "create table %s %s%s", family, table,
                       *owner ? " { flags owner; }" : "");
        r = run(nft, command, why, sizeof why);
        if (!*owner || (r != -EINVAL && r != -EOPNOTSUPP))
            break;
    }
    return r < 0 ? refused(r, "creating", table, why, e) : 0;
}

int sq_nft_commit(struct sq_nft *nft, const json_t *commands, struct sq_err *e)
{
    cleanup_free char *text = json_dumps(commands, JSON_COMPACT);
    char why[256];
    int r = text ? run(nft, text, why, sizeof why) : -ENOMEM;

    return r < 0 ? refused(r, "changing", "of Squall", text ? why : "", e) : 0;
}

int sq_nft_text(struct sq_nft *nft, const char *commands, struct sq_err *e)
{
    char why[256];
    int r = run(nft, commands, why, sizeof why);

    return r < 0 ? refused(r, "changing", "of Squall", why, e) : 0;
}

int sq_nft_socket(const struct sq_nft *nft, struct sq_err *e)
{
    int fd = nft->fd < 0 ? -1 : fcntl(nft->fd, F_DUPFD_CLOEXEC, 0);

    return fd < 0 ? sq_err_sys(e, nft->fd < 0 ? -EBADF : -errno, "cannot hand on the socket of an nftables table") : fd;
}

static int list_one(struct sq_nft *nft, const char *command, const char *table, json_t *objects, struct sq_err *e)
{
    cleanup_json json_t *document = NULL;
    json_error_t error;
    char why[256];
    int r = run(nft, command, why, sizeof why);

    if (r < 0)
        return r == -ENOENT ? r : refused(r, "listing", table, why, e);
    document = json_loads(nft_ctx_get_output_buffer(nft->ctx), 0, &error);
    if (!document)
        return sq_err(e, -EBADMSG, "libnftables' answer can't be read: %s", error.text);
    return json_array_extend(objects, json_object_get(document, "nftables")) < 0
               ? sq_err(e, -EBADMSG, "libnftables' answer has no list")
               : 0;
}

int sq_nft_list(struct sq_nft *nft, const char *family, const char *table, const char *const *what, json_t **out,
                struct sq_err *e)
{
    cleanup_json json_t *objects = json_array();
    int r = objects ? 0 : sq_err(e, -ENOMEM, "out of memory");

    /* One by one: libnftables 1.0.6 filters all that one buffer asks for by the last name in it. */
    for (; r == 0 && *what; what += 2) {
        char command[COMMAND_MAX];

        (void)snprintf(command, sizeof command, "list %s %s %s %s", what[0], family, table, what[1]);
        r = list_one(nft, command, table, objects, e);
    }
    if (r == 0)
        *out = SQ_TAKE(objects);
    return r;
}

int sq_nft_exists(struct sq_nft *nft, const char *family, const char *table, struct sq_err *e)
{
    char command[COMMAND_MAX], why[256];
    unsigned flags = nft_ctx_output_get_flags(nft->ctx);
    int r;

    /* As text: libnftables up to 1.0.6 uses freed memory when it writes the flags of a table as JSON. */
    nft_ctx_output_set_flags(nft->ctx, NFT_CTX_OUTPUT_TERSE);
    (void)snprintf(command, sizeof command, "list table %s %s", family, table);
    r = run(nft, command, why, sizeof why);
    nft_ctx_output_set_flags(nft->ctx, flags);
    return r == 0 ? 1 : r == -ENOENT ? 0 : refused(r, "listing", table, why, e);
}

int sq_nft_delete(struct sq_nft *nft, const char *family, const char *table, struct sq_err *e)
{
    char command[COMMAND_MAX], why[256];
    int r;

    (void)snprintf(command, sizeof command, "delete table %s %s", family, table);
    r = run(nft, command, why, sizeof why);
    return r < 0 && r != -ENOENT ? refused(r, "deleting", table, why, e) : 0;
}
