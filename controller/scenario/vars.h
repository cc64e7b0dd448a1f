/* Variables: ${name} and ${name:-default} inside the scalars of a parsed document, so that a value can never change the
 * document's shape. $${ is a literal ${. Names: [A-Za-z_][A-Za-z0-9_]*, at most 63 characters. */
#ifndef CONTROLLER_SCENARIO_VARS_H
#define CONTROLLER_SCENARIO_VARS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "scenario/diag.h"
#include "scenario/yaml.h"
#include "squall/err.h"

/* What --var gave. Start with {0}. */
struct sq_vars {
    struct sq_var {
        char *name, *value;
    } * v;
    size_t n;
};

/* "name=value"; the last one of a name counts. */
int sq_vars_add(struct sq_vars *vars, const char *assignment, struct sq_err *e);
void sq_vars_free(struct sq_vars *vars);

/* Substitute in the whole document ROOT (its `vars` give the defaults) in place. In the command, env, cwd and ready
 * of a service ${instance} and ${port} are left: they are each instance's own. *out is an object with the value of each
 * variable (new reference). A variable that is nowhere declared or used, or has no value, is an error in D. */
int sq_vars_apply(struct sq_node *root, const struct sq_vars *given, json_t **out, struct sq_diags *d);

/* The text with ${instance} and ${port} replaced; PORT NULL: there is none. malloc'd; NULL: no memory. */
char *sq_vars_instance(const char *text, const char *instance, const char *port);

#endif
