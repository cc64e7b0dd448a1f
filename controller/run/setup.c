/* What comes before the load: the injector, what it can, the run and its lease, edges, services. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "run/ready.h"
#include "run/state.h"
#include "scenario/vars.h"
#include "squall/callkind.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/units.h"

extern char **environ;

#define READY_WITHIN (10 * SQ_S)

/* ---- the injector ---- */

static void private_exited(void *arg, int status, int sig)
{
    struct run *r = arg;
    r->injector_dead = true;
    if (r->ending)
        return;
    if (!sq_run_lease_over(r))
        sq_run_end(r, "infrastructure", NULL, "the private injector died (%s %d); its keeper takes everything back",
                   sig ? "signal" : "status", sig ? sig : status);
}

static int connect_to(struct run *r, const char *socket)
{
    struct sq_err e = {0};
    if (sq_client_new(&r->loop, socket, &r->client, &e) == 0) {
        snprintf(r->socket, sizeof(r->socket), "%s", socket);
        return 0;
    }
    sq_run_end(r, "infrastructure", NULL, "%s", e.msg);
    return e.code;
}

static void private_ready(void *arg, const struct sq_err *e)
{
    struct run *r = arg;
    if (r->ending)
        return;
    if (e) {
        sq_run_end(r, "infrastructure", NULL, "%s (what it said is in %s/squalld.log)", e->msg, r->res->dir);
        return;
    }
    sq_private_on_exit(r->priv, private_exited, r);
    if (connect_to(r, sq_private_socket(r->priv)) == 0)
        sq_run_next(r);
}

void sq_stage_injector(struct run *r)
{
    struct sq_err e = {0};
    char path[PATH_MAX];
    sq_run_stage(r, 0, "starting");
    if (r->o->injector) {
        if (connect_to(r, r->o->injector) == 0)
            sq_run_next(r);
        return;
    }
    if (sq_path_join(path, sizeof(path), r->res->dir, "squalld.log", &e) == 0)
        r->log_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (sq_private_start(&r->loop, r->log_fd, private_ready, r, &r->priv, &e))
        sq_run_end(r, "infrastructure", NULL, "%s%s%s%s", e.msg, e.hint[0] ? " (" : "", e.hint, e.hint[0] ? ")" : "");
}

/* ---- what it can ---- */

static void got_doctor(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e) {
        sq_run_failed(r, status, e, "asking what this host can do");
        return;
    }
    json_object_set(r->doctor, "doctor", json_object_get(body, "checks") ? json_object_get(body, "checks") : body);
    sq_run_log(r, "injector", json_incref(r->doctor));
    sq_run_next(r);
}

static void got_info(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e) {
        sq_run_failed(r, status, e, "greeting the injector");
        return;
    }
    r->doctor = json_pack("{s:O}", "info", body);
    sq_client_call(r->client, "GET", "/v1/doctor", NULL, SQ_CALL_NS, got_doctor, r);
}

void sq_stage_info(struct run *r)
{
    sq_client_call(r->client, "GET", "/v1/info", NULL, SQ_CALL_NS, got_info, r);
}

/* Refuse what this user or host can't do before anything has been started. */
void sq_stage_doctor(struct run *r)
{
    const json_t *checks = json_object_get(r->doctor, "doctor"), *steps = json_object_get(r->spec, "steps");
    size_t i, k;
    json_t *step, *check;
    json_array_foreach(steps, i, step)
    {
        const char *uses = sq_json_str_or(step, "uses", "");
        json_array_foreach(checks, k, check)
        {
            if (strcmp(sq_json_str_or(check, "name", ""), uses) != 0 || sq_json_bool_or(check, "ok", false))
                continue;
            const char *hint = sq_json_str_or(check, "hint", "");
            sq_run_end(r, "infrastructure", NULL,
                       "nothing was started: step %s uses %s, which does not work here: %s%s%s%s",
                       sq_json_str_or(step, "id", "?"), uses, sq_json_str_or(check, "why", "unknown reason"),
                       *hint ? " (" : "", hint, *hint ? ")" : "");
            return;
        }
    }
    sq_run_next(r);
}

