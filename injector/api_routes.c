/* What is asked and what is answered. One line in `routes` and one handler for each method and path. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "doctor.h"
#include "intercept/existing.h"
#include "intercept/running.h"
#include "metrics.h"
#include "run.h"
#include "service.h"
#include "snapshot.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/version.h"

#define MAX_SEGMENTS 6
#define MAX_SEGMENT 128

struct request {
    struct sq_engine *eng;
    const struct sq_peer *peer;
    struct sq_run *run; /* for paths below a run */
    const char *name;   /* the last named segment: a fault, a service */
    const char *query;  /* "" when there is none */
    const json_t *body; /* an object */
    sq_api_done *done;
    void *arg;
};

/* ---- answering ---- */

static int status_of(enum sq_class cls)
{
    switch (cls) {
    case SQ_C_INPUT:
        return 400;
    case SQ_C_DENIED:
        return 403;
    case SQ_C_NOTFOUND:
        return 404;
    case SQ_C_CONFLICT:
        return 409;
    case SQ_C_UNSUPPORTED:
        return 501;
    case SQ_C_INTERNAL:
        break;
    }
    return 500;
}

/* What came from outside may be in the text, or have been cut within a character: let nothing that is no UTF-8 keep an
 * error from being told. */
static json_t *text_of(const char *s)
{
    json_t *j = json_string(s);
    cleanup_free char *plain = j ? NULL : strdup(s);
    for (char *p = plain; p && *p; p++)
        if (*p & 0x80)
            *p = '?';
    return j || !plain ? j : json_string(plain);
}

char *sq_api_error(const struct sq_err *e, int *status, size_t *len)
{
    const char *name = e->code ? strerrorname_np(-e->code) : NULL;
    *status = status_of(e->cls);
    cleanup_json json_t *o = json_pack("{s:{s:o,s:o,s:s}}", "error", "message", text_of(e->msg), "hint",
                                       text_of(e->hint), "errno", name ? name : "");
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    *len = text ? strlen(text) : 0;
    return text;
}

static void fail(sq_api_done *done, void *arg, const struct sq_err *e)
{
    int status;
    size_t len;
    char *text = sq_api_error(e, &status, &len);
    done(arg, status, text, len);
}

/* Takes ANSWER; NULL: no memory. */
static void answer(sq_api_done *done, void *arg, int status, json_t *a)
{
    char *text = a ? json_dumps(a, JSON_COMPACT) : NULL;
    json_decref(a);
    done(arg, text ? status : 500, text, text ? strlen(text) : 0);
}

static void result(struct request *q, int rc, int status, json_t *a, struct sq_err *e)
{
    if (rc < 0) {
        sq_err_sys(e, rc, "failed"); /* unless the origin said more */
        json_decref(a);
        fail(q->done, q->arg, e);
        return;
    }
    answer(q->done, q->arg, status, a);
}

/* An answer that comes later. */
struct later {
    sq_api_done *done;
    void *arg;
    int status;
};

static struct later *later(struct request *q, int status)
{
    struct later *l = malloc(sizeof(*l));
    if (l)
        *l = (struct later){q->done, q->arg, status};
    else
        q->done(q->arg, 500, NULL, 0);
    return l;
}

static void later_json(void *arg, json_t *a, const struct sq_err *e)
{
    struct later *l = arg;
    if (e && e->code) {
        json_decref(a);
        fail(l->done, l->arg, e);
    } else {
        answer(l->done, l->arg, l->status, a ? a : json_object());
    }
    free(l);
}

/* ---- the injector ---- */

static void get_info(struct request *q)
{
    char host[256] = "";
    (void)gethostname(host, sizeof(host) - 1);
    answer(q->done, q->arg, 200,
           json_pack("{s:s,s:I,s:I,s:s,s:s,s:b,s:I}", "version", SQUALL_VERSION, "pid", (json_int_t)getpid(), "uid",
                     (json_int_t)geteuid(), "host", host, "boot_id", sq_boot_id(), "private", q->eng->o.is_private,
                     "mono_ns", (json_int_t)sq_mono_ns()));
}

static void get_doctor(struct request *q)
{
    answer(q->done, q->arg, 200, sq_doctor(q->eng));
}

static void halted(void *arg, json_t *a)
{
    later_json(arg, a, NULL);
}

static void post_halt(struct request *q)
{
    struct later *l = later(q, 200);
    if (l)
        sq_engine_halt(q->eng, "halt", halted, l);
}

