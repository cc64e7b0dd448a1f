/* network/latency: netem at the root of an interface. Delay, jitter, correlation and loss of everything that leaves it.
 */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"delay", SQ_P_DURATION, SQ_REQUIRED, NULL, NULL, "how long each packet is held, up to 1h"},
    {"jitter", SQ_P_DURATION, 0, "0", NULL, "the delay varies by so much up and down"},
    {"correlation", SQ_P_PERCENT, 0, "0%", NULL, "how far a packet's jitter follows that of the one before"},
    {"loss", SQ_P_PERCENT, 0, "0%", NULL, "what share of the packets is dropped"},
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_network_latency;
const struct sq_fault_spec sq_spec_network_latency = {
    .name = "network/latency",
    .doc = "delays (and loses) the packets that leave an interface, by netem",
    .target = SQ_T_NETWORK,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "faults/fault.h"
#include "net/qdisc.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

struct priv {
    int ifindex;
    struct sq_impair netem;
};

static int check(struct sq_engine *eng, struct sq_err *e)
{
    (void)eng;
    return sq_qdisc_check_netem(e);
}

static int parameters(const json_t *params, struct sq_impair *im, struct sq_err *e)
{
    int r = sq_impair_read(params, im, e);

    if (r == 0 && im->jitter > im->delay)
        r = sq_err_cls(e, SQ_C_INPUT, -ERANGE, "network/latency: the jitter can't be larger than the delay");
    return r;
}

static int resolve(struct sq_fault *f, struct sq_err *e)
{
    const char *name = NULL;
    struct sq_qdisc q;
    struct priv *p;
    int r = sq_json_str(f->target, "interface", &name, e);

    if (r < 0)
        return r;
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    f->priv = p;
    p->ifindex = (int)if_nametoindex(name);
    if (p->ifindex == 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENODEV, "there is no network interface \"%.32s\"", name);
    r = parameters(f->with, &p->netem, e);
    if (r == 0)
        r = sq_qdisc_root(p->ifindex, &q, e);
    if (r < 0)
        return r;
    if (q.handle != 0) {
        sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "%s has a root qdisc that is not the kernel's default: %s %x:", name,
                   q.kind, q.handle >> 16);
        sq_err_hint(e, "Squall replaces only the kernel's default; remove that qdisc or name another interface");
        return -EEXIST;
    }
    return json_array_append_new(f->hit,
                                 json_pack("{s:s,s:i,s:s}", "interface", name, "ifindex", p->ifindex, "was", q.kind));
}

static int undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    const struct priv *p = f->priv;
    json_t *record = json_pack("{s:s,s:i,s:O}", "boot", sq_boot_id(), "ifindex", p->ifindex, "interface",
                               json_object_get(f->target, "interface"));

    return json_array_append_new(records, record) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static int apply(struct sq_fault *f, struct sq_err *e)
{
    const struct priv *p = f->priv;

    return sq_qdisc_add_netem(p->ifindex, &p->netem, e);
}

static int readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    const struct priv *p = f->priv;
    struct sq_qdisc q;
    int r = sq_qdisc_root(p->ifindex, &q, e);

    if (r < 0)
        return r;
    if (q.handle != SQ_QDISC_HANDLE || strcmp(q.kind, "netem") != 0)
        return sq_err(e, -EBADE, "our netem is not at the root of interface %d: %s is", p->ifindex, q.kind);
    if (!sq_netem_same(&p->netem, &q.netem, e))
        return -EBADE;
    *out = json_pack("{s:s,s:s,s:I,s:I,s:f,s:f,s:i}", "backend", "netem", "handle", "5c1a:", "delay",
                     (json_int_t)q.netem.delay, "jitter", (json_int_t)q.netem.jitter, "correlation",
                     q.netem.delay_corr, "loss", q.netem.loss, "limit", (int)q.netem.limit);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static int change(struct sq_fault *f, json_t *params, struct sq_err *e)
{
    struct priv *p = f->priv;
    struct sq_impair n;
    int r = parameters(params, &n, e);

    if (r == 0)
        r = sq_qdisc_change_netem(p->ifindex, &n, e);
    if (r == 0)
        p->netem = n;
    return r;
}

/* The interface of a record; 0 when it is gone (its qdisc went with it), also when another has its number now. */
static int interface_of(const json_t *record)
{
    int ifindex = (int)sq_json_int_or(record, "ifindex", 0);

    return ifindex > 0 && (int)if_nametoindex(sq_json_str_or(record, "interface", "")) == ifindex ? ifindex : 0;
}

static int revert(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    int ifindex = interface_of(record);

    (void)eng;
    return ifindex ? sq_qdisc_del(ifindex, e) : 0;
}

static int gone(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    int ifindex = interface_of(record);
    struct sq_qdisc q;
    int r;

    (void)eng;
    if (!ifindex)
        return 0;
    r = sq_qdisc_root(ifindex, &q, e);
    if (r == 0 && q.handle == SQ_QDISC_HANDLE)
        r = sq_err(e, -EBUSY, "our netem is still on interface %s", sq_json_str_or(record, "interface", "?"));
    return r;
}

static void free_priv(struct sq_fault *f)
{
    free(f->priv);
    f->priv = NULL;
}

extern const struct sq_fault_ops sq_ops_network_latency;
const struct sq_fault_ops sq_ops_network_latency = {
    .check = check,
    .resolve = resolve,
    .undo = undo,
    .apply = apply,
    .readback = readback,
    .change = change,
    .revert = revert,
    .gone = gone,
    .free = free_priv,
};

#endif
