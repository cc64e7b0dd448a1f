#include "net/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/paths.h"

#define EVERYBODYS "/run/squall-netns.lock"
#define STEP_MS 10

static int open_file(const char *path, struct sq_err *e)
{
    cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;

    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot open %s", path);
    if (fstat(fd, &st) < 0)
        return sq_err_sys(e, -errno, "cannot look at %s", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "%s is not a file of our own", path);
        sq_err_hint(e, "remove it");
        return -EPERM;
    }
    return SQ_TAKE_FD(fd);
}

static int open_lock(struct sq_err *e)
{
    char dir[PATH_MAX], path[PATH_MAX];
    int r;

    if (geteuid() == 0 && access("/run", W_OK) == 0)
        return open_file(EVERYBODYS, e);
    r = sq_run_dir(dir, sizeof dir, e);
    r = r ? r : sq_path_join(path, sizeof path, dir, ".netns.lock", e);
    return r ? r : open_file(path, e);
}

int sq_net_lock(int most_ms, struct sq_err *e)
{
    cleanup_close int fd = open_lock(e);
    struct flock it = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    struct stat ns;

    if (fd < 0)
        return fd;
    if (stat("/proc/thread-self/ns/net", &ns) < 0)
        return sq_err_sys(e, -errno, "cannot look at the network namespace");
    it.l_start = (off_t)(ns.st_ino & INT_MAX);
    for (int waited = 0; fcntl(fd, F_OFD_SETLK, &it) < 0; waited += STEP_MS) {
        if (errno != EAGAIN && errno != EACCES)
            return sq_err_sys(e, -errno, "cannot lock the network namespace");
        if (waited >= most_ms)
            return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY,
                              "another Squall has been changing this network namespace for more than %d ms", most_ms);
        (void)poll(NULL, 0, STEP_MS);
    }
    return SQ_TAKE_FD(fd);
}
