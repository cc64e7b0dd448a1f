/* The plan of a running caller: who would be taken, and what they have open. Nothing is touched. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "intercept/attach_seccomp.h"
#include "intercept/existing.h"
#include "intercept/filters.h"
#include "intercept/nft.h"
#include "intercept/running.h"
#include "intercept/running_int.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static SQ_PRINTF(2, 3) void note(json_t *notes, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)json_array_append_new(notes, json_string(text));
}

/* What can't be undone is said before. */
static int plan_seccomp(struct sq_intercept *ic, const struct sq_found *f, json_t *notes, struct sq_err *e)
{
    for (size_t i = 0; i < f->n; i++) {
        bool filtered = false;
        int rc = sq_attach_check(ic, f->v[i].pid, f->v[i].start, &filtered, e);

        rc = rc == 0 && filtered ? sq_filters_check(e) : rc;
        if (rc < 0)
            return rc;
        if (filtered)
            note(notes,
                 "process %d is under seccomp filters already: they are read when it is attached to, and it is refused "
                 "unless they let through what that needs",
                 (int)f->v[i].pid);
    }
    (void)json_array_append_new(
        notes, json_string("attach: seccomp can't be undone: the filter stays for as long as these processes and what "
                           "they start live, and so does a process of Squall's that lets their calls go"));
    (void)json_array_append_new(notes, json_string("they may not make new io_uring instances from then on, and those "
                                                   "without CAP_SYS_ADMIN get no_new_privs: setuid programs that they "
                                                   "start do not gain their rights"));
    return 0;
}

/* cgroup-BPF, or else nftables, of which is said what it can't do. */
static int plan_hooks(const struct sq_found *f, json_t *notes, struct sq_err *e)
{
    struct sq_err bpf = {0};
    char cgroup[SQ_CGROUP_MAX] = "";
    int rc = sq_running_check(&bpf);

    if (rc == 0)
        return f->cgroup[0] ? 0 : sq_running_check_processes(e);
    rc = sq_nat_check(e);
    if (rc < 0)
        return sq_err_prefix(e, "%.200s; and", bpf.msg);
    rc = sq_nat_cgroup(f, cgroup, sizeof cgroup, e);
    if (rc == 0)
        sq_nat_notes(cgroup, notes);
    return rc;
}

static json_t *hit_of(const struct sq_found *f)
{
    json_t *hit = json_array();

    for (size_t i = 0; i < f->n; i++) {
        json_t *cmd = json_string(f->v[i].cmd);

        (void)json_array_append_new(hit, json_pack("{s:i,s:I,s:o}", "pid", (int)f->v[i].pid, "start",
                                                   (json_int_t)f->v[i].start, "cmd", cmd ? cmd : json_string("")));
    }
    if (f->cgroup[0])
        (void)json_array_append_new(hit, json_pack("{s:s}", "cgroup", f->cgroup));
    return hit;
}

int sq_running_plan(struct sq_intercept *ic, struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer,
                    const json_t *def, json_t **answer, struct sq_err *e)
{
    __attribute__((cleanup(sq_found_free))) struct sq_found f = {0};
    const json_t *to = json_object_get(def, "to");
    struct sq_pids p = {0};
    int64_t open = 0;
    cleanup_json json_t *notes = json_array();
    bool seccomp = false;
    int rc = sq_running_parse_attach(def, &seccomp, e);

    *answer = NULL;
    rc = rc ? rc : sq_found_by(eng, run, peer, json_object_get(def, "select"), &f, e);
    rc = rc ? rc : sq_running_check_alone(ic, &f, e);
    rc = rc ? rc : seccomp ? plan_seccomp(ic, &f, notes, e) : plan_hooks(&f, notes, e);
    rc = rc ? rc : sq_found_family(&f, &p, e);
    rc = rc || !to ? rc : sq_existing_count(ic, to, json_object_get(def, "except"), p.pid, p.n, &open, e);
    if (rc == 0) {
        sq_space_plan(ic, p.pid, p.n, notes);
        *answer = json_pack("{s:o,s:I,s:I,s:O}", "hit", hit_of(&f), "processes", (json_int_t)p.n, "connections",
                            (json_int_t)open, "notes", notes);
        rc = *answer ? 0 : sq_err(e, -ENOMEM, "out of memory");
    }
    free(p.pid);
    return rc;
}
