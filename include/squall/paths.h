/* Where Squall keeps what lives while it runs. Root: /run/squall. Others: $XDG_RUNTIME_DIR/squall, else
 * /tmp/squall-UID (0700 and ours, or refused). SQUALL_RUN_DIR overrides (tests).
 *
 *   RUN/<injector id>/api.sock     HTTP API of one injector
 *   RUN/<injector id>/launch.sock  launchers of `squall exec` report here
 *   RUN/<injector id>/journal      undo records
 *   RUN/<injector id>/lock         flock(2)ed by squalld and its keeper: free means both are dead
 *   RUN/<injector id>/info.json    pid, start time, uid, private or not
 * The injector id is "squalld" for the host's injector and "p-<hex>" for a private one. */
#ifndef SQUALL_PATHS_H
#define SQUALL_PATHS_H

#include <stddef.h>

#include "squall/err.h"

/* The directory, created if need be (0755 for root, 0700 otherwise). */
int sq_run_dir(char *buf, size_t len, struct sq_err *e);
/* buf = dir "/" name, -ENAMETOOLONG with an error when it doesn't fit. */
int sq_path_join(char *buf, size_t len, const char *dir, const char *name, struct sq_err *e);

#endif