/* ---- the run ---- */

static void created(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e) {
        sq_run_failed(r, status, e, "beginning the run");
        return;
    }
    snprintf(r->id, sizeof(r->id), "%s", sq_json_str_or(body, "run", ""));
    r->lease_ns = sq_json_int_or(body, "lease_ns", r->lease_ns);
    r->renewed_boot_ns = sq_boot_ns();
    sq_run_next(r);
}

void sq_stage_create(struct run *r)
{
    json_t *body =
        json_pack("{s:s, s:I, s:I}", "name", r->res->id, "lease", (json_int_t)r->lease_ns, "seed", (json_int_t)r->seed);
    if (body && r->farm) /* what network faults leave alone */
        json_object_set_new(body, "probe", sq_farm_places(r->farm));
    sq_client_call(r->client, "POST", "/v1/runs", body, SQ_CALL_NS, created, r);
}

/* ---- network faults: may and can it be done, as far as it is known before anything is there? ---- */

static void next_network_step(struct run *r);

static bool starts_services(const struct run *r)
{
    const char *name;
    json_t *service;
    json_object_foreach(json_object_get(r->spec, "services"), name,
                        service) if (json_object_get(service, "command")) return true;
    return false;
}

static void network_planned(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    (void)body;
    if (r->ending)
        return;
    const json_t *step = json_array_get(json_object_get(r->spec, "steps"), r->item);
    /* What is not there yet (a namespace, an interface, a name) may come with the run's services. */
    if (e && (status != 404 || !starts_services(r))) {
        char what[200];
        snprintf(what, sizeof(what), "nothing was started: step %.100s", sq_json_str_or(step, "id", "?"));
        sq_run_failed(r, status, e, what);
        return;
    }
    r->item++;
    next_network_step(r);
}

static void next_network_step(struct run *r)
{
    const json_t *steps = json_object_get(r->spec, "steps"), *step;
    for (; (step = json_array_get(steps, r->item)); r->item++) {
        const json_t *target = json_object_get(step, "target");
        if (strncmp(sq_json_str_or(step, "uses", ""), "network/", 8) != 0 || json_object_get(target, "of"))
            continue;
        sq_run_ask(r, "POST", "/plan",
                   json_pack("{s:O, s:O, s:O?, s:O}", "uses", json_object_get(step, "uses"), "target", target, "with",
                             json_object_get(step, "with"), "step", json_object_get(step, "id")),
                   network_planned);
        return;
    }
    sq_run_next(r);
}

static void got_before(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (e) {
        sq_run_failed(r, status, e, "looking at the host before the run");
        return;
    }
    sq_run_snapshot_record(r, "before", body);
    next_network_step(r);
}

void sq_stage_before(struct run *r)
{
    sq_run_ask(r, "GET", "/snapshot", NULL, got_before);
}

/* ---- callers that run already: taken before their edges are declared ---- */

static void next_selected(struct run *r);

/* The r->item'th member of spec.<what>; NULL: no more. */
static void *member_at(struct run *r, const char *what)
{
    json_t *all = json_object_get(r->spec, what);
    void *it = json_object_iter(all);
    for (size_t i = 0; i < r->item && it; i++)
        it = json_object_iter_next(all, it);
    return it;
}

static bool is_caller(const struct run *r, const char *service)
{
    const char *name;
    json_t *edge;
    json_object_foreach(json_object_get(r->spec, "edges"), name, edge)
    {
        if (strcmp(sq_json_str_or(edge, "from", ""), service) == 0)
            return true;
    }
    return false;
}

