#include "net/netem_load.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "engine.h"
#include "net/classifier.h"
#include "net/tree.h"
#include "patience.h"
/* after what it is made of */
#include "classid.skel.h"

/* ---- the program ---- */

static int quiet(enum libbpf_print_level level, const char *fmt, va_list args)
{
    (void)level, (void)fmt, (void)args;
    return 0;
}

/* Only the programs of the direction: the verifier takes its time. */
static int load(uint32_t base, bool ingress, struct classid **out, struct sq_err *e)
{
    struct classid *skel;
    int r;

    libbpf_set_print(quiet);
    skel = classid__open();
    if (!skel)
        return sq_err_sys(e, -errno, "cannot open the classifier's program");
    *(uint32_t *)(void *)(uintptr_t)(const void *)&skel->rodata->sq_classid_base = base;
    SQ_CLASSIFY_LOOK(skel->rodata);
    (void)bpf_program__set_autoload(skel->progs.sq_classid_egress, !ingress);
    (void)bpf_program__set_autoload(skel->progs.sq_classid_ingress, ingress);
    (void)bpf_program__set_autoload(skel->progs.sq_match_ingress, ingress);
    r = classid__load(skel);
    if (r < 0) {
        classid__destroy(skel);
        sq_err_cls(e, r == -EPERM ? SQ_C_DENIED : SQ_C_UNSUPPORTED, r,
                   "the kernel does not take the classifier's program: %s", strerror(-r));
        sq_err_hint(e, "it needs CONFIG_BPF_SYSCALL, and root (CAP_BPF and CAP_NET_ADMIN)");
        return r;
    }
    *out = skel;
    return 0;
}

int sq_netem_load(struct sq_engine *eng, uint32_t base, bool ingress, struct classid **out, struct sq_err *e)
{
    sq_patience_begin(sq_engine_patience(eng), SQ_PATIENCE_NS);
    return load(base, ingress, out, e);
}

/* ---- can it be done? ---- */

/* All of it, on the loopback of a namespace that ends with the thread. */
static int try_all(struct sq_err *e)
{
    static const struct sq_impair some = {.delay = 1000000};
    uint32_t classid = SQ_TREE_HANDLE | sq_tree_minor(1, 0);
    struct classid *skel = NULL;
    int r = sq_tree_root_add(1, "", e); /* lo is always interface 1 */

    if (r == -ENOENT || r == -EOPNOTSUPP) {
        struct sq_err why = e ? *e : (struct sq_err){0};
        sq_err_clear(e);
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "this kernel has no sch_htb: %s", why.msg);
        return -EOPNOTSUPP;
    }
    if (r == 0)
        r = sq_tree_class_add(1, classid, e);
    if (r == 0)
        r = sq_tree_netem_put(1, classid, sq_tree_leaf(1, 0), &some, false, e);
    if (r == 0)
        r = load(classid, false, &skel, e);
    if (r < 0)
        return r;
    struct sq_err why = {0};
    r = sq_tree_filter_add(1, SQ_TREE_HANDLE, 1, bpf_program__fd(skel->progs.sq_classid_egress), "squall-try", 0, &why);
    classid__destroy(skel);
    return r < 0 ? sq_err_cls(e, SQ_C_UNSUPPORTED, r, "this kernel has no cls_bpf: %s", why.msg) : 0;
}

struct trial {
    struct sq_err *e;
    int result;
};

/* A namespace belongs to a thread: this one takes it away when it ends. */
static void *trial(void *arg)
{
    struct trial *t = arg;

    if (unshare(CLONE_NEWNET) == 0) {
        t->result = try_all(t->e);
        return NULL;
    }
    t->result = sq_err_cls(t->e, SQ_C_DENIED, -errno, "changing qdiscs needs root (CAP_NET_ADMIN)");
    sq_err_hint(t->e, "run as root");
    return NULL;
}

int sq_netem_check(struct sq_engine *eng, struct sq_err *e)
{
    struct trial t = {e, 0};
    pthread_t thread;

    sq_patience_begin(sq_engine_patience(eng), SQ_PATIENCE_NS);
    if (pthread_create(&thread, NULL, trial, &t) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    (void)pthread_join(thread, NULL);
    return t.result;
}
