#include "net/cut.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "engine.h"
#include "faults/fault.h"
#include "looking.h"
#include "net/match.h"
#include "net/netns.h"
#include "net/nft.h"
#include "net/partition.h"
#include "net/permit.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "squall/proc.h"
#include "squall/rng.h"
#include "squall/units.h"

#define TICK_MS 1000
#define RESOLVE_NS (5 * SQ_S)
#define WHOLE_NS (10 * SQ_S) /* between two looks at all of it, at least */
#define BEAT_MS 200          /* while names are looked up before anything is touched */

struct sq_cut {
    struct sq_cut *next; /* in the engine's list, from apply to revert */
    struct sq_engine *eng;
    struct sq_fault *f;
    char run[24], fault[16];
    json_t *target; /* a copy */
    json_t *netns;  /* sq_netns_record */
    char where[96];
    struct sq_match
        hosts; /* match[0]: the second group; match[1]: the first one's other hosts; except: what is spared */
    struct sq_partition p;
    struct sq_nft *nft; /* NULL: not applied, or gone */
    bool owner;
    struct sq_cut_counts counts;    /* as told last */
    bool intact;                    /* as told last */
    struct sq_resolving *resolving; /* names being looked up anew; NULL: not now */
    int64_t resolved_at;
    struct sq_looking looking;
    bool unresolvable; /* as told last */
};

struct sq_cuts {
    uv_timer_t timer;
    struct sq_cut *first;
};

static struct sq_cut *find(struct sq_engine *eng, const char *table)
{
    struct sq_cuts *all = eng ? *sq_engine_cuts(eng) : NULL;
    struct sq_cut *c = all ? all->first : NULL;

    while (c && strcmp(c->p.table, table) != 0)
        c = c->next;
    return c;
}

/* ---- what it has cut ---- */

static void tell(struct sq_cut *c, const struct sq_cut_counts *now, bool intact)
{
    if (memcmp(now, &c->counts, sizeof *now) == 0 && intact == c->intact)
        return;
    c->counts = *now;
    c->intact = intact;
    sq_engine_event(c->eng, c->run,
                    json_pack("{s:s,s:s,s:{s:I,s:I},s:{s:I,s:I},s:b}", "type", "packets", "fault", c->fault, "out",
                              "packets", (json_int_t)now->packets[0], "bytes", (json_int_t)now->bytes[0], "in",
                              "packets", (json_int_t)now->packets[1], "bytes", (json_int_t)now->bytes[1], "intact",
                              intact));
}

static void warn(struct sq_cut *c, const char *text)
{
    sq_engine_event(c->eng, c->run,
                    json_pack("{s:s,s:s,s:o}", "type", "warning", "fault", c->fault, "text",
                              json_sprintf("network/partition %s: %s", c->fault, text)));
}

/* Listing a thousand addresses takes tens of milliseconds, counters one: the loop has others to serve, so WHOLE is for
 * now and then. */
static void look(struct sq_cut *c, bool whole)
{
    cleanup_json json_t *objects = NULL;
    struct sq_cut_counts now = c->counts;
    struct sq_err e = {0};
    int r = c->nft ? sq_nft_list(c->nft, c->p.family, c->p.table, whole ? sq_partition_objects : sq_partition_counters,
                                 &objects, &e)
                   : -ENOENT;

    if (r == 0 && !sq_partition_count(&c->p, objects, &now))
        r = -ENOENT;
    if (r == 0 && whole)
        r = sq_partition_compare(&c->p, objects, NULL, &e);
    if (r < 0 && c->intact)
        warn(c, e.code ? e.msg : "its nftables table is gone: somebody removed it");
    tell(c, &now, r == 0 && (whole || c->intact));
}

static void look_now(struct sq_cut *c)
{
    bool whole = sq_looking_begin(&c->looking, WHOLE_NS);

    look(c, whole);
    if (whole)
        sq_looking_end(c->eng, &c->looking, WHOLE_NS);
}

