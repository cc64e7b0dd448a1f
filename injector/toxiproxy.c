/* The answer to each request. */
#include "toxiproxy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "toxiproxy_proxies.h"

#define JSON_TYPE "application/json"

/* ---- answers ---- */

/* Takes BODY. */
static void answer(struct sq_toxi_answer *a, int status, json_t *body)
{
    *a = (struct sq_toxi_answer){.status = status, .type = JSON_TYPE, .body = json_dumps(body, JSON_COMPACT)};
    json_decref(body);
    if (!a->body)
        a->status = 500;
}

void sq_toxi_fail(struct sq_toxi_answer *a, int status, const char *fmt, ...)
{
    char text[SQ_ERR_MSG + 64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    json_t *message = json_string(text); /* NULL: cut within a character */
    answer(a, status, json_pack("{s:o,s:i}", "error", message ? message : json_string("invalid"), "status", status));
}

static void plain(struct sq_toxi_answer *a, int status, const char *text)
{
    *a = (struct sq_toxi_answer){.status = status, .type = "text/plain; charset=utf-8", .body = strdup(text)};
}

static void fail_err(struct sq_toxi_answer *a, const struct sq_err *e)
{
    sq_toxi_fail(a, 500, "%s", e->msg);
}

/* ---- what comes in ---- */

const json_t *sq_toxi_field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key), *other;
    const char *k;
    if (!v) {
        json_t *all = (json_t *)(uintptr_t)o; /* jansson iterates over what it may change */
        json_object_foreach(all, k, other) if (strcasecmp(k, key) == 0) v = other;
    }
    return json_is_null(v) ? NULL : v;
}

/* The first value of the body; what follows it is nobody's. 0 or a status. */
static int parse(const char *body, size_t len, json_t **out, struct sq_toxi_answer *a)
{
    json_error_t je;
    json_t *o = json_loadb(body, len, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &je);
    if (!o) {
        sq_toxi_fail(a, 400, "bad request body: %s", len == 0 ? "EOF" : je.text);
        return 400;
    }
    if (json_is_null(o)) { /* it says nothing */
        json_decref(o);
        o = json_object();
    }
    *out = o;
    return 0;
}

static int wrong(struct sq_toxi_answer *a, const char *key, const char *want)
{
    sq_toxi_fail(a, 400, "bad request body: %s must be %s", key, want);
    return 400;
}

static int text(const json_t *o, const char *key, const char **out, struct sq_toxi_answer *a)
{
    const json_t *v = sq_toxi_field(o, key);
    if (v && (!json_is_string(v) || json_string_length(v) >= SQ_TOXI_TEXT))
        return wrong(a, key, "a string of less than 1024 bytes");
    if (v)
        *out = json_string_value(v);
    return 0;
}

/* Into W, which holds what is not said. */
static int read_proxy(const json_t *o, struct sq_toxi_wanted *w, struct sq_toxi_answer *a)
{
    const json_t *enabled = sq_toxi_field(o, "enabled");
    int rc = json_is_object(o) ? 0 : wrong(a, "a proxy", "an object");
    rc = rc ? rc : text(o, "name", &w->name, a);
    rc = rc ? rc : text(o, "listen", &w->listen, a);
    rc = rc ? rc : text(o, "upstream", &w->upstream, a);
    if (rc)
        return rc;
    if (enabled && !json_is_boolean(enabled))
        return wrong(a, "enabled", "true or false");
    if (enabled)
        w->enabled = json_is_true(enabled);
    return 0;
}

/* ---- requests on proxies ---- */

struct request {
    struct sq_toxi *t;
    struct sq_toxi_proxy *p; /* NULL: of no proxy */
    struct sq_toxic *x;      /* NULL: of no toxic */
    const char *body;
    size_t len;
    struct sq_toxi_answer *a;
};

static void index_proxies(struct request *r)
{
    json_t *all = json_object();
    const struct sq_toxi_proxy *p;
    TAILQ_FOREACH(p, &r->t->proxies, link)
    {
        (void)json_object_set_new(all, p->name, sq_toxi_proxy_json(p));
    }
    answer(r->a, 200, all);
}

static bool missing(struct request *r, const char *value, const char *what)
{
    if (value && *value)
        return false;
    sq_toxi_fail(r->a, 400, "missing required field: %s", what);
    return true;
}

