/* nftables through libnftables, in one network namespace: commands as JSON that we build (or fixed text), never text
 * from outside. A table that is created through a struct sq_nft is gone when that is closed or its process dies, where
 * the kernel can (`flags owner`, Linux 5.12). An open one keeps its namespace alive. */
#ifndef SQUALL_NFT_H
#define SQUALL_NFT_H

#include <jansson.h>
#include <stdbool.h>

#include "net/netns.h"
#include "squall/err.h"

struct sq_nft; /* opaque */

/* NS: opened by the caller, needed only during the call. -EPERM without CAP_NET_ADMIN is told by the first command. */
int sq_nft_open(const struct sq_netns *ns, struct sq_nft **out, struct sq_err *e);
void sq_nft_close(struct sq_nft *nft); /* NULL: nothing */

/* FAMILY: "inet" or "bridge". -EEXIST when there is a table of that name. *owner (in: try it; out: got it). */
int sq_nft_create(struct sq_nft *nft, const char *family, const char *table, bool *owner, struct sq_err *e);
/* One transaction. COMMANDS: {"nftables":[...]} (libnftables-json(5)); borrowed. */
int sq_nft_commit(struct sq_nft *nft, const json_t *commands, struct sq_err *e);
/* Objects of the table, numeric: WHAT is kind, name, ..., NULL ("chain", "input", "sets table", ""). New reference;
 * -ENOENT (E untouched) when one of them, or the table, is not there. */
int sq_nft_list(struct sq_nft *nft, const char *family, const char *table, const char *const *what, json_t **out,
                struct sq_err *e);
/* One transaction, as text that we made (of numbers, and of names of our own): for what libnftables' JSON can't say. */
int sq_nft_text(struct sq_nft *nft, const char *commands, struct sq_err *e);
/* A copy of its netlink socket, close-on-exec: tables with flags owner live until it and NFT are closed, and it serves
 * for nothing else when whoever has it lacks CAP_NET_ADMIN. -EBADF: not known which one it is. */
int sq_nft_socket(const struct sq_nft *nft, struct sq_err *e);
int sq_nft_exists(struct sq_nft *nft, const char *family, const char *table, struct sq_err *e); /* 1, 0, -errno */
/* Success when there is none. */
int sq_nft_delete(struct sq_nft *nft, const char *family, const char *table, struct sq_err *e);

#endif
