/* The seccomp supervisor's parts: a notification read into plain values, and what becomes of it. */
#ifndef SQUALL_INTERCEPT_SUPERVISE_H
#define SQUALL_INTERCEPT_SUPERVISE_H

#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "intercept/priv.h"

struct sq_supervisor {
    struct sq_supervisor *next;
    struct sq_intercept *ic;
    struct sq_caller *caller; /* NULL: disarmed, everything is let through */
    uint64_t key;
    pid_t pid; /* who loaded the filter */
    uint64_t start;
    int fd;
    uv_poll_t *poll;
    int door; /* squall/door.h; -1: none */
    uv_poll_t *at_door;
    volatile uint64_t *seen;
    bool dgram;     /* of a filter that was put into a running process: it takes datagrams, too */
    pid_t last_tid; /* whose last_pidfd is (attempt.c); 0: nobody's */
    int last_pidfd;
};

/* A connect that a process waits for. */
struct sq_attempt {
    pid_t tid;
    int fd;        /* in the process */
    uint64_t addr; /* there */
    uint64_t id;   /* of the notification */
    uint32_t len;
    bool fastopen; /* sendto(2) or its like with MSG_FASTOPEN */
    union {
        struct sockaddr_storage ss;
        struct sockaddr sa;
    } to; /* our copy of the address; addr_len bytes of it */
    socklen_t to_len;
};

/* What the process gets. CONT: let the kernel do the call. */
struct sq_reply {
    bool cont;
    bool later;    /* somebody else answers (wait.c) */
    int error;     /* -errno or 0, when not cont */
    int64_t value; /* what the call returns when error is 0 */
};

/* attempt.c */
/* 1: a connect, its address not read yet; 0: some other call; -errno: its arguments can't be read. */
int sq_attempt_parse(const struct seccomp_notif *n, struct sq_attempt *a);
int sq_attempt_read(struct sq_attempt *a); /* the address; -errno */
/* A descriptor of ours for the very socket (the same open file description); -errno. */
int sq_attempt_socket(struct sq_supervisor *s, const struct sq_attempt *a);
/* Does the Unix address of this attempt name the socket that D names? */
bool sq_attempt_is_unix(const struct sq_attempt *a, const struct sq_dest *d);

/* wait.c: a blocking connect with a timeout of its own (SO_SNDTIMEO), in a thread that answers when it is over. Takes a
 * copy of fd. 0, or -errno: too many, or no memory. */
int sq_wait_connect(struct sq_supervisor *s, uint64_t id, int fd, const struct sockaddr *sa, socklen_t len);

/* dgram_seccomp.c: false: none of its business; else *r says. */
bool sq_dgram_connect(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r); /* its address was read */
bool sq_dgram_notified(struct sq_supervisor *s, const struct seccomp_notif *n, struct sq_reply *r);

/* redirect.c */
/* Destination as v4-mapped, port in host byte order. False: not an address that an edge can have. */
bool sq_attempt_wanted(const struct sq_attempt *a, uint32_t addr[4], uint16_t *port);
bool sq_attempt_v6_only(const struct sq_attempt *a, int fd); /* FD can't reach a v4-mapped address */
/* Where the edge is listened for in the network namespace of the socket. False: WHY it can't be reached. */
bool sq_attempt_listeners(const struct sq_supervisor *s, struct sq_edge *edge, const struct sq_attempt *a, int fd,
                          struct sq_space_ports *at, char *why, size_t len);
/* It goes direct, and is counted. */
void sq_attempt_bypass(struct sq_supervisor *s, const struct sq_edge *edge, struct sq_reply *r, const char *why);
void sq_attempt_decide(struct sq_supervisor *s, struct sq_attempt *a, struct sq_reply *r);

#endif