static void create_proxy(struct request *r)
{
    struct sq_toxi_wanted w = {.enabled = true};
    struct sq_toxi_proxy *p = NULL;
    struct sq_err e = {0};
    cleanup_json json_t *o = NULL;
    if (parse(r->body, r->len, &o, r->a) || read_proxy(o, &w, r->a))
        return;
    if (missing(r, w.name, "name") || missing(r, w.upstream, "upstream"))
        return;
    if (sq_toxi_find(r->t, w.name))
        sq_toxi_fail(r->a, 409, "proxy already exists");
    else if (sq_toxi_add(r->t, &w, &p, &e) < 0)
        fail_err(r->a, &e);
    else
        answer(r->a, 201, sq_toxi_proxy_json(p));
}

/* Is each of them whole, and are they not too many? */
static bool check_all(struct request *r, const json_t *all)
{
    char what[64];
    if (json_array_size(all) > SQ_TOXI_PROXIES) {
        (void)snprintf(what, sizeof(what), "an array of at most %d proxies", SQ_TOXI_PROXIES);
        return wrong(r->a, "the body", what) == 0;
    }
    for (size_t i = 0; i < json_array_size(all); i++) {
        struct sq_toxi_wanted w = {.enabled = true};
        if (read_proxy(json_array_get(all, i), &w, r->a))
            return false;
        (void)snprintf(what, sizeof(what), "name at proxy %zu", i + 1);
        if (missing(r, w.name, what))
            return false;
        (void)snprintf(what, sizeof(what), "upstream at proxy %zu", i + 1);
        if (missing(r, w.upstream, what))
            return false;
    }
    return true;
}

static int add_or_replace(struct sq_toxi *t, const struct sq_toxi_wanted *w, struct sq_toxi_proxy **out,
                          struct sq_err *e)
{
    struct sq_toxi_proxy *old = sq_toxi_find(t, w->name);
    if (old && sq_toxi_same_address(old->listen, w->listen ? w->listen : "") &&
        strcmp(old->upstream, w->upstream) == 0) {
        *out = old;
        return 0;
    }
    if (old)
        sq_toxi_remove(t, old);
    return sq_toxi_add(t, w, out, e);
}

/* Put "proxies" into the error that *A is already. */
static void with_proxies(struct sq_toxi_answer *a, json_t *done)
{
    cleanup_json json_t *o = a->body ? json_loads(a->body, 0, NULL) : NULL;
    int status = a->status;
    free(SQ_TAKE(a->body));
    (void)json_object_set(o, "proxies", json_array_size(done) ? done : json_null());
    answer(a, status, json_incref(o));
}

static void populate(struct request *r)
{
    cleanup_json json_t *all = NULL, *done = json_array();
    bool ok = parse(r->body, r->len, &all, r->a) == 0;
    if (ok && !json_is_array(all) && json_object_size(all) > 0)
        ok = wrong(r->a, "the body", "an array of proxies") == 0;
    ok = ok && check_all(r, all);
    for (size_t i = 0; ok && i < json_array_size(all); i++) {
        struct sq_toxi_wanted w = {.enabled = true};
        struct sq_toxi_proxy *p = NULL;
        struct sq_err e = {0};
        ok = read_proxy(json_array_get(all, i), &w, r->a) == 0;
        if (ok && add_or_replace(r->t, &w, &p, &e) < 0) {
            fail_err(r->a, &e);
            ok = false;
        }
        if (ok)
            (void)json_array_append_new(done, sq_toxi_proxy_json(p));
    }
    if (ok)
        answer(r->a, 201, json_pack("{s:O}", "proxies", json_array_size(done) ? done : json_null()));
    else
        with_proxies(r->a, done);
}

static void show_proxy(struct request *r)
{
    answer(r->a, 200, sq_toxi_proxy_json(r->p));
}

static void update_proxy(struct request *r)
{
    struct sq_toxi_wanted w = {.listen = r->p->listen, .upstream = r->p->upstream, .enabled = r->p->enabled};
    struct sq_err e = {0};
    cleanup_json json_t *o = NULL;
    if (parse(r->body, r->len, &o, r->a) || read_proxy(o, &w, r->a))
        return;
    if (sq_toxi_update(r->t, r->p, &w, &e) < 0)
        fail_err(r->a, &e);
    else
        show_proxy(r);
}

static void nothing(struct request *r)
{
    *r->a = (struct sq_toxi_answer){.status = 204};
}

static void delete_proxy(struct request *r)
{
    sq_toxi_remove(r->t, r->p);
    nothing(r);
}

