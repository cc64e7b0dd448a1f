/* Scope-bound ownership for locals: `cleanup_free char *p = NULL;`. Ownership leaves by SQ_TAKE(p). */
#ifndef SQUALL_CLEANUP_H
#define SQUALL_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void sq_cleanup_freep(void *p)
{
    free(*(void **)p);
}
static inline void sq_cleanup_closep(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}
static inline void sq_cleanup_fclosep(FILE **f)
{
    if (*f)
        (void)fclose(*f);
}

#define cleanup_free __attribute__((cleanup(sq_cleanup_freep)))
#define cleanup_close __attribute__((cleanup(sq_cleanup_closep)))
#define cleanup_fclose __attribute__((cleanup(sq_cleanup_fclosep)))

#define SQ_TAKE(p)                                                                                                     \
    __extension__({                                                                                                    \
        __typeof__(p) sq_taken_ = (p);                                                                                 \
        (p) = NULL;                                                                                                    \
        sq_taken_;                                                                                                     \
    })
#define SQ_TAKE_FD(fd)                                                                                                 \
    __extension__({                                                                                                    \
        int sq_taken_fd_ = (fd);                                                                                       \
        (fd) = -1;                                                                                                     \
        sq_taken_fd_;                                                                                                  \
    })
#define SQ_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#endif
