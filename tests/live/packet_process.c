/* The packet process on a TAP (packet_rig.h): what it does to frames, to times, and at its end. A tool of
 * 22-packet-process.py: packet_process CASE, as root; exit status 0: as it must be. */
#include "live/packet_rig.h"

#include <ctype.h>
#include <signal.h>
#include <time.h>

#include "net/tap.h"

#define MS INT64_C(1000000)

static struct rig R;

static void open_with(unsigned bit, struct sq_impair im)
{
    rig_open(&R);
    im.limit = im.limit ? im.limit : 100000;
    MUST(rig_set(&R, bit, &im) == 0);
}

static void all_ended(void)
{
    MUST(rig_end(&R, 5000) == 0);
    MUST(*R.beat == 0);
    MUST(if_nametoindex("sqt0") == 0); /* the TAP went with it */
}

static void moves(void)
{
    uint64_t was = *R.beat;
    for (int i = 0; i < 500 && *R.beat <= was; i++)
        (void)usleep(10000);
    MUST(*R.beat > was);
}

/* Nobody, no capabilities, and its heartbeat moves. */
static void privileges(void)
{
    open_with(0, (struct sq_impair){.delay = MS});
    char path[64], line[256];
    int seen = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/status", R.pid);
    FILE *f = fopen(path, "r");
    MUST(f);
    while (fgets(line, sizeof line, f)) {
        seen += strncmp(line, "Uid:\t65534\t65534\t65534\t65534", 27) == 0;
        seen += strncmp(line, "CapEff:\t0000000000000000", 24) == 0;
        seen += strncmp(line, "CapPrm:\t0000000000000000", 24) == 0;
        seen += strncmp(line, "NoNewPrivs:\t1", 13) == 0;
    }
    (void)fclose(f);
    MUST(seen == 4);
    for (int i = 0; i < 5; i++) {
        moves();
        MUST(*R.beat <= (uint64_t)sq_mono_ns() + SQ_PACKET_ALIVE_NS);
    }
    all_ended();
}

/* Nothing leaves early; a frame comes back as it was, without its tag. */
static void delays(void)
{
    open_with(3, (struct sq_impair){.delay = 20 * MS});
    for (uint64_t i = 0; i < 50; i++) {
        int64_t took;
        rig_send(&R, 1 << 3, i);
        MUST(rig_got(&R, 5000, &took) == (int64_t)i && took >= 20 * MS);
    }
    struct sq_packet_stats s = rig_stats(&R, 3);
    MUST(s.packets == 50 && s.bytes == 50 * RIG_FRAME && s.dropped == 0 && s.held == 0);
    int64_t took, begin = sq_mono_ns();
    for (uint64_t i = 0; i < 1000; i++)
        rig_send(&R, 1 << 3, i);
    for (int64_t i = 0; i < 1000; i++) /* in order */
        MUST(rig_got(&R, 5000, &took) == i);
    MUST(sq_mono_ns() - begin >= 20 * MS);
    rig_send(&R, 0, 7); /* no fault of ours matches: at once */
    MUST(rig_got(&R, 5000, &took) == 7);
    all_ended();
}

/* Three stages: 10 ms, 20 ms, 30 ms. A packet passes those of its mask; the last bit is in the second word. */
static void composes(void)
{
    open_with(0, (struct sq_impair){.delay = 10 * MS});
    struct sq_impair im = {.delay = 20 * MS, .limit = 100}, late = {.delay = 30 * MS, .limit = 100};
    int64_t took;
    MUST(rig_set(&R, 5, &im) == 0 && rig_set(&R, 127, &late) == 0);
    rig_send(&R, 1 | 1 << 5, 1);
    MUST(rig_got(&R, 5000, &took) == 1 && took >= 30 * MS);
    struct rig_frame f;
    rig_frame(&f, 1 | 1 << 5, 2, RIG_FRAME, 0);
    f.tag.mask.w[1] = UINT64_C(1) << 63;
    int64_t now = sq_mono_ns();
    memcpy(f.sent, &now, 8);
    MUST(send(R.sock, &f, sizeof f, 0) == (ssize_t)sizeof f);
    MUST(rig_got(&R, 5000, &took) == 2 && took >= 60 * MS);
    MUST(rig_stats(&R, 0).packets == 2 && rig_stats(&R, 5).packets == 2 && rig_stats(&R, 127).packets == 1);
    /* A stage that ends keeps what it holds until that is due; the next one is passed if it is there by then. */
    rig_send(&R, 1 | 1 << 5, 3);
    (void)usleep(3000);
    MUST(rig_stats(&R, 0).held == 1);
    MUST(rig_del(&R, 0) == 0 && rig_set(&R, 0, &(struct sq_impair){.delay = 500 * MS, .limit = 1}) == 0);
    MUST(rig_got(&R, 5000, &took) == 3 && took >= 30 * MS && took < 500 * MS);
    MUST(rig_stats(&R, 0).held == 0 && rig_stats(&R, 0).packets == 0);
    all_ended();
}

