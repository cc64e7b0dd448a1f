/* From a target to groups: what is read, what is refused and why, how it is said; names resolved where they are meant,
 * by a real name server in a network namespace; whose traffic it is, in real cgroups with real sockets. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cgroup.h"
#include "faults/fault.h"
#include "net/classifier.h"
#include "net/netns.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"

#include "classid.skel.h"

static json_t *target(const char *text)
{
    cleanup_json json_t *in = json_loads(text, 0, NULL);
    struct sq_err e = {0};
    json_t *out = NULL;

    assert_non_null(in);
    if (sq_spec_normalize("target", sq_target_params(SQ_T_NETWORK), in, &out, &e) < 0)
        print_error("%s\n", e.msg);
    assert_non_null(out);
    return out;
}

static int read_it(const char *text, struct sq_match *m, struct sq_err *e)
{
    cleanup_json json_t *t = target(text);

    return sq_match_read(t, m, e);
}

static void test_text(void **state)
{
    static const char *const cases[][2] = {
        {"{\"interface\":\"eth0\"}", "every packet"},
        {"{\"match\":{\"host\":\"10.0.0.0/8\",\"port\":5432,\"protocol\":\"tcp\"}}", "tcp to 10.0.0.0/8 port 5432"},
        {"{\"match\":[{\"host\":[\"db.stg\",\"2001:db8::/32\"]},{\"host\":\"10.0.0.1\",\"dscp\":46}],"
         "\"except\":{\"local_port\":[22,\"8000-8100\"]}}",
         "to db.stg,2001:db8::/32 or to 10.0.0.1 dscp 46 except local port 22,8000-8100"},
        {"{\"interface\":\"eth0\",\"match\":{\"vlan\":5},\"except\":{\"protocol\":\"icmp\"}}", "vlan 5 except icmp"},
    };
    char buf[200], small[12];

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_match m;

        assert_int_equal(read_it(cases[i][0], &m, NULL), 0);
        assert_string_equal(sq_match_text(&m, buf, sizeof buf), cases[i][1]);
        assert_int_equal(strlen(sq_match_text(&m, small, sizeof small)), sizeof small - 1);
        sq_match_clear(&m);
    }
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"{}", "interface: auto needs a \"host\""},
        {"{\"match\":[{\"host\":\"10.0.0.1\"},{\"port\":5}]}", "in every group"},
        {"{\"interface\":\"eth0\",\"match\":[]}", "empty list"},
        {"{\"interface\":\"eth0\",\"match\":{}}", "empty group"},
        {"{\"interface\":\"eth0\",\"except\":{\"protocol\":\"any\"}}", "empty group"},
        {"{\"interface\":\"eth0\",\"match\":{\"host\":[]}}", "nothing could match"},
        {"{\"match\":{\"host\":\"10.0.0.1/33\"}}", "0 to 32 bits"},
        {"{\"match\":{\"host\":\"10.0.0.1/8\"}}", "beyond its prefix"},
        {"{\"match\":{\"host\":\"10.0.0.256\"}}", "not an address"},
        {"{\"match\":{\"host\":\"-x\"}}", "not an address"},
        {"{\"match\":{\"host\":\"a\",\"port\":0}}", "not a port"},
        {"{\"match\":{\"host\":\"a\",\"port\":\"9-8\"}}", "ends before it begins"},
        {"{\"match\":{\"host\":\"a\",\"port\":\"1-65536\"}}", "not a port"},
        {"{\"match\":{\"host\":\"a\",\"port\":1,\"protocol\":\"icmp\"}}", "icmp has no ports"},
        {"{\"match\":{\"host\":\"a\",\"dscp\":64}}", "between 0 and 63"},
        {"{\"match\":{\"host\":\"a\",\"vlan\":0}}", "between 1 and 4094"},
        {"{\"interface\":\"eth0\",\"of\":{}}", "exactly one of"},
        {"{\"interface\":\"eth0\",\"of\":{\"pid\":5,\"port\":5}}", "exactly one of"},
        {"{\"interface\":\"eth0\",\"of\":{\"pid\":5,\"instance\":0}}", "goes with \"service\""},
        {"{\"interface\":\"a/b\"}", "can't be the name"},
        {"{\"interface\":\"eth0\",\"namespace\":\"pid:\"}", "can't be a network namespace"},
    };

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(cases); i++) {
        struct sq_match m;
        struct sq_err e = {0};

        assert_int_equal(read_it(cases[i][0], &m, &e), -EINVAL);
        if (!strstr(e.msg, cases[i][1]))
            print_error("%s: %s\n", cases[i][0], e.msg);
        assert_non_null(strstr(e.msg, cases[i][1]));
        assert_int_equal(e.cls, SQ_C_INPUT);
        sq_match_clear(&m);
    }
}

/* ---- spare_control ---- */

