#include "sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "journal.h"
#include "squall/cleanup.h"
#include "squall/paths.h"
#include "undo.h"

#define CGROUP_TRIES 50 /* of 10 ms */
#define NEWBORN_S 60    /* a directory without a lock may be one that is being made; not after so long */

typedef void log_fn(void *arg, const char *line);

static void cleanup_dirp(DIR **d)
{
    if (*d)
        (void)closedir(*d);
}
#define cleanup_dir __attribute__((cleanup(cleanup_dirp)))

static bool dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Unlink what is in the directory FD, one level of directories too; all: plain files as well as sockets, but the lock.
 */
static void empty(int fd, bool all, int depth)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) {
        if (copy >= 0)
            (void)close(copy);
        return;
    }
    const struct dirent *de;
    while ((de = readdir(d)) != NULL) {
        struct stat st;
        if (dots(de->d_name) || fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            cleanup_close int sub = openat(fd, de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
            if (sub >= 0 && depth < 2)
                empty(sub, all, depth + 1);
            if (all)
                (void)unlinkat(fd, de->d_name, AT_REMOVEDIR);
        } else if (S_ISSOCK(st.st_mode) || (all && (depth || strcmp(de->d_name, "lock") != 0))) {
            (void)unlinkat(fd, de->d_name, 0);
        }
    }
}

static int open_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int sq_sweep_remove(const char *dir, struct sq_err *e)
{
    cleanup_close int fd = open_dir(dir);
    if (fd < 0)
        return fd == -ENOENT ? 0 : sq_err_sys(e, fd, "cannot open %s", dir);
    empty(fd, true, 0);
    /* The lock last: as long as it is there and held, nobody else sweeps here. */
    if (unlinkat(fd, "lock", 0) < 0 && errno != ENOENT)
        return sq_err_sys(e, -errno, "cannot remove %s/lock", dir);
    if (rmdir(dir) < 0 && errno != ENOENT)
        return sq_err_sys(e, -errno, "cannot remove %s", dir);
    return 0;
}

void sq_sweep_sockets(const char *dir)
{
    cleanup_close int fd = open_dir(dir);
    if (fd >= 0)
        empty(fd, false, 0);
}

int sq_sweep_lock(const char *dir, struct sq_err *e)
{
    char path[PATH_MAX];
    struct stat mine, there;
    int rc = sq_path_join(path, sizeof(path), dir, "lock", e);
    if (rc < 0)
        return rc;
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : sq_err_sys(e, -errno, "cannot open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EWOULDBLOCK : sq_err_sys(e, -errno, "cannot lock %s", path);
    /* Another sweep may have removed it between our open and our lock. */
    if (fstat(fd, &mine) < 0 || lstat(path, &there) < 0 || mine.st_ino != there.st_ino || mine.st_dev != there.st_dev)
        return -ENOENT;
    return SQ_TAKE_FD(fd);
}

int sq_sweep_cgroups(const char *id, struct sq_err *e)
{
    char root[PATH_MAX], path[PATH_MAX];
    if (sq_cgroup_root(root, sizeof(root), NULL) < 0)
        return 0; /* there are none for us */
    int n = snprintf(path, sizeof(path), "%s/squall-%s", root, id);
    if (n < 0 || (size_t)n >= sizeof(path))
        return sq_err(e, -ENAMETOOLONG, "path too long: %s/squall-%s", root, id);
    /* Every service has a record, and its undoing killed it: who is still in here is no service (an `exec`'d command
     * that could not be sent home, or somebody else's), and not ours to kill. Those killed may take a moment to be
     * gone. */
    struct sq_err why = {0};
    int rc = -EBUSY;
    for (int i = 0; i < CGROUP_TRIES && access(path, F_OK) == 0; i++) {
        sq_err_clear(&why);
        rc = sq_cgroup_remove(path, &why);
        if (rc == 0)
            return 0;
        (void)poll(NULL, 0, 10);
    }
    return why.code ? sq_err(e, rc, "%s", why.msg) : 0;
}

/* Undo the journal of a dead injector. Returns records left, or -errno. */
static int undo(const char *dir, log_fn *log, void *arg, struct sq_err *e)
{
    char path[PATH_MAX];
    struct sq_journal *j = NULL;
    int rc = sq_path_join(path, sizeof(path), dir, "journal", e);
    if (rc < 0)
        return rc;
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    rc = sq_journal_open(path, 0, &j, e);
    if (rc < 0)
        return rc;
    rc = sq_undo_journal(j, SQ_UNDO_ALL, log, arg, e);
    sq_journal_close(j);
    return rc;
}

static bool injector_name(const char *name)
{
    return strcmp(name, "squalld") == 0 || strncmp(name, "p-", 2) == 0 || strncmp(name, ".new-", 5) == 0;
}

/* -EBUSY: something of it stays. 0: swept, or not ours to sweep. */
static int sweep_one(const char *dir, const char *id, log_fn *log, void *arg, struct sq_err *e)
{
    struct stat st;
    if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return 0;
    cleanup_close int lock = sq_sweep_lock(dir, NULL);
    if (lock == -ENOENT) {
        if (injector_name(id) && time(NULL) - st.st_mtime > NEWBORN_S)
            (void)rmdir(dir); /* works only where a sweep was killed just before its last step */
        return 0;
    }
    if (lock < 0)
        return 0;
    int rc = undo(dir, log, arg, e);
    if (rc < 0)
        return sq_err_prefix(e, "%s", dir);
    if (rc > 0)
        return sq_err(e, -EBUSY, "%s: %d undo record%s could not be taken back", dir, rc, rc == 1 ? "" : "s");
    cleanup_close int claim = sq_cgroup_claim(id, NULL);
    if (claim != -EBUSY && sq_sweep_cgroups(id, e) < 0) /* else one of the same name has them, which lives */
        return -EBUSY;
    return sq_sweep_remove(dir, e) < 0 ? -EBUSY : 0;
}

int sq_sweep_log(const char *run_dir, log_fn *log, void *arg, struct sq_err *e)
{
    char ours[PATH_MAX], path[PATH_MAX];
    int bad = 0;
    if (!run_dir) {
        int rc = sq_run_dir(ours, sizeof(ours), e);
        if (rc < 0)
            return rc;
        run_dir = ours;
    }
    cleanup_dir DIR *d = opendir(run_dir);
    if (!d)
        return errno == ENOENT ? 0 : sq_err_sys(e, -errno, "cannot read %s", run_dir);
    const struct dirent *de;
    while ((de = readdir(d)) != NULL) {
        if (dots(de->d_name) || sq_path_join(path, sizeof(path), run_dir, de->d_name, NULL) < 0)
            continue;
        if (sweep_one(path, de->d_name, log, arg, e) < 0)
            bad++;
    }
    return bad ? -EBUSY : 0;
}
