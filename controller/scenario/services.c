/* Services and edges: what the tables of schema.c can't say about one of them alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "scenario/normalize.h"
#include "squall/callkind.h"
#include "squall/cleanup.h"
#include "squall/dest.h"
#include "squall/json.h"

static struct sq_pos at_value(const struct sq_node *n, const char *key)
{
    const struct sq_node *v = sq_node_get(n, key);

    return v ? v->pos : n->pos;
}

static void set_path(json_t *o, const char *key, const char *base, const char *path)
{
    cleanup_free char *absolute = sq_norm_path(base, path);

    if (absolute)
        (void)json_object_set_new(o, key, json_string(absolute));
}

void sq_finish_ready(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const char *http = sq_json_str_or(o, "http", NULL);
    const json_t *tcp = json_object_get(o, "tcp");
    int given = (http != NULL) + (tcp != NULL) + (json_object_get(o, "unix") != NULL);

    if (given != 1 && n->kind == SQ_N_MAP)
        sq_diag_error(c->d, n->pos, "for example {http: /healthz, within: 10s}",
                      "%s: exactly one of http, tcp and unix", label);
    if (tcp && !json_is_true(tcp))
        sq_diag_error(c->d, at_value(n, "tcp"), "tcp: true", "%s: \"tcp\" can only be true", label);
    if (http && http[0] != '/')
        sq_diag_error(c->d, at_value(n, "http"), "the path alone, on the instance's own port: /healthz",
                      "%s: \"http\" must begin with /", label);
}

void sq_finish_select(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    if (n->kind != SQ_N_MAP)
        return;
    if (n->n != 1)
        sq_diag_error(c->d, n->pos, "for example {port: 5432}",
                      "%s: exactly one of pid, pattern, port, unit, cgroup and container", label);
    if (json_object_get(o, "pattern"))
        sq_norm_regex(c, label, at_value(n, "pattern"), sq_json_str_or(o, "pattern", ""));
}

/* A service that exists already takes nothing but `select`. */
static void only_select(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    for (size_t i = 0; i < n->n; i++) {
        const char *key = n->keys[i]->text;

        if (strcmp(key, "select") != 0 && json_object_get(o, key))
            sq_diag_error(c->d, n->keys[i]->pos,
                          "a service either has a command and is started, or has select and exists",
                          "%s: \"%s\" does not go with \"select\"", label, key);
    }
    (void)json_object_del(o, "instances");
    (void)json_object_del(o, "restart");
}

static void normalize_command(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    json_t *command = json_object_get(o, "command");
    const char *program = json_string_value(json_array_get(command, 0));

    if (!program || !*program) {
        sq_diag_error(c->d, at_value(n, "command"), "command: [program, argument, \"${port}\"]",
                      "%s: \"command\" names no program", label);
        return;
    }
    if (json_array_size(command) == 1 && strchr(program, ' '))
        sq_diag_warn(c->d, at_value(n, "command"), "a list, one word each: no shell splits it",
                     "%s: the program's name has a space in it", label);
    if (strchr(program, '/') && program[0] != '/') {
        cleanup_free char *absolute = sq_norm_path(c->folder, program);

        if (absolute)
            (void)json_array_set_new(command, 0, json_string(absolute));
    }
}

static void normalize_ready(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    json_t *ready = json_object_get(o, "ready");
    const char *path = sq_json_str_or(ready, "unix", NULL);
    bool port = json_object_get(o, "port") != NULL;

    if (!ready && port)
        (void)json_object_set_new(o, "ready", json_pack("{s:b, s:I}", "tcp", 1, "within", (json_int_t)10000000000));
    if (ready && !port && !path && json_object_size(ready) > 1)
        sq_diag_error(c->d, at_value(n, "ready"), "give the service a port", "%s: its ready check needs a port", label);
    if (!path)
        return;
    set_path(ready, "unix", sq_json_str_or(o, "cwd", c->folder), path);
    if (strlen(sq_json_str_or(ready, "unix", "")) >= sizeof((struct sockaddr_un *)0)->sun_path)
        sq_diag_error(c->d, at_value(sq_node_get(n, "ready"), "unix"), "at most 107 bytes, unix(7)",
                      "%s: the path of the socket is too long", label);
}

static void check_env(struct sq_norm *c, const char *label, const struct sq_node *n)
{
    const struct sq_node *env = sq_node_get(n, "env");

    for (size_t i = 0; env && env->kind == SQ_N_MAP && i < env->n; i++)
        if (strchr(env->keys[i]->text, '='))
            sq_diag_error(c->d, env->keys[i]->pos, NULL, "%s: \"%.60s\" can't be the name of an environment variable",
                          label, env->keys[i]->text);
}

void sq_finish_service(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    int64_t port = sq_json_int_or(o, "port", 0), instances = sq_json_int_or(o, "instances", 1);

    if (n->kind != SQ_N_MAP)
        return;
    if (sq_node_get(n, "select")) {
        only_select(c, label, n, o);
        return;
    }
    if (!sq_node_get(n, "command")) {
        sq_diag_error(c->d, n->pos, "command starts it; select finds one that exists",
                      "%s: \"command\" or \"select\" is missing", label);
        return;
    }
    if (port > 0 && port + instances - 1 > 65535)
        sq_diag_error(c->d, at_value(n, "port"), "instance i gets port + i",
                      "%s: its last instance would have port %lld", label, (long long)(port + instances - 1));
    normalize_command(c, label, n, o);
    set_path(o, "cwd", c->folder, sq_json_str_or(o, "cwd", "."));
    normalize_ready(c, label, n, o);
    check_env(c, label, n);
    if (!json_object_get(o, "env"))
        (void)json_object_set_new(o, "env", json_object());
}

static void check_dests(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o, const char *key)
{
    static const char dests[] =
        "service:NAME, 127.0.0.1:5432, 10.0.0.0/8:5432-5440, [::1]:80, db.staging:5432 or unix:/path";
    const struct sq_node *list = sq_node_get(n, key);
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(o, key), i, item)
    {
        const char *s = json_string_value(item), *why = NULL;
        struct sq_pos at = list && list->kind == SQ_N_LIST ? list->items[i]->pos : list ? list->pos : n->pos;
        struct sq_err e = {0};
        struct sq_dest d;

        if (!*s || strncmp(s, "service:", 8) == 0) /* semantic.c looks for the service */
            why = *s ? NULL : "it is empty";
        else if (strcmp(s, "resolvers") == 0)
            why = strcmp(sq_json_str_or(o, "protocol", ""), "dns") == 0 ? NULL : "it needs protocol: dns";
        else if (sq_dest_parse(s, &d, &e) < 0)
            why = strstr(e.msg, "': ") ? strstr(e.msg, "': ") + 3 : e.msg;
        else if (d.kind == SQ_DEST_UNIX && strcmp(key, "except") == 0)
            why = "a Unix socket is left out of \"to\" instead";
        else if (d.kind == SQ_DEST_UNIX && sq_protocol_dgram(sq_json_str_or(o, "protocol", "")))
            why = "protocol udp and dns need addresses";
        if (why)
            sq_diag_error(c->d, at, e.msg[0] || !*s ? dests : NULL, "%s: \"%.100s\": %s", label, s, why);
    }
}

void sq_finish_edge(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o)
{
    const struct sq_node *to = sq_node_get(n, "to");

    if (!to)
        return;
    if (json_array_size(json_object_get(o, "to")) == 0)
        sq_diag_error(c->d, to->pos, "to: [service:payments]", "%s: \"to\" is empty", label);
    check_dests(c, label, n, o, "to");
    check_dests(c, label, n, o, "except");
}
