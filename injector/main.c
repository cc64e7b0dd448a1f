/* squalld: the injector of one host. This file reads the command line, claims RUN/<id>, and splits into the keeper (the
 * process that was started) and squalld proper (its child). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <grp.h>

#include "cgroup.h"
#include "daemon.h"
#include "keeper.h"
#include "packet/wire.h"
#include "proxy/proxy.h"
#include "rescue.h"
#include "service.h"
#include "squall/cleanup.h"
#include "squall/err.h"
#include "squall/paths.h"
#include "squall/rng.h"
#include "squall/version.h"
#include "sweep.h"
#include "toxiproxy.h"

#define JOURNAL_SLOTS 1024 /* 4 MiB: that many processes stopped, rules set and services started at one time */

static const char usage[] =
    "squalld - the injector of one host: it adds the faults that squall asks for, and takes each of them back\n"
    "\n"
    "usage: squalld [--dir DIR] [--private] [--group GROUP]     serve the API on RUN/squalld/api.sock\n"
    "               [--toxiproxy ADDRESS]                       and Toxiproxy's API, on TCP\n"
    "               [--metrics ADDRESS]                         and counts of calls for Prometheus, on TCP\n"
    "       squalld sweep                                       take back what an earlier life left, then leave\n"
    "       squalld rescue PID                                  let a program call that lost all who answered for it\n"
    "\n"
    "  --dir DIR      keep socket, journal and lock in DIR (made; default RUN/squalld, or RUN/p-<hex> with --private)\n"
    "  --private      serve one controller: end when it quits, when its lease passes, or after 10 s without a run\n"
    "  --group GROUP  who beside root may use the API (default squall, if there is such a group)\n"
    "  --toxiproxy ADDRESS  serve Toxiproxy's HTTP API, too, say on 127.0.0.1:8474. Like Toxiproxy's it asks nobody "
    "who\n"
    "                       they are: whoever can connect to it can have squalld listen and connect\n"
    "  --toxiproxy-config FILE  proxies to begin with: JSON, as POST /populate takes it\n"
    "  --toxiproxy-seed N       which connections a toxicity below 1 hits follows from N (default: another one each "
    "time)\n"
    "  --toxiproxy-metrics      bytes of each proxy at /metrics, for Prometheus\n"
    "  --metrics ADDRESS  serve /metrics for Prometheus over HTTP, say on 127.0.0.1:9464: counts of the calls of all "
    "runs\n"
    "  --version      say the version\n"
    "\n"
    "RUN is $SQUALL_RUN_DIR, else /run/squall for root, $XDG_RUNTIME_DIR/squall for others, else /tmp/squall-UID.\n"
    "SIGTERM ends it in order: every fault is taken back, every service ended. Try it:\n"
    "  curl --unix-socket /run/squall/squalld/api.sock http://squall/v1/info\n"
    "\n"
    "exit status: 0 ended in order; 2 wrong usage; 5 could not start, or died and everything was taken back;\n"
    "6 something is left (it says what; the next start of any squall program tries again)\n";

struct options {
    char run[PATH_MAX]; /* RUN */
    char dir[PATH_MAX]; /* RUN/<id> */
    const char *group;
    bool is_private;
    bool seeded;
    const char *metrics;      /* NULL: none */
    struct sq_toxi_opts toxi; /* listen is NULL: none */
};

static int fail(const struct sq_err *e)
{
    (void)fprintf(stderr, "squalld: %s\n", e->msg);
    if (e->hint[0])
        (void)fprintf(stderr, "  hint: %s\n", e->hint);
    return sq_exit_of(e);
}

/* ---- options ---- */

static int default_dir(struct options *o, struct sq_err *e)
{
    char id[32] = "squalld";
    int rc = sq_run_dir(o->run, sizeof(o->run), e);
    if (o->is_private)
        (void)snprintf(id, sizeof(id), "p-%08" PRIx32, (uint32_t)sq_rng_entropy());
    return rc < 0 ? rc : sq_path_join(o->dir, sizeof(o->dir), o->run, id, e);
}

static int given_dir(struct options *o, const char *arg, struct sq_err *e)
{
    int n = arg[0] == '/' ? snprintf(o->dir, sizeof(o->dir), "%s", arg) : -1;
    while (n > 1 && (size_t)n < sizeof(o->dir) && o->dir[n - 1] == '/')
        o->dir[--n] = '\0';
    char *slash = strrchr(o->dir, '/');
    if (n < 2 || (size_t)n >= sizeof(o->dir) || !slash || slash == o->dir)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--dir wants an absolute path below a directory, not %.200s", arg);
    memcpy(o->run, o->dir, (size_t)(slash - o->dir));
    o->run[slash - o->dir] = '\0';
    return 0;
}

static int given_seed(struct options *o, const char *arg, struct sq_err *e)
{
    char *end;
    errno = 0;
    o->toxi.seed = strtoull(arg, &end, 10);
    o->seeded = true;
    if (errno || end == arg || *end || *arg == '-')
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--toxiproxy-seed wants a number, not %.64s", arg);
    return 0;
}

