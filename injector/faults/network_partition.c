/* network/partition: what goes from one group of hosts to another is dropped or rejected, by an nftables table of our
 * own, which the kernel removes when squalld is no more. */
#include "squall/spec.h"

static const struct sq_param with[] = {
    {"direction", SQ_P_ENUM, 0, "both", "both|out|in",
     "out: what goes from `between` to `and` is cut; in: what comes back; both"},
    {"how", SQ_P_ENUM, 0, "drop", "drop|reject-icmp|reject-rst",
     "drop: a black hole; reject-icmp: \"administratively prohibited\"; reject-rst: TCP is reset, the rest by ICMP"},
    {"existing", SQ_P_ENUM, 0, "cut", "cut|keep", "keep: TCP connections that exist go on, only new ones are cut"},
    {"protocol", SQ_P_ENUM, 0, "any", "any|tcp|udp|icmp|sctp", "only this protocol"},
    {"port", SQ_P_STRINGS, 0, NULL, NULL, "only these ports (5432, 8000-8100) of the hosts in `and`"},
    {"local_port", SQ_P_STRINGS, 0, NULL, NULL, "only these ports of the hosts in `between`"},
    SQ_PARAM_END,
};

extern const struct sq_fault_spec sq_spec_network_partition;
const struct sq_fault_spec sq_spec_network_partition = {
    .name = "network/partition",
    .doc = "cuts the network between two groups of hosts, in one direction or both: a black hole, or rejected",
    .target = SQ_T_PARTITION,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "faults/fault.h"
#include "net/cut.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static int check(struct sq_engine *eng, struct sq_err *e)
{
    (void)eng;
    return sq_cut_check(e);
}

/* hit: {"namespace", "between", "and", "addresses", "notes"}. */
static int resolve(struct sq_fault *f, struct sq_err *e)
{
    cleanup_json json_t *notes = json_array();
    struct sq_cut *c = NULL;
    int r = notes ? sq_cut_new(f, notes, &c, e) : sq_err(e, -ENOMEM, "out of memory");
    json_t *hit;

    if (r < 0)
        return r;
    f->priv = c;
    hit = json_pack("{s:s,s:O,s:O,s:I,s:O}", "namespace", sq_cut_where(c), "between",
                    json_object_get(f->target, "between"), "and", json_object_get(f->target, "and"), "addresses",
                    (json_int_t)sq_cut_addresses(c), "notes", notes);
    return json_array_append_new(f->hit, hit) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static int undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    json_t *record = sq_cut_record(f->priv, sq_engine_dir(f->engine), f->id);

    return record && json_array_append_new(records, record) == 0 ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

static int apply(struct sq_fault *f, struct sq_err *e)
{
    return sq_cut_apply(f->priv, sq_run_id(f->run), f->id, e);
}

static int readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    return sq_cut_readback(f->priv, out, e);
}

static json_t *felt(struct sq_fault *f)
{
    return sq_cut_felt(f->priv);
}

static int change(struct sq_fault *f, json_t *params, struct sq_err *e)
{
    return sq_cut_change(f->priv, params, e);
}

static int revert(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    return sq_cut_revert(eng, record, e);
}

static int gone(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    (void)eng;
    return sq_cut_gone(record, e);
}

static void free_priv(struct sq_fault *f)
{
    sq_cut_free(f->priv);
    f->priv = NULL;
}

extern const struct sq_fault_ops sq_ops_network_partition;
const struct sq_fault_ops sq_ops_network_partition = {
    .check = check,
    .resolve = resolve,
    .undo = undo,
    .apply = apply,
    .readback = readback,
    .change = change,
    .felt = felt,
    .revert = revert,
    .gone = gone,
    .free = free_priv,
};

#endif
