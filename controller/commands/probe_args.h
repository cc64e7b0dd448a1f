/* From the options of squall probe to a scenario. */
#ifndef CONTROLLER_COMMANDS_PROBE_ARGS_H
#define CONTROLLER_COMMANDS_PROBE_ARGS_H

#include <jansson.h>

#include "commands/command.h"
#include "squall/err.h"

/* *doc: a normalized scenario that sends what the options say (the caller's to decref). Warnings are said. -EINVAL,
 * ...: an option is wrong. */
int sq_probe_scenario(const struct sq_args *a, const struct sq_term *t, json_t **doc, struct sq_err *e);

#endif
