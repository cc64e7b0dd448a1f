/* A fault network/... while it is active: what changes around it is told, and followed. */
#ifndef SQ_SPEC_ONLY

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "engine.h"
#include "faults/network_priv.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define LOOK_MS 1000         /* how often an active fault is looked at */
#define LOOKS_OF_NAMES 5     /* every so many looks names are resolved anew */
#define KERNEL_NS (5 * SQ_S) /* between two looks at what is in the kernel, at least */

/* Lives until libuv has closed its timer. */
struct sq_netwatch {
    uv_timer_t timer;
    struct sq_fault *f; /* NULL: the fault has ended */
};

static void say(struct sq_fault *f, const char *type, json_t *more)
{
    json_t *o = json_pack("{s:s,s:s}", "type", type, "fault", f->id);

    if (o && more)
        json_object_update(o, more);
    json_decref(more);
    sq_engine_event(f->engine, sq_run_id(f->run), o);
}

static void warn(struct sq_fault *f, const char *text)
{
    sq_engine_event(f->engine, sq_run_id(f->run),
                    json_pack("{s:s,s:s,s:s}", "type", "warning", "fault", f->id, "text", text));
}

enum look { LOOK_FINE, LOOK_NO_INTERFACE };

static int interface_flags(const char *name)
{
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r;

    memset(&r, 0, sizeof r);
    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    return fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &r) == 0 ? r.ifr_flags : IFF_UP;
}

static int look_at_interface(struct sq_fault *f, void *arg, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;
    char name[IF_NAMESIZE], text[128];

    (void)arg, (void)e;
    if (!if_indextoname((unsigned)n->ifindex, name))
        return LOOK_NO_INTERFACE;
    if (strcmp(name, n->ifname) != 0) {
        (void)snprintf(text, sizeof text, "%s is called %s now: the fault stays on it", n->ifname, name);
        warn(f, text);
        (void)snprintf(n->ifname, sizeof n->ifname, "%s", name);
        for (size_t i = 0; i < n->n; i++)
            (void)snprintf(n->shape[i].ifname, sizeof n->shape[i].ifname, "%s", name);
    }
    bool down = !(interface_flags(name) & IFF_UP);
    if (down != n->down) {
        (void)snprintf(text, sizeof text, "%s is %s", name, down ? "down: nothing passes the fault" : "up again");
        warn(f, text);
        n->down = down;
    }
    return LOOK_FINE;
}

/* Somebody may have taken away what we put there: the evidence must know. */
static void look_at_kernel(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;
    cleanup_json json_t *o = NULL;
    struct sq_err e = {0};
    bool differs;

    if (!sq_looking_begin(&n->looking, KERNEL_NS))
        return;
    differs = sq_netfault_readback(f, &o, &e) == -EBADE;
    sq_looking_end(f->engine, &n->looking, KERNEL_NS);
    if (differs && !n->differs) {
        char text[640];
        (void)snprintf(text, sizeof text, "the fault is not in the kernel any more as it was applied: %.500s", e.msg);
        warn(f, text);
    }
    n->differs = differs;
}

static void look_at_names(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;
    struct sq_err e = {0};
    bool changed = false;
    int fd = -1;
    char text[512];

    if (!n->resolving) {
        if (sq_netns_find(n->ns_record, &n->ns, &e) == 0) {
            (void)sq_resolving_begin(&n->match, &n->ns, &n->resolving, &fd, &e);
            sq_netns_close(&n->ns);
        }
        return;
    }
    int r = sq_resolving_end(n->resolving, &n->match, &changed, &e);
    if (r == -EAGAIN)
        return;
    sq_resolving_drop(&n->resolving);
    if (r == -EALREADY)
        return;
    if (changed) {
        sq_err_clear(&e);
        r = sq_netfault_inside(f, sq_netfault_change_inside, NULL, &e);
        if (r == 0)
            say(f, "hosts", json_pack("{s:s}", "match", sq_match_text(&n->match, text, sizeof text)));
    }
    if (r < 0) { /* names that fail keep the addresses that they have */
        char said[700];
        (void)snprintf(said, sizeof said, "names could not be resolved anew: %.600s", e.msg);
        warn(f, said);
    }
}

static void look_at_counters(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;
    json_t *felt = sq_netfault_felt(f);
    uint64_t packets = (uint64_t)sq_json_int_or(felt, "packets", 0);

    if (felt && packets != n->packets) {
        n->packets = packets;
        say(f, "packets", felt);
        return;
    }
    json_decref(felt);
}

static void on_look(uv_timer_t *t)
{
    struct sq_netwatch *w = t->data;
    struct sq_fault *f = w->f;
    struct sq_netfault *n = f ? f->priv : NULL;

    if (!n)
        return;
    int r = sq_netfault_inside(f, look_at_interface, NULL, NULL);
    if (r == LOOK_NO_INTERFACE || r == -ENOENT) {
        warn(f, r == -ENOENT ? "the network namespace of the fault is gone: the fault has ended with it"
                             : "the interface of the fault is gone: the fault has ended with it");
        sq_engine_fault_over(f, r == -ENOENT ? "namespace" : "interface"); /* frees F */
        return;
    }
    look_at_counters(f);
    n->looks++;
    look_at_kernel(f);
    if (n->resolving || (n->looks % LOOKS_OF_NAMES == 0 && sq_match_named(&n->match)))
        look_at_names(f);
}

int sq_netwatch_begin(struct sq_fault *f, struct sq_err *e)
{
    struct sq_netfault *n = f->priv;

    n->watch = calloc(1, sizeof *n->watch);
    if (!n->watch)
        return sq_err(e, -ENOMEM, "out of memory");
    n->watch->f = f;
    uv_timer_init(sq_engine_loop(f->engine), &n->watch->timer);
    n->watch->timer.data = n->watch;
    uv_timer_start(&n->watch->timer, on_look, LOOK_MS, LOOK_MS);
    return 0;
}

static void watch_closed(uv_handle_t *h)
{
    free(h->data);
}

void sq_netwatch_end(struct sq_fault *f)
{
    struct sq_netfault *n = f->priv;

    if (n->watch) {
        n->watch->f = NULL;
        uv_close((uv_handle_t *)&n->watch->timer, watch_closed);
    }
    sq_looking_over(f->engine, &n->looking);
    sq_resolving_free(n->resolving);
}

#endif
