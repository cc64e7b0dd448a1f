/* PID 1 of the test kernel (user-mode Linux on hostfs): mounts, loads modules, puts a writable overlay over the host's
 * files, runs one command, prints its status, powers off. Static, so that it needs nothing of the root it stands on.
 * Environment from the kernel command line: VM_MODS (folder with the list "order"), VM_SHARE (host folder that becomes
 * /run/share, writable), VM_DIR (working folder), VM_RUN (the command). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
    if (ok)
        return;
    printf("vm: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    reboot(RB_POWER_OFF);
}

static void load_modules(const char *dir)
{
    char list[512], path[1024], name[256];
    FILE *f;

    snprintf(list, sizeof list, "%s/order", dir);
    f = fopen(list, "r");
    must(f != NULL, list);
    while (fscanf(f, "%255s", name) == 1) {
        int fd;

        snprintf(path, sizeof path, "%s/%s.ko", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        must(fd >= 0, path);
        must(syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST, path);
        close(fd);
    }
    fclose(f);
}

/* A tmpfs over the read-only root; moved onto / (a mere chroot would forbid user namespaces). */
static void overlay_root(const char *share)
{
    must(mount("tmpfs", "/mnt", "tmpfs", 0, "size=400m") == 0, "tmpfs");
    must(mkdir("/mnt/up", 0755) == 0 && mkdir("/mnt/work", 0755) == 0 && mkdir("/mnt/root", 0755) == 0,
         "overlay folders");
    must(mount("overlay", "/mnt/root", "overlay", 0, "lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work") == 0, "overlay");
    must(chdir("/mnt/root") == 0, "chdir");
    must(mount("proc", "proc", "proc", 0, NULL) == 0, "proc");
    must(mount("sysfs", "sys", "sysfs", 0, NULL) == 0, "sysfs");
    must(mount("devtmpfs", "dev", "devtmpfs", 0, NULL) == 0, "devtmpfs");
    must(mount("tmpfs", "run", "tmpfs", 0, NULL) == 0, "run");
    must(mkdir("run/share", 0755) == 0, "share");
    must(mount("none", "run/share", "hostfs", 0, share) == 0, share);
    must(mount("cgroup2", "sys/fs/cgroup", "cgroup2", 0, NULL) == 0, "cgroup2");
    must(mount(".", "/", NULL, MS_MOVE, NULL) == 0, "move");
    must(chroot(".") == 0 && chdir("/") == 0, "chroot");
}

int main(void)
{
    const char *mods = getenv("VM_MODS"), *share = getenv("VM_SHARE"), *dir = getenv("VM_DIR"), *run = getenv("VM_RUN");
    int status = 0;
    pid_t child;

    must(mods && share && dir && run, "VM_MODS, VM_SHARE, VM_DIR and VM_RUN are needed");
    load_modules(mods);
    overlay_root(share);
    child = fork();
    if (child == 0) {
        setsid();
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
        setenv("HOME", "/root", 1);
        if (chdir(dir) == 0)
            execl("/bin/bash", "bash", "-c", run, (char *)NULL);
        _exit(126);
    }
    for (;;) { /* also the reaper of orphans */
        int st;
        pid_t got = wait(&st);

        if (got == child)
            status = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
        if (got == child || (got < 0 && errno == ECHILD))
            break;
    }
    printf("\n@@VM-RC %d@@\n", status);
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
