/* clean: nothing of any fault is left on the host. The injector looked before and after the run; what is there
 * afterwards and was not before is ours when it bears our mark, else somebody else's, which is named but no failure. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"
#include "verify/result.h"

#define OUR_MAJOR "5c1a:" /* injector/net/tree.h */

static const struct sq_param params[] = {SQ_PARAM_END};

enum whose { NOBODYS, FOREIGN, DOUBTFUL, OURS };

struct diff {
    uint64_t lists; /* that could be compared */
    uint64_t compared, foreign, doubtful, ours;
    char ours_text[300], doubtful_text[200], foreign_text[200];
};

/* A name for a person: strings as they are, objects by what tells them apart. */
static void describe(const char *list, const json_t *item, char *buf, size_t len)
{
    if (json_is_string(item))
        (void)snprintf(buf, len, "%s %s", list, json_string_value(item));
    else if (strcmp(list, "qdiscs") == 0 || strcmp(list, "classes") == 0)
        (void)snprintf(buf, len, "%s %s %s on %s", list[0] == 'q' ? "qdisc" : "class",
                       sq_json_str_or(item, "kind", "?"), sq_json_str_or(item, "handle", ""),
                       sq_json_str_or(item, "dev", "?"));
    else if (strcmp(list, "filters") == 0)
        (void)snprintf(buf, len, "filter %s %s at %s of %s", sq_json_str_or(item, "kind", "?"),
                       sq_json_str_or(item, "name", ""), sq_json_str_or(item, "parent", ""),
                       sq_json_str_or(item, "dev", "?"));
    else if (strcmp(list, "tables") == 0)
        (void)snprintf(buf, len, "nftables table %s", sq_json_str_or(item, "name", "?"));
    else if (strcmp(list, "stopped") == 0)
        (void)snprintf(buf, len, "process %lld %s is %s", (long long)sq_json_int_or(item, "pid", 0),
                       sq_json_str_or(item, "instance", ""), sq_json_str_or(item, "how", "stopped"));
    else if (strcmp(list, "bpf") == 0)
        (void)snprintf(buf, len, "BPF link %lld (%s)", (long long)sq_json_int_or(item, "link", 0),
                       sq_json_str_or(item, "program", "?"));
    else if (strcmp(list, "packets") == 0)
        (void)snprintf(buf, len, "packet process %lld on %s (%s)", (long long)sq_json_int_or(item, "pid", 0),
                       sq_json_str_or(item, "interface", "?"), sq_json_str_or(item, "state", "?"));
    else if (strcmp(list, "faults") == 0)
        (void)snprintf(buf, len, "fault %s (%s)", sq_json_str_or(item, "fault", "?"),
                       sq_json_str_or(item, "uses", "?"));
    else
        (void)snprintf(buf, len, "something among the %s", list);
}

static void note(struct diff *d, enum whose whose, const char *fmt, const char *what)
{
    char *buf = whose == OURS ? d->ours_text : whose == DOUBTFUL ? d->doubtful_text : d->foreign_text;
    size_t size = whose == OURS ? sizeof d->ours_text : sizeof d->doubtful_text, used = strlen(buf);

    if (whose == NOBODYS)
        return;
    *(whose == OURS ? &d->ours : whose == DOUBTFUL ? &d->doubtful : &d->foreign) += 1;
    if (used + 2 < size) {
        used += (size_t)snprintf(buf + used, size - used, "%s", used ? ", " : "");
        (void)snprintf(buf + used, size - used, "%s%s", fmt, what);
    }
}

static bool private_injector(const struct sq_evidence *ev)
{
    for (size_t i = 0; i < ev->n_events; i++)
        if (strcmp(ev->events[i].type, "injector") == 0)
            return sq_json_bool_or(json_object_get(ev->events[i].obj, "info"), "private", false);
    return false;
}

static bool our_fault(const struct sq_evidence *ev, const char *id)
{
    for (size_t i = 0; i < ev->n_faults; i++)
        if (ev->faults[i].applied && strcmp(ev->faults[i].id, id) == 0)
            return true;
    return false;
}

static bool our_interface(const struct sq_evidence *ev, const char *dev)
{
    for (size_t i = 0; i < ev->n_faults; i++) {
        const json_t *hit = ev->faults[i].hit;

        for (size_t k = 0; k < json_array_size(hit); k++)
            if (strcmp(sq_json_str_or(json_array_get(hit, k), "interface", ""), dev) == 0)
                return true;
    }
    return false;
}

static bool our_table(const struct sq_evidence *ev, const char *name)
{
    for (size_t i = 0; i < ev->n_faults; i++)
        if (strcmp(sq_json_str_or(ev->faults[i].readback, "table", ""), name) == 0)
            return true;
    return false;
}

