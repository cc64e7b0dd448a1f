/* squall plan, in three parts: what is on this host's disk (plan.c), what injectors know (plan_ask.c), what is shown
 * (plan_show.c). */
#ifndef CONTROLLER_COMMANDS_PLAN_H
#define CONTROLLER_COMMANDS_PLAN_H

#include <jansson.h>

#include "commands/command.h"

struct sq_planning {
    struct sq_term *t;
    const json_t *doc; /* the scenario, normalized */
    json_t *plan;      /* as sq_plan_make() made it; what is learnt is put in */
    json_t *problems;  /* what would keep a run from working, for people */
    int code;          /* the exit code they make */
};

/* Adds TEXT (a reference that is taken over); the first problem's exit code stays. */
void sq_planning_problem(struct sq_planning *p, int code, json_t *text);

/* Asks the injector behind SOCKET (NULL: a private one) what works here and whom targets, callers and host names mean.
 * 0, or an exit code when it could not be asked (said to people). */
int sq_planning_ask(struct sq_planning *p, const char *socket);

/* Does the injector of every other host that sends answer? */
void sq_planning_ask_senders(struct sq_planning *p);

void sq_planning_print(const struct sq_planning *p);

#endif
