/* What every verb that takes a scenario does: --var, reading, printing what is wrong. */
#ifndef CONTROLLER_COMMANDS_LOAD_H
#define CONTROLLER_COMMANDS_LOAD_H

#include <jansson.h>

#include "commands/command.h"
#include "scenario/scenario.h"

/* The variables of every --var; free with sq_vars_free. 0, else an error was printed and this is the exit code. */
int sq_load_vars(const struct sq_args *a, const struct sq_term *t, struct sq_vars *vars);
/* All errors and (unless `quiet`) warnings, on t->err. */
void sq_load_print(const struct sq_term *t, const struct sq_diags *d, bool quiet);
/* Both for one FILE. 0 and *doc, else the exit code. */
int sq_load_scenario(const struct sq_args *a, const struct sq_term *t, const char *file, bool quiet, json_t **doc);

#endif
