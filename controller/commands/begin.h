/* What every verb does first that can touch anything: a sweep of what an earlier life left. */
#ifndef CONTROLLER_COMMANDS_BEGIN_H
#define CONTROLLER_COMMANDS_BEGIN_H

#include "commands/term.h"

/* Silent when there was nothing. 0: go on; else the exit code: something of an earlier run is still there. */
int sq_begin(const struct sq_term *t);
/* The injector that was named: --injector (VALUE, may be NULL), else $SQUALL_INJECTOR, else NULL (a private one). */
const char *sq_begin_injector(const char *value);

#endif
