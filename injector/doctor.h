#ifndef SQUALL_DOCTOR_H
#define SQUALL_DOCTOR_H

#include <jansson.h>

#include "engine.h"

/* Which fault kinds work on this host and for this user, and what they stand on:
 * {"checks":[{"name","ok","how","why","hint", "without_root"}]} (API.md). New reference; NULL: no memory. Touches
 * nothing that stays. */
json_t *sq_doctor(struct sq_engine *eng);

#endif
