#include "squall/paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int sq_path_join(char *buf, size_t len, const char *dir, const char *name, struct sq_err *e)
{
    int n = snprintf(buf, len, "%s/%s", dir, name);

    if (n < 0 || (size_t)n >= len)
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "path too long: %s/%s", dir, name);
    return 0;
}

static int choose(char *buf, size_t len, struct sq_err *e)
{
    const char *env = secure_getenv("SQUALL_RUN_DIR");
    const char *xdg = secure_getenv("XDG_RUNTIME_DIR");
    int n;

    if (env && env[0] == '/')
        n = snprintf(buf, len, "%s", env);
    else if (geteuid() == 0)
        n = snprintf(buf, len, "/run/squall");
    else if (xdg && xdg[0] == '/' && access(xdg, W_OK | X_OK) == 0)
        n = snprintf(buf, len, "%s/squall", xdg);
    else
        n = snprintf(buf, len, "/tmp/squall-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= len)
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the path of the run directory is too long");
    return 0;
}

int sq_run_dir(char *buf, size_t len, struct sq_err *e)
{
    mode_t mode = geteuid() == 0 ? 0755 : 0700;
    struct stat st;
    int r = choose(buf, len, e);

    if (r < 0)
        return r;
    if (mkdir(buf, mode) < 0 && errno != EEXIST)
        return sq_err_sys(e, -errno, "cannot make the run directory %s", buf);
    if (lstat(buf, &st) < 0)
        return sq_err_sys(e, -errno, "cannot look at the run directory %s", buf);
    /* In /tmp anybody could have made it first, to read or plant undo records. */
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "the run directory %s is not a directory of our own", buf);
        sq_err_hint(e, "remove it, or set SQUALL_RUN_DIR to a directory that only this user can write");
        return -EPERM;
    }
    return 0;
}
