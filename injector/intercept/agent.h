/* The last resort of a program under a seccomp filter of ours: a process that does nothing but let every call go where
 * it wants to, until the last process under the filter has ended. Squalld starts one where it would leave listeners to
 * nobody (its proxy is dead), and the helper that attaches becomes one when squalld is gone. */
#ifndef SQUALL_INTERCEPT_AGENT_H
#define SQUALL_INTERCEPT_AGENT_H

#include <stddef.h>
#include <stdint.h>

struct sq_left {
    int listener, door; /* squall/door.h; -1: none */
};

/* Answer N listeners (owned), and return when none is in use any more, or another injector has them. */
void sq_agent_answer(const struct sq_left *left, size_t n);
/* The same in a process of its own, which has nothing else of ours open. What we have received and not answered, HELD
 * (M ids; 0: none), is let go at once. -errno: there is none. */
int sq_agent_start(const struct sq_left *left, size_t n, const volatile uint64_t *held, size_t m);

/* In a forked child: become a process of its own, named NAME, with nothing open but FD (N, sorted here) and 0 to 2. */
void sq_agent_become(const char *name, int *fd, size_t n);

#endif
