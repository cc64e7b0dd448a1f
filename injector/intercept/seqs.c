#include "intercept/seqs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "squall/cleanup.h"

#include "seqs.skel.h"

struct sq_seqs {
    struct seqs *skel;
    struct bpf_link *link;
};

int sq_seqs_open(struct sq_seqs **out, struct sq_err *e)
{
    struct sq_seqs *s = calloc(1, sizeof *s);
    int rc;

    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    sq_bpf_quiet();
    s->skel = seqs__open_and_load();
    s->link = s->skel ? bpf_program__attach_iter(s->skel->progs.sq_seqs, NULL) : NULL;
    if (!s->link) {
        rc = errno ? -errno : -EOPNOTSUPP;
        sq_seqs_close(s);
        rc =
            sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "the sequence numbers of connections can't be read: %s", strerror(-rc));
        sq_err_hint(e, "existing: reset needs BPF iterators over TCP sockets (Linux 5.9); there is wait, and leave");
        return rc;
    }
    *out = s;
    return 0;
}

void sq_seqs_close(struct sq_seqs *s)
{
    if (!s)
        return;
    (void)bpf_link__destroy(s->link);
    seqs__destroy(s->skel);
    free(s);
}

int sq_seqs_read(struct sq_seqs *s, uint64_t cookie, struct sq_seq *out)
{
    cleanup_close int fd = -1;
    ssize_t n;

    s->skel->bss->want = cookie;
    fd = bpf_iter_create(bpf_link__fd(s->link)); /* of the namespace that we are in now */
    if (fd < 0)
        return -errno;
    do
        n = read(fd, out, sizeof *out);
    while (n < 0 && (errno == EINTR || errno == EAGAIN));
    return n == (ssize_t)sizeof *out ? 0 : n < 0 ? -errno : -ENOENT;
}