static void post_quit(struct request *q)
{
    struct sq_err e = {0};
    if (!q->eng->o.is_private) {
        sq_err_cls(&e, SQ_C_DENIED, -EPERM, "this is the host's injector: only its own supervisor ends it");
        sq_err_hint(&e, "to take back every fault use POST /v1/halt");
        fail(q->done, q->arg, &e);
        return;
    }
    answer(q->done, q->arg, 200, json_object());
    q->eng->o.quit(q->eng->o.arg);
}

/* ---- runs ---- */

static void post_runs(struct request *q)
{
    struct sq_err e = {0};
    struct sq_run *run = NULL;
    json_t *a = NULL;
    int rc = sq_run_new(q->eng, q->peer, q->body, &run, &e);
    if (!rc)
        a = json_pack("{s:s,s:I,s:I}", "run", run->id, "lease_ns", (json_int_t)run->lease_ns, "seed",
                      (json_int_t)run->seed);
    result(q, rc, 201, a, &e);
}

static void post_renew(struct request *q)
{
    struct sq_err e = {0};
    int64_t ns = 0;
    int rc = sq_run_renew(q->run, &ns, &e);
    result(q, rc, 200, rc < 0 ? NULL : json_pack("{s:I}", "expires_in_ns", (json_int_t)ns), &e);
}

static void run_ended(void *arg, bool clean, const json_t *left)
{
    cleanup_json json_t *copy = json_deep_copy(left);
    later_json(arg, json_pack("{s:b,s:O}", "clean", clean, "left", copy), NULL);
}

static void delete_run(struct request *q)
{
    struct later *l = later(q, 200);
    if (l)
        sq_run_end(q->run, "request", SQ_GRACE_NS, run_ended, l);
}

static void get_events(struct request *q)
{
    uint64_t after = 0;
    if (strncmp(q->query, "after=", 6) == 0) {
        char *end = NULL;
        errno = 0;
        after = strtoull(q->query + 6, &end, 10);
        if (errno || end == q->query + 6 || *end || after > INT64_MAX || q->query[6] == '-') {
            struct sq_err e = {0};
            sq_err_cls(&e, SQ_C_INPUT, -EINVAL, "after must be the \"next\" of an earlier answer");
            fail(q->done, q->arg, &e);
            return;
        }
    }
    size_t len = 0;
    char *text = sq_events_read(q->run->events, after, &len);
    q->done(q->arg, text ? 200 : 500, text, len);
}

static void get_snapshot(struct request *q)
{
    answer(q->done, q->arg, 200, sq_snapshot(q->eng, q->run, q->peer->uid));
}

static void get_edges(struct request *q)
{
    struct sq_intercept *ic = sq_engine_intercept(q->eng);

    answer(q->done, q->arg, 200,
           json_pack("{s:o,s:o}", "edges", sq_intercept_edges(ic, q->run->id), "proxy", sq_intercept_proxy(ic)));
}

static void get_metrics(struct request *q)
{
    char *text = sq_metrics_text(q->eng, q->peer);

    q->done(q->arg, 200, text, text ? strlen(text) : 0);
}

static void post_edges(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    struct later *l = NULL;
    int rc = sq_edge_declare(q->eng->intercept, q->run->id, q->run->uid, q->body, &a, &e);
    if (rc < 0) {
        result(q, rc, 201, a, &e);
        return;
    }
    l = later(q, 201);
    if (l)
        sq_existing_settle(sq_edge_find(q->eng->intercept, q->run->id, sq_json_str_or(a, "edge", "")), a, later_json,
                           l);
    else
        json_decref(a);
}

/* ---- services ---- */

static int taken(const char *instance, pid_t pid, uint64_t start, const char *cgroup, void *arg)
{
    (void)instance;
    (void)pid;
    (void)start;
    (void)cgroup;
    (void)arg;
    return 1;
}

/* What runs already is selected, what doesn't is started. */
static void post_selected(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    const char *name = sq_json_str_or(q->body, "name", "");
    int rc = sq_service_each(q->eng->services, q->run->id, name, taken, NULL);
    if (rc)
        rc = sq_err_cls(&e, SQ_C_CONFLICT, -EEXIST, "this run has a service \"%.80s\" already", name);
    else
        rc = sq_running_attach(q->eng->intercept, q->eng, q->run, q->peer, q->body, &a, &e);
    result(q, rc, 201, a, &e);
}

static void post_services(struct request *q)
{
    struct sq_err e = {0};
    struct later *l;
    if (json_object_get(q->body, "select")) {
        post_selected(q);
        return;
    }
    if (sq_running_find(q->eng->intercept, q->run->id, sq_json_str_or(q->body, "name", ""))) {
        sq_err_cls(&e, SQ_C_CONFLICT, -EEXIST, "this run has a service of this name already, which was selected");
        fail(q->done, q->arg, &e);
        return;
    }
    l = later(q, 201);
    if (l)
        sq_service_start(q->eng->services, q->run, q->peer, q->body, later_json, l);
}