/* How its edges say that it is attached to; NULL: as it is best. They all say the same. */
static const char *attach_of(const struct run *r, const char *service)
{
    const char *name;
    json_t *edge;
    json_object_foreach(json_object_get(r->spec, "edges"), name, edge)
    {
        if (strcmp(sq_json_str_or(edge, "from", ""), service) == 0)
            return sq_json_str_or(edge, "attach", NULL);
    }
    return NULL;
}

/* By seccomp the filter must know from the beginning whether an edge takes datagrams. */
static bool has_datagrams(const struct run *r, const char *service)
{
    const char *name;
    json_t *edge;
    json_object_foreach(json_object_get(r->spec, "edges"), name, edge)
    {
        if (strcmp(sq_json_str_or(edge, "from", ""), service) == 0 &&
            sq_protocol_dgram(sq_json_str_or(edge, "protocol", "auto")))
            return true;
    }
    return false;
}

static void selected(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    (void)body;
    if (r->ending)
        return;
    if (e) {
        char what[200];
        snprintf(what, sizeof(what), "intercepting the service %.150s", json_object_iter_key(member_at(r, "services")));
        sq_run_failed(r, status, e, what);
        return;
    }
    r->item++;
    next_selected(r);
}

static void next_selected(struct run *r)
{
    void *it = member_at(r, "services");
    while (it && (!json_object_get(json_object_iter_value(it), "select") || !is_caller(r, json_object_iter_key(it)))) {
        r->item++;
        it = member_at(r, "services");
    }
    if (!it) {
        sq_run_next(r);
        return;
    }
    json_t *body = json_pack("{s:s, s:O}", "name", json_object_iter_key(it), "select",
                             json_object_get(json_object_iter_value(it), "select"));
    if (attach_of(r, json_object_iter_key(it)))
        json_object_set_new(body, "attach", json_string(attach_of(r, json_object_iter_key(it))));
    if (has_datagrams(r, json_object_iter_key(it)))
        json_object_set_new(body, "datagrams", json_true());
    sq_run_ask(r, "POST", "/services", body, selected);
}

void sq_stage_selected(struct run *r)
{
    next_selected(r);
}

/* ---- edges ---- */

/* "service:payments" becomes the addresses of its instances. */
static json_t *addresses(struct run *r, const json_t *to)
{
    const json_t *services = json_object_get(r->spec, "services");
    json_t *out = json_array();
    size_t i;
    json_t *v;
    json_array_foreach(to, i, v)
    {
        const char *s = json_string_value(v);
        if (!s || strncmp(s, "service:", 8) != 0) {
            json_array_append(out, v);
            continue;
        }
        const json_t *def = json_object_get(services, s + 8);
        int64_t port = sq_json_int_or(def, "port", sq_json_int_or(json_object_get(def, "select"), "port", 0));
        int64_t n = sq_json_int_or(def, "instances", 1);
        for (int64_t k = 0; k < n && port; k++)
            json_array_append_new(out, json_sprintf("127.0.0.1:%lld", (long long)(port + k)));
    }
    return out;
}

static void next_edge(struct run *r);

static void edge_made(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (r->ending)
        return;
    void *it = member_at(r, "edges");
    const char *name = json_object_iter_key(it);
    if (e) {
        char what[200];
        if (strncmp(e->msg, "edge ", 5) == 0) /* it says which */
            snprintf(what, sizeof(what), "arming");
        else
            snprintf(what, sizeof(what), "arming the edge %.150s", name);
        sq_run_failed(r, status, e, what);
        return;
    }
    const json_t *def = json_object_iter_value(it);
    json_t *rec = json_pack("{s:s, s:O?, s:O?, s:O?, s:O?}", "edge", name, "mode", json_object_get(body, "mode"),
                            "delays_connect", json_object_get(body, "delays_connect"), "why",
                            json_object_get(body, "why"), "from", json_object_get(def, "from"));
    json_object_set_new(rec, "to", addresses(r, json_object_get(def, "to")));
    if (json_object_get(body, "existing"))
        json_object_set(rec, "existing", json_object_get(body, "existing"));
    if (json_object_get(def, "except"))
        json_object_set_new(rec, "except", addresses(r, json_object_get(def, "except")));
    if (json_object_size(json_object_get(body, "names")))
        json_object_set(rec, "names", json_object_get(body, "names"));
    sq_run_log(r, "edge", rec);
    r->item++;
    next_edge(r);
}

