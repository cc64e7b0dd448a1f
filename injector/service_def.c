/* What a service is, as POST /services says it: checked, bounded, and turned into the argv, environment and directory
 * of each instance. */
#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"

#define MAX_INSTANCES 64
#define MAX_STRINGS 4096
#define MAX_BYTES (512 * 1024) /* of a command or an environment; the kernel takes 2 MiB of both (execve(2)) */

static const char *const keys[] = {"name", "command", "instances", "env", "cwd", "port", "restart"};

static int known_keys(const json_t *in, struct sq_err *e)
{
    const char *k;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)in, k, v)
    {
        bool known = false;
        for (size_t i = 0; i < SQ_COUNT(keys); i++)
            known |= strcmp(keys[i], k) == 0;
        if (known)
            continue;
        const char *near = sq_nearest(k, keys, SQ_COUNT(keys));
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a service has no \"%s\"", k);
        if (near)
            sq_err_hint(e, "did you mean \"%s\"?", near);
        return -EINVAL;
    }
    return 0;
}

static int check_name(const char *name, size_t max, struct sq_err *e)
{
    bool ok = isalnum((unsigned char)name[0]) && strlen(name) < max;
    for (const char *p = name; *p; p++)
        ok &= isalnum((unsigned char)*p) || strchr("._-", *p);
    return ok ? 0
              : sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                           "\"%s\" cannot be a service's name: letters, digits, . _ and -, at most %zu", name, max - 1);
}

/* Strings without NUL (JSON can hold \u0000, an argument cannot), bounded in number and size. */
static int check_string(const json_t *v, const char *what, size_t *bytes, struct sq_err *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s must be of strings", what);
    *bytes += json_string_length(v) + 1;
    return *bytes > MAX_BYTES ? sq_err_cls(e, SQ_C_INPUT, -E2BIG, "%s is longer than %d bytes", what, MAX_BYTES) : 0;
}

static int check_command(const json_t *command, struct sq_err *e)
{
    size_t bytes = 0, i;
    const json_t *v;
    if (!json_array_size(command) || json_array_size(command) > MAX_STRINGS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a command has 1 to %d words", MAX_STRINGS);
    json_array_foreach(command, i, v)
    {
        int r = check_string(v, "\"command\"", &bytes, e);
        if (r < 0)
            return r;
    }
    if (!json_string_length(json_array_get(command, 0)))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the command's first word is empty");
    return 0;
}

static int check_env(const json_t *env, struct sq_err *e)
{
    size_t bytes = 0;
    const char *k;
    json_t *v;
    if (env && !json_is_object(env))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"env\" must be an object of strings");
    if (json_object_size(env) > MAX_STRINGS)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "\"env\" has more than %d variables", MAX_STRINGS);
    json_object_foreach((json_t *)(uintptr_t)env, k, v)
    {
        int r = check_string(v, "\"env\"", &bytes, e);
        if (r < 0)
            return r;
        bytes += strlen(k);
        if (!*k || strchr(k, '='))
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" cannot be the name of a variable", k);
    }
    return 0;
}

static int parse_restart(const json_t *in, enum restart *out, struct sq_err *e)
{
    static const char *const names[] = {"never", "always", "after_fault"};
    const json_t *v = json_object_get(in, "restart");
    *out = RESTART_NEVER;
    if (!v || json_is_null(v))
        return 0;
    for (size_t i = 0; json_is_string(v) && i < SQ_COUNT(names); i++)
        if (strcmp(json_string_value(v), names[i]) == 0) {
            *out = (enum restart)i;
            return 0;
        }
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"restart\" is one of never, always and after_fault");
}

static int parse_numbers(const json_t *in, struct svc_def *d, struct sq_err *e)
{
    int64_t n = sq_json_int_or(in, "instances", 1), port = sq_json_int_or(in, "port", 0);
    if (n < 1 || n > MAX_INSTANCES)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"instances\" is 1 to %d", MAX_INSTANCES);
    if (port < 0 || port + n - 1 > 65535)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"port\" (%lld, and one more for each instance) is 1 to 65535",
                          (long long)port);
    d->instances = (size_t)n;
    d->port = (int)port;
    return 0;
}

