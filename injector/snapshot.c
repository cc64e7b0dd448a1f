#include "snapshot.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "net/config.h"
#include "net/netns.h"
#include "net/packet_device.h"
#include "run.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

#define MOST_LINKS 65536 /* BPF links looked at */
#define HELD_MOST 8192   /* of ours: 256 callers with ten each, and packet devices */
#define DEPTH_MOST 8     /* of cgroups */
#define MOST_NETWORKS 64 /* of a run */

/* ---- networks ---- */

static int configured(void *arg, struct sq_err *e)
{
    (void)e;
    *(json_t **)arg = sq_net_config();
    return 0;
}

/* NULL: it is gone, or can't be entered. */
static json_t *config_of(const json_t *netns)
{
    struct sq_netns ns = {.fd = -1};
    json_t *config = NULL;
    if (sq_netns_find(netns, &ns, NULL) == 0)
        (void)sq_netns_call(&ns, configured, &config, NULL);
    sq_netns_close(&ns);
    return config;
}

static bool same_namespace(const json_t *a, const json_t *b)
{
    return sq_json_int_or(a, "ino", 0) == sq_json_int_or(b, "ino", 0) &&
           sq_json_int_or(a, "cookie", 0) == sq_json_int_or(b, "cookie", 0);
}

void sq_run_touches(struct sq_run *run, const json_t *netns, const char *name)
{
    size_t i;
    json_t *known, *before;
    if (!run->networks)
        run->networks = json_array();
    json_array_foreach(run->networks, i, known)
    {
        if (same_namespace(json_object_get(known, "netns"), netns))
            return;
    }
    before = json_array_size(run->networks) < MOST_NETWORKS ? config_of(netns) : NULL;
    json_array_append_new(run->networks,
                          json_pack("{s:s,s:O,s:o?}", "namespace", name, "netns", netns, "before", before));
}

/* Those of RUN; NULL: all that can't be told. */
static json_t *networks(const struct sq_run *run)
{
    json_t *list = json_array();
    size_t i;
    const json_t *n;
    json_array_foreach(run ? run->networks : NULL, i, n)
    {
        json_array_append_new(list,
                              json_pack("{s:O,s:O,s:o?}", "namespace", json_object_get(n, "namespace"), "before",
                                        json_object_get(n, "before"), "now", config_of(json_object_get(n, "netns"))));
    }
    return list;
}

/* ---- our cgroups ---- */

static void walk_cgroups(const char *dir, size_t skip, int depth, json_t *list)
{
    json_array_append_new(list, json_string(dir + skip));
    DIR *d = depth < DEPTH_MOST ? opendir(dir) : NULL;
    const struct dirent *de;
    while (d && (de = readdir(d)) != NULL) {
        char sub[PATH_MAX];
        int n = snprintf(sub, sizeof(sub), "%s/%s", dir, de->d_name);
        if (de->d_type == DT_DIR && de->d_name[0] != '.' && n > 0 && (size_t)n < sizeof(sub))
            walk_cgroups(sub, skip, depth + 1, list);
    }
    if (d)
        (void)closedir(d);
}

static const char *injector_id(const struct sq_engine *eng)
{
    const char *slash = strrchr(eng->dir, '/');
    return slash ? slash + 1 : eng->dir;
}

/* Those of this injector: another one may be at work beside us, and its cgroups come and go. */
static json_t *cgroups(const struct sq_engine *eng)
{
    char root[PATH_MAX], path[PATH_MAX];
    if (sq_cgroup_root(root, sizeof(root), NULL) < 0)
        return NULL;
    json_t *list = json_array();
    int n = snprintf(path, sizeof(path), "%s/squall-%s", root, injector_id(eng));
    if (list && n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0)
        walk_cgroups(path, strlen(root), 0, list);
    return list;
}

/* ---- BPF ---- */

static bool our_program(uint32_t id, char *name, size_t len)
{
    struct bpf_prog_info info;
    uint32_t size = sizeof(info);
    memset(&info, 0, sizeof(info));
    cleanup_close int fd = bpf_prog_get_fd_by_id(id);
    if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &size) < 0)
        return false;
    snprintf(name, len, "%s", info.name);
    return strncmp(info.name, "sq_", 3) == 0;
}