/* Of callers whose calls are taken by nftables. */
static bool leads_edges(const char *name)
{
    return strncmp(name, "squall-", 7) == 0 && strstr(name, "-edges-");
}

/* Lists of what is configured in a network namespace. */
static const char *const of_network[] = {"qdiscs", "classes", "filters", "tables"};

static bool configured(const char *list)
{
    for (size_t i = 0; i < sizeof of_network / sizeof of_network[0]; i++)
        if (strcmp(list, of_network[i]) == 0)
            return true;
    return false;
}

/* Whose is what appeared (or, of what is configured, vanished)? An injector of the host may serve other runs. */
static enum whose whose(const struct sq_evidence *ev, const char *list, const json_t *item, bool gone)
{
    enum whose squalls = private_injector(ev) ? OURS : DOUBTFUL;

    if (strcmp(list, "tables") == 0 && leads_edges(sq_json_str_or(item, "name", "")))
        return squalls;
    if (strcmp(list, "tables") == 0)
        return !gone && our_table(ev, sq_json_str_or(item, "name", "")) ? OURS : FOREIGN;
    if (configured(list)) { /* several Squalls may share a device: so only a root that is left is certainly ours */
        if (!gone && strcmp(list, "qdiscs") == 0 && strcmp(sq_json_str_or(item, "handle", ""), OUR_MAJOR) == 0)
            return OURS;
        return our_interface(ev, sq_json_str_or(item, "dev", "")) ? DOUBTFUL : FOREIGN;
    }
    if (gone)
        return NOBODYS; /* an earlier life's remains may end */
    if (strcmp(list, "faults") == 0)
        return our_fault(ev, sq_json_str_or(item, "fault", "")) ? OURS : squalls;
    if (strcmp(list, "stopped") == 0)
        return OURS;                    /* only processes that this run knows are looked at */
    if (strcmp(list, "cgroups") == 0) { /* the injector's own stays while it lives */
        const char *path = json_string_value(item);

        return path && path[0] && !strchr(path + 1, '/') ? NOBODYS : squalls;
    }
    if (strcmp(list, "packets") == 0) /* without faults it sends on what it holds, and leaves by itself */
        return strcmp(sq_json_str_or(item, "state", ""), "draining") == 0 ? DOUBTFUL : squalls;
    return strcmp(list, "bpf") == 0 ? squalls : FOREIGN;
}

/* The elements of LIST as keys of an object. */
static json_t *set_of(const json_t *list)
{
    json_t *set = json_object();

    for (size_t i = 0; set && i < json_array_size(list); i++) {
        char *key = json_dumps(json_array_get(list, i), JSON_SORT_KEYS | JSON_COMPACT | JSON_ENCODE_ANY);

        if (!key || json_object_set(set, key, json_array_get(list, i))) {
            json_decref(set);
            set = NULL;
        }
        free(key);
    }
    return set;
}

/* WHERE: the network namespace; NULL: that of the injector. */
static void tell(const struct sq_evidence *ev, struct diff *d, const char *list, const char *where, const json_t *item,
                 bool gone)
{
    char what[160];
    size_t used;

    describe(list, item, what, sizeof what);
    used = strlen(what);
    if (where)
        (void)snprintf(what + used, sizeof what - used, " in %s", where);
    note(d, whose(ev, list, item, gone), gone ? "no more: " : "", what);
}

static int compare(const struct sq_evidence *ev, const json_t *was, const json_t *is, const char *list,
                   const char *where, struct diff *d, struct sq_err *e)
{
    cleanup_json json_t *before = set_of(json_object_get(was, list));
    cleanup_json json_t *after = set_of(json_object_get(is, list));
    const char *key;
    json_t *item;

    if (!before || !after)
        return sq_err(e, -ENOMEM, "no memory for a check");
    d->lists++;
    json_object_foreach(after, key, item)
    {
        d->compared++;
        if (!json_object_get(before, key))
            tell(ev, d, list, where, item, false);
    }
    json_object_foreach(before, key, item)
    {
        if (!json_object_get(after, key))
            tell(ev, d, list, where, item, true);
    }
    return 0;
}

/* The other namespaces that faults of the run were in; what was in one that is gone went with it. */
static int compare_networks(const struct sq_evidence *ev, struct diff *d, const char **unread, struct sq_err *e)
{
    const json_t *all = json_object_get(ev->after, "networks"), *n;
    size_t i, k;

    json_array_foreach(all, i, n)
    {
        const json_t *was = json_object_get(n, "before"), *is = json_object_get(n, "now");
        const char *where = sq_json_str_or(n, "namespace", "?");

        if (!json_is_object(was))
            *unread = "other namespaces before the run";
        for (k = 0; json_is_object(was) && json_is_object(is) && k < sizeof of_network / sizeof of_network[0]; k++) {
            if (!json_object_get(was, of_network[k]))
                continue;
            if (!json_object_get(is, of_network[k]))
                *unread = of_network[k];
            else if (compare(ev, was, is, of_network[k], where, d, e) < 0)
                return e ? e->code : -ENOMEM;
        }
    }
    return 0;
}

