/* The process of one device of the packet backend, from squalld's side: started, told, watched, ended (packet/wire.h).
 */
#ifndef SQUALL_PACKET_PROCESS_H
#define SQUALL_PACKET_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/impair.h"
#include "packet/wire.h"
#include "squall/err.h"

struct sq_packet_process {
    pid_t pid; /* 0: none */
    int pidfd, sock;
    uint32_t seq;
};

/* NAME becomes argv[0]: by it the process is found again (sq_packet_process_count). SELF: the squalld executable. */
int sq_packet_process_start(struct sq_packet_process *p, const char *self, const char *name, struct sq_err *e);
/* Hand over the descriptors FDS (borrowed) and wait until it has them. */
int sq_packet_process_give(struct sq_packet_process *p, const struct sq_packet_start *s, const int *fds, size_t n,
                           struct sq_err *e);
/* These two wait for the answer, half a second at most: ask only one that beats. */
int sq_packet_process_set(struct sq_packet_process *p, unsigned bit, bool ingress, const struct sq_impair *im,
                          struct sq_err *e);
struct sq_packet_got;
/* What the process carries out (packet/control.h). */
int sq_packet_process_get(struct sq_packet_process *p, unsigned bit, bool ingress, struct sq_packet_got *out,
                          struct sq_err *e);
/* Does not wait until it is done. */
int sq_packet_process_del(struct sq_packet_process *p, unsigned bit, bool ingress, struct sq_err *e);
void sq_packet_process_end(struct sq_packet_process *p); /* drain, then leave */
bool sq_packet_process_alive(const struct sq_packet_process *p);
/* Reap it if it has ended; WHY gets how. */
void sq_packet_process_close(struct sq_packet_process *p, char *why, size_t len);

/* All processes of this name: how many there are; KILL: SIGKILL for each of them, too. */
int sq_packet_process_count(const char *name, bool kill);

#endif
