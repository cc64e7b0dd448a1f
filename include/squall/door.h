/* How an injector gets a seccomp listener from one that has ended: whoever answers for a process (keeper, proxy, agent)
 * has a door beside the listener, an abstract Unix socket named after the process, which all of them share. Who comes
 * in, and is root or whose door it is, gets the listener, and the giver is rid of it; it comes again until nobody is
 * left. */
#ifndef SQUALL_DOOR_H
#define SQUALL_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A door for what the process (PID, START) has loaded. -errno; -EADDRINUSE: there is one. */
int sq_door_open(pid_t pid, uint64_t start);
/* Somebody stands at the DOOR (it is readable). True: they have LISTENER now, and it and the door are to be closed.
 * With LISTENER -1 they are sent away. May wait 200 ms for the other side to say that it has it. */
bool sq_door_give(int door, int listener);
/* Is there a door? Nobody hears it. */
bool sq_door_exists(pid_t pid, uint64_t start);
/* 0: *LISTENER is ours. -ENOENT: nobody is there (any more). -EBUSY: an injector that lives needs it itself. -errno.
 * Takes half a second at most. */
int sq_door_knock(pid_t pid, uint64_t start, int *listener);

#endif
