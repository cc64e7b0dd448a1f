#include "net/attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/clsact.h"
#include "packet/wire.h"
#include "squall/cleanup.h"

#include "redirect.skel.h"

/* linux/bpf.h of Linux 6.6 */
#define TCX_INGRESS ((enum bpf_attach_type)46)
#define TCX_EGRESS ((enum bpf_attach_type)47)

struct sq_attach {
    struct sq_attach_opts o; /* without ns */
    struct redirect *skel;
    int link[2]; /* of the device, of the TAP; -1 */
    uint32_t link_id;
    bool filter; /* ours is in the device's clsact */
    struct sq_classify_maps maps;
    struct sq_redirect_loss loss;
};

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
    (void)level;
    (void)fmt;
    (void)ap;
    return 0;
}

static int refuse(struct sq_err *e, int rc, const char *what)
{
    bool denied = rc == -EPERM || rc == -EACCES;

    sq_err_cls(e, denied ? SQ_C_DENIED : SQ_C_UNSUPPORTED, rc, "packet backend: %s: %s", what, strerror(-rc));
    sq_err_hint(e, denied ? "run squalld as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
                          : "it needs Linux 5.13 with CONFIG_BPF_SYSCALL, and tcx (6.6) or CONFIG_NET_SCH_INGRESS and "
                            "CONFIG_NET_CLS_BPF");
    return rc;
}

static struct bpf_program *program(const struct sq_attach *a, enum sq_redirect_device which)
{
    return which == SQ_REDIRECT_TARGET ? a->skel->progs.sq_rd_device : a->skel->progs.sq_rd_tap;
}

/* ---- attaching, in the device's namespace ---- */

static int put_devices(struct sq_attach *a, struct sq_err *e)
{
    int fd = bpf_map__fd(a->skel->maps.devices);

    for (uint32_t i = 0; i < SQ_REDIRECT_DEVICES; i++) {
        uint32_t index = (uint32_t)(i == SQ_REDIRECT_TARGET ? a->o.device : a->o.tap);

        if (bpf_map_update_elem(fd, &i, &index, BPF_ANY) < 0)
            return refuse(e, -errno, "cannot name the devices to the program");
    }
    return 0;
}

static int attach_one(struct sq_attach *a, enum sq_redirect_device which, struct sq_err *e)
{
    int ifindex = which == SQ_REDIRECT_TARGET ? a->o.device : a->o.tap;
    bool egress = which == SQ_REDIRECT_TARGET && a->o.egress;
    int prog = bpf_program__fd(program(a, which));

    if (a->o.clsact) {
        int rc = sq_clsact_add(ifindex, egress, prog, e);

        a->filter = a->filter || (rc == 0 && which == SQ_REDIRECT_TARGET);
        return rc;
    }
    a->link[which] = bpf_link_create(prog, ifindex, egress ? TCX_EGRESS : TCX_INGRESS, NULL);
    if (a->link[which] < 0)
        return refuse(e, -errno, "cannot attach by tcx");
    if (which == SQ_REDIRECT_TARGET) {
        struct bpf_link_info info = {0};
        uint32_t len = sizeof info;

        if (bpf_obj_get_info_by_fd(a->link[which], &info, &len) < 0)
            return refuse(e, -errno, "cannot read the link back");
        a->link_id = info.id;
    }
    return 0;
}

/* The TAP first: what the process sends on is never without its program. */
static int attach_all(void *arg, struct sq_err *e)
{
    struct sq_attach *a = arg;
    int rc = put_devices(a, e);

    rc = rc ? rc : attach_one(a, SQ_REDIRECT_TAP, e);
    return rc ? rc : attach_one(a, SQ_REDIRECT_TARGET, e);
}

static int load(struct sq_attach *a, struct sq_err *e)
{
    struct redirect *s;
    int rc;

    libbpf_set_print(quiet);
    s = a->skel = redirect__open();
    if (!s)
        return refuse(e, -errno, "cannot open the programs");
    s->rodata->egress = a->o.egress;
    s->rodata->device = (uint32_t)a->o.device;
    s->rodata->tap = (uint32_t)a->o.tap;
    s->rodata->loopback = a->o.loopback;
    memcpy((void *)(uintptr_t)&s->rodata->sq_classify_env, a->o.env, sizeof *a->o.env);
    rc = a->o.heartbeat >= 0 ? bpf_map__reuse_fd(s->maps.heartbeat, a->o.heartbeat) : 0;
    rc = rc ? rc : redirect__load(s);
    if (rc < 0)
        return refuse(e, rc, "cannot load the programs");
    a->maps = (struct sq_classify_maps){
        .rules = bpf_map__fd(s->maps.rules),
        .n_rules = bpf_map__fd(s->maps.n_rules),
        .prefixes = bpf_map__fd(s->maps.prefixes),
        .ports = bpf_map__fd(s->maps.ports),
        .counts = bpf_map__fd(s->maps.counts),
        .env = *a->o.env,
    };
    return 0;
}

