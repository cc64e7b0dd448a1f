/* Selectors that mean a cgroup: {"unit": "nginx.service"}, {"cgroup": "/system.slice/x"}, {"container":
 * "0a1b2c3d4e5f"}. All who are in it or below it are meant, also those that come later. */
#ifndef SQUALL_SELECT_H
#define SQUALL_SELECT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

/* Does SELECT name a cgroup, and not processes? */
bool sq_select_is_cgroup(const json_t *select);
/* Its cgroup2 directory. *WHAT (new reference; may be NULL): {"unit" or "container": whole name, "pid"} when it was
 * found by one of these. -ENOENT, SQ_C_NOTFOUND. */
int sq_select_cgroup(const json_t *select, char *path, size_t len, json_t **what, struct sq_err *e);

#endif