/* Shares, as the process counts them and as they are seen. */
static void shares(void)
{
    enum { N = 4000 };
    static uint8_t times[N];
    open_with(1, (struct sq_impair){.loss_model = SQ_LOSS_RANDOM, .loss = 10, .duplicate = 5});
    int64_t took, got;
    int lost = 0, twice = 0;
    for (uint64_t i = 0; i < N; i++) {
        rig_send(&R, 1 << 1, i);
        while (i % 500 == 499 && (got = rig_got(&R, 300, &took)) >= 0)
            times[got]++;
    }
    for (int i = 0; i < N; i++) {
        lost += times[i] == 0;
        twice += times[i] == 2;
    }
    struct sq_packet_stats s = rig_stats(&R, 1);
    MUST(s.packets == N && s.overlimit == 0);
    MUST(s.dropped >= (uint64_t)lost && s.duplicated >= (uint64_t)twice);
    MUST(lost > 280 && lost < 480); /* 4000 x 0.1 x 0.95, +- 5 standard deviations */
    MUST(twice > 100 && twice < 240);
    all_ended();
}

static void overlimit(void)
{
    open_with(2, (struct sq_impair){.delay = 200 * MS, .limit = 10});
    int64_t took;
    for (uint64_t i = 0; i < 50; i++)
        rig_send(&R, 1 << 2, i);
    for (int64_t i = 0; i < 10; i++)
        MUST(rig_got(&R, 5000, &took) == i);
    MUST(rig_got(&R, 300, &took) == -1);
    MUST(rig_stats(&R, 2).overlimit == 40);
    all_ended();
}

/* One bit of what is behind the Ethernet header, where `corrupt` says so; ECN marks with a right checksum. */
static void changes(void)
{
    open_with(0, (struct sq_impair){.corrupt = 100});
    struct sq_impair ecn = {.loss_model = SQ_LOSS_RANDOM, .loss = 100, .ecn = true};
    uint8_t buf[2048];
    MUST(rig_set(&R, 1, &ecn) == 0);
    struct rig_frame f;
    const uint8_t *sent = (const uint8_t *)&f + sizeof f.tag;
    for (uint64_t i = 0; i < 200; i++) {
        rig_frame(&f, 1, i, RIG_FRAME, 0);
        MUST(send(R.sock, &f, sizeof f, 0) == (ssize_t)sizeof f);
        MUST(rig_recv(&R, buf, sizeof buf, 5000) == RIG_FRAME);
        int bits = 0;
        for (size_t k = 0; k < RIG_FRAME; k++)
            bits += __builtin_popcount(buf[k] ^ sent[k]);
        MUST(bits == 1 && memcmp(buf, f.eth, 14) == 0);
    }
    rig_frame(&f, 2, 1, RIG_FRAME, 2);
    MUST(send(R.sock, &f, sizeof f, 0) == (ssize_t)sizeof f);
    MUST(rig_recv(&R, buf, sizeof buf, 5000) == RIG_FRAME && buf[15] == 3);
    uint8_t right[20];
    rig_ip(right, (uint16_t)(RIG_FRAME - 14), 3);
    MUST(memcmp(buf + 14, right, 20) == 0);
    rig_frame(&f, 2, 1, RIG_FRAME, 0);
    MUST(send(R.sock, &f, sizeof f, 0) == (ssize_t)sizeof f);
    MUST(rig_recv(&R, buf, sizeof buf, 200) == 0); /* it can't be marked */
    MUST(rig_stats(&R, 1).marked == 1 && rig_stats(&R, 1).dropped == 1);
    all_ended();
}

/* 100 kbyte/s of 1000-byte packets: 10 ms each. */
static void rates(void)
{
    open_with(0, (struct sq_impair){.rate = 100000});
    uint8_t buf[2048];
    struct rig_frame *f = (struct rig_frame *)(void *)buf;
    memset(buf, 0, sizeof buf);
    rig_frame(f, 1, 0, 1000, 0);
    int64_t begin = sq_mono_ns();
    for (int i = 0; i < 50; i++)
        MUST(send(R.sock, buf, sizeof f->tag + 1000, 0) > 0);
    for (int i = 0; i < 50; i++)
        MUST(rig_recv(&R, buf, sizeof buf, 5000) == 1000);
    int64_t took = sq_mono_ns() - begin;
    MUST(took >= 490 * MS && took < 1500 * MS);
    all_ended();
}

