#include "select.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cgroup.h"
#include "net/netns.h"
#include "squall/json.h"
#include "squall/proc.h"

#define NAME_MOST 255    /* of a directory, and so of a unit */
#define CGROUP_FILE 8192 /* of /proc/PID/cgroup */

bool sq_select_is_cgroup(const json_t *select)
{
    return json_object_get(select, "unit") || json_object_get(select, "cgroup") || json_object_get(select, "container");
}

/* ---- by systemd unit: the cgroup whose last part is the unit's name (systemd.unit(5)), wherever its slice is ---- */

struct unit {
    char name[NAME_MOST + 1];
    char path[SQ_CGROUP_MAX]; /* as /proc/PID/cgroup names it */
    char other[SQ_CGROUP_MAX];
    bool only_v1; /* a process is in the unit, but in no cgroup2 of it */
    pid_t pid;
};

/* Cut LINE (a cgroup's path) behind the unit's part; false: it is not in there. */
static bool cut_at(char *line, const char *name)
{
    size_t n = strlen(name);

    for (char *p = strstr(line, name); p; p = strstr(p + 1, name))
        if (p > line && p[-1] == '/' && (p[n] == '/' || p[n] == '\0')) {
            p[n] = '\0';
            return true;
        }
    return false;
}

static int look(pid_t pid, void *arg)
{
    struct unit *u = arg;
    char file[64], text[CGROUP_FILE], *save = NULL;
    bool v2 = false, any = false;

    (void)snprintf(file, sizeof file, "/proc/%d/cgroup", (int)pid);
    if (sq_proc_slurp(file, text, sizeof text) <= 0)
        return 0;
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        char *path = strchr(l, '/');

        if (!path || strlen(path) >= SQ_CGROUP_MAX || !cut_at(path, u->name))
            continue;
        any = true;
        if (strncmp(l, "0::", 3) != 0)
            continue;
        v2 = true;
        if (!u->path[0]) {
            (void)snprintf(u->path, sizeof u->path, "%s", path);
            u->pid = pid;
        } else if (strcmp(u->path, path) != 0) {
            (void)snprintf(u->other, sizeof u->other, "%s", path);
        }
    }
    u->only_v1 |= any && !v2;
    return 0;
}

static int by_unit(const char *name, char *path, size_t len, json_t **what, struct sq_err *e)
{
    struct unit u = {0};

    if (!*name || strlen(name) > NAME_MOST - 8 || strchr(name, '/') || name[0] == '.')
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.100s\" is not the name of a systemd unit", name);
    (void)snprintf(u.name, sizeof u.name, "%s%s", name, strchr(name, '.') ? "" : ".service");
    (void)sq_proc_each(look, &u);
    if (u.other[0]) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "more than one unit is called %.100s: %.150s, %.150s", u.name, u.path,
                   u.other);
        sq_err_hint(e, "name the one that is meant by its cgroup: {cgroup: ...}");
        return -EINVAL;
    }
    if (!u.path[0]) {
        sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "no process runs in the systemd unit %.100s%s", u.name,
                   u.only_v1 ? " by cgroup2 (it has a cgroup of version 1 only)" : "");
        sq_err_hint(e, "systemctl status %.100s says whether it runs; it is looked for in /proc/*/cgroup", u.name);
        return -ENOENT;
    }
    if (what)
        *what = json_pack("{s:s,s:i}", "unit", u.name, "pid", (int)u.pid);
    return sq_cgroup_find(u.path, path, len, e);
}

/* ---- by container: the directory whose name has its id; what the runtime makes below it belongs to it ---- */

static int by_container(const char *id, char *path, size_t len, json_t **what, struct sq_err *e)
{
    char full[80], *at;
    pid_t pid = 0;
    int r = sq_container_find(id, full, sizeof full, &pid, e);

    r = r ? r : sq_cgroup_of(pid, path, len, e);
    if (r < 0)
        return r;
    at = strstr(path, full);
    if (!at) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOENT, "container %.12s has no cgroup2 of its own (it is in %.200s)", full,
                   path);
        sq_err_hint(e, "its traffic can be told apart in its own network namespace: namespace: container:%.12s", full);
        return -ENOENT;
    }
    at += strcspn(at, "/");
    *at = '\0';
    if (what)
        *what = json_pack("{s:s,s:i}", "container", full, "pid", (int)pid);
    return 0;
}

int sq_select_cgroup(const json_t *select, char *path, size_t len, json_t **what, struct sq_err *e)
{
    const char *unit = sq_json_str_or(select, "unit", NULL), *cgroup = sq_json_str_or(select, "cgroup", NULL),
               *container = sq_json_str_or(select, "container", NULL);

    if (what)
        *what = NULL;
    if (unit)
        return by_unit(unit, path, len, what, e);
    if (cgroup)
        return sq_cgroup_find(cgroup, path, len, e);
    if (container)
        return by_container(container, path, len, what, e);
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "unit, cgroup and container are texts");
}
