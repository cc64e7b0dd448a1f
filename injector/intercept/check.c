/* What of interception works on this host, for this user. */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

int sq_intercept_check_bpf(struct sq_err *e)
{
    char root[SQ_CGROUP_MAX];
    int rc = sq_cgroup_root(root, sizeof(root), e);

    return rc < 0 ? sq_err_prefix(e, "cgroup-BPF") : sq_bpf_try(e);
}

/* kernel.yama.ptrace_scope: 1 is fine, the supervisor is an ancestor of what it launches; 2 and 3 are not. */
static int yama_scope(void)
{
    cleanup_fclose FILE *f = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
    char line[16] = "";

    return f && fgets(line, sizeof(line), f) ? line[0] - '0' : 0;
}

int sq_intercept_check_seccomp(struct sq_err *e)
{
    uint32_t action = SECCOMP_RET_USER_NOTIF;
    int scope = yama_scope(), rc;

    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0) {
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -errno, "this kernel has no seccomp user notification");
        sq_err_hint(e, "it needs Linux 5.6 with CONFIG_SECCOMP_FILTER");
        return rc;
    }
    /* Of a descriptor that no pidfd is: EBADF where the call exists, ENOSYS or EPERM where it doesn't or is filtered.
     */
    rc = sq_pidfd_getfd(-1, 0);
    if (rc == -ENOSYS || rc == -EPERM) {
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "pidfd_getfd(2) is not available here");
        sq_err_hint(e, "it needs Linux 5.6, and a container whose seccomp profile allows it");
        return rc;
    }
    if (scope == 3 || (scope == 2 && geteuid() != 0)) {
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "kernel.yama.ptrace_scope=%d forbids to look into a process",
                        scope);
        sq_err_hint(e,
                    scope == 2 ? "run as root, or set kernel.yama.ptrace_scope=1" : "it can't be changed until reboot");
        return rc;
    }
    return 0;
}

int sq_intercept_check_synhold(struct sq_err *e)
{
    int fd[SQ_SYNHOLD_FDS], rc = sq_synhold_open(fd, e);

    sq_synhold_close(fd);
    return rc < 0 ? rc : 0;
}