static void next_edge(struct run *r)
{
    void *it = member_at(r, "edges");
    if (!it) {
        sq_run_next(r);
        return;
    }
    const json_t *def = json_object_iter_value(it);
    json_t *body = json_pack("{s:s, s:s, s:s}", "name", json_object_iter_key(it), "from",
                             sq_json_str_or(def, "from", ""), "protocol", sq_json_str_or(def, "protocol", "auto"));
    json_object_set_new(body, "to", addresses(r, json_object_get(def, "to")));
    if (json_object_get(def, "existing"))
        json_object_set(body, "existing", json_object_get(def, "existing"));
    if (json_object_get(def, "except"))
        json_object_set_new(body, "except", addresses(r, json_object_get(def, "except")));
    sq_run_ask(r, "POST", "/edges", body, edge_made);
}

void sq_stage_edges(struct run *r)
{
    next_edge(r);
}

/* ---- services: in the order of the file, each ready before the next is started ---- */

static void next_service(struct run *r);

static void is_ready(void *arg, const struct sq_err *e)
{
    struct run_ready *rr = arg;
    struct run *r = rr->run;
    rr->check = NULL; /* frees itself */
    if (r->ending)
        return;
    if (e) {
        sq_run_end(r, "infrastructure", NULL, "%s", e->msg);
        return;
    }
    sq_run_log(r, "service",
               json_pack("{s:s, s:s, s:s}", "service", rr->service, "instance", rr->instance, "state", "ready"));
    sq_progress_event(r->o->progress, SQ_TONE_DIM, sq_run_t(r), "%s is ready (pid %d)", rr->instance, (int)rr->pid);
    if (--r->ready_left == 0) {
        r->item++;
        next_service(r);
    }
}

/* *path is malloc'd. False: this service has nothing to wait for. */
static bool ready_opts(const json_t *def, size_t instance, struct sq_ready_opts *o, char **path)
{
    const json_t *ready = json_object_get(def, "ready");
    const char *local = sq_json_str_or(ready, "unix", NULL), *http = sq_json_str_or(ready, "http", NULL);
    int64_t port = sq_json_int_or(def, "port", 0);
    char number[2][24];
    o->within_ns = sq_json_int_or(ready, "within", READY_WITHIN);
    o->port = (uint16_t)(port ? port + (int64_t)instance : 0);
    o->how = local ? SQ_READY_UNIX : http ? SQ_READY_HTTP : SQ_READY_TCP;
    snprintf(number[0], sizeof(number[0]), "%zu", instance);
    snprintf(number[1], sizeof(number[1]), "%u", o->port);
    *path = local || http ? sq_vars_instance(local ? local : http, number[0], port ? number[1] : NULL) : NULL;
    const char *cwd = sq_json_str_or(def, "cwd", NULL);
    if (local && *path && **path != '/' && cwd) {
        char *full = NULL;
        if (asprintf(&full, "%s/%s", cwd, *path) < 0)
            full = NULL;
        free(*path);
        *path = full;
    }
    o->path = *path;
    return local ? *path != NULL : o->port != 0;
}

