/* What a seccomp filter can say to a call of which not all is known, against libseccomp's filters and by hand. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "intercept/cbpf.h"
#include "squall/cleanup.h"

#define NR BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)
#define ARG(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args[n]))
#define HIGH(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args[n]) + 4)
#define RET(k) BPF_STMT(BPF_RET | BPF_K, k)
#define SAYS(call, ...)                                                                                                \
    sq_cbpf_says((const struct sock_filter[]){__VA_ARGS__},                                                            \
                 sizeof((const struct sock_filter[]){__VA_ARGS__}) / sizeof(struct sock_filter), call)

static const struct sq_cbpf_call CALL = {AUDIT_ARCH_X86_64, 42, {7, 0x100000002, 0, 0, 0, 0}, 3};

static void test_actions(void **st)
{
    (void)st;
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_ALLOW)), SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_LOG)), SQ_SAYS_LOG);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_TRACE | 5)), SQ_SAYS_TRACE);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_USER_NOTIF)), SQ_SAYS_NOTIFY);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_ERRNO | 1)), SQ_SAYS_ERRNO);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_TRAP)), SQ_SAYS_TRAP);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_KILL_THREAD)), SQ_SAYS_KILL);
    assert_int_equal(SAYS(&CALL, RET(SECCOMP_RET_KILL_PROCESS)), SQ_SAYS_KILL);
    assert_int_equal(SAYS(&CALL, RET(0x12340000)), SQ_SAYS_KILL); /* unknown ones kill */
}

static void test_known(void **st)
{
    (void)st;
    assert_int_equal(SAYS(&CALL, NR, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 42, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, NR, BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 42, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_KILL);
    assert_int_equal(SAYS(&CALL, NR, BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 42, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, ARG(0), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, HIGH(1), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, ARG(1), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 64, 0, 1),
                          RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    /* A far jump over what kills. */
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_JMP | BPF_JA, 1), RET(0), RET(SECCOMP_RET_LOG)), SQ_SAYS_LOG);
}

static void test_unknown(void **st)
{
    (void)st;
    /* Either way is open. */
    assert_int_equal(SAYS(&CALL, ARG(2), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), RET(SECCOMP_RET_ALLOW),
                          RET(SECCOMP_RET_ERRNO | 1)),
                     SQ_SAYS_ALLOW | SQ_SAYS_ERRNO);
    /* The instruction pointer is not known. */
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
                          RET(SECCOMP_RET_ALLOW), RET(SECCOMP_RET_TRAP)),
                     SQ_SAYS_ALLOW | SQ_SAYS_TRAP);
    /* What does not depend on it is known all the same: nothing is left of the unknown by AND with 0. */
    assert_int_equal(SAYS(&CALL, ARG(2), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    /* Ways that meet: on what they agree is known (X), on what not, not (A). */
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 9), ARG(2),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), BPF_STMT(BPF_LD | BPF_W | BPF_IMM, 1),
                          BPF_STMT(BPF_MISC | BPF_TXA, 0), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, 9),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    assert_int_equal(SAYS(&CALL, ARG(2), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
                          BPF_STMT(BPF_LD | BPF_W | BPF_IMM, 1), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1),
                          RET(SECCOMP_RET_ALLOW), RET(SECCOMP_RET_TRACE)),
                     SQ_SAYS_ALLOW | SQ_SAYS_TRACE);
    /* The answer itself is not known; that of the accumulator is. */
    assert_int_equal(SAYS(&CALL, ARG(2), BPF_STMT(BPF_RET | BPF_A, 0)), SQ_SAYS_ANYTHING);
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_LD | BPF_W | BPF_IMM, SECCOMP_RET_ERRNO), BPF_STMT(BPF_RET | BPF_A, 0)),
                     SQ_SAYS_ERRNO);
}

static void test_words(void **st)
{
    (void)st;
    /* M[3] = 42 + 7 * 3 - 1, shifted and back. */
    assert_int_equal(SAYS(&CALL, ARG(0), BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 3), BPF_STMT(BPF_MISC | BPF_TAX, 0), NR,
                          BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, 1),
                          BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 4), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
                          BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LD | BPF_W | BPF_IMM, 0), BPF_STMT(BPF_LD | BPF_MEM, 3),
                          BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 62), BPF_STMT(BPF_ALU | BPF_OR | BPF_K, 8),
                          BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 2), BPF_STMT(BPF_ALU | BPF_NEG, 0),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)-4, 0, 1), RET(SECCOMP_RET_ALLOW), RET(0)),
                     SQ_SAYS_ALLOW);
    /* Division by nothing ends it, and that kills. */
    assert_int_equal(SAYS(&CALL, BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 0), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0),
                          RET(SECCOMP_RET_ALLOW)) &
                         SQ_SAYS_KILL,
                     SQ_SAYS_KILL);
}