int sq_attach_heartbeat(struct sq_err *e)
{
    LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_MMAPABLE);
    int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "heartbeat", sizeof(uint32_t), sizeof(struct sq_packet_beat), 1, &o);

    return fd < 0 ? refuse(e, fd, "cannot make the heartbeat of the packet process") : fd;
}

int sq_attach_new(const struct sq_attach_opts *o, struct sq_attach **out, struct sq_err *e)
{
    struct sq_attach *a = calloc(1, sizeof *a);
    int rc;

    if (!a)
        return sq_err(e, -ENOMEM, "out of memory");
    a->o = *o;
    a->o.ns = NULL;
    a->link[0] = a->link[1] = -1;
    rc = load(a, e);
    rc = rc ? rc : sq_netns_call(o->ns, attach_all, a, e);
    if (rc < 0) {
        sq_attach_free(a);
        return rc;
    }
    *out = a;
    return 0;
}

void sq_attach_close_links(struct sq_attach *a)
{
    for (size_t i = 0; i < SQ_COUNT(a->link); i++) {
        if (a->link[i] >= 0)
            (void)close(a->link[i]);
        a->link[i] = -1;
    }
}

void sq_attach_free(struct sq_attach *a)
{
    if (!a)
        return;
    sq_attach_close_links(a);
    redirect__destroy(a->skel);
    free(a);
}

int sq_attach_detach(struct sq_attach *a, struct sq_err *e)
{
    int rc = a->filter ? sq_clsact_del(a->o.device, a->o.egress, e) : 0;

    a->filter = a->filter && rc < 0;
    return rc;
}

struct sq_attach_fds sq_attach_fds(const struct sq_attach *a)
{
    return (struct sq_attach_fds){bpf_map__fd(a->skel->maps.heartbeat), a->link[SQ_REDIRECT_TARGET],
                                  a->link[SQ_REDIRECT_TAP]};
}

const struct sq_classify_maps *sq_attach_maps(const struct sq_attach *a)
{
    return &a->maps;
}

/* ---- asking ---- */

bool sq_attach_has(const struct sq_attach *a, enum sq_redirect_device which)
{
    uint32_t key = which, index;

    return bpf_map_lookup_elem(bpf_map__fd(a->skel->maps.devices), &key, &index) == 0;
}

int sq_attach_holds(const struct sq_attach *a, struct sq_err *e)
{
    struct bpf_link_info info = {0};
    uint32_t len = sizeof info;
    int rc;

    if (a->o.clsact) {
        rc = sq_clsact_has(a->o.device, a->o.egress, e);
        return rc > 0 ? 0 : rc ? rc : sq_err(e, -ENOENT, "our filter is not in clsact any more");
    }
    cleanup_close int fd = bpf_link_get_fd_by_id(a->link_id);
    if (fd < 0)
        return sq_err(e, -ENOENT, "our program is not attached any more");
    rc = bpf_obj_get_info_by_fd(fd, &info, &len);
    /* struct bpf_link_info.tcx, which has its ifindex where xdp has it, too; 0: the device is gone. */
    if (rc < 0 || info.xdp.ifindex != (uint32_t)a->o.device)
        return sq_err(e, -ENOENT, "our program is not attached to its interface any more");
    return 0;
}

static int put_loss(struct sq_attach *a, struct sq_err *e)
{
    uint32_t zero = 0;

    if (bpf_map_update_elem(bpf_map__fd(a->skel->maps.losses), &zero, &a->loss, BPF_ANY) < 0)
        return sq_err_sys(e, -errno, "cannot set the loss in the BPF map");
    return 0;
}

int sq_attach_loss(struct sq_attach *a, int bit, double percent, struct sq_err *e)
{
    __u64 flag = 1ull << (bit & 63), *w = &a->loss.mask.w[bit / 64];

    if (percent < 0) {
        if (!(*w & flag))
            return 0;
        *w &= ~flag;
        return put_loss(a, e);
    }
    a->loss.threshold[bit] = (uint64_t)llround(percent / 100 * 4294967296.0);
    *w |= flag;
    return put_loss(a, e);
}

int sq_attach_loss_read(const struct sq_attach *a, int bit, double *percent, struct sq_err *e)
{
    struct sq_redirect_loss l;
    uint32_t zero = 0;

    if (bpf_map_lookup_elem(bpf_map__fd(a->skel->maps.losses), &zero, &l) < 0)
        return sq_err_sys(e, -errno, "cannot read the loss back from the BPF map");
    *percent = l.mask.w[bit / 64] >> (bit & 63) & 1 ? (double)l.threshold[bit] / 4294967296.0 * 100 : -1;
    return 0;
}

bool sq_attach_has_tcx(void)
{
    /* r0 = -1; exit */
    static const struct bpf_insn insn[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = -1},
                                           {.code = BPF_JMP | BPF_EXIT}};
    cleanup_close int prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "sq_rd_try", "GPL", insn, SQ_COUNT(insn), NULL);
    cleanup_close int link = prog < 0 ? -1 : bpf_link_create(prog, 1, TCX_EGRESS, NULL);

    return link >= 0;
}
