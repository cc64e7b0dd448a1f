/* A guard around a system call that should return at once but could wait for ever, because others hold the same object:
 * SECCOMP_IOCTL_NOTIF_RECV when another holder of the listener was faster (poll said that there is one), connect on a
 * socket whose O_NONBLOCK its owner can take away again. Both end with EINTR, then; so the guard is a signal. */
#ifndef SQUALL_GUARD_H
#define SQUALL_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct seccomp_notif;

/* SIGALRM, handled by doing nothing, every 20 ms until the end. Do not nest. Uses the process's ITIMER_REAL. Before the
 * first one: sq_guard_ready, once a process. */
void sq_guard_ready(void);
void sq_guard_begin(void);
void sq_guard_end(void);

/* Is FD a seccomp listener? */
bool sq_notif_is_listener(int fd);

/* RECV into *n (zeroed here). 0, or -errno: -EINTR or -ENOENT when there is none after all. Never waits long. */
int sq_notif_recv(int listener, struct seccomp_notif *n);
int sq_notif_recv_guarded(int listener, struct seccomp_notif *n); /* the same, in the caller's own guard */

/* A supervisor died: let go (CONTINUE) what it had received from LISTENER and not answered. That is near to the id that
 * it received last (0: unknown), or is one of HELD (N words; 0: none). Ids are handed out one by one, from a random
 * start (kernel/seccomp.c, init_listener). */
void sq_notif_release(int listener, uint64_t last, const volatile uint64_t *held, size_t n);

#endif