static void get_services(struct request *q)
{
    json_t *a = sq_service_list(q->eng->services, q->run->id);
    sq_running_list(q->eng->intercept, q->run->id, json_object_get(a, "instances"));
    answer(q->done, q->arg, 200, a);
}

static void delete_service(struct request *q)
{
    struct later *l;
    if (sq_running_detach(q->eng->intercept, q->run->id, q->name) == 0) {
        answer(q->done, q->arg, 200, json_pack("{s:b,s:[]}", "clean", 1, "left"));
        return;
    }
    l = later(q, 200);
    if (l)
        sq_service_stop(q->eng->services, q->run->id, q->name, SQ_GRACE_NS, later_json, l);
}

static void post_probe(struct request *q)
{
    struct later *l = later(q, 201);
    if (l)
        sq_service_probe(q->eng->services, q->run, q->peer, q->body, later_json, l);
}

static void post_probe_stop(struct request *q)
{
    struct sq_err e = {0};
    int rc = sq_service_probe_stop(q->eng->services, q->run->id, sq_json_bool_or(q->body, "now", false), &e);
    result(q, rc, 200, rc < 0 ? NULL : json_object(), &e);
}

static void post_exec(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    int rc = sq_service_exec(q->eng->services, q->run, q->peer, q->body, &a, &e);
    result(q, rc, 201, a, &e);
}

/* ---- faults ---- */

static void post_plan(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    const json_t *edge = json_object_get(q->body, "edge");
    int rc = json_is_object(edge) ? sq_edge_plan(q->eng->intercept, q->run->id, q->run->uid, edge, &a, &e)
             : json_object_get(q->body, "select")
                 ? sq_running_plan(q->eng->intercept, q->eng, q->run, q->peer, q->body, &a, &e)
                 : sq_loan_plan(q->run, q->peer, q->body, &a, &e);
    result(q, rc, 200, a, &e);
}

static void post_faults(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    int rc = sq_loan_apply(q->run, q->peer, q->body, &a, &e);
    result(q, rc, 201, a, &e);
}

static void patch_fault(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    int rc = sq_loan_change(q->run, q->name, q->body, &a, &e);
    result(q, rc, 200, a, &e);
}

static void delete_fault(struct request *q)
{
    struct sq_err e = {0};
    json_t *a = NULL;
    int rc = sq_loan_end(q->run, q->name, "request", &a, &e);
    result(q, rc, 200, a, &e);
}

/* ---- routing ---- */

enum run_need {
    ANY_RUN, /* an ended one will do, as long as it is kept */
    LIVE_RUN,
};

struct route {
    const char *method;
    const char *path; /* segments; R: a run, N: a name */
    enum run_need need;
    void (*handler)(struct request *q);
};

static const struct route routes[] = {
    {"GET", "v1/info", ANY_RUN, get_info},
    {"GET", "v1/doctor", ANY_RUN, get_doctor},
    {"GET", "v1/snapshot", ANY_RUN, get_snapshot},
    {"POST", "v1/halt", ANY_RUN, post_halt},
    {"POST", "v1/quit", ANY_RUN, post_quit},
    {"POST", "v1/runs", ANY_RUN, post_runs},
    {"POST", "v1/runs/R/renew", LIVE_RUN, post_renew},
    {"DELETE", "v1/runs/R", ANY_RUN, delete_run},
    {"GET", "v1/runs/R/events", ANY_RUN, get_events},
    {"GET", "v1/runs/R/snapshot", ANY_RUN, get_snapshot},
    {"GET", "v1/metrics", ANY_RUN, get_metrics},
    {"GET", "v1/runs/R/edges", ANY_RUN, get_edges},
    {"POST", "v1/runs/R/edges", LIVE_RUN, post_edges},
    {"POST", "v1/runs/R/services", LIVE_RUN, post_services},
    {"GET", "v1/runs/R/services", ANY_RUN, get_services},
    {"DELETE", "v1/runs/R/services/N", LIVE_RUN, delete_service},
    {"POST", "v1/runs/R/probe", LIVE_RUN, post_probe},
    {"POST", "v1/runs/R/probe/stop", LIVE_RUN, post_probe_stop},
    {"POST", "v1/runs/R/exec", LIVE_RUN, post_exec},
    {"POST", "v1/runs/R/plan", LIVE_RUN, post_plan},
    {"POST", "v1/runs/R/faults", LIVE_RUN, post_faults},
    {"PATCH", "v1/runs/R/faults/N", LIVE_RUN, patch_fault},
    {"DELETE", "v1/runs/R/faults/N", LIVE_RUN, delete_fault},
};