static int check_toxi(struct options *o, struct sq_err *e)
{
    const struct sq_toxi_opts *t = &o->toxi;
    if (!t->listen && (t->config || t->metrics || o->seeded))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--toxiproxy-config, -seed and -metrics go with --toxiproxy ADDRESS");
    if (t->listen && o->is_private)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "--toxiproxy is not for a --private injector, which ends with its run");
    if (!o->seeded)
        o->toxi.seed = sq_rng_entropy();
    return 0;
}

/* 1: go on; else the exit status in *status. */
static int read_options(int argc, char **argv, struct options *o, int *status)
{
    static const struct option longs[] = {{"dir", required_argument, NULL, 'd'},
                                          {"private", no_argument, NULL, 'p'},
                                          {"group", required_argument, NULL, 'g'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"toxiproxy", required_argument, NULL, 't'},
                                          {"toxiproxy-config", required_argument, NULL, 'c'},
                                          {"toxiproxy-seed", required_argument, NULL, 's'},
                                          {"toxiproxy-metrics", no_argument, NULL, 'm'},
                                          {"metrics", required_argument, NULL, 'M'},
                                          {NULL, 0, NULL, 0}};
    const char *dir = NULL;
    struct sq_err e = {0};
    int c;
    o->group = "squall";
    *status = SQ_PASS;
    while ((c = getopt_long(argc, argv, "+h", longs, NULL)) != -1) {
        if (c == 'd') {
            dir = optarg;
        } else if (c == 'p') {
            o->is_private = true;
        } else if (c == 'g') {
            o->group = optarg;
        } else if (c == 't') {
            o->toxi.listen = optarg;
        } else if (c == 'c') {
            o->toxi.config = optarg;
        } else if (c == 's') {
            (void)given_seed(o, optarg, &e);
        } else if (c == 'm') {
            o->toxi.metrics = true;
        } else if (c == 'M') {
            o->metrics = optarg;
        } else if (c == 'h') {
            (void)fputs(usage, stdout);
            return 0;
        } else if (c == 'V') {
            (void)puts("squalld " SQUALL_VERSION);
            return 0;
        } else {
            (void)fputs("try: squalld --help\n", stderr);
            *status = SQ_USAGE;
            return 0;
        }
    }
    if (optind < argc)
        sq_err_cls(&e, SQ_C_INPUT, -EINVAL, "there is no subcommand '%.64s'; try: squalld --help", argv[optind]);
    else if (dir)
        given_dir(o, dir, &e);
    else
        default_dir(o, &e);
    (void)check_toxi(o, &e);
    if (e.code)
        *status = fail(&e);
    return e.code == 0;
}

/* ---- RUN/<id> ---- */

/* The group may look in (to reach the socket), nobody else. */
static mode_t dir_mode(const char *path, const char *group)
{
    const struct group *g = geteuid() == 0 ? getgrnam(group) : NULL;
    return g && chown(path, (uid_t)-1, g->gr_gid) == 0 ? 0750 : 0700;
}

/* Made under another name and locked before it gets its own: whoever sees RUN/<id> sees it locked, or dead. Returns the
 * lock. */
static int claim(const struct options *o, struct sq_err *e)
{
    char tmp[PATH_MAX], path[PATH_MAX], name[40];
    (void)snprintf(name, sizeof(name), ".new-%016" PRIx64, sq_rng_entropy());
    int rc = sq_path_join(tmp, sizeof(tmp), o->run, name, e);
    if (!rc)
        rc = sq_path_join(path, sizeof(path), tmp, "lock", e);
    if (rc < 0)
        return rc;
    if (mkdir(tmp, 0700) < 0)
        return sq_err_sys(e, -errno, "cannot make a directory in %s", o->run);
    cleanup_close int lock = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0 || chmod(tmp, dir_mode(tmp, o->group)) < 0)
        rc = sq_err_sys(e, -errno, "cannot lock %s", path);
    else if (rename(tmp, o->dir) < 0)
        rc = errno == ENOTEMPTY || errno == EEXIST
                 ? sq_err_cls(e, SQ_C_CONFLICT, -EBUSY,
                              "an injector runs in %s already, or left what it can't be swept of", o->dir)
                 : sq_err_sys(e, -errno, "cannot make %s", o->dir);
    if (rc < 0) {
        (void)sq_sweep_remove(tmp, NULL);
        return rc;
    }
    return SQ_TAKE_FD(lock);
}

/* ---- the two processes ---- */

static void say(void *arg, const char *line)
{
    (void)arg;
    (void)fprintf(stderr, "squalld: swept: %s\n", line);
}

