/* call/latency: how its jitter is distributed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intercept/callfault.h"
#include "net/dist.h"
#include "net/impair.h"
#include "proxy/jitter.h"
#include "runas.h"
#include "squall/cleanup.h"
#include "squall/json.h"

struct reading {
    const char *what;
    enum sq_dist dist;
    struct sq_dist_table *table;
    int64_t delay, jitter;
    struct sq_err *e;
};

static int read_it(void *arg)
{
    struct reading *r = arg;

    return sq_dist_read(r->what, &r->dist, &r->table, &r->delay, &r->jitter, r->e);
}

static int put(const struct reading *r, json_t *rule, struct sq_err *e)
{
    (void)json_object_set_new(rule, "delay", json_integer(r->delay));
    (void)json_object_set_new(rule, "jitter", json_integer(r->jitter));
    (void)json_object_set_new(rule, "distribution", json_string(sq_dist_name(r->dist)));
    if (!r->table || r->jitter == 0)
        return 0;
    return sq_jitter_rule(r->table->v, r->table->n, rule, e);
}

int sq_latency_rule(const struct sq_fault *f, const json_t *with, json_t *rule, struct sq_err *e)
{
    struct reading r = {.what = sq_json_str_or(with, "distribution", NULL),
                        .delay = sq_json_int_or(with, "delay", 0),
                        .jitter = sq_json_int_or(with, "jitter", 0),
                        .e = e};
    int rc;

    if (!r.what || strcmp(f->spec->name, "call/latency") != 0)
        return 0;
    rc = sq_run_as(&f->peer, read_it, &r, e);
    rc = rc ? rc : put(&r, rule, e);
    free(r.table);
    return rc < 0 ? sq_err_prefix(e, "%s", f->spec->name) : 0;
}

int sq_latency_same(const json_t *with, const json_t *asked, json_t *have, struct sq_err *e)
{
    static const char *const given[] = {"delay", "jitter"};
    cleanup_free struct sq_jitter *table = NULL;
    char sum[SQ_JITTER_SUM] = "none";
    int rc = sq_jitter_parse(asked, &table, e);

    if (rc < 0)
        return rc;
    if (table)
        (void)sq_jitter_sum(table, sum);
    if (strcmp(sum, sq_json_str_or(have, "table_sum", "none")) != 0)
        return sq_err(e, -EBADE, "asked for a distribution of %s, in force is one of %s", sum,
                      sq_json_str_or(have, "table_sum", "none"));
    for (size_t i = 0; i < SQ_COUNT(given); i++)
        if (sq_json_int_or(with, given[i], 0) > 0 &&
            sq_json_int_or(with, given[i], 0) != sq_json_int_or(have, given[i], -1))
            return sq_err(e, -EBADE, "asked for another %s than is in force", given[i]);
    if (json_object_set(have, "distribution", json_object_get(asked, "distribution")) < 0)
        return sq_err(e, -ENOMEM, "out of memory");
    return 0;
}
