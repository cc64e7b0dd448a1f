/* exec:/path/to/program (or a name that is searched in PATH) with `args`: no shell. The answer's status is the exit
 * status, its body what is written to standard output. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "probe/proto.h"
#include "squall/json.h"

#define ARGS_MAX 64

struct plan {
    struct sq_program program;
    char *argv[ARGS_MAX + 2];
};

static bool speaks(const char *url, const json_t *request)
{
    (void)request;
    return strncmp(url, "exec:", 5) == 0;
}

static void release(void *plan)
{
    struct plan *p = plan;

    for (size_t i = 0; p && i < ARGS_MAX + 2; i++)
        free(p->argv[i]);
    free(p);
}

static int prepare(const json_t *endpoint, const struct sq_names *names, const struct sq_rules *rules, void **plan,
                   struct sq_place *place, struct sq_err *e)
{
    const json_t *request = json_object_get(endpoint, "request"), *args = json_object_get(request, "args");
    const char *program = sq_json_str_or(request, "url", "exec:") + 5;
    struct plan *p;

    (void)names;
    memset(place, 0, sizeof *place);
    if (!*program)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "url: no program behind exec:");
    if (json_array_size(args) > ARGS_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "args: at most %d", ARGS_MAX);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory");
    p->program.rules = rules;
    p->program.argv = (const char *const *)p->argv;
    p->argv[0] = strdup(program);
    for (size_t i = 0; i < json_array_size(args); i++) {
        const char *text = json_string_value(json_array_get(args, i));

        if (!(p->argv[i + 1] = strdup(text ? text : ""))) {
            release(p);
            return sq_err(e, -ENOMEM, "no memory");
        }
    }
    if (!p->argv[0]) {
        release(p);
        return sq_err(e, -ENOMEM, "no memory");
    }
    *plan = p;
    return 0;
}

static bool repeatable(const void *plan)
{
    (void)plan;
    return false;
}

static const struct sq_program *program(const void *plan)
{
    return &((const struct plan *)plan)->program;
}

const struct sq_proto sq_proto_exec = {
    .name = "exec",
    .speaks = speaks,
    .flow = SQ_FLOW_COMMAND,
    .prepare = prepare,
    .release = release,
    .repeatable = repeatable,
    .program = program,
};
