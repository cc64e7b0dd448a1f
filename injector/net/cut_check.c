/* Can partitions be made here at all? One is, in a network namespace of its own. */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>

#include "net/cut.h"
#include "net/netns.h"
#include "net/nft.h"
#include "net/partition.h"
#include "squall/cleanup.h"
#include "squall/json.h"

struct trial {
    struct sq_err *e;
    int result;
};

static int try_here(struct sq_err *e)
{
    struct sq_netns here = {.fd = -1};
    struct sq_prefix some = {.addr = IN6ADDR_LOOPBACK_INIT, .len = 128};
    struct sq_group group = {.host = &some, .n_host = 1};
    struct sq_partition p = {.family = "inet", .table = "squall-trial", .self = true};
    cleanup_json json_t *with = json_pack("{s:s}", "how", "reject-rst"), *commands = NULL, *objects = NULL;
    struct sq_nft *nft = NULL;
    bool owner = true;
    int r = sq_partition_with(&p, with, e);

    if (r == 0)
        r = sq_partition_groups(&p, NULL, &group, e);
    if (r == 0)
        r = sq_nft_open(&here, &nft, e);
    if (r == 0)
        r = sq_nft_create(nft, p.family, p.table, &owner, e);
    commands = r == 0 ? sq_partition_fill(&p) : NULL;
    if (r == 0)
        r = sq_nft_commit(nft, commands, e);
    if (r == 0)
        r = sq_nft_list(nft, p.family, p.table, sq_partition_objects, &objects, e);
    if (r == 0)
        r = sq_partition_compare(&p, objects, NULL, e);
    sq_nft_close(nft);
    sq_partition_clear(&p);
    return r;
}

static void *try_it(void *arg)
{
    struct trial *t = arg;

    if (unshare(CLONE_NEWNET) < 0) {
        t->result = sq_err_cls(t->e, SQ_C_DENIED, -errno, "changing nftables needs root (CAP_NET_ADMIN)");
        sq_err_hint(t->e, "run as root");
        return NULL;
    }
    t->result = try_here(t->e);
    if (t->result == -ENOENT || t->result == -EOPNOTSUPP || t->result == -EAFNOSUPPORT) {
        if (t->e)
            t->e->cls = SQ_C_UNSUPPORTED;
        sq_err_hint(t->e, "nftables for inet with reject is needed: CONFIG_NF_TABLES_INET, CONFIG_NFT_REJECT_INET "
                          "(modprobe nf_tables nft_reject_inet)");
    }
    return NULL;
}

int sq_cut_check(struct sq_err *e)
{
    struct trial t = {.e = e};
    pthread_t thread;

    /* A namespace belongs to a thread: this one takes it away when it ends. */
    if (pthread_create(&thread, NULL, try_it, &t) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    (void)pthread_join(thread, NULL);
    return t.result;
}