static int tell(struct request *r)
{
    struct sq_err e = {0};
    int rc = r->p->enabled ? r->t->ops->rules(r->t->arg, r->p, &e) : 0;
    if (rc < 0)
        fail_err(r->a, &e);
    return rc;
}

static void reset(struct request *r)
{
    struct sq_err e = {0};
    TAILQ_FOREACH(r->p, &r->t->proxies, link)
    {
        if (sq_toxi_start(r->t, r->p, &e) < 0) {
            fail_err(r->a, &e);
            return;
        }
        if (TAILQ_EMPTY(&r->p->toxics))
            continue;
        sq_toxi_drop_toxics(r->p);
        if (tell(r) < 0)
            return;
    }
    nothing(r);
}

/* ---- requests on toxics ---- */

static void index_toxics(struct request *r)
{
    answer(r->a, 200, sq_toxi_toxics_json(r->p));
}

/* The lowest that is free; SQ_TOXI_TOXICS: none. */
static unsigned free_slot(const struct sq_toxi_proxy *p)
{
    unsigned used = 0, slot = 0;
    const struct sq_toxic *x;
    TAILQ_FOREACH(x, &p->toxics, link)
    {
        used |= 1u << x->slot;
    }
    while (slot < SQ_TOXI_TOXICS && (used & (1u << slot)))
        slot++;
    return slot;
}

static void remove_toxic(struct sq_toxi_proxy *p, struct sq_toxic *x)
{
    TAILQ_REMOVE(&p->toxics, x, link);
    sq_toxic_free(x);
}

static void create_toxic(struct request *r)
{
    struct sq_toxic *x = NULL;
    cleanup_json json_t *o = NULL;
    if (parse(r->body, r->len, &o, r->a))
        return;
    if (!json_is_object(o)) {
        (void)wrong(r->a, "a toxic", "an object");
        return;
    }
    if (sq_toxic_new(o, &x, r->a))
        return;
    x->slot = free_slot(r->p);
    if (sq_toxi_find_toxic(r->p, x->name) || x->slot == SQ_TOXI_TOXICS) {
        if (x->slot < SQ_TOXI_TOXICS)
            sq_toxi_fail(r->a, 409, "toxic already exists");
        else
            sq_toxi_fail(r->a, 500, "the proxy has %d toxics already, which is the most", SQ_TOXI_TOXICS);
        sq_toxic_free(x);
        return;
    }
    TAILQ_INSERT_TAIL(&r->p->toxics, x, link);
    if (tell(r) < 0)
        remove_toxic(r->p, x);
    else
        answer(r->a, 200, sq_toxic_json(x));
}

static void show_toxic(struct request *r)
{
    answer(r->a, 200, sq_toxic_json(r->x));
}

static void update_toxic(struct request *r)
{
    cleanup_json json_t *o = NULL;
    if (parse(r->body, r->len, &o, r->a))
        return;
    if (!json_is_object(o))
        (void)wrong(r->a, "a toxic", "an object");
    else if (sq_toxic_update(r->x, o, r->a) == 0 && tell(r) == 0)
        show_toxic(r);
}

static void delete_toxic(struct request *r)
{
    remove_toxic(r->p, r->x);
    if (tell(r) == 0)
        nothing(r);
}

/* ---- the rest ---- */

static void version(struct request *r)
{
    plain(r->a, 200, "{\"version\": \"" SQ_TOXI_VERSION "\"}\n");
    r->a->type = "application/json;charset=utf-8";
}

static void label(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            (void)fputc('\\', f);
        if (*s == '\n')
            (void)fputs("\\n", f);
        else
            (void)fputc(*s, f);
    }
}

static void samples(FILE *f, const struct sq_toxi_proxy *p, const char *metric, const uint64_t n[2])
{
    static const char *const way[] = {"upstream", "downstream"};
    for (int i = 0; i < 2; i++) {
        (void)fprintf(f, "%s{direction=\"%s\",listener=\"", metric, way[i]);
        label(f, p->listen);
        (void)fputs("\",proxy=\"", f);
        label(f, p->name);
        (void)fputs("\",upstream=\"", f);
        label(f, p->upstream);
        (void)fprintf(f, "\"} %llu\n", (unsigned long long)n[i]);
    }
}