/* The links that squalld, its proxy and its packet processes hold ("link_id:" of proc(5), fdinfo): other Squalls' are
 * their own affair, and one without a holder is no more. */
struct held {
    const char *owner; /* in the command line of our packet processes; NULL: there are none */
    json_t *packets;   /* sq_packet_snapshot(): a process that drains has no faults, and is told there */
    uint32_t id[HELD_MOST];
    size_t n;
};

static void note_link(pid_t pid, const char *fd, struct held *h)
{
    char path[64], text[1024];
    unsigned id;
    if (snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.10s", (int)pid, fd) >= (int)sizeof(path) ||
        sq_proc_slurp(path, text, sizeof(text)) < 0)
        return;
    const char *at = strstr(text, "link_id:");
    if (at && sscanf(at + 8, "%u", &id) == 1 && h->n < SQ_COUNT(h->id))
        h->id[h->n++] = id;
}

static void note_links(pid_t pid, struct held *h)
{
    char path[64];
    const struct dirent *de;
    (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
    DIR *d = opendir(path);
    while (d && (de = readdir(d)) != NULL)
        note_link(pid, de->d_name, h);
    if (d)
        (void)closedir(d);
}

static int held_by(pid_t pid, void *arg)
{
    struct held *h = arg;
    char line[512];
    size_t i;
    const json_t *p;
    json_array_foreach(h->packets, i, p)
    {
        if (sq_json_int_or(p, "pid", 0) == pid && strcmp(sq_json_str_or(p, "state", ""), "draining") == 0)
            return 0;
    }
    if (sq_proc_cmdline(pid, line, sizeof(line)) >= 0 && strstr(line, h->owner))
        note_links(pid, h);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static struct held *look_held(const struct sq_engine *eng)
{
    struct sq_packet_devices *packets = sq_engine_packets((struct sq_engine *)(uintptr_t)eng); /* only asked */
    struct held *h = calloc(1, sizeof(*h));
    pid_t proxy = (pid_t)SQ_GET(eng->o.page->proxy_pid);
    if (!h)
        return NULL;
    note_links(getpid(), h);
    if (proxy > 0)
        note_links(proxy, h);
    h->owner = packets ? sq_packet_owner(packets) : NULL;
    h->packets = sq_packet_snapshot(packets);
    if (h->owner)
        (void)sq_proc_each(held_by, h);
    json_decref(h->packets);
    qsort(h->id, h->n, sizeof(h->id[0]), by_id);
    return h;
}

/* Links, as a program that is attached to nothing can't carry a fault (and squalld loads its own once for all runs). */
static json_t *bpf_links(const struct sq_engine *eng)
{
    char name[BPF_OBJ_NAME_LEN + 1] = "";
    uint32_t id = 0;
    int rc, n = 0;
    if (geteuid() != 0)
        return NULL;
    json_t *list = json_array();
    struct held *held = look_held(eng);
    if (!held || !list) {
        free(held);
        json_decref(list);
        return NULL;
    }
    while ((rc = bpf_link_get_next_id(id, &id)) == 0 && n++ < MOST_LINKS) {
        struct bpf_link_info info;
        uint32_t size = sizeof(info);
        if (!bsearch(&id, held->id, held->n, sizeof(held->id[0]), by_id))
            continue;
        memset(&info, 0, sizeof(info));
        cleanup_close int fd = bpf_link_get_fd_by_id(id);
        if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &size) < 0 || !our_program(info.prog_id, name, sizeof(name)))
            continue;
        uint64_t cg = info.type == BPF_LINK_TYPE_CGROUP ? info.cgroup.cgroup_id : 0;
        json_array_append_new(
            list, json_pack("{s:I,s:s,s:I}", "link", (json_int_t)id, "program", name, "cgroup", (json_int_t)cg));
    }
    bool unread = rc < 0 && errno != ENOENT;
    free(held);
    if (unread) {
        json_decref(list);
        return NULL;
    }
    return list;
}

