#ifndef SQUALL_SNAPSHOT_H
#define SQUALL_SNAPSHOT_H

#include <jansson.h>

#include "engine.h"

/* What of this host could carry a fault, read from the kernel (EVIDENCE.md, "snapshot"); of processes those that RUN
 * knows (NULL: any run of UID). New reference; NULL: no memory. */
json_t *sq_snapshot(struct sq_engine *eng, struct sq_run *run, uid_t uid);

#endif