/* A socket in it keeps a namespace alive whose last process has ended: so let go of it then. */
static bool netns_gone(const struct sq_cut *c)
{
    struct sq_netns ns = {.fd = -1};
    bool gone = sq_netns_find(c->netns, &ns, NULL) == -ENOENT;

    sq_netns_close(&ns);
    return gone;
}

/* ---- names that mean other addresses now ---- */

static void move(struct sq_cut *c)
{
    struct sq_partition next = c->p;
    cleanup_json json_t *commands = NULL;
    struct sq_err e = {0};
    int r;

    memset(next.a, 0, sizeof next.a);
    memset(next.b, 0, sizeof next.b);
    r = sq_partition_groups(&next, &c->hosts.match[1], &c->hosts.match[0], &e);
    if (r == 0)
        r = sq_partition_move(&c->p, &next, &commands, &e);
    if (r == 0 && commands)
        r = sq_nft_commit(c->nft, commands, &e);
    if (r == 0) {
        struct sq_partition old = c->p;

        c->p = next;
        old.port = old.local_port = NULL;
        sq_partition_clear(&old);
        sq_engine_event(c->eng, c->run,
                        json_pack("{s:s,s:s,s:I}", "type", "hosts", "fault", c->fault, "addresses",
                                  (json_int_t)sq_cut_addresses(c)));
        return;
    }
    next.port = next.local_port = NULL;
    sq_partition_clear(&next);
    warn(c, e.msg);
}

static void resolved(struct sq_cut *c)
{
    bool changed = false;
    struct sq_err e = {0};
    int r = sq_resolving_end(c->resolving, &c->hosts, &changed, &e);

    if (r == -EAGAIN)
        return;
    sq_resolving_drop(&c->resolving);
    c->resolved_at = sq_mono_ns();
    if (r == -EALREADY)
        return;
    if (r < 0 && !c->unresolvable)
        warn(c, e.msg);
    c->unresolvable = r < 0;
    if (changed && c->nft)
        move(c);
}

static void look_up(struct sq_cut *c)
{
    struct sq_netns ns = {.fd = -1};
    int fd = -1;

    if (c->resolving) {
        resolved(c);
        return;
    }
    if (!sq_match_named(&c->hosts) || sq_mono_ns() - c->resolved_at < RESOLVE_NS ||
        sq_netns_find(c->netns, &ns, NULL) < 0)
        return;
    if (sq_resolving_begin(&c->hosts, &ns, &c->resolving, &fd, NULL) < 0)
        c->resolved_at = sq_mono_ns();
    sq_netns_close(&ns);
}

static void on_timer(uv_timer_t *t)
{
    struct sq_cuts *all = t->data;

    for (struct sq_cut *c = all->first, *next; c; c = next) {
        next = c->next;
        if (netns_gone(c)) {
            warn(c, "its network namespace is gone, and the partition with it");
            sq_engine_fault_over(c->f, "gone"); /* frees it */
            continue;
        }
        look_now(c);
        look_up(c);
    }
}

static int enlist(struct sq_cut *c, struct sq_err *e)
{
    struct sq_cuts **all = sq_engine_cuts(c->eng);

    if (!*all) {
        *all = calloc(1, sizeof **all);
        if (!*all)
            return sq_err(e, -ENOMEM, "out of memory");
        (void)uv_timer_init(sq_engine_loop(c->eng), &(*all)->timer);
        (*all)->timer.data = *all;
        (void)uv_timer_start(&(*all)->timer, on_timer, TICK_MS, TICK_MS);
    }
    c->next = (*all)->first;
    (*all)->first = c;
    return 0;
}

static void timer_closed(uv_handle_t *h)
{
    free(h->data);
}

