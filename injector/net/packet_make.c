/* One device of the packet backend, from nothing to a process that vouches for itself, and back. */
#include <errno.h>
#include <inttypes.h>
#include <net/if_arp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <net/if.h>

#include "engine.h"
#include "journal.h"
#include "net/clsact.h"
#include "net/loopback.h"
#include "net/packet_priv.h"
#include "net/tap.h"
#include "patience.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/proc.h"
#include "squall/units.h"

/* What waits for the process to come by; what it holds is its own. */
#define TAP_QUEUE 8192
#define VOUCH_NS (2 * SQ_S)
#define SQ_PACKET_ALIAS "squall " /* of a TAP; then its owner */

void sq_packet_process_name(char *buf, size_t len, const char *owner, uint64_t cookie, int ifindex)
{
    (void)snprintf(buf, len, "squall-packet %s %" PRIu64 ":%d", owner, cookie, ifindex);
}

void sq_packet_alias(char *buf, size_t len, const char *owner)
{
    (void)snprintf(buf, len, SQ_PACKET_ALIAS "%s", owner);
}

void sq_packet_tap_name(char *buf, size_t len, int ifindex, bool ingress, unsigned n)
{
    int k = snprintf(buf, len, n ? "sqt%d%c%u" : "sqt%d%c", ifindex, ingress ? 'i' : 'e', n);

    if (k < 0 || (size_t)k >= len)
        buf[0] = '\0'; /* such numbers don't exist */
}

/* ---- the target ---- */

struct target {
    const char *ifname;
    int ifindex;
    uint8_t mac[6];
    bool loopback;
};

static int look_at(void *arg, struct sq_err *e)
{
    struct target *t = arg;
    cleanup_close int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {.ifr_ifindex = t->ifindex};

    if (s < 0)
        return sq_err_sys(e, -errno, "cannot open a socket");
    if (ioctl(s, SIOCGIFNAME, &r) < 0 || ioctl(s, SIOCGIFHWADDR, &r) < 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENODEV, "there is no interface %s (%d) any more", t->ifname, t->ifindex);
    t->loopback = r.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK;
    if (!t->loopback && r.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "%s is no Ethernet interface: the packet backend can't",
                   t->ifname);
        sq_err_hint(e, "name the interface below it, or use a kernel with netem");
        return -EOPNOTSUPP;
    }
    memcpy(t->mac, r.ifr_hwaddr.sa_data, sizeof t->mac);
    return 0;
}

/* TAPs of another injector there: two on one interface would send each other's packets in circles. */
static int look_for_others(int ifindex, const char *ifname, const char *owner, struct sq_err *e)
{
    char name[16], ours[128], theirs[256];
    int pid = 0;

    sq_packet_alias(ours, sizeof ours, owner);
    for (unsigned i = 0; i < 2 * SQ_PACKET_TAPS; i++) {
        int rc;

        sq_packet_tap_name(name, sizeof name, ifindex, i & 1, i / 2);
        rc = sq_tap_whose(name, theirs, sizeof theirs, e);
        if (rc < 0)
            return rc;
        if (rc == 0 || strcmp(theirs, ours) == 0)
            continue;
        if (sscanf(theirs, SQ_PACKET_ALIAS "%d.", &pid) == 1)
            sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                       "%s has packet faults of another injector: squalld with pid %d (interface %s)", ifname, pid,
                       name);
        else
            sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "%s: there is an interface %s already, and it is not ours", ifname,
                       name);
        sq_err_hint(e,
                    "end that run, or use the same squalld for both; `squalld sweep` takes back what a dead one left");
        return -EEXIST;
    }
    return 0;
}

struct may {
    struct target t;
    const struct sq_packet_devices *ds;
};

static int may(void *arg, struct sq_err *e)
{
    struct may *m = arg;
    int rc = look_at(&m->t, e);

    rc = rc ? rc : look_for_others(m->t.ifindex, m->t.ifname, m->ds->owner, e);
    if (rc == 0 && m->ds->clsact)
        rc = sq_clsact_there(m->t.ifindex, e);
    return rc < 0 ? rc : 0;
}

int sq_packet_may(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e)
{
    struct may m = {.t = {.ifname = s->ifname, .ifindex = s->ifindex}, .ds = ds};

    return sq_netns_call(s->ns, may, &m, e);
}

/* ---- making ---- */

static int make_tap(struct sq_packet_device *d, const struct sq_netns *ns, unsigned dir, const struct target *t,
                    int *fd, int *index, struct sq_err *e)
{
    struct sq_tap_opts o = {.queue = TAP_QUEUE, .ns = ns};
    int rc = -EEXIST;

    sq_packet_alias(o.alias, sizeof o.alias, d->ds->owner);
    memcpy(o.mac, t->mac, sizeof o.mac);
    for (unsigned n = 0; n < SQ_PACKET_TAPS && rc == -EEXIST; n++) {
        sq_err_clear(e);
        sq_packet_tap_name(o.name, sizeof o.name, d->ifindex, dir == INGRESS, n);
        rc = sq_tap_new(&o, fd, index, e);
    }
    memcpy(d->tap[dir], o.name, sizeof d->tap[dir]);
    return rc;
}

