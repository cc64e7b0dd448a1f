/* A probe on this host for a controller elsewhere: `squall probe-agent`, the controller's own engine, as an instance of
 * the run like any service (its end is journaled, it ends with the lease), with the rights of the peer. For root it is
 * nobody: it reads what strangers answer. Its order comes in its environment, its records go out as lines of JSON on
 * standard output, and from here as events of the run. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define NAME "squall-probe"
#define ORDER_MAX (120 * 1024) /* one variable of an environment holds 128 KiB (execve(2)) */
#define LINE_MAX_BYTES (4u << 20)
#define UNPRIVILEGED 65534

struct svc_lines {
    size_t len, room;
    bool skipping; /* the rest of a line that was too long */
    char *text;
};

/* ---- starting ---- */

/* squall is installed beside squalld or in ../bin. */
static int find_squall(const struct sq_services *s, char *buf, size_t len, struct sq_err *e)
{
    const char *self = sq_engine_self(s->eng), *slash = strrchr(self, '/');
    int n = slash ? (int)(slash - self) : 0;

    static const char *const places[] = {"squall", "../bin/squall"};
    for (size_t k = 0; slash && k < SQ_COUNT(places); k++)
        if ((size_t)snprintf(buf, len, "%.*s/%s", n, self, places[k]) < len && access(buf, X_OK) == 0)
            return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOENT, "squall is not installed on this host: the probe is part of it");
    sq_err_hint(e, "put it beside %s, or in ../bin", self);
    return -ENOENT;
}

/* "${" would be looked at as a variable of the service; in JSON it can be written otherwise. malloc'd. */
static char *order_text(const json_t *order)
{
    cleanup_free char *plain = json_dumps(order, JSON_COMPACT | JSON_ENSURE_ASCII);
    char *out = plain ? malloc(6 * strlen(plain) + 1) : NULL, *w = out;

    for (const char *p = plain; w && *p; p++)
        if (p[0] == '$' && p[1] == '{')
            w = stpcpy(w, "\\u0024");
        else
            *w++ = *p;
    if (w)
        *w = '\0';
    return out;
}

static int definition(const struct sq_services *s, const json_t *order, json_t **out, struct sq_err *e)
{
    cleanup_free char *text = order_text(order);
    char squall[PATH_MAX];
    int rc = find_squall(s, squall, sizeof squall, e);

    if (rc < 0)
        return rc;
    if (!text)
        return sq_err(e, -ENOMEM, "out of memory");
    if (strlen(text) > ORDER_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the load of a probe on another host is at most %d KiB of JSON",
                          ORDER_MAX / 1024);
    *out = json_pack("{s:s,s:[s,s],s:{s:s}}", "name", NAME, "command", squall, "probe-agent", "env",
                     "SQUALL_PROBE_ORDER", text);
    return *out ? 0 : sq_err(e, -ENOMEM, "out of memory");
}

void sq_service_probe(struct sq_services *s, struct sq_run *run, const struct sq_peer *peer, const json_t *order,
                      sq_service_done *done, void *arg)
{
    struct sq_peer as = *peer;
    cleanup_json json_t *def = NULL;
    struct sq_err e = {0};

    if (as.uid == 0) {
        as.uid = UNPRIVILEGED;
        as.gid = UNPRIVILEGED;
    }
    if (definition(s, order, &def, &e) < 0)
        done(arg, NULL, &e);
    else
        svc_start(s, run, &as, def, true, done, arg);
}

/* ---- ending ---- */

int sq_service_probe_stop(struct sq_services *s, const char *run_id, bool now, struct sq_err *e)
{
    bool any = false;

    for (const struct svc *i = s->all; i; i = i->next)
        if (strcmp(i->run, run_id) == 0 && i->lines && i->state == SVC_RUNNING)
            any |= sq_tree_signal(&i->tree, now ? SIGINT : SIGTERM) > 0;
    return any ? 0 : sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "this run has no probe here, or it has ended");
}

/* ---- what it says ---- */

int svc_lines_begin(struct svc *i)
{
    if (!i->lines)
        i->lines = calloc(1, sizeof *i->lines);
    return i->lines ? 0 : -ENOMEM;
}

void svc_lines_end(struct svc *i)
{
    if (i->lines)
        free(i->lines->text);
    free(SQ_TAKE(i->lines));
}

static void warn(const struct svc *i, const char *text)
{
    sq_engine_event(i->s->eng, i->run, json_pack("{s:s,s:s}", "type", "warning", "text", text));
}

/* A line that is no record (a message of the loader, say) is in the tail like any output. */
static void take_line(const struct svc *i, const char *line, size_t len)
{
    json_t *o = NULL;

    if (len == 0 || line[0] != '{')
        return;
    if (sq_json_parse(line, len, &o, NULL) < 0 || !json_is_object(o)) {
        json_decref(o);
        warn(i, "a record of the probe cannot be read, and is lost");
        return;
    }
    sq_engine_event(i->s->eng, i->run, json_pack("{s:s,s:o}", "type", "probe", "record", o));
}

static bool grow(struct svc_lines *l, size_t more)
{
    size_t room = l->room ? l->room : 65536;
    char *text;

    while (room < l->len + more)
        room *= 2;
    if (room == l->room)
        return true;
    text = room <= LINE_MAX_BYTES ? realloc(l->text, room) : NULL;
    if (!text)
        return false;
    l->text = text;
    l->room = room;
    return true;
}

bool svc_lines_take(struct svc *i, const char *data, size_t n)
{
    struct svc_lines *l = i->lines;
    bool record = l && (l->len > 0 || l->skipping || (n > 0 && data[0] == '{'));

    while (l && n > 0) {
        const char *end = memchr(data, '\n', n);
        size_t part = end ? (size_t)(end - data) : n;

        if (!l->skipping && !grow(l, part)) {
            warn(i, "a record of the probe is too long, and is lost");
            l->skipping = true;
        }
        if (!l->skipping) {
            memcpy(l->text + l->len, data, part);
            l->len += part;
        }
        if (end) {
            if (!l->skipping)
                take_line(i, l->text, l->len);
            l->len = 0;
            l->skipping = false;
            part++;
        }
        data += part;
        n -= part;
    }
    return record;
}