struct path {
    unsigned n;
    char seg[MAX_SEGMENTS][MAX_SEGMENT];
};

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Split and undo %XX (RFC 3986, 2.1). False: not a path of ours. */
static bool split(const char *target, size_t len, struct path *p)
{
    size_t used = 0;
    p->n = 0;
    if (len == 0 || target[0] != '/')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = target[i];
        if (c == '/') {
            if (p->n == MAX_SEGMENTS)
                return false;
            p->seg[p->n++][0] = '\0';
            used = 0;
            continue;
        }
        if (c == '%') {
            int hi = i + 2 < len ? hex(target[i + 1]) : -1, lo = i + 2 < len ? hex(target[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return false;
            c = (char)(hi * 16 + lo);
            i += 2;
        }
        if ((unsigned char)c < 0x20 || c == 0x7f || used + 1 >= MAX_SEGMENT)
            return false;
        p->seg[p->n - 1][used++] = c;
        p->seg[p->n - 1][used] = '\0';
    }
    return true;
}

/* Does the path fit the pattern? *run and *name are set to its variable segments. */
static bool matches(const char *pattern, const struct path *p, const char **run, const char **name)
{
    unsigned i = 0;
    *run = *name = NULL;
    for (const char *s = pattern; s; i++) {
        const char *end = strchrnul(s, '/');
        size_t len = (size_t)(end - s);
        if (i == p->n || !p->seg[i][0])
            return false;
        if (len == 1 && s[0] == 'R')
            *run = p->seg[i];
        else if (len == 1 && s[0] == 'N')
            *name = p->seg[i];
        else if (strncmp(p->seg[i], s, len) != 0 || p->seg[i][len])
            return false;
        s = *end ? end + 1 : NULL;
    }
    return i == p->n;
}

static int find_route(const char *method, const struct path *p, const struct route **out, const char **run,
                      const char **name, struct sq_err *e)
{
    bool known = false;
    for (size_t i = 0; i < SQ_COUNT(routes); i++) {
        if (!matches(routes[i].path, p, run, name))
            continue;
        known = true;
        if (strcmp(routes[i].method, method) == 0) {
            *out = &routes[i];
            return 0;
        }
    }
    sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, known ? "this path does not take %.16s" : "there is no such path (%.16s)",
               method);
    sq_err_hint(e, "API.md lists all methods and paths");
    return -ENOENT;
}

static int find_run(struct request *q, const char *id, enum run_need need, struct sq_err *e)
{
    q->run = sq_run_find(q->eng, id);
    if (!q->run)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "there is no run %.32s, or it has ended", id);
    if (q->peer->uid != q->run->uid && q->peer->uid != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "run %s belongs to uid %u", q->run->id, (unsigned)q->run->uid);
        sq_err_hint(e, "anyone who may open this socket may halt: POST /v1/halt");
        return -EPERM;
    }
    if (need == LIVE_RUN && q->run->state != SQ_RUN_LIVE)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "run %s has ended", q->run->id);
    return 0;
}

static int parse_body(const char *body, size_t len, json_t **out, struct sq_err *e)
{
    if (len > SQ_BODY_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the body is larger than %u bytes", SQ_BODY_MAX);
    if (len == 0) {
        *out = json_object();
        return *out ? 0 : sq_err(e, -ENOMEM, "no memory");
    }
    int rc = sq_json_parse(body, len, out, e);
    if (rc < 0)
        return sq_err_prefix(e, "body");
    return json_is_object(*out) ? 0 : sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the body must be a JSON object");
}

void sq_api_handle(struct sq_engine *eng, const struct sq_peer *peer, const char *method, const char *target,
                   const char *body, size_t len, sq_api_done *done, void *arg)
{
    struct request q = {.eng = eng, .peer = peer, .query = "", .done = done, .arg = arg};
    struct sq_err e = {0};
    struct path path;
    const struct route *route = NULL;
    const char *run = NULL;
    cleanup_json json_t *j = NULL;
    const char *question = strchrnul(target, '?');
    if (*question)
        q.query = question + 1;
    int rc = split(target, (size_t)(question - target), &path)
                 ? find_route(method, &path, &route, &run, &q.name, &e)
                 : sq_err_cls(&e, SQ_C_NOTFOUND, -ENOENT, "there is no such path");
    if (!rc && run)
        rc = find_run(&q, run, route->need, &e);
    if (!rc)
        rc = parse_body(body, len, &j, &e);
    if (rc < 0 || !route) {
        fail(done, arg, &e);
        return;
    }
    q.body = j;
    route->handler(&q);
}
