/* Processes and this host's identity, from /proc (proc(5)). */
#ifndef SQUALL_PROC_H
#define SQUALL_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

/* The kernel's boot id (36 characters); "" when unreadable. Static storage, read once. */
const char *sq_boot_id(void);

struct sq_proc {
    pid_t pid, ppid, sid;
    uint64_t start; /* clock ticks since boot: with pid and boot id, a process's identity */
    char state;     /* 'R','S','T','Z',... */
    uid_t ruid, euid, suid;
    char comm[17];
};
/* -ESRCH when there is none. */
int sq_proc_read(pid_t pid, struct sq_proc *p, struct sq_err *e);
/* A pidfd for exactly the process (pid, start): -ESRCH when it is gone or another one has the number. */
int sq_proc_pidfd(pid_t pid, uint64_t start, struct sq_err *e);
int sq_pidfd_open(pid_t pid);            /* -errno */
int sq_pidfd_signal(int pidfd, int sig); /* -errno */
int sq_pidfd_getfd(int pidfd, int fd);   /* -errno */
/* At most len-1 bytes of a small file of proc or cgroupfs, NUL-terminated. Returns how many, or -errno. */
ssize_t sq_proc_slurp(const char *path, char *buf, size_t len);
/* The command line, arguments joined by spaces, at most len-1 bytes; the comm in brackets for kernel threads. */
int sq_proc_cmdline(pid_t pid, char *buf, size_t len);
/* Call fn for each process; stop when it returns non-zero and return that. */
int sq_proc_each(int (*fn)(pid_t pid, void *arg), void *arg);
/* Is NAME=VALUE in the environment the process was started with? */
bool sq_proc_has_env(pid_t pid, const char *name, const char *value);

#endif