/* VLAN tag beside the packet, as the TUN driver puts it; frames above 16,000 bytes in the other form. */
static void forms(void)
{
    open_with(0, (struct sq_impair){.delay = MS});
    static uint8_t in[70000], out[70000];
    struct rig_frame f;
    rig_frame(&f, 1, 9, RIG_FRAME, 0);
    f.tag.magic |= SQ_PACKET_VLAN;
    memcpy(in, &f, 12);
    memcpy(in + 12, "\x81\0\0\x2a", 4);
    memcpy(in + 16, (uint8_t *)&f + 12, sizeof f - 12);
    MUST(send(R.sock, in, sizeof f + 4, 0) == (ssize_t)(sizeof f + 4));
    MUST(rig_recv(&R, out, sizeof out, 5000) >= RIG_FRAME);
    /* A packet socket takes the tag out of the frame again; the rest is as it was. */
    MUST(memcmp(out, f.eth, 12) == 0);
    size_t len = 20000;
    memset(in, 0x5a, sizeof in);
    memcpy(in, f.eth, 12);
    for (int i = 0; i < 8; i++)
        memcpy(in + 12 + 4 * i, (uint8_t[]){0x88, 0xa8, 0, i == 7}, 4);
    memcpy(in + 44, "\x08\0", 2);
    MUST(send(R.sock, in, len, 0) == (ssize_t)len);
    MUST(rig_recv(&R, out, sizeof out, 5000) == len - 32);
    MUST(memcmp(out, in, 12) == 0 && memcmp(out + 12, in + 44, len - 44) == 0);
    MUST(rig_stats(&R, 0).packets == 2);
    for (size_t n = 14; n < 60; n++) /* no frames of ours */
        (void)send(R.sock, in, n, 0);
    memcpy(in, &f, sizeof f);
    for (size_t n = 15; n < sizeof f.tag + 14; n++)
        (void)send(R.sock, in, n, 0);
    MUST(rig_recv(&R, out, sizeof out, 300) == 0);
    MUST(rig_stats(&R, 0).packets == 2);
    all_ended();
}

/* The end loses nothing: what is held comes when it is due. SQUALLD: squalld dies instead of saying END. */
static void drains(bool squalld_dies)
{
    enum { N = 2000 };
    static uint8_t seen[N];
    open_with(0, (struct sq_impair){.delay = 300 * MS, .jitter = 100 * MS});
    for (uint64_t i = 0; i < N; i++)
        rig_send(&R, 1, i);
    uint32_t op = SQ_PK_END;
    if (squalld_dies)
        (void)close(R.ctl);
    else
        MUST(send(R.ctl, &op, sizeof op, 0) == (ssize_t)sizeof op);
    int64_t began = sq_mono_ns(), took;
    while (*R.beat != 0) /* first of all, new packets go direct */
        MUST(sq_mono_ns() - began < 5000 * MS && usleep(100) == 0);
    for (int i = 0; i < N; i++) {
        int64_t got = rig_got(&R, 5000, &took);
        MUST(got >= 0 && !seen[got] && took >= 200 * MS);
        seen[got] = 1;
    }
    MUST(rig_wait(&R, 10000) == 0);
}

static void end(void)
{
    drains(false);
}

static void orphan(void)
{
    drains(true);
}

/* Stopped, it vouches for itself no longer; killed, its TAP is gone at once. */
static void hangs_and_dies(void)
{
    open_with(0, (struct sq_impair){.delay = 10 * MS});
    MUST(kill(R.pid, SIGSTOP) == 0);
    (void)usleep(400000);
    MUST(*R.beat < (uint64_t)sq_mono_ns());
    MUST(kill(R.pid, SIGCONT) == 0);
    moves();
    MUST(*R.beat > (uint64_t)sq_mono_ns());
    MUST(kill(R.pid, SIGKILL) == 0);
    MUST(rig_wait(&R, 10000) == 128 + SIGKILL);
    MUST(if_nametoindex("sqt0") == 0);
    const volatile struct sq_packet_beat *beat = (void *)(uintptr_t)R.beat;
    MUST(beat->owner & SQ_PACKET_DIED);
}