static void test_probe_is_spared(void **state)
{
    struct sq_match m;
    struct sq_err e = {0};
    cleanup_json json_t *given = json_pack("[s,s]", "127.0.0.1:8080", "[::1]:81"), *notes = json_array();
    cleanup_json json_t *probe = sq_match_probe(given, &e);

    (void)state;
    assert_non_null(probe);
    assert_string_equal(sq_json_str_or(json_array_get(probe, 0), "from", ""), "::ffff:127.0.0.1");
    assert_int_equal(read_it("{\"match\":{\"host\":\"127.0.0.1\",\"port\":8080}}", &m, &e), 0);
    assert_int_equal(sq_match_spare(&m, probe, notes, &e), 0);
    assert_true(m.n_except >= 4); /* and SSH's, where there is one */
    const struct sq_group *to = &m.except[m.n_except - 4], *from = to + 1;
    assert_int_equal(to->n_host, 1);
    assert_int_equal(to->port[0].from, 8080);
    assert_int_equal(to->n_local_port, 0);
    assert_int_equal(from->local_port[0].to, 8080);
    char *said = json_dumps(notes, 0);
    assert_non_null(strstr(said, "the target names what the probe measures"));
    assert_non_null(strstr(said, "excepted: the probe's path to [::1]:81"));
    free(said);
    sq_match_clear(&m);

    static const char *const wrong[] = {
        "x", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "localhost:80", "10.0.0.0/8:80"};
    for (size_t i = 0; i < SQ_COUNT(wrong); i++) {
        cleanup_json json_t *bad = json_pack("[s]", wrong[i]);
        assert_null(sq_match_probe(bad, NULL));
    }
}

/* ---- names ---- */

static void run(const char *const argv[])
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status)
        print_error("%s %s %s: %d\n", argv[0], argv[1], argv[2], status);
    assert_int_equal(status, 0);
}

static void put_file(const char *path, const char *text)
{
    cleanup_fclose FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
}

static pid_t name_server(const char *ns, const char *addr)
{
    char arg[2][100];
    pid_t pid;

    snprintf(arg[0], sizeof arg[0], "--address=/db.stg/%s", addr);
    snprintf(arg[1], sizeof arg[1], "--pid-file=/run/%s.pid", ns);
    pid = fork();
    if (pid == 0) {
        execlp("ip", "ip", "netns", "exec", ns, "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", arg[1],
               "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", arg[0], "--address=/both.stg/10.9.9.9",
               "--address=/both.stg/2001:db8::9", NULL);
        _exit(127);
    }
    return pid;
}

static int resolve(const char *text, const struct sq_netns *ns, struct sq_match *m, struct sq_err *e)
{
    int r = -EHOSTUNREACH;

    for (int i = 0; i < 60 && r < 0; i++) { /* the server needs a moment */
        sq_err_clear(e);
        assert_int_equal(read_it(text, m, NULL), 0);
        r = sq_match_resolve(m, ns, NULL, e);
        if (r < 0) {
            sq_match_clear(m);
            nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        }
    }
    return r;
}

