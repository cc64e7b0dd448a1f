/* A name service file on a file system whose server is dead (FUSE, NFS): the kernel holds whoever asks for it, even
 * when killed. That must hold neither who resolves nor who ends. What resolving does otherwise is in test_match.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/match.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/units.h"

static char dir[80], name[40];

static void run(const char *const argv[])
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Answers what a mount needs, and then takes questions without ever answering them. */
static void serve(int fuse)
{
    char in[65536];

    for (ssize_t n; (n = read(fuse, in, sizeof in)) > 0 || errno == EINTR;) {
        const struct fuse_in_header *h = (const void *)in;
        struct {
            struct fuse_out_header h;
            struct fuse_init_out init;
        } out = {.h = {.len = sizeof out, .unique = h->unique},
                 .init = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096}};

        if (n > 0 && h->opcode == FUSE_INIT && write(fuse, &out, sizeof out) < 0)
            _exit(1);
    }
    _exit(0);
}

/* -1: there is no FUSE here. */
static pid_t mount_dead(int *fuse)
{
    char options[100];
    pid_t server;

    *fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (*fuse < 0)
        return -1;
    (void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", *fuse);
    if (mount("squall-test", dir, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        (void)close(*fuse);
        return -1;
    }
    server = fork();
    if (server == 0)
        serve(*fuse);
    return server;
}

/* Children of ours that have not been waited for. */
static int children(void)
{
    char path[64], text[4096] = "";
    int n = 0;

    (void)snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    if (fgets(text, sizeof text, f))
        for (const char *p = text; (p = strchr(p, ' ')) != NULL; p++)
            n++;
    (void)fclose(f);
    return n;
}

static void test_dead_file_system(void **state)
{
    struct sq_netns ns = {.fd = -1};
    char *host[] = {"db.invalid"};
    struct sq_group group = {.name = host, .n_name = 1};
    struct sq_match m = {.match = &group, .n_match = 1};
    struct sq_resolving *r = NULL;
    struct sq_err e = {0};
    int fuse = -1, fd = -1;

    (void)state;
    if (geteuid() != 0)
        skip();
    (void)snprintf(name, sizeof name, "sqt-resolve%d", (int)getpid());
    (void)snprintf(dir, sizeof dir, "/etc/netns/%s", name);
    run((const char *[]){"ip", "netns", "add", name, NULL});
    (void)mkdir("/etc/netns", 0755);
    assert_int_equal(mkdir(dir, 0755), 0);
    pid_t server = mount_dead(&fuse);
    int opened = -1, begun = -1, end = -1, told = -1, undead = -1, late = -1;
    int64_t begin = sq_mono_ns(), drop = 0, freed = 0;
    if (server > 0) {
        opened = sq_netns_open(name, &ns, &e);
        begun = opened == 0 ? sq_resolving_begin(&m, &ns, &r, &fd, &e) : -1;
        while (begun == 0 && (end = sq_resolving_end(r, &m, NULL, &e)) == -EAGAIN && sq_mono_ns() - begin < 20 * SQ_S)
            (void)nanosleep(&(struct timespec){.tv_nsec = 20 * SQ_MS}, NULL);
        late = (int)((sq_mono_ns() - begin) / SQ_MS);
        drop = sq_mono_ns();
        if (begun == 0)
            sq_resolving_drop(&r);
        drop = sq_mono_ns() - drop;
        undead = r != NULL;
        told = r ? sq_resolving_end(r, &m, NULL, NULL) : -1;
        freed = sq_mono_ns();
        sq_resolving_free(r);
        freed = sq_mono_ns() - freed;
        sq_netns_close(&ns);
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    int left = children();
    if (fuse >= 0)
        (void)close(fuse); /* the last: its questions are answered by the kernel now, with an error */
    int gone = children();
    for (int i = 0; i < 500 && (gone = children()) > 0; i++)
        (void)nanosleep(&(struct timespec){.tv_nsec = 10 * SQ_MS}, NULL);
    (void)umount2(dir, MNT_DETACH);
    (void)rmdir(dir);
    (void)rmdir("/etc/netns");
    run((const char *[]){"ip", "netns", "del", name, NULL});
    if (server <= 0)
        skip();
    assert_int_equal(opened, 0);
    assert_int_equal(begun, 0);
    assert_int_equal(end, -EHOSTUNREACH); /* its time is over, whatever the child does */
    assert_in_range(late, 4900, 15000);
    assert_true(drop < 2 * SQ_S);
    assert_true(undead); /* else this has tested nothing */
    assert_int_equal(told, -EALREADY);
    assert_true(freed < 2 * SQ_S);
    assert_int_equal(left, 1);
    assert_int_equal(gone, 0); /* and reaped when it could die */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dead_file_system)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