/* A TAP that is deleted while packets are held: it must not spin, nor die of it before it is told to. */
static void tap_goes(void)
{
    open_with(0, (struct sq_impair){.delay = 50 * MS});
    for (uint64_t i = 0; i < 100; i++)
        rig_send(&R, 1, i);
    pid_t ip = fork();
    if (ip == 0)
        _exit(execlp("ip", "ip", "link", "del", "sqt0", (char *)NULL));
    int status;
    MUST(waitpid(ip, &status, 0) == ip && status == 0);
    (void)usleep(300000);
    MUST(rig_stats(&R, 0).packets == 100 && rig_stats(&R, 0).held == 0);
    clockid_t c;
    struct timespec a, b;
    MUST(clock_getcpuclockid(R.pid, &c) == 0 && clock_gettime(c, &a) == 0);
    (void)usleep(500000);
    MUST(clock_gettime(c, &b) == 0);
    MUST((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec < 100 * MS);
    MUST(rig_end(&R, 10000) == 0);
}

/* Read back by value: what a stage carries out, and whether the kernel lets in what it can't. */
static void reads_back(void)
{
    struct sq_impair im = {.delay = 20 * MS, .jitter = MS, .loss_model = SQ_LOSS_GEMODEL, .ge_p = 1, .ge_r = 10};
    bool on = false;
    open_with(3, im);
    im.limit = 100000;
    struct sq_packet_got g = rig_get(&R, 3);
    MUST(!sq_packet_differs(&g, &im) && g.offload == 1);
    MUST(sq_tap_offload("sqt0", &on, NULL) == 0 && on);
    im.ge_p = 2;
    MUST(strcmp(sq_packet_differs(&g, &im), "ge_p") == 0);
    im.corrupt = 1;
    im.limit = 0; /* then the process sizes it as we do */
    MUST(rig_set(&R, 3, &im) == 0);
    g = rig_get(&R, 3);
    MUST(!sq_packet_differs(&g, &im) && g.offload == 0 && g.im.limit == sq_impair_limit(&im));
    MUST(sq_tap_offload("sqt0", &on, NULL) == 0 && !on);
    MUST(rig_del(&R, 3) == 0);
    g = rig_get(&R, 3);
    MUST(strcmp(sq_packet_differs(&g, &im), "stage") == 0 && g.offload == 1);
    MUST(!rig_get(&R, SQ_CLASSIFY_FAULTS).on);
    all_ended();
}

/* Messages that make no sense are answered, and change nothing. */
static void nonsense(void)
{
    open_with(0, (struct sq_impair){.delay = 10 * MS});
    struct sq_impair bad = {.delay = -5};
    MUST(rig_set(&R, 0, &bad) == -EBADMSG);
    MUST(rig_set(&R, SQ_CLASSIFY_FAULTS, &(struct sq_impair){.delay = 5}) == -EBADMSG);
    MUST(rig_del(&R, SQ_CLASSIFY_FAULTS) == -EBADMSG && rig_del(&R, 100) == 0);
    uint8_t junk[512];
    for (size_t n = 1; n < sizeof junk; n += 7) {
        int32_t a[2];
        memset(junk, (int)n, sizeof junk);
        memcpy(junk, &(uint32_t){SQ_PK_SET}, 4);
        MUST(send(R.ctl, junk, n, 0) == (ssize_t)n);
        if (n >= 4)
            MUST(recv(R.ctl, a, sizeof a, 0) == sizeof a && a[1] != 0);
    }
    int64_t took;
    rig_send(&R, 1, 5);
    MUST(rig_got(&R, 5000, &took) == 5 && took >= 10 * MS);
    all_ended();
}

static const struct {
    const char *name;
    void (*run)(void);
} CASES[] = {
    {"privileges", privileges}, {"delays", delays},         {"composes", composes},
    {"shares", shares},         {"overlimit", overlimit},   {"changes", changes},
    {"rates", rates},           {"forms", forms},           {"end", end},
    {"orphan", orphan},         {"hangs", hangs_and_dies},  {"tap-goes", tap_goes},
    {"nonsense", nonsense},     {"reads-back", reads_back},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        if (argc < 2)
            (void)puts(CASES[i].name);
        if (argc < 2 || strcmp(argv[1], CASES[i].name) != 0)
            continue;
        if (unshare(CLONE_NEWNET) != 0) {
            perror("a network namespace");
            return 77;
        }
        rig_exact();
        CASES[i].run();
        return 0;
    }
    return argc < 2 ? 0 : 2;
}