static void test_names(void **state)
{
    char name[40], dir[80], conf[100];
    struct sq_netns ns;
    struct sq_match m;
    struct sq_err e = {0};
    bool changed = false;

    (void)state;
    if (geteuid() != 0 || access("/usr/sbin/dnsmasq", X_OK) < 0)
        skip();
    snprintf(name, sizeof name, "sqt-match-dns%d", (int)getpid());
    snprintf(dir, sizeof dir, "/etc/netns/%s", name);
    snprintf(conf, sizeof conf, "%s/resolv.conf", dir);
    run((const char *[]){"ip", "netns", "add", name, NULL});
    run((const char *[]){"ip", "-n", name, "link", "set", "lo", "up", NULL});
    mkdir("/etc/netns", 0755);
    assert_int_equal(mkdir(dir, 0755), 0);
    put_file(conf, "nameserver 127.0.0.1\n");
    pid_t server = name_server(name, "10.7.7.7");
    assert_int_equal(sq_netns_open(name, &ns, &e), 0);
    int r =
        resolve("{\"match\":{\"host\":[\"db.stg\",\"db.stg\",\"192.0.2.0/24\"]},\"except\":{\"host\":\"both.stg\"}}",
                &ns, &m, &e);
    if (r < 0)
        print_error("%s\n", e.msg);
    char a[INET6_ADDRSTRLEN] = "", b[INET6_ADDRSTRLEN] = "";
    size_t n = r ? 0 : m.match[0].n_host, both = r ? 0 : m.except[0].n_host;
    if (n == 3)
        inet_ntop(AF_INET6, &m.match[0].host[1].addr, a, sizeof a);
    if (both == 2)
        inet_ntop(AF_INET6, &m.except[0].host[1].addr, b, sizeof b);
    int again = r ? r : sq_match_resolve(&m, &ns, &changed, &e);
    bool changed_again = changed;

    /* Other addresses: seen, and without blocking. */
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    server = name_server(name, "10.7.7.8");
    struct sq_resolving *busy = NULL;
    int fd = -1, later = -EHOSTUNREACH;
    for (int i = 0; i < 60 && later == -EHOSTUNREACH; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        assert_int_equal(sq_resolving_begin(&m, &ns, &busy, &fd, &e), 0);
        while ((later = sq_resolving_end(busy, &m, &changed, NULL)) == -EAGAIN)
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        sq_resolving_free(busy);
    }
    char c[INET6_ADDRSTRLEN] = "";
    if (later == 0)
        inet_ntop(AF_INET6, &m.match[0].host[1].addr, c, sizeof c);

    /* Unknown, and a server that says nothing. */
    struct sq_match no;
    struct sq_err none = {0}, dead = {0};
    assert_int_equal(read_it("{\"match\":{\"host\":\"no.such.stg.invalid\"}}", &no, NULL), 0);
    int unknown = sq_match_resolve(&no, &ns, NULL, &none);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    time_t begin = time(NULL);
    int silent = sq_match_resolve(&no, &ns, NULL, &dead);
    time_t took = time(NULL) - begin;
    sq_match_clear(&no);
    sq_match_clear(&m);
    sq_netns_close(&ns);
    unlink(conf);
    rmdir(dir);
    rmdir("/etc/netns");
    run((const char *[]){"ip", "netns", "del", name, NULL});

    assert_int_equal(r, 0);
    assert_int_equal(n, 3);
    assert_string_equal(a, "::ffff:10.7.7.7");
    assert_int_equal(both, 2);
    assert_true(strcmp(b, "2001:db8::9") == 0 || strcmp(b, "::ffff:10.9.9.9") == 0);
    assert_int_equal(again, 0);
    assert_false(changed_again);
    assert_int_equal(later, 0);
    assert_true(changed);
    assert_string_equal(c, "::ffff:10.7.7.8");
    assert_int_equal(unknown, -EHOSTUNREACH);
    assert_non_null(strstr(none.msg, "no.such.stg.invalid"));
    assert_int_equal(none.cls, SQ_C_NOTFOUND);
    assert_int_equal(silent, -EHOSTUNREACH);
    assert_true(took <= 7);
}

/* ---- whose traffic ---- */

static void lo_up(void)
{
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    cleanup_close int s = socket(AF_INET, SOCK_DGRAM, 0);

    if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
        _exit(10);
}

struct hook {
    struct classid *skel;
    struct sq_classifier *c;
};

/* The classifier at lo's own hook; with direct action its class numbers mean nothing, and it counts. */
static struct hook attach(bool egress)
{
    struct hook h = {.skel = classid__open()};
    struct sq_classify_maps maps;