/* Out of the OOM killer's reach (as root), with room for many descriptors. Launchers and proxy take the first back. */
static void make_room(void)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &rl);
    }
    cleanup_close int fd = geteuid() == 0 ? open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
    if (fd >= 0 && write(fd, "-1000", 5) < 0)
        return; /* a container without CAP_SYS_RESOURCE: as good as it gets */
}

struct shared {
    struct sq_page *page;
    struct sq_beat_page *beats;
    int page_fd, beat_fd;
    int pair[2];
};

static int make_shared(struct shared *s, struct sq_err *e)
{
    void *page = NULL, *beats = NULL;
    int rc = sq_page_new(sizeof(struct sq_page), &page, &s->page_fd, e);
    if (!rc)
        rc = sq_page_new(sizeof(struct sq_beat_page), &beats, &s->beat_fd, e);
    if (!rc && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->pair) < 0)
        rc = sq_err_sys(e, -errno, "cannot make a socket pair");
    s->page = page;
    s->beats = beats;
    return rc;
}

static int block_signals(sigset_t *old)
{
    sigset_t set;
    sq_keeper_signals(&set);
    return sigprocmask(SIG_BLOCK, &set, old);
}

static int split(const struct options *o, const char *self, struct sq_journal *journal, int lock, struct sq_err *e)
{
    struct shared s = {.page_fd = -1, .beat_fd = -1};
    pid_t keeper = getpid();
    sigset_t old;
    int rc = make_shared(&s, e);
    if (rc < 0)
        return rc;
    if (o->is_private)
        (void)setsid(); /* fails for a group leader: then it keeps its terminal, and squalld has a session anyway */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    make_room();
    (void)block_signals(&old);
    pid_t child = fork();
    if (child < 0)
        return sq_err_sys(e, -errno, "cannot fork");
    if (child == 0) {
        (void)close(s.pair[0]);
        (void)prctl(PR_SET_CHILD_SUBREAPER, 0);
        if (o->is_private)
            (void)setsid();
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        struct sq_daemon_opts d = {o->dir,
                                   self,
                                   o->group,
                                   o->is_private,
                                   journal,
                                   s.page,
                                   s.beats,
                                   s.beat_fd,
                                   s.pair[1],
                                   keeper,
                                   o->toxi.listen ? &o->toxi : NULL,
                                   o->metrics};
        return sq_daemon_run(&d);
    }
    (void)close(s.pair[1]);
    const char *slash = strrchr(o->dir, '/');
    struct sq_keeper_opts k = {s.page, s.beats, journal, o->dir, slash ? slash + 1 : o->dir, s.pair[0], lock, child};
    return sq_keeper_run(&k);
}

static int serve(const struct options *o, struct sq_err *e)
{
    char self[PATH_MAX], path[PATH_MAX];
    struct sq_err swept = {0};
    struct sq_journal *journal = NULL;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0)
        return sq_err_sys(e, -errno, "cannot read /proc/self/exe");
    self[n] = '\0';
    if (sq_sweep_log(o->run, say, NULL, &swept) < 0)
        (void)fprintf(stderr, "squalld: %s\n", swept.msg); /* another injector's; ours would show in claim() */
    int lock = claim(o, e);
    if (lock < 0)
        return lock;
    /* For as long as keeper or squalld live: no other injector takes its services for its own, or sweeps them. */
    cleanup_close int cgroups = sq_cgroup_claim(strrchr(o->dir, '/') + 1, e);
    int rc = cgroups == -EBUSY ? -EBUSY : 0;
    if (!rc) {
        sq_err_clear(e);
        rc = sq_path_join(path, sizeof(path), o->dir, "journal", e);
    }
    if (!rc)
        rc = sq_journal_open(path, JOURNAL_SLOTS, &journal, e);
    if (!rc)
        rc = split(o, self, journal, lock, e);
    sq_journal_close(journal);
    if (rc < 0)
        (void)sq_sweep_remove(o->dir, NULL);
    return rc;
}

/* ---- subcommands ---- */

static void tell(void *arg, const char *line)
{
    (void)arg;
    (void)puts(line);
}

static int sweep_main(void)
{
    struct sq_err e = {0};
    if (sq_sweep_log(NULL, tell, NULL, &e) == 0)
        return SQ_PASS;
    int status = fail(&e);
    return e.code == -EBUSY ? SQ_UNCLEAN : status;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct sq_err e = {0};
    int status;
    if (argc > 1 && strcmp(argv[1], "launch") == 0)
        return sq_launch_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "proxy") == 0)
        return sq_proxy_main(argc - 1, argv + 1);
    if (argc == 2 && strcmp(argv[1], "packet") == 0)
        return sq_packet_main();
    if (argc > 1 && strcmp(argv[1], "rescue") == 0)
        return sq_rescue_main(argc - 1, argv + 1);
    if (argc == 2 && strcmp(argv[1], "sweep") == 0)
        return sweep_main();
    if (!read_options(argc, argv, &o, &status))
        return status;
    int rc = serve(&o, &e);
    return rc < 0 ? fail(&e) : rc;
}