int svc_def_parse(const json_t *in, struct svc_def **out, struct sq_err *e)
{
    if (!json_is_object(in))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a service is an object");
    struct svc_def *d = calloc(1, sizeof *d);
    if (!d)
        return sq_err(e, -ENOMEM, "out of memory");
    d->refs = 1;
    const char *name = "", *cwd = sq_json_str_or(in, "cwd", "/");
    json_t *command = NULL, *env = json_object_get(in, "env");
    if (json_is_null(env))
        env = NULL;
    int r = known_keys(in, e);
    r = r < 0 ? r : sq_json_str(in, "name", &name, e);
    r = r < 0 ? r : check_name(name, sizeof d->name, e);
    r = r < 0 ? r : sq_json_arr(in, "command", &command, e);
    r = r < 0 ? r : check_command(command, e);
    r = r < 0 ? r : check_env(env, e);
    r = r < 0 ? r : parse_restart(in, &d->restart, e);
    r = r < 0 ? r : parse_numbers(in, d, e);
    if (r == 0 && (cwd[0] != '/' || strlen(cwd) > 4000))
        r = sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"cwd\" must be an absolute path");
    if (r == 0) {
        memcpy(d->name, name, strlen(name) + 1);
        d->cwd = strdup(cwd);
        d->command = json_incref(command);
        d->env = env ? json_incref(env) : json_object();
        if (!d->cwd || !d->env)
            r = sq_err(e, -ENOMEM, "out of memory");
    }
    if (r < 0) {
        svc_def_unref(d);
        return r;
    }
    *out = d;
    return 0;
}

void svc_def_unref(struct svc_def *d)
{
    if (!d || --d->refs)
        return;
    json_decref(d->command);
    json_decref(d->env);
    free(d->cwd);
    free(d);
}

/* ${instance} and ${port} of instance INDEX; anything else stays as it is. malloc'd. */
static char *substitute(const struct svc_def *d, int index, const char *in)
{
    char number[2][16];
    (void)snprintf(number[0], sizeof number[0], "%d", index);
    (void)snprintf(number[1], sizeof number[1], "%d", d->port + index);
    const struct {
        const char *name, *value;
    } vars[] = {{"${instance}", number[0]}, {"${port}", d->port ? number[1] : NULL}};
    char *out = malloc(strlen(in) + 1); /* a value (at most 5 digits) is never longer than its name */
    char *w = out;
    while (w && *in) {
        bool hit = false;
        for (size_t i = 0; !hit && i < SQ_COUNT(vars); i++) {
            size_t n = strlen(vars[i].name);
            if (!vars[i].value || strncmp(in, vars[i].name, n) != 0)
                continue;
            w = stpcpy(w, vars[i].value);
            in += n;
            hit = true;
        }
        if (!hit)
            *w++ = *in++;
    }
    if (w)
        *w = '\0';
    return out;
}

json_t *svc_def_argv(const struct svc_def *d, int index)
{
    json_t *out = json_array(), *v;
    size_t i;
    json_array_foreach(d->command, i, v)
    {
        cleanup_free char *s = substitute(d, index, json_string_value(v));
        if (!s || json_array_append_new(out, json_string(s)) < 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

char *svc_def_cwd(const struct svc_def *d, int index)
{
    return substitute(d, index, d->cwd);
}

static int set(json_t *env, const char *key, const char *value)
{
    json_t *v = value ? json_string(value) : NULL;
    return v ? json_object_set_new(env, key, v) : 0; /* not set, or not UTF-8: left out */
}

/* What everybody gets: never squalld's own environment as a whole, which may hold root's secrets. The request's env
 * comes on top. */
static json_t *minimal_env(const struct sq_peer *peer)
{
    json_t *env = json_object();
    bool root = geteuid() == 0;
    const char *lang = getenv("LANG");
    char buf[16384];
    struct passwd pw, *found = NULL;
    (void)getpwuid_r(peer->uid, &pw, buf, sizeof buf, &found);
    if (!root)
        (void)set(env, "PATH", getenv("PATH"));
    if (!json_object_get(env, "PATH"))
        (void)set(env, "PATH",
                  peer->uid == 0 ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
                                 : "/usr/local/bin:/usr/bin:/bin");
    (void)set(env, "LANG", lang ? lang : "C.UTF-8");
    (void)set(env, "HOME", found ? found->pw_dir : "/");
    if (found) {
        (void)set(env, "USER", found->pw_name);
        (void)set(env, "LOGNAME", found->pw_name);
        (void)set(env, "SHELL", found->pw_shell);
    }
    if (!root) {
        (void)set(env, "TMPDIR", getenv("TMPDIR"));
        (void)set(env, "XDG_RUNTIME_DIR", getenv("XDG_RUNTIME_DIR"));
    }
    return env;
}

json_t *svc_def_env(const struct svc_def *d, int index, const struct sq_peer *peer, const char *mark)
{
    json_t *env = minimal_env(peer), *out = json_array(), *v;
    const char *k;
    bool ok = env && out;
    json_object_foreach(d->env, k, v)
    {
        cleanup_free char *s = substitute(d, index, json_string_value(v));
        ok = ok && s && json_object_set_new(env, k, json_string(s)) == 0;
    }
    ok = ok && json_object_set_new(env, SQ_MARK_NAME, json_string(mark)) == 0;
    json_object_foreach(env, k, v)
    {
        ok = ok && json_array_append_new(out, json_sprintf("%s=%s", k, json_string_value(v))) == 0;
    }
    json_decref(env);
    if (!ok) {
        json_decref(out);
        return NULL;
    }
    return out;
}