/* ---- stopped processes among those that the run knows ---- */

struct stopped {
    json_t *list;
};

static void look_at(json_t *list, pid_t pid, uint64_t start, const char *instance, const char *cgroup)
{
    struct sq_proc p;
    bool frozen = false;
    if (sq_proc_read(pid, &p, NULL) < 0 || (start && p.start != start))
        return;
    if (cgroup && cgroup[0])
        (void)sq_cgroup_frozen(cgroup, &frozen, NULL);
    if (p.state != 'T' && !frozen)
        return;
    json_array_append_new(list, json_pack("{s:I,s:I,s:s,s:s}", "pid", (json_int_t)pid, "start", (json_int_t)p.start,
                                          "instance", instance, "how", frozen ? "frozen" : "stopped"));
}

static int one_instance(const char *instance, pid_t pid, uint64_t start, const char *cgroup, void *arg)
{
    struct stopped *s = arg;
    look_at(s->list, pid, start, instance, cgroup);
    return 0;
}

static void each_service(struct sq_run *run, struct stopped *s)
{
    cleanup_json json_t *all = sq_service_list(run->eng->services, run->id);
    cleanup_json json_t *seen = json_object();
    size_t i;
    const json_t *inst;
    json_array_foreach(json_object_get(all, "instances"), i, inst)
    {
        const char *service = sq_json_str_or(inst, "service", "");
        if (!service[0] || json_object_get(seen, service))
            continue;
        json_object_set_new(seen, service, json_true());
        (void)sq_service_each(run->eng->services, run->id, service, one_instance, s);
    }
}

static void stopped_of(struct sq_run *run, struct stopped *s)
{
    size_t i;
    const json_t *h;
    each_service(run, s);
    json_array_foreach(run->named, i, h)
    {
        const char *instance = sq_json_str_or(h, "instance", "");
        pid_t pid = (pid_t)sq_json_int_or(h, "pid", 0);
        if (!instance[0] && pid > 0)
            look_at(s->list, pid, (uint64_t)sq_json_int_or(h, "start", 0), "", NULL);
    }
}

static json_t *stopped(struct sq_engine *eng, struct sq_run *run, uid_t uid)
{
    struct stopped s = {json_array()};
    for (struct sq_run *r = eng->runs; s.list && r; r = r->next)
        if (run ? r == run : (uid == 0 || r->uid == uid))
            stopped_of(r, &s);
    return s.list;
}

/* ---- ours ---- */

static json_t *faults(const struct sq_engine *eng)
{
    json_t *list = json_array();
    for (const struct sq_run *r = eng->runs; list && r; r = r->next)
        for (const struct sq_live *l = r->newest; l; l = l->older)
            json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:b}", "run", r->id, "fault", l->f.id, "uses",
                                                  l->f.spec->name, "active", l->active));
    return list;
}

static void put(json_t *state, json_t *unread, const char *name, json_t *value)
{
    if (value)
        json_object_set_new(state, name, value);
    else
        json_array_append_new(unread, json_string(name));
}

json_t *sq_snapshot(struct sq_engine *eng, struct sq_run *run, uid_t uid)
{
    json_t *state = json_object(), *unread = json_array();
    if (!state || !unread) {
        json_decref(state);
        json_decref(unread);
        return NULL;
    }
    static const char *const of_network[] = {"qdiscs", "classes", "filters", "tables"};
    cleanup_json json_t *here = sq_net_config();
    for (size_t i = 0; i < SQ_COUNT(of_network); i++)
        put(state, unread, of_network[i], json_incref(json_object_get(here, of_network[i])));
    if (run)
        put(state, unread, "networks", networks(run));
    put(state, unread, "cgroups", cgroups(eng));
    put(state, unread, "bpf", bpf_links(eng));
    put(state, unread, "packets", sq_packet_snapshot(sq_engine_packets(eng)));
    put(state, unread, "stopped", stopped(eng, run, uid));
    put(state, unread, "faults", faults(eng));
    put(state, unread, "journal", json_integer((json_int_t)sq_journal_held(eng->o.journal)));
    json_object_set_new(state, "unread", unread);
    return state;
}
