#include "page.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "squall/cleanup.h"

int sq_page_new(size_t len, void **map, int *fd, struct sq_err *e)
{
    cleanup_close int mem = memfd_create("squall-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (mem < 0)
        return sq_err_sys(e, -errno, "cannot make shared memory");
    if (ftruncate(mem, (off_t)len) < 0 || fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return sq_err_sys(e, -errno, "cannot size shared memory");
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
    if (p == MAP_FAILED)
        return sq_err_sys(e, -errno, "cannot map shared memory");
    *map = p;
    *fd = SQ_TAKE_FD(mem);
    return 0;
}

int64_t sq_watch_look(struct sq_watch *w, int64_t beat, int64_t now, int64_t most_ns)
{
    int64_t gap = now - w->looked;
    if (beat != w->beat || w->looked == 0)
        w->stale = 0;
    else
        w->stale += gap < most_ns ? gap : most_ns;
    w->beat = beat;
    w->looked = now;
    return w->stale;
}
