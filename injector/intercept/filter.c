/* The seccomp filter of an intercepted program: connect(2) is notified, and so are sendto(2), sendmsg(2) and
 * sendmmsg(2) with MSG_FASTOPEN, which connect, too. What io_uring does no filter sees, so new rings are refused with
 * ENOSYS, as on a kernel without them. Everything else is allowed at once, in every architecture the kernel runs (an
 * i386 or x32 program is no way around). */
#include <errno.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "launch.h"
#include "squall/cleanup.h"

static void release(scmp_filter_ctx *ctx)
{
    if (*ctx)
        seccomp_release(*ctx);
}

static int add_narrow(scmp_filter_ctx ctx)
{
    int rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendto), 2,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, MSG_FASTOPEN), SCMP_A4(SCMP_CMP_NE, 0));

    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendmsg), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, MSG_FASTOPEN));
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendmmsg), 1,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, MSG_FASTOPEN));
    return rc;
}

/* Datagrams, too: whatever has an address, or may have one, for a filter can't look into a struct msghdr. send(2),
 * recv(2), read(2) and write(2) stay free. */
static int add_dgrams(scmp_filter_ctx ctx)
{
    int rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendto), 1, SCMP_A4(SCMP_CMP_NE, 0));

    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(recvfrom), 1, SCMP_A4(SCMP_CMP_NE, 0));
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendmsg), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, SQ_LAUNCH_FLAG, 0));
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(recvmsg), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, SQ_LAUNCH_FLAG, 0));
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(sendmmsg), 0);
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(getpeername), 0);
    return rc;
}

static int add_rules(scmp_filter_ctx ctx, bool dgram)
{
#if defined(__x86_64__)
    static const unsigned sends[] = {11, 16, 20}; /* net.h: SYS_SENDTO, SYS_SENDMSG, SYS_SENDMMSG */
#endif
    int rc;

    /* libseccomp's own default kills what comes from a foreign architecture. */
    rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW);
#if defined(__x86_64__)
    if (rc == 0)
        rc = seccomp_arch_add(ctx, SCMP_ARCH_X86);
    if (rc == 0)
        rc = seccomp_arch_add(ctx, SCMP_ARCH_X32);
#endif
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(connect), 0);
    if (rc == 0)
        rc = dgram ? add_dgrams(ctx) : add_narrow(ctx);
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(io_uring_setup), 0);
#if defined(__x86_64__)
    /* Of socketcall(2) only the number of the call can be seen, and libseccomp leaves out what has more conditions. Not
     * for connect(2): that it does by itself. */
    for (size_t i = 0; i < sizeof(sends) / sizeof(sends[0]) && rc == 0; i++)
        rc = seccomp_rule_add(ctx, SCMP_ACT_NOTIFY, SCMP_SYS(socketcall), 1, SCMP_A0(SCMP_CMP_EQ, sends[i]));
#endif
    return rc;
}

int sq_filter_build(bool dgram, void **bytes, size_t *len, struct sq_err *e)
{
    __attribute__((cleanup(release))) scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    cleanup_close int fd = memfd_create("squall-filter", MFD_CLOEXEC);
    cleanup_free void *buf = NULL;
    struct stat st;
    int rc;

    if (!ctx || fd < 0)
        return sq_err(e, -ENOMEM, "no memory for a seccomp filter");
    rc = add_rules(ctx, dgram);
    if (rc == 0)
        rc = seccomp_export_bpf(ctx, fd);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot build the seccomp filter");
    if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > 4096 * 8)
        return sq_err(e, -EIO, "cannot read the seccomp filter back");
    buf = malloc((size_t)st.st_size);
    if (!buf || pread(fd, buf, (size_t)st.st_size, 0) != st.st_size)
        return sq_err(e, -EIO, "cannot read the seccomp filter back");
    *bytes = SQ_TAKE(buf);
    *len = (size_t)st.st_size;
    return 0;
}