static void metrics(struct request *r)
{
    static const char *const name[] = {"toxiproxy_proxy_received_bytes_total", "toxiproxy_proxy_sent_bytes_total"};
    char *text = NULL;
    size_t len = 0;
    FILE *f = r->t->metrics ? open_memstream(&text, &len) : NULL;
    if (!f) {
        plain(r->a, r->t->metrics ? 500 : 404, r->t->metrics ? "out of memory\n" : "404 page not found\n");
        return;
    }
    for (int i = 0; i < 2; i++) {
        (void)fprintf(f, "# TYPE %s counter\n", name[i]);
        TAILQ_FOREACH(r->p, &r->t->proxies, link)
        {
            uint64_t n[2][2];
            if (r->p->enabled && r->t->ops->count(r->t->arg, r->p, n[0], n[1]) == 0)
                samples(f, r->p, name[i], n[i]);
        }
    }
    (void)fclose(f);
    *r->a = (struct sq_toxi_answer){.status = text ? 200 : 500, .type = "text/plain; version=0.0.4", .body = text};
}

/* ---- which is meant ---- */

static const struct {
    const char *path; /* P: a proxy, X: a toxic */
    const char *methods;
    void (*fn)(struct request *r);
} ROUTES[] = {
    {"reset", "POST", reset},
    {"proxies", "GET", index_proxies},
    {"proxies", "POST", create_proxy},
    {"populate", "POST", populate},
    {"proxies/P", "GET", show_proxy},
    {"proxies/P", "POST,PATCH", update_proxy},
    {"proxies/P", "DELETE", delete_proxy},
    {"proxies/P/toxics", "GET", index_toxics},
    {"proxies/P/toxics", "POST", create_toxic},
    {"proxies/P/toxics/X", "GET", show_toxic},
    {"proxies/P/toxics/X", "POST,PATCH", update_toxic},
    {"proxies/P/toxics/X", "DELETE", delete_toxic},
    {"version", "GET", version},
    {"metrics", "GET", metrics},
};

/* Where a part ends. */
static size_t part(const char *s)
{
    return strcspn(s, "/");
}

/* PROXY and TOXIC (SQ_TOXI_TEXT bytes each) are what stands for P and X. */
static bool matches(const char *pattern, const char *path, char *proxy, char *toxic)
{
    for (;;) {
        size_t n = part(pattern), m = part(path);
        bool named = n == 1 && (*pattern == 'P' || *pattern == 'X');
        if (m == 0 || m >= SQ_TOXI_TEXT || (!named && (n != m || memcmp(pattern, path, n) != 0)))
            return false;
        char *into = *pattern == 'P' ? proxy : toxic;
        if (named) {
            memcpy(into, path, m);
            into[m] = '\0';
        }
        if (!pattern[n] || !path[m])
            return pattern[n] == path[m];
        pattern += n + 1;
        path += m + 1;
    }
}

static bool allowed(const char *methods, const char *method)
{
    const char *at = strstr(methods, method);
    size_t n = strlen(method);
    return n > 0 && at && (at == methods || at[-1] == ',') && (at[n] == '\0' || at[n] == ',');
}

static bool resolve(struct request *r, const char *proxy, const char *toxic)
{
    r->p = *proxy ? sq_toxi_find(r->t, proxy) : NULL;
    if (*proxy && !r->p) {
        sq_toxi_fail(r->a, 404, "proxy not found");
        return false;
    }
    r->x = *toxic ? sq_toxi_find_toxic(r->p, toxic) : NULL;
    if (*toxic && !r->x) {
        sq_toxi_fail(r->a, 404, "toxic not found");
        return false;
    }
    return true;
}

void sq_toxi_handle(struct sq_toxi *t, const char *method, const char *path, const char *body, size_t len,
                    struct sq_toxi_answer *a)
{
    struct request r = {.t = t, .body = body, .len = len, .a = a};
    bool known = false;
    *a = (struct sq_toxi_answer){0};
    for (size_t i = 0; *path == '/' && i < SQ_COUNT(ROUTES); i++) {
        char proxy[SQ_TOXI_TEXT] = "", toxic[SQ_TOXI_TEXT] = "";
        if (!matches(ROUTES[i].path, path + 1, proxy, toxic))
            continue;
        known = true;
        if (!allowed(ROUTES[i].methods, method))
            continue;
        if (resolve(&r, proxy, toxic))
            ROUTES[i].fn(&r);
        return;
    }
    if (known)
        *a = (struct sq_toxi_answer){.status = 405};
    else
        plain(a, 404, "404 page not found\n");
}