/* What was read before and not after can hide something. */
static const char *blind(const struct sq_evidence *ev, const char *const *lists, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (json_object_get(ev->before, lists[i]) && !json_object_get(ev->after, lists[i]))
            return lists[i];
    return NULL;
}

static void join(const json_t *list, char *buf, size_t len)
{
    size_t used = 0;

    buf[0] = '\0';
    for (size_t i = 0; i < json_array_size(list) && used + 3 < len; i++) {
        const char *s = json_string_value(json_array_get(list, i));

        used += (size_t)snprintf(buf + used, len - used, "%s%s", i ? ", " : "", s ? s : "?");
    }
}

/* Does an edge leave a seccomp filter in its caller, as its scenario says? */
static bool has_filters(const struct sq_evidence *ev)
{
    const char *name;
    json_t *edge;

    json_object_foreach(json_object_get(ev->spec, "edges"), name, edge)
    {
        if (strcmp(sq_json_str_or(edge, "attach", "auto"), "seccomp") == 0)
            return true;
    }
    return false;
}

static void judge(const struct sq_evidence *ev, struct diff *d, const char *unread, struct sq_result *r)
{
    int64_t held = sq_json_int_or(ev->after, "journal", 0) - sq_json_int_or(ev->before, "journal", 0);
    char left[400];

    join(json_object_get(ev->end, "left"), left, sizeof left);
    if (held > 0)
        note(d, private_injector(ev) ? OURS : DOUBTFUL, "", "undo records that were not carried out");
    r->n = d->compared;
    (void)snprintf(r->observed, sizeof r->observed, "%llu left, %llu changed by others", (unsigned long long)d->ours,
                   (unsigned long long)d->foreign);
    if (ev->ended && !ev->end_clean)
        (void)sq_result_set(r, SQ_V_FAIL, "not everything could be taken back: %s",
                            left[0] ? left : "what is not recorded");
    else if (d->ours)
        (void)sq_result_set(r, SQ_V_FAIL, "this is still there: %s", d->ours_text);
    else if (!ev->before || !ev->after)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "there is no snapshot %s the run to compare with",
                            ev->before ? "after" : "before");
    else if (!ev->ended)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the log has no end: nobody recorded what was taken back");
    else if (unread)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "the %s could not be read", unread);
    else if (d->lists == 0)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE,
                            "nothing of the host could be read, neither before nor after the run");
    else if (d->doubtful)
        (void)sq_result_set(r, SQ_V_INCONCLUSIVE, "this changed during the run, and it may have been us: %s",
                            d->doubtful_text);
    else if (d->foreign)
        (void)sq_result_set(r, SQ_V_PASS, "nothing of the faults is left; others changed: %s", d->foreign_text);
    else if (has_filters(ev))
        (void)sq_result_set(r, SQ_V_PASS,
                            "nothing of the faults is left; what attach: seccomp puts into running programs stays for "
                            "as long as they live");
    else
        (void)sq_result_set(r, SQ_V_PASS, "nothing of the faults is left: the host is as it was before");
}

static int run(const struct sq_evidence *ev, const json_t *p, json_t *results, struct sq_err *e)
{
    static const char *const lists[] = {"qdiscs", "classes", "filters", "tables", "cgroups",
                                        "bpf",    "packets", "stopped", "faults"};
    const size_t n = sizeof lists / sizeof lists[0];
    struct diff d = {0};
    struct sq_result r;
    const char *unread = NULL;
    int rc = 0;

    (void)p;
    sq_result_init(&r, NULL, "host");
    (void)snprintf(r.limit, sizeof r.limit, "as before the run");
    for (size_t i = 0; i < n && !rc && ev->before && ev->after; i++)
        if (json_object_get(ev->after, lists[i]) && json_object_get(ev->before, lists[i]))
            rc = compare(ev, ev->before, ev->after, lists[i], NULL, &d, e);
    if (!rc && ev->after)
        rc = compare_networks(ev, &d, &unread, e);
    if (rc)
        return rc;
    judge(ev, &d, unread ? unread : ev->before && ev->after ? blind(ev, lists, n) : NULL, &r);
    return sq_result_add(results, &r, e);
}

const struct sq_check sq_check_clean = {
    .name = "clean",
    .doc = "Nothing of any fault is left on the host.",
    .params = params,
    .run = run,
};
