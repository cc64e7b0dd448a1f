/* What the kernel has for a partition, against what was asked for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/partition.h"
#include "squall/cleanup.h"
#include "squall/json.h"

const char *const sq_partition_objects[] = {"chain",      "output", "chain",          "input", "chain",
                                            "forward",    "chain",  "cut_out",        "chain", "cut_in",
                                            "sets table", "",       "counters table", "",      NULL};
const char *const sq_partition_counters[] = {"counters table", "", NULL};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Members of an anonymous set have no order. New reference. */
static json_t *sorted(const json_t *set)
{
    size_t n = json_array_size(set);
    cleanup_free char **texts = calloc(n + 1, sizeof *texts);
    json_t *out = json_array();

    for (size_t i = 0; texts && i < n; i++)
        texts[i] = json_dumps(json_array_get(set, i), JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    if (texts)
        qsort(texts, n, sizeof *texts, by_text);
    for (size_t i = 0; texts && i < n; i++) {
        json_array_append_new(out, json_string(texts[i] ? texts[i] : ""));
        free(texts[i]);
    }
    return out;
}

/* One form for what is listed in several, by version: [2, 16] and 18 as a mask, 3 and admin-prohibited. */
static json_t *plain(const char *key, json_t *j)
{
    json_t *out, *value;
    const char *k;
    size_t i;

    if (json_is_array(j) && strcmp(key, "set") == 0)
        return sorted(j);
    if (json_is_integer(j) && strcmp(key, "expr") == 0 && json_integer_value(j) == 3)
        return json_string("admin-prohibited");
    if (json_is_object(j)) {
        out = json_object();
        json_object_foreach(j, k, value) json_object_set_new(out, k, plain(k, value));
        return out;
    }
    if (!json_is_array(j))
        return json_incref(j);
    if (strcmp(key, "mask") == 0) {
        json_int_t bits = 0;

        json_array_foreach(j, i, value) bits |= json_integer_value(value);
        return json_integer(bits);
    }
    out = json_array();
    json_array_foreach(j, i, value)
        json_array_append_new(out, plain(strcmp(key, "&") == 0 && i == 1 ? "mask" : "", value));
    return out;
}

static int differ(const char *what, const char *name, const json_t *want, const json_t *got, struct sq_err *e)
{
    cleanup_free char *w = want ? json_dumps(want, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    cleanup_free char *g = got ? json_dumps(got, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    return sq_err(e, -EBADE, "the kernel has another %s %s: %.200s instead of %.200s", what, name, g ? g : "none",
                  w ? w : "none");
}

/* The rules of a chain, in their order. */
static int compare_chain(const char *chain, const json_t *want, const json_t *objects, struct sq_err *e)
{
    size_t at = 0, i;
    const json_t *w, *o;

    json_array_foreach(objects, i, o)
    {
        const json_t *got = json_object_get(o, "rule");
        cleanup_json json_t *a = NULL, *b = NULL;

        if (!got || strcmp(sq_json_str_or(got, "chain", ""), chain) != 0)
            continue;
        while (at < json_array_size(want) && strcmp(sq_json_str_or(json_array_get(want, at), "chain", ""), chain) != 0)
            at++;
        w = json_array_get(want, at++);
        a = w ? plain("", json_object_get(w, "expr")) : NULL;
        b = plain("", json_object_get(got, "expr"));
        if (!a || !json_equal(a, b))
            return differ("rule in chain", chain, a, b, e);
    }
    for (; at < json_array_size(want); at++)
        if (strcmp(sq_json_str_or(json_array_get(want, at), "chain", ""), chain) == 0)
            return differ("rule in chain", chain, json_object_get(json_array_get(want, at), "expr"), NULL, e);
    return 0;
}

/* libnftables lists the sets and counters of all tables when asked for those of one. */
static const json_t *object_named(const json_t *objects, const char *kind, const char *table, const char *name)
{
    size_t i;
    const json_t *o;

    json_array_foreach(objects, i, o)
    {
        const json_t *found = json_object_get(o, kind);

        if (found && strcmp(sq_json_str_or(found, "table", ""), table) == 0 &&
            strcmp(sq_json_str_or(found, "name", ""), name) == 0)
            return found;
    }
    return NULL;
}

static int compare_set(const json_t *objects, const char *table, const char *name, const struct sq_spans *want,
                       struct sq_err *e)
{
    const json_t *set = object_named(objects, "set", table, name);
    struct sq_spans got = {.v6 = want->v6};
    int r = set ? sq_spans_parse(json_object_get(set, "elem"), &got, e) : differ("set", name, NULL, NULL, e);

    if (r == 0 && !sq_spans_same(want, &got)) {
        cleanup_json json_t *w = sq_spans_json(want);

        r = differ("set", name, w, json_object_get(set, "elem"), e);
    }
    sq_spans_clear(&got);
    return r;
}

static int compare_hook(const json_t *objects, const char *table, const char *name, struct sq_err *e)
{
    const json_t *chain = object_named(objects, "chain", table, name);

    if (chain && strcmp(sq_json_str_or(chain, "hook", ""), name) == 0 &&
        sq_json_int_or(chain, "prio", 0) == SQ_PARTITION_PRIORITY &&
        strcmp(sq_json_str_or(chain, "policy", ""), "accept") == 0)
        return 0;
    return differ("chain", name, NULL, chain, e);
}

bool sq_partition_count(const struct sq_partition *p, const json_t *objects, struct sq_cut_counts *counts)
{
    bool all = true;

    for (int d = 0; d < 2; d++) {
        const json_t *c = object_named(objects, "counter", p->table, sq_partition_cuts[d]);

        all = all && c;
        if (!c)
            continue;
        counts->packets[d] = (uint64_t)sq_json_int_or(c, "packets", 0);
        counts->bytes[d] = (uint64_t)sq_json_int_or(c, "bytes", 0);
    }
    return all;
}

int sq_partition_compare(const struct sq_partition *p, const json_t *objects, struct sq_cut_counts *counts,
                         struct sq_err *e)
{
    static const char *const chains[] = {"output", "input", "forward", "cut_out", "cut_in"};
    cleanup_json json_t *rules = sq_partition_rules(p);
    int r = 0;

    for (size_t i = 0; r == 0 && i < SQ_COUNT(chains); i++) {
        r = i < 3 ? compare_hook(objects, p->table, chains[i], e) : 0;
        if (r == 0)
            r = compare_chain(chains[i], rules, objects, e);
    }
    for (int six = 0; r == 0 && six < 2; six++) {
        r = compare_set(objects, p->table, sq_partition_sets[0][six], &p->a[six], e);
        if (r == 0)
            r = compare_set(objects, p->table, sq_partition_sets[1][six], &p->b[six], e);
    }
    if (r == 0 && counts)
        (void)sq_partition_count(p, objects, counts);
    return r;
}