/* What no kernel takes says anything, and nothing outside of it is read. */
static void test_bad(void **st)
{
    static const struct sock_filter bad[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0),
        BPF_STMT(BPF_LD | BPF_MEM, 16),
        BPF_STMT(BPF_ST, 16),
        BPF_STMT(BPF_STX, 0xffffffff),
        BPF_STMT(BPF_JMP | BPF_JA, 1),
        BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 200, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 200),
        BPF_STMT(BPF_JMP | 0x90, 0),
        BPF_STMT(BPF_LDX | BPF_W | BPF_ABS, 0),
    };
    (void)st;
    for (size_t i = 0; i < SQ_COUNT(bad); i++) {
        struct sock_filter *prog = malloc(2 * sizeof(*prog)); /* its end is watched by the address sanitizer */
        assert_non_null(prog);
        prog[0] = bad[i];
        prog[1] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
        assert_int_equal(sq_cbpf_says(prog, 2, &CALL), SQ_SAYS_ANYTHING);
        free(prog);
    }
    assert_int_equal(SAYS(&CALL, NR), SQ_SAYS_ANYTHING); /* no end */
    assert_int_equal(sq_cbpf_says(NULL, 0, &CALL), SQ_SAYS_ANYTHING);
}

/* The longest there can be, branching all the way: each instruction is looked at once. */
static void test_bounded(void **st)
{
    struct sock_filter *prog = calloc(BPF_MAXINSNS, sizeof(*prog));
    (void)st;
    assert_non_null(prog);
    for (size_t i = 0; i < BPF_MAXINSNS - 4; i++)
        prog[i] = i % 2 ? (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)i, 0, 1)
                        : (struct sock_filter)ARG(3);
    for (size_t i = BPF_MAXINSNS - 4; i < BPF_MAXINSNS; i++)
        prog[i] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
    assert_int_equal(sq_cbpf_says(prog, BPF_MAXINSNS, &CALL), SQ_SAYS_ALLOW);
    free(prog);
}

/* As containers have it: everything but some is allowed, as a list and as a tree. */
static void test_libseccomp(void **st)
{
    (void)st;
    for (unsigned level = 1; level <= 2; level++) {
        scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        struct stat s;
        int fd = memfd_create("f", 0);
        assert_non_null(ctx);
        for (int nr = 0; nr < 450; nr++)
            if (nr != SYS_ptrace && nr != SYS_clone)
                assert_int_equal(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0), 0);
        assert_int_equal(
            seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SYS_clone, 1, SCMP_A0(SCMP_CMP_MASKED_EQ, 0x7c020000, 0)), 0);
        assert_int_equal(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, level), 0);
        assert_int_equal(seccomp_export_bpf(ctx, fd), 0);
        seccomp_release(ctx);
        assert_int_equal(fstat(fd, &s), 0);
        struct sock_filter *prog = malloc((size_t)s.st_size);
        size_t n = (size_t)s.st_size / sizeof(*prog);
        assert_int_equal(pread(fd, prog, (size_t)s.st_size, 0), s.st_size);
        (void)close(fd);
        for (uint32_t nr = 0; nr < 450; nr++) {
            struct sq_cbpf_call c = {AUDIT_ARCH_X86_64, nr, {0}, 0};
            assert_int_equal(sq_cbpf_says(prog, n, &c), nr == SYS_ptrace  ? SQ_SAYS_ERRNO
                                                        : nr == SYS_clone ? SQ_SAYS_ALLOW | SQ_SAYS_ERRNO
                                                                          : SQ_SAYS_ALLOW);
        }
        assert_int_equal(sq_cbpf_says(prog, n, &(struct sq_cbpf_call){AUDIT_ARCH_X86_64, SYS_clone, {0x11}, 1}),
                         SQ_SAYS_ALLOW);
        assert_int_equal(sq_cbpf_says(prog, n, &(struct sq_cbpf_call){AUDIT_ARCH_X86_64, SYS_clone, {0x20000}, 1}),
                         SQ_SAYS_ERRNO);
        assert_int_equal(sq_cbpf_says(prog, n, &(struct sq_cbpf_call){AUDIT_ARCH_I386, 3, {0}, 0}), SQ_SAYS_KILL);
        free(prog);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_actions),    cmocka_unit_test(test_known), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_words),      cmocka_unit_test(test_bad),   cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_libseccomp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
