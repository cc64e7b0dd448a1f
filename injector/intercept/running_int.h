/* Inside of running callers (running.h): what its files share. */
#ifndef SQUALL_INTERCEPT_RUNNING_INT_H
#define SQUALL_INTERCEPT_RUNNING_INT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "cgroup.h"
#include "faults/fault.h"
#include "intercept/priv.h"
#include "squall/err.h"
#include "target.h"

struct sq_running_one {
    struct sq_running *r;
    char instance[SQ_NAME_MAX];
    pid_t pid;
    uint64_t start;
    int pidfd; /* owned; -1: a cgroup, or it has ended */
    uv_poll_t *end;
    char cmd[256];
    size_t processes; /* by seccomp: when it was taken */
};

struct sq_running {
    struct sq_running *next;
    struct sq_intercept *ic;
    char run[SQ_NAME_MAX], service[SQ_NAME_MAX];
    char cgroup[SQ_CGROUP_MAX]; /* "": processes */
    ino_t ino;                  /* of the cgroup that the hooks are on; 0: gone */
    struct sq_follow *follow;   /* of processes */
    uint64_t told_lost;
    bool empty;
    bool unhooked; /* its cgroup was made anew, and can't be taken: told */
    bool seccomp;
    bool nft;
    bool dgram; /* by seccomp: the filter takes datagrams, too */
    uv_timer_t *look;
    struct sq_running_one *one;
    size_t n;
};

/* Whom a selector means: a cgroup, or processes that are pinned. */
struct sq_found {
    char cgroup[SQ_CGROUP_MAX];
    struct sq_victim *v;
    size_t n;
};

/* Processes; grown as needed. */
struct sq_pids {
    pid_t *pid;
    size_t n, cap;
};

/* running_find.c */
int sq_found_by(struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer, const json_t *select,
                struct sq_found *out, struct sq_err *e);
void sq_found_free(struct sq_found *f);

/* running_who.c: with all their descendants as they are now, without asking BPF. OUT->pid is malloc'd. */
int sq_found_family(const struct sq_found *found, struct sq_pids *out, struct sq_err *e);

/* running.c */
void sq_running_tell(const struct sq_running_one *o, const char *state); /* the evidence */
/* Instance I of R is O: a caller of its own, which is armed and has no hooks yet. */
int sq_running_add_caller(struct sq_running *r, struct sq_running_one *o, size_t i, struct sq_caller **out,
                          struct sq_err *e);
int sq_running_parse_attach(const json_t *def, bool *seccomp, struct sq_err *e);
/* A process has one caller, or its calls would be those of whose hook comes first. */
int sq_running_check_alone(struct sq_intercept *ic, const struct sq_found *f, struct sq_err *e);

/* running_cgroup.c */
int sq_running_take_cgroup(struct sq_running *r, const struct sq_found *f, struct sq_err *e);

/* running_list.c */
json_t *sq_running_describe(const struct sq_running *r);

#endif