struct making {
    struct sq_packet_device *d;
    const struct sq_netns *ns;
    const struct target *t;
    int heartbeat;
    unsigned dir;
    int tap, rc;
    struct sq_err e;
    pthread_t thread;
};

static void *make_direction(void *arg)
{
    struct making *m = arg;
    struct sq_packet_device *d = m->d;
    struct sq_attach_opts o = {.ns = m->ns,
                               .device = d->ifindex,
                               .egress = m->dir == EGRESS,
                               .clsact = d->ds->clsact,
                               .loopback = m->t->loopback,
                               .heartbeat = m->heartbeat,
                               .env = &d->ds->env};

    m->rc = make_tap(d, m->ns, m->dir, m->t, &m->tap, &o.tap, &m->e);
    m->rc = m->rc ? m->rc : sq_attach_new(&o, &d->attach[m->dir], &m->e);
    if (m->rc == 0)
        m->rc = sq_classifier_new(sq_attach_maps(d->attach[m->dir]), m->dir == EGRESS, &d->rules[m->dir], &m->e);
    return NULL;
}

/* Both at a time, and while the process starts: most of it is the kernel's work. */
static int make_directions(struct sq_packet_device *d, const struct sq_netns *ns, const struct target *t, int *tap,
                           struct sq_err *e)
{
    cleanup_close int heartbeat = sq_attach_heartbeat(e);
    struct making m[DIRECTIONS];
    unsigned n = 0; /* at work */
    int rc = heartbeat < 0 ? heartbeat : 0;

    (void)sq_packet_env(d->ds);
    sq_patience_begin(sq_engine_patience(d->ds->eng), SQ_PATIENCE_NS);
    for (unsigned dir = 0; dir < DIRECTIONS; dir++) {
        m[dir] = (struct making){.d = d, .ns = ns, .t = t, .heartbeat = heartbeat, .dir = dir, .tap = -1};
        if (rc == 0 && pthread_create(&m[dir].thread, NULL, make_direction, &m[dir]) != 0)
            rc = sq_err(e, -EAGAIN, "cannot start a thread");
        n += rc == 0;
    }
    for (unsigned dir = 0; dir < n; dir++) {
        (void)pthread_join(m[dir].thread, NULL);
        tap[dir] = m[dir].tap;
        if (m[dir].rc < 0 && rc == 0) {
            rc = m[dir].rc;
            *e = m[dir].e;
        }
    }
    return rc;
}

static int hand_over(struct sq_packet_device *d, const int *tap, struct sq_err *e)
{
    struct sq_attach_fds f[DIRECTIONS] = {sq_attach_fds(d->attach[EGRESS]), sq_attach_fds(d->attach[INGRESS])};
    int fds[7] = {f[EGRESS].heartbeat, tap[EGRESS],   tap[INGRESS],  f[EGRESS].device,
                  f[INGRESS].device,   f[EGRESS].tap, f[INGRESS].tap};
    struct sq_packet_start s = {.op = SQ_PK_START, .n_links = d->ds->clsact ? 0 : 4, .has_egress = 1, .has_ingress = 1};
    int rc = sq_packet_process_give(&d->process, &s, fds, 3 + s.n_links, e);

    for (int dir = 0; dir < DIRECTIONS; dir++)
        sq_attach_close_links(d->attach[dir]);
    return rc;
}

/* Until the programs believe in it. */
static int wait_vouch(struct sq_packet_device *d, struct sq_err *e)
{
    int64_t until = sq_mono_ns() + VOUCH_NS;
    void *m =
        mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, sq_attach_fds(d->attach[EGRESS]).heartbeat, 0);

    if (m == MAP_FAILED)
        return sq_err_sys(e, -errno, "cannot map the heartbeat of the packet process");
    d->beat = m;
    while ((int64_t)*d->beat <= sq_mono_ns()) {
        if (!sq_packet_process_alive(&d->process) || sq_mono_ns() > until)
            return sq_err(e, -ETIMEDOUT, "the packet process of %s does not come to life", d->ifname);
        (void)poll(NULL, 0, 1);
    }
    return 0;
}

/* From one that still drains on loopback: the sysctls are set, and its filters have the names of ours. */
static bool inherit(struct sq_packet_device *d)
{
    for (struct sq_packet_device *o = d->ds->list; o; o = o->next) {
        if (o->ifindex != d->ifindex || o->cookie != d->cookie || o->ino != d->ino || !o->noted)
            continue;
        d->clsact_made = o->clsact_made;
        memcpy(d->lo_was, o->lo_was, sizeof d->lo_was);
        o->noted = false;
        sq_packet_settle(o);
        for (int dir = 0; dir < DIRECTIONS; dir++)
            (void)sq_attach_detach(o->attach[dir], NULL);
        return true;
    }
    return false;
}

