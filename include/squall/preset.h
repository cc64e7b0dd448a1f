/* Presets of network faults: whole paths by name, from injector/net/presets.def. In libsquall, so that the controller
 * explains what the injector applies. */
#ifndef SQUALL_PRESET_H
#define SQUALL_PRESET_H

#include <jansson.h>
#include <stddef.h>

#include "squall/spec.h"

struct sq_preset {
    const char *name;
    const char *doc;    /* one sentence */
    const char *source; /* where its numbers come from */
    const char *with;   /* the parameters it stands for, as people write them: a JSON object */
};

/* All of them, in the order of the file. */
const struct sq_preset *sq_presets(size_t *n);
/* NAME (or one of its aliases) -> its `with` (new reference); NULL: there is none, or no memory. */
json_t *sq_preset_find(const char *name);
/* The name nearest to a misspelt one; NULL: none is near. */
const char *sq_preset_nearest(const char *name);

/* What loss_state, loss_gemodel and slot take. */
extern const struct sq_param sq_impair_state_params[], sq_impair_gemodel_params[], sq_impair_slot_params[];

#endif