    SQ_CLASSIFY_LOOK(h.skel->rodata);
    if (classid__load(h.skel) < 0)
        _exit(11);
    maps = (struct sq_classify_maps){
        .rules = bpf_map__fd(h.skel->maps.rules),
        .n_rules = bpf_map__fd(h.skel->maps.n_rules),
        .prefixes = bpf_map__fd(h.skel->maps.prefixes),
        .ports = bpf_map__fd(h.skel->maps.ports),
        .counts = bpf_map__fd(h.skel->maps.counts),
        .env = sq_classify_env_of(&h.skel->rodata->sq_classify_env),
    };
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = 1, .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, o,
                .prog_fd =
                    bpf_program__fd(egress ? h.skel->progs.sq_classid_egress : h.skel->progs.sq_classid_ingress));
    libbpf_set_print(NULL);
    int r = bpf_tc_hook_create(&hook);
    if ((r < 0 && r != -EEXIST) || bpf_tc_attach(&hook, &o) < 0 || sq_classifier_new(&maps, egress, &h.c, NULL) < 0)
        _exit(12);
    return h;
}

static uint64_t packets(const struct hook *h, int bit)
{
    struct sq_classify_count n = {0};

    if (sq_classifier_count(h->c, bit, &n, NULL) < 0)
        _exit(13);
    return n.packets;
}

/* A socket made in CGROUP. */
static int socket_in(const char *cgroup, int family, int type)
{
    char home[SQ_CGROUP_MAX];

    if (sq_cgroup_of(0, home, sizeof home, NULL) < 0 || sq_cgroup_enter(cgroup, 0, NULL) < 0)
        _exit(14);
    int s = socket(family, type, 0);
    if (sq_cgroup_enter(home, 0, NULL) < 0)
        _exit(15);
    return s;
}