static void delist(struct sq_cut *c)
{
    struct sq_cuts **all = sq_engine_cuts(c->eng);
    struct sq_cut **p = *all ? &(*all)->first : NULL;

    while (p && *p && *p != c)
        p = &(*p)->next;
    if (!p || !*p)
        return;
    *p = c->next;
    c->next = NULL;
    if (!(*all)->first) {
        uv_close((uv_handle_t *)&(*all)->timer, timer_closed);
        *all = NULL;
    }
}

/* ---- from the request ---- */

static int read_group(const json_t *list, struct sq_group *g, bool *self, struct sq_err *e)
{
    size_t i;
    const json_t *j;

    g->host = calloc(json_array_size(list) + 1, sizeof *g->host);
    g->name = calloc(json_array_size(list) + 1, sizeof *g->name);
    if (!g->host || !g->name)
        return sq_err(e, -ENOMEM, "out of memory");
    json_array_foreach(list, i, j)
    {
        const char *s = json_string_value(j);

        if (strcmp(s, "self") == 0 && self)
            *self = true;
        else if (sq_parse_network(s, &g->host[g->n_host].addr, &g->host[g->n_host].len, NULL) == 0)
            g->n_host++;
        else if (!(g->name[g->n_name++] = strdup(s)))
            return sq_err(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static int read_groups(struct sq_cut *c, struct sq_err *e)
{
    char where[64];
    int r = sq_partition_check(c->target, where, sizeof where, e);

    if (r < 0)
        return r;
    c->hosts.match = calloc(2, sizeof *c->hosts.match);
    if (!c->hosts.match)
        return sq_err(e, -ENOMEM, "out of memory");
    c->hosts.n_match = 2;
    r = read_group(json_object_get(c->target, "and"), &c->hosts.match[0], NULL, e);
    return r < 0 ? r : read_group(json_object_get(c->target, "between"), &c->hosts.match[1], &c->p.self, e);
}

/* For the first time: whoever asked waits, but the keeper must see us live. */
static int resolve(struct sq_cut *c, const struct sq_netns *ns, struct sq_err *e)
{
    struct sq_resolving *work = NULL;
    int fd = -1, r;

    if (!sq_match_named(&c->hosts))
        return 0;
    r = sq_resolving_begin(&c->hosts, ns, &work, &fd, e);
    while (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        sq_engine_beat(c->eng);
        (void)poll(&p, 1, BEAT_MS);
        r = sq_resolving_end(work, &c->hosts, NULL, e);
        if (r != -EAGAIN)
            break;
        r = 0;
    }
    sq_resolving_free(work);
    c->resolved_at = sq_mono_ns();
    return r;
}

struct sparing {
    struct sq_cut *c;
    const json_t *probe;
    json_t *notes;
};

static int spare_here(void *arg, struct sq_err *e)
{
    struct sparing *s = arg;

    return sq_match_spare(&s->c->hosts, s->probe, s->notes, e);
}

static int fill(struct sq_cut *c, const json_t *params, json_t *notes, struct sq_err *e)
{
    struct sparing sparing = {c, sq_engine_probe(c->f->run), notes};
    struct sq_netns ns = {.fd = -1};
    int r = sq_netns_open_for(&c->f->peer, sq_json_str_or(c->target, "namespace", NULL), &ns, e);

    if (r < 0)
        return r;
    c->netns = sq_netns_record(&ns);
    (void)snprintf(c->where, sizeof c->where, "%s", ns.name);
    r = c->netns ? sq_partition_with(&c->p, params, e) : sq_err(e, -ENOMEM, "out of memory");
    if (r == 0)
        r = read_groups(c, e);
    if (r == 0)
        r = resolve(c, &ns, e);
    if (r == 0)
        r = sq_partition_groups(&c->p, &c->hosts.match[1], &c->hosts.match[0], e);
    if (r == 0 && sq_json_bool_or(c->target, "spare_control", true))
        r = sq_netns_call(&ns, spare_here, &sparing, e);
    c->p.spare = &c->hosts;
    sq_netns_close(&ns);
    return r;
}

int sq_cut_new(struct sq_fault *f, json_t *notes, struct sq_cut **out, struct sq_err *e)
{
    struct sq_cut *c = calloc(1, sizeof *c);
    int r = c ? 0 : sq_err(e, -ENOMEM, "out of memory");

    if (r == 0) {
        c->eng = f->engine;
        c->f = f;
        c->intact = true;
        c->p.family = "inet";
        c->target = json_deep_copy(f->target);
        r = c->target ? fill(c, f->with, notes, e) : sq_err(e, -ENOMEM, "out of memory");
    }
    if (r < 0) {
        sq_cut_free(c);
        return r;
    }
    *out = c;
    return 0;
}

void sq_cut_free(struct sq_cut *c)
{
    if (!c)
        return;
    if (c->eng) {
        delist(c);
        sq_looking_over(c->eng, &c->looking);
    }
    sq_resolving_free(c->resolving);
    sq_nft_close(c->nft);
    sq_partition_clear(&c->p);
    sq_match_clear(&c->hosts);
    json_decref(c->target);
    json_decref(c->netns);
    free(c);
}

const char *sq_cut_where(const struct sq_cut *c)
{
    return c->where;
}

size_t sq_cut_addresses(const struct sq_cut *c)
{
    return c->p.a[0].n + c->p.a[1].n + c->p.b[0].n + c->p.b[1].n;
}

/* ---- onto the host and off ---- */

/* "squall-p-1a2b-f3-90ab12cd": ours, and nobody's before. */
static void name_table(struct sq_cut *c, const char *dir, const char *fault)
{
    const char *id = strrchr(dir, '/');
    size_t n;
    int w;

    id = id ? id + 1 : dir;
    n = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-");
    w = snprintf(c->p.table, sizeof c->p.table, "squall-%.*s-%s-%08x", n > 24 ? 24 : (int)n, id, fault,
                 (unsigned)(sq_rng_entropy() & 0xffffffffu));
    (void)w;
}

json_t *sq_cut_record(struct sq_cut *c, const char *dir, const char *fault)
{
    const char *ns = sq_json_str_or(c->target, "namespace", NULL);

    if (ns)
        sq_run_touches(c->f->run, c->netns, ns);
    name_table(c, dir, fault);
    return json_pack("{s:s,s:O,s:s,s:s}", "boot", sq_boot_id(), "netns", c->netns, "family", c->p.family, "table",
                     c->p.table);
}

int sq_cut_apply(struct sq_cut *c, const char *run, const char *fault, struct sq_err *e)
{
    struct sq_netns ns = {.fd = -1};
    cleanup_json json_t *commands = NULL;
    int r = sq_netns_find(c->netns, &ns, e);

    if (r < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, r, "the network namespace %s is gone", c->where);
    (void)snprintf(c->run, sizeof c->run, "%s", run);
    (void)snprintf(c->fault, sizeof c->fault, "%s", fault);
    r = sq_nft_open(&ns, &c->nft, e);
    sq_netns_close(&ns);
    if (r == 0)
        r = enlist(c, e);
    c->owner = true;
    if (r == 0)
        r = sq_nft_create(c->nft, c->p.family, c->p.table, &c->owner, e);
    if (r < 0)
        return r;
    commands = sq_partition_fill(&c->p);
    return sq_nft_commit(c->nft, commands, e);
}

static json_t *counted(const struct sq_cut_counts *n, int d)
{
    return json_pack("{s:I,s:I}", "packets", (json_int_t)n->packets[d], "bytes", (json_int_t)n->bytes[d]);
}

int sq_cut_readback(struct sq_cut *c, json_t **out, struct sq_err *e)
{
    static const char *const hows[] = {"drop", "reject-icmp", "reject-rst"};
    cleanup_json json_t *objects = NULL;
    struct sq_cut_counts n = {0};
    int r = c->nft ? sq_nft_list(c->nft, c->p.family, c->p.table, sq_partition_objects, &objects, e) : -ENOENT;

    if (r == -ENOENT)
        return sq_err(e, -EBADE, "the nftables table %s is gone", c->p.table);
    if (r == 0)
        r = sq_partition_compare(&c->p, objects, &n, e);
    if (r < 0)
        return r;
    *out = json_pack("{s:s,s:s,s:b,s:s,s:s,s:s,s:I,s:o,s:o}", "backend", "nftables", "table", c->p.table, "owner",
                     c->owner, "direction",
                     c->p.out && c->p.in ? "both"
                     : c->p.out          ? "out"
                                         : "in",
                     "how", hows[c->p.how], "existing", c->p.keep ? "keep" : "cut", "addresses",
                     (json_int_t)sq_cut_addresses(c), "out", counted(&n, 0), "in", counted(&n, 1));
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

json_t *sq_cut_felt(struct sq_cut *c)
{
    look(c, true);
    return json_pack("{s:I,s:I,s:o,s:o,s:b}", "packets", (json_int_t)(c->counts.packets[0] + c->counts.packets[1]),
                     "bytes", (json_int_t)(c->counts.bytes[0] + c->counts.bytes[1]), "out", counted(&c->counts, 0),
                     "in", counted(&c->counts, 1), "intact", c->intact);
}

int sq_cut_change(struct sq_cut *c, const json_t *with, struct sq_err *e)
{
    struct sq_partition next = c->p;
    cleanup_json json_t *commands = NULL;
    int r;

    next.port = next.local_port = NULL;
    next.n_port = next.n_local_port = 0;
    r = sq_partition_with(&next, with, e);
    if (r < 0)
        return r;
    commands = sq_partition_change(&next);
    r = c->nft ? sq_nft_commit(c->nft, commands, e) : sq_err(e, -ENOENT, "the nftables table is gone");
    if (r == 0) {
        free(c->p.port);
        free(c->p.local_port);
        c->p = next;
    } else {
        free(next.port);
        free(next.local_port);
    }
    return r;
}

/* Its table as the others see it: 0 with a socket of its own, -ENOENT when the namespace is gone. */
static int open_record(const json_t *record, struct sq_nft **nft, struct sq_err *e)
{
    struct sq_netns ns = {.fd = -1};
    int r = sq_netns_find(json_object_get(record, "netns"), &ns, e);

    if (r == 0)
        r = sq_nft_open(&ns, nft, e);
    sq_netns_close(&ns);
    return r;
}

int sq_cut_revert(struct sq_engine *eng, const json_t *record, struct sq_err *e)
{
    const char *family = sq_json_str_or(record, "family", "inet"), *table = sq_json_str_or(record, "table", "");
    struct sq_cut *c = find(eng, table);
    struct sq_nft *nft = NULL;
    struct sq_err none = {0};
    int r;

    if (c && c->nft) {
        (void)sq_nft_delete(c->nft, family, table, &none); /* where it stays, its owner's end takes it */
        sq_nft_close(c->nft);
        c->nft = NULL;
    }
    if (c)
        delist(c);
    if (strncmp(table, "squall-", 7) != 0)
        return 0;
    r = open_record(record, &nft, &none);
    if (r == 0)
        r = sq_nft_delete(nft, family, table, &none);
    sq_nft_close(nft);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? sq_err_cls(e, none.cls, r, "%s", none.msg) : 0;
}

int sq_cut_gone(const json_t *record, struct sq_err *e)
{
    const char *family = sq_json_str_or(record, "family", "inet"), *table = sq_json_str_or(record, "table", "");
    struct sq_nft *nft = NULL;
    struct sq_err none = {0};
    int r = open_record(record, &nft, &none);

    if (r == 0)
        r = sq_nft_exists(nft, family, table, &none);
    sq_nft_close(nft);
    if (r == 0 || r == -ENOENT)
        return 0;
    if (r < 0)
        return sq_err_cls(e, none.cls, r, "%s", none.msg);
    return sq_err(e, -EBUSY, "the nftables table %s is still there", table);
}
