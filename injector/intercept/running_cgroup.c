/* A cgroup as a caller: its hooks, and the watch for one that is made anew by the same name. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "intercept/nft.h"
#include "intercept/running_int.h"
#include "patience.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

#define AGAIN_MS 1000 /* hooks that can't be attached are tried again so much later: loading them takes its time */
#define LOOK_MS 100   /* a cgroup that is made again is seen so much later */

static int hook_cgroup(struct sq_running *r, struct sq_caller *c, struct sq_err *e)
{
    cleanup_close int fd = open(r->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    int rc;

    if (fd < 0 || fstat(fd, &st) < 0)
        return sq_err_sys(e, -errno, "cannot open %s", r->cgroup);
    rc = r->nft ? sq_nat_attach(c, r->cgroup, e) : sq_bpf_attach(r->ic, c, fd, NULL, e);
    r->ino = rc < 0 ? 0 : st.st_ino;
    return rc;
}

static struct sq_caller *caller_of(const struct sq_running *r)
{
    for (uint32_t i = 0; i < SQ_CALLERS; i++)
        if (r->ic->caller[i] && r->ic->caller[i]->running == r)
            return r->ic->caller[i];
    return NULL;
}

static int note_pid(pid_t pid, void *arg)
{
    *(pid_t *)arg = pid;
    return 1;
}

/* A unit or container that is started again has another cgroup by the same name. */
static void on_look(uv_timer_t *t)
{
    struct sq_intercept *ic = t->data;
    struct sq_running *r = ic->running;
    struct sq_caller *c;
    struct stat st;

    while (r && r->look != t)
        r = r->next;
    c = r ? caller_of(r) : NULL;
    if (!c || ic->link.dead)
        return;
    if (stat(r->cgroup, &st) == 0 && st.st_ino != r->ino) {
        cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "uncaller", "id", (json_int_t)c->id);
        struct sq_err e = {0};

        (void)sq_link_send(ic, msg, NULL, 0, NULL);
        sq_bpf_detach(c);
        sq_patience_begin(ic->o.patience, SQ_PATIENCE_NS); /* the kernel verifies: 0.6 s on a busy host */
        const int64_t began = sq_mono_ns();
        int rc = hook_cgroup(r, c, &e);
        sq_patience_end(ic->o.patience);
        if (rc < 0) {
            if (!r->unhooked && access(r->cgroup, F_OK) == 0) { /* else it is being removed again */
                sq_ic_warn(ic, r->run, "the cgroup %s was made anew, and calls from it go past Squall: %s", r->cgroup,
                           e.msg);
                r->unhooked = true;
            }
            (void)uv_timer_start(t, on_look, AGAIN_MS, LOOK_MS);
            return;
        }
        r->unhooked = false;
        r->empty = false;
        sq_running_tell(&r->one[0], "restarted");
        sq_ic_warn(ic, r->run, "the cgroup %s was made anew: calls of its first %lld ms may have gone past Squall",
                   r->cgroup, (long long)(LOOK_MS + (sq_mono_ns() - began) / SQ_MS + 1));
    }
    if (sq_cgroup_empty(r->cgroup) != r->empty) {
        r->empty = !r->empty;
        sq_running_tell(&r->one[0], r->empty ? "exited" : "restarted");
    }
}

int sq_running_take_cgroup(struct sq_running *r, const struct sq_found *f, struct sq_err *e)
{
    struct sq_caller *c = NULL;
    int rc;

    memcpy(r->cgroup, f->cgroup, sizeof r->cgroup);
    r->one = calloc(1, sizeof *r->one);
    if (!r->one)
        return sq_err(e, -ENOMEM, "out of memory");
    r->one->pidfd = -1;
    rc = sq_running_add_caller(r, r->one, 0, &c, e);
    if (rc < 0)
        return rc;
    r->n = 1;
    (void)sq_cgroup_each(r->cgroup, note_pid, &r->one->pid);
    rc = hook_cgroup(r, c, e);
    if (rc < 0)
        return rc;
    r->look = sq_ic_new_timer(r->ic);
    if (!r->look)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)uv_timer_start(r->look, on_look, LOOK_MS, LOOK_MS);
    uv_unref((uv_handle_t *)r->look);
    return 0;
}