static int note_before(void *arg, struct sq_err *e)
{
    struct sq_packet_device *d = arg;
    const int one[SQ_LOOPBACK_KNOBS] = {1, 1};
    int rc = 0;

    if (inherit(d)) {
        d->noted = true;
        return 0;
    }
    if (d->ds->clsact) {
        rc = sq_clsact_there(d->ifindex, e);
        d->clsact_made = rc == 0;
    }
    if (rc >= 0 && d->loopback)
        rc = sq_loopback_read(d->lo_was, e);
    if (rc < 0)
        return rc;
    d->noted = d->ds->clsact || d->loopback; /* from here on there is something to put back */
    return d->loopback ? sq_loopback_write(one, e) : 0;
}

static int make_all(struct sq_packet_device *d, const struct sq_netns *ns, struct sq_err *e)
{
    struct may m = {.t = {.ifname = d->ifname, .ifindex = d->ifindex}, .ds = d->ds};
    int tap[DIRECTIONS] = {-1, -1};
    char name[128];
    int rc = sq_netns_call(ns, may, &m, e);

    d->loopback = m.t.loopback;
    sq_packet_process_name(name, sizeof name, d->ds->owner, d->cookie, d->ifindex);
    rc = rc ? rc : sq_netns_call(ns, note_before, d, e);
    rc = rc ? rc : sq_packet_process_start(&d->process, sq_engine_self(d->ds->eng), name, e);
    rc = rc ? rc : make_directions(d, ns, &m.t, tap, e);
    rc = rc ? rc : hand_over(d, tap, e);
    for (unsigned dir = 0; dir < DIRECTIONS; dir++)
        if (tap[dir] >= 0)
            (void)close(tap[dir]);
    return rc ? rc : wait_vouch(d, e);
}

/* NULL: E, which must not be NULL, says why. */
struct sq_packet_device *sq_packet_make(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e)
{
    struct sq_packet_device *d = calloc(1, sizeof *d);

    if (!d || !(d->ns = sq_netns_record(s->ns))) {
        free(d);
        (void)sq_err(e, -ENOMEM, "out of memory");
        return NULL;
    }
    d->ds = ds;
    d->cookie = s->ns->cookie;
    d->ino = s->ns->ino;
    d->ifindex = s->ifindex;
    d->process.pidfd = d->process.sock = -1;
    (void)snprintf(d->ifname, sizeof d->ifname, "%s", s->ifname);
    (void)snprintf(d->ns_name, sizeof d->ns_name, "%s", s->ns->name);
    d->watch.looked = sq_mono_ns();
    if (make_all(d, s->ns, e) == 0)
        return d;
    sq_packet_process_end(&d->process);
    sq_packet_unmake(d);
    return NULL;
}

/* ---- unmaking ---- */

static int detach(void *arg, struct sq_err *e)
{
    struct sq_packet_device *d = arg;

    if (d->loopback)
        (void)sq_loopback_write(d->lo_was, e);
    return d->ds->clsact ? sq_clsact_clean(d->ifindex, d->clsact_made, e) : 0;
}

void sq_packet_settle(struct sq_packet_device *d)
{
    if (d->owed)
        (void)sq_journal_release(sq_engine_journal(d->ds->eng), d->debt, NULL);
    d->owed = false;
}

void sq_packet_detach(struct sq_packet_device *d)
{
    struct sq_netns ns = {.fd = -1};

    if (d->noted && sq_netns_find(d->ns, &ns, NULL) == 0) {
        (void)sq_netns_call(&ns, detach, d, NULL); /* what stays is inert, and the record's: revert says so */
        sq_netns_close(&ns);
        d->noted = false;
    }
    sq_packet_settle(d);
}

void sq_packet_unmake(struct sq_packet_device *d)
{
    sq_packet_detach(d);
    if (d->beat)
        (void)munmap((void *)(uintptr_t)d->beat, (size_t)sysconf(_SC_PAGESIZE));
    for (int dir = 0; dir < DIRECTIONS; dir++) {
        sq_classifier_free(d->rules[dir]);
        sq_attach_free(d->attach[dir]);
    }
    if (sq_packet_process_alive(&d->process))
        (void)sq_pidfd_signal(d->process.pidfd, SIGKILL);
    if (d->process.pidfd >= 0) {
        struct pollfd p = {.fd = d->process.pidfd, .events = POLLIN};

        (void)poll(&p, 1, 200);
    }
    sq_packet_process_close(&d->process, d->why, sizeof d->why);
    json_decref(d->ns);
    free(d);
}