static int wait_ready(struct run *r, const char *service, const json_t *def, const char *instance, pid_t pid, size_t n)
{
    struct sq_ready_opts o = {.name = instance};
    struct sq_err e = {0};
    cleanup_free char *path = NULL;
    if (!ready_opts(def, n, &o, &path) || r->n_ready == SQ_MAX_READY)
        return 0;
    struct run_ready *rr = &r->ready[r->n_ready];
    rr->run = r;
    snprintf(rr->service, sizeof(rr->service), "%s", service);
    snprintf(rr->instance, sizeof(rr->instance), "%s", instance);
    rr->pid = pid;
    rr->once = strcmp(sq_json_str_or(def, "restart", "never"), "never") == 0;
    int rc = sq_ready_start(&r->loop, &o, is_ready, rr, &rr->check, &e);
    if (rc) {
        sq_run_end(r, "infrastructure", NULL, "%s", e.msg);
        return rc;
    }
    r->n_ready++;
    r->ready_left++;
    return 0;
}

static void service_started(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    if (r->ending)
        return;
    void *it = member_at(r, "services");
    const char *name = json_object_iter_key(it);
    if (e) {
        char what[200];
        snprintf(what, sizeof(what), "starting the service %.150s", name);
        sq_run_failed(r, status, e, what);
        return;
    }
    size_t i;
    json_t *inst;
    sq_run_poll(r); /* what it did so far is in the events */
    r->ready_left = 0;
    json_array_foreach(json_object_get(body, "instances"), i, inst)
    {
        char fallback[192];
        snprintf(fallback, sizeof(fallback), "%.150s.%zu", name, i);
        if (wait_ready(r, name, json_object_iter_value(it), sq_json_str_or(inst, "name", fallback),
                       (pid_t)sq_json_int_or(inst, "pid", 0), i))
            return;
    }
    if (r->ready_left == 0) {
        r->item++;
        next_service(r);
    }
}

static bool ports_free(struct run *r, const char *name, const json_t *def)
{
    int64_t port = sq_json_int_or(def, "port", 0), n = sq_json_int_or(def, "instances", 1);
    for (int64_t i = 0; i < n && port; i++) {
        if (!sq_port_taken((uint16_t)(port + i)))
            continue;
        sq_run_end(r, "infrastructure", NULL,
                   "cannot start the service %s: something else has port %lld already (ss -ltnp says who)", name,
                   (long long)(port + i));
        return false;
    }
    return true;
}

/* The service inherits our environment; its own entries win. */
static json_t *environment(const json_t *own)
{
    json_t *env = json_object();
    for (char **p = environ; p && *p; p++) {
        const char *eq = strchr(*p, '=');
        char key[256];
        if (!eq || eq == *p || (size_t)(eq - *p) >= sizeof(key))
            continue;
        snprintf(key, sizeof(key), "%.*s", (int)(eq - *p), *p);
        json_object_set_new(env, key, json_string(eq + 1)); /* what is not UTF-8 is left out: JSON can't carry it */
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)own, key, v)
    {
        json_object_set(env, key, v);
    }
    return env;
}

static void next_service(struct run *r)
{
    void *it = member_at(r, "services");
    while (it && !json_object_get(json_object_iter_value(it), "command")) { /* exists already: selected, not started */
        r->item++;
        it = member_at(r, "services");
    }
    if (!it) {
        sq_run_next(r);
        return;
    }
    static const char *const same[] = {"command", "instances", "port", "restart", "cwd"};
    const json_t *def = json_object_iter_value(it);
    if (!ports_free(r, json_object_iter_key(it), def))
        return;
    json_t *body = json_pack("{s:s}", "name", json_object_iter_key(it));
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        json_t *v = json_object_get(def, same[i]);
        if (v && !json_is_null(v))
            json_object_set(body, same[i], v);
    }
    if (!json_object_get(body, "cwd")) {
        char cwd[PATH_MAX];
        if (getcwd(cwd, sizeof(cwd)))
            json_object_set_new(body, "cwd", json_string(cwd));
    }
    json_object_set_new(body, "env", environment(json_object_get(def, "env")));
    sq_run_stage(r, 0, "starting %s", json_object_iter_key(it));
    sq_run_ask(r, "POST", "/services", body, service_started);
}

void sq_stage_services(struct run *r)
{
    next_service(r);
}