static void talk(const char *server_in, const char *client_in, int family, int type)
{
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *a = family == AF_INET6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4;
    socklen_t len = family == AF_INET6 ? sizeof a6 : sizeof a4;
    int server = socket_in(server_in, family, type), client = socket_in(client_in, family, type);
    char b[16];

    if (bind(server, a, len) < 0 || getsockname(server, a, &len) < 0 ||
        (type == SOCK_STREAM && listen(server, 1) < 0) || connect(client, a, len) < 0)
        _exit(16);
    if (type == SOCK_STREAM) {
        int one = accept(server, NULL, NULL);
        close(server);
        server = one;
    }
    if (send(client, "hello", 5, 0) != 5 || recv(server, b, sizeof b, 0) != 5)
        _exit(17);
    close(client);
    close(server);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

static int one_match(struct hook *h, const char *cgroup)
{
    struct sq_of of = {0};
    struct sq_match m = {.of = &of, .n_of = 1};

    if (sq_cgroup_id(cgroup, &of.id, &of.level, NULL) < 0)
        _exit(18);
    int bit = sq_classifier_add(h->c, &m, NULL);
    return bit < 0 ? (_exit(19), -1) : bit;
}

/* In a child: a network namespace of its own. Says by its status which expectation did not hold. */
static void cgroups_child(const char *mine, const char *below, const char *other)
{
    if (unshare(CLONE_NEWNET) < 0)
        _exit(9);
    lo_up();
    struct hook out = attach(true), in = attach(false);
    for (int i = 0; i < 4; i++) {
        int family = i % 2 ? AF_INET6 : AF_INET, type = i < 2 ? SOCK_STREAM : SOCK_DGRAM, step = 20 + 10 * i;
        int o = one_match(&out, mine), n = one_match(&in, mine);

        talk(other, other, family, type);
        if (packets(&out, o) || packets(&in, n))
            _exit(step + 1); /* a bystander */
        talk(other, mine, family, type);
        uint64_t sent = packets(&out, o), got = packets(&in, n);
        if (!sent)
            _exit(step + 2);
        if (type == SOCK_STREAM ? !got : got)
            _exit(step + 3); /* over UDP nothing came back */
        talk(below, other, family, type);
        if (packets(&in, n) <= got)
            _exit(step + 4); /* what comes for a descendant */
        if (type == SOCK_STREAM ? packets(&out, o) <= sent : packets(&out, o) != sent)
            _exit(step + 5);
        sq_classifier_remove(out.c, o);
        sq_classifier_remove(in.c, n);
    }
    _exit(0);
}

static void test_cgroups(void **state)
{
    char root[SQ_CGROUP_MAX], mine[SQ_CGROUP_MAX + 40], below[sizeof mine + 8], other[sizeof mine];
    struct sq_classify_env env;
    int status;

    (void)state;
    if (geteuid() != 0 || sq_cgroup_root(root, sizeof root, NULL) < 0)
        skip();
    sq_classify_look(&env);
    if (!env.sock_cgroup) {
        print_message("this kernel has no BTF\n");
        skip();
    }
    snprintf(mine, sizeof mine, "%s/sqt-match-a%d", root, (int)getpid());
    snprintf(below, sizeof below, "%s/below", mine);
    snprintf(other, sizeof other, "%s/sqt-match-b%d", root, (int)getpid());
    assert_int_equal(mkdir(mine, 0755) | mkdir(below, 0755) | mkdir(other, 0755), 0);
    pid_t pid = fork();
    if (pid == 0)
        cgroups_child(mine, below, other);
    waitpid(pid, &status, 0);
    rmdir(below);
    rmdir(mine);
    rmdir(other);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static pid_t sleeper(const char *cgroup)
{
    pid_t pid = fork();

    if (pid == 0) {
        execlp("sleep", "sleep", "60", NULL); /* another program: tests are built of Squall's own */
        _exit(127);
    }
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    assert_int_equal(sq_cgroup_enter(cgroup, pid, NULL), 0);
    return pid;
}

/* A process whose cgroup holds others is refused, with their names. */
static void test_of(void **state)
{
    char root[SQ_CGROUP_MAX], mine[SQ_CGROUP_MAX + 40], text[100];
    struct sq_fault f = {.hit = NULL};
    struct sq_match m = {0};
    struct sq_err e = {0};
    cleanup_json json_t *hit = json_array(), *notes = json_array();

    (void)state;
    if (geteuid() != 0 || sq_cgroup_root(root, sizeof root, NULL) < 0)
        skip();
    snprintf(mine, sizeof mine, "%s/sqt-match-c%d", root, (int)getpid());
    assert_int_equal(mkdir(mine, 0755), 0);
    pid_t a = sleeper(mine);
    snprintf(text, sizeof text, "{\"interface\":\"lo\",\"of\":{\"pid\":%d}}", (int)a);
    f.target = target(text);
    int alone = sq_match_of(&f, &m, hit, notes, &e);
    size_t n = m.n_of, hits = json_array_size(hit);
    pid_t b = sleeper(mine);
    int shared = sq_match_of(&f, &m, hit, notes, &e);
    kill(a, SIGKILL);
    kill(b, SIGKILL);
    waitpid(a, NULL, 0);
    waitpid(b, NULL, 0);
    rmdir(mine);
    json_decref(f.target);
    sq_match_clear(&m);
    if (alone < 0)
        print_error("%s\n", e.msg);
    assert_int_equal(alone, 0);
    assert_int_equal(n, 1);
    assert_int_equal(hits, 1);
    assert_int_equal(shared, -EBUSY);
    snprintf(text, sizeof text, "pid %d", (int)b);
    assert_non_null(strstr(e.msg, text));
    assert_int_equal(e.cls, SQ_C_CONFLICT);

    /* Everybody is no target; what is not there neither. */
    uint64_t id;
    uint32_t level;
    char path[SQ_CGROUP_MAX];
    assert_int_equal(sq_cgroup_find("/", path, sizeof path, NULL), 0);
    assert_int_equal(sq_cgroup_id(path, &id, &level, NULL), -EINVAL);
    assert_int_equal(sq_cgroup_find("/no/such", path, sizeof path, NULL), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),  cmocka_unit_test(test_refused), cmocka_unit_test(test_probe_is_spared),
        cmocka_unit_test(test_names), cmocka_unit_test(test_cgroups), cmocka_unit_test(test_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
