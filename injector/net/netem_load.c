#include "net/netem_load.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "net/classifier.h"
#include "net/tree.h"
/* after what it is made of */
#include "classid.skel.h"

#define BEAT_NS 100000000 /* of the heartbeats while a thread works */

/* ---- a thread that works while the keeper sees us live ---- */

struct work {
    int (*fn)(void *arg, struct sq_err *e);
    void *arg;
    struct sq_err *e;
    int result;
};

static void *work(void *arg)
{
    struct work *w = arg;

    w->result = w->fn(w->arg, w->e);
    return NULL;
}

/* FN in a thread of its own, in the namespace of the caller's; returns what it returns. */
static int aside(struct sq_engine *eng, int (*fn)(void *arg, struct sq_err *e), void *arg, struct sq_err *e)
{
    struct work w = {fn, arg, e, 0};
    struct timespec t;
    pthread_t thread;

    if (pthread_create(&thread, NULL, work, &w) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    do {
        sq_engine_beat(eng);
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += BEAT_NS;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
    } while (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &t) == ETIMEDOUT);
    return w.result;
}

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

struct loading {
    uint32_t base;
    bool ingress;
    struct classid *skel;
};

static int load_aside(void *arg, struct sq_err *e)
{
    struct loading *l = arg;

    return load(l->base, l->ingress, &l->skel, e);
}

int sq_netem_load(struct sq_engine *eng, uint32_t base, bool ingress, struct classid **out, struct sq_err *e)
{
    struct loading l = {base, ingress, NULL};
    int r = aside(eng, load_aside, &l, e);

    *out = l.skel;
    return r;
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

/* A namespace belongs to a thread: this one takes it away when it ends. */
static int trial(void *arg, struct sq_err *e)
{
    (void)arg;
    if (unshare(CLONE_NEWNET) == 0)
        return try_all(e);
    int r = sq_err_cls(e, SQ_C_DENIED, -errno, "changing qdiscs needs root (CAP_NET_ADMIN)");
    sq_err_hint(e, "run as root");
    return r;
}

int sq_netem_check(struct sq_engine *eng, struct sq_err *e)
{
    return aside(eng, trial, NULL, e);
}
