/* What the packet backend does to the bytes of frames, and the messages that it is told what to do by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "packet/control.h"
#include "packet/frame.h"

#define MS INT64_C(1000000)
#define SEC INT64_C(1000000000)

/* ---- frames ---- */

static uint16_t ip_sum(const uint8_t *ip)
{
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static size_t tcp4(uint8_t *f, size_t payload, uint8_t tos, bool vlan)
{
    size_t at = 12;
    memset(f, 0, 2000 + payload);
    if (vlan) {
        memcpy(f + at, "\x81\0\0\x05", 4);
        at += 4;
    }
    memcpy(f + at, "\x08\0", 2);
    uint8_t *ip = f + at + 2;
    memcpy(ip, (uint8_t[]){0x45, tos, 5, 220, 1, 2, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 20);
    uint16_t sum = (uint16_t)~ip_sum(ip);
    ip[10] = (uint8_t)(sum >> 8);
    ip[11] = (uint8_t)sum;
    ip[20 + 12] = 8 << 4; /* 32 bytes of TCP */
    return at + 2 + 20 + 32 + payload;
}

static void wire_length(void **state)
{
    (void)state;
    static uint8_t f[70000];
    struct sq_frame fr;
    struct virtio_net_hdr vh = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448, .hdr_len = 66};
    size_t len = tcp4(f, 14480, 0, false);
    sq_frame_look(&vh, f, (uint32_t)len, &fr);
    assert_int_equal(fr.segs, 10);
    assert_int_equal(fr.wire, 10 * 1514);
    len = tcp4(f, 14481, 0, true);
    sq_frame_look(&vh, f, (uint32_t)len, &fr);
    assert_int_equal(fr.segs, 11);
    assert_int_equal(fr.wire, 11 * (66 + 4) + 14481);
    vh.gso_type = VIRTIO_NET_HDR_GSO_NONE;
    sq_frame_look(&vh, f, (uint32_t)len, &fr);
    assert_true(fr.segs == 1 && fr.wire == len);
}

static void ecn_mark(void **state)
{
    (void)state;
    uint8_t f[3000];
    struct sq_frame fr;
    const struct virtio_net_hdr vh = {0};
    for (unsigned tos = 0; tos < 256; tos++) {
        size_t len = tcp4(f, 10, (uint8_t)tos, tos & 4);
        sq_frame_look(&vh, f, (uint32_t)len, &fr);
        assert_int_equal(fr.ect, (tos & 3) != 0);
        assert_int_equal(ip_sum(f + fr.l3), 0xffff);
        sq_frame_mark(f, (uint32_t)len, &fr);
        assert_int_equal(f[fr.l3 + 1], tos & 3 ? tos | 3 : tos);
        assert_int_equal(ip_sum(f + fr.l3), 0xffff);
    }
    memset(f, 0, sizeof f);
    memcpy(f + 12, "\x86\xdd\x60\x20", 4); /* ECT(0) */
    sq_frame_look(&vh, f, 100, &fr);
    assert_true(fr.ect && fr.ipv == 6);
    sq_frame_mark(f, 100, &fr);
    assert_int_equal(f[15], 0x30);
}

static void one_bit(void **state)
{
    (void)state;
    uint8_t f[3000], was[3000];
    for (uint64_t random = 0; random < 5000; random++) {
        struct virtio_net_hdr vh = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};
        size_t len = tcp4(f, 10, 0, false);
        memcpy(was, f, len);
        assert_true(sq_frame_corrupt(&vh, f, (uint32_t)len, random));
        assert_int_equal(vh.flags, 0); /* it has to be checked */
        int bits = 0;
        for (size_t i = 0; i < len; i++)
            bits += __builtin_popcount(f[i] ^ was[i]);
        assert_int_equal(bits, 1);
        assert_memory_equal(f, was, 14);
    }
    /* A partial checksum is completed: put the bit back, and the sum over all of it is right. */
    struct virtio_net_hdr vh = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    size_t len = tcp4(f, 11, 0, false);
    f[50] = 0x12, f[51] = 0x34;
    assert_true(sq_frame_corrupt(&vh, f, (uint32_t)len, 0));
    f[14] ^= 1;
    uint32_t sum = 0x1234; /* of the pseudo header */
    for (size_t i = 34; i < len; i += 2)
        sum += (uint32_t)(f[i] << 8 | (i + 1 < len ? f[i + 1] : 0));
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
    vh = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 5};
    assert_false(sq_frame_corrupt(&vh, f, (uint32_t)len, 0));
    vh = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 65000, .csum_offset = 65000};
    assert_false(sq_frame_corrupt(&vh, f, (uint32_t)len, 0));
}

/* ---- messages ---- */

/* Sorted quantiles, as tc's. */
static struct sq_dist_table *some_table(int step)
{
    struct sq_dist_table *t = calloc(1, sizeof *t);

    assert_non_null(t);
    t->n = 4096;
    for (uint32_t i = 0; i < t->n; i++)
        t->v[i] = (int16_t)(((int)i - 2048) * step);
    return t;
}

static void messages(void **state)
{
    (void)state;
    struct sq_packet_set h = {.op = SQ_PK_SET, .bit = 5, .ingress = 1, .seq = 3, .seed = 77}, got;
    struct sq_impair im = {.delay = 5, .jitter = 2, .loss = 12.5, .table = some_table(1)}, back;
    struct sq_err e = {0};
    size_t len;
    im.slot_table = some_table(3);
    uint8_t *m = sq_packet_set_write(&h, &im, &len);
    assert_non_null(m);
    assert_true(len <= SQ_PACKET_MESSAGE_MAX);
    assert_int_equal(sq_packet_set_read(m, len, &got, &back, &e), 0);
    assert_true(got.seed == 77 && back.delay == 5 && back.loss == 12.5);
    assert_memory_equal(back.table->v, im.table->v, 8192);
    assert_memory_equal(back.slot_table->v, im.slot_table->v, 8192);
    free(back.table);
    free(back.slot_table);
    for (size_t cut = 0; cut < len; cut += cut < 1000 ? 1 : 97)
        assert_int_equal(sq_packet_set_read(m, cut, &got, &back, NULL), -EBADMSG);
    struct sq_impair bad = im;
    bad.delay = -1;
    memcpy(m + sizeof h, &bad, sizeof bad);
    assert_int_equal(sq_packet_set_read(m, len, &got, &back, NULL), -EBADMSG);
    bad = im;
    bad.loss = NAN;
    memcpy(m + sizeof h, &bad, sizeof bad);
    assert_int_equal(sq_packet_set_read(m, len, &got, &back, NULL), -EBADMSG);
    h.bit = SQ_CLASSIFY_FAULTS;
    memcpy(m, &h, sizeof h);
    memcpy(m + sizeof h, &im, sizeof im);
    assert_int_equal(sq_packet_set_read(m, len, &got, &back, NULL), -EBADMSG);
    free(m);
    free(im.table);
    free(im.slot_table);
}

/* What a stage says of itself, against what was asked: each parameter, both tables, the offload. */
static void read_back(void **state)
{
    (void)state;
    struct sq_impair im = {.delay = 5 * MS, .jitter = MS, .dist = SQ_DIST_TABLE, .table = some_table(1), .gap = 3};
    struct sq_packet_got g = {0};
    struct {
        const char *name;
        size_t at;
    } field[] = {{"delay", offsetof(struct sq_impair, delay)},
                 {"jitter", offsetof(struct sq_impair, jitter)},
                 {"ge_1k", offsetof(struct sq_impair, ge_1k)},
                 {"ecn", offsetof(struct sq_impair, ecn)},
                 {"gap", offsetof(struct sq_impair, gap)},
                 {"rate", offsetof(struct sq_impair, rate)},
                 {"cell_overhead", offsetof(struct sq_impair, cell_overhead)},
                 {"slot_bytes", offsetof(struct sq_impair, slot_bytes)},
                 {"limit", offsetof(struct sq_impair, limit)},
                 {"seed", offsetof(struct sq_impair, seed)}};
    assert_string_equal(sq_packet_differs(&g, &im), "stage");
    sq_packet_got_fill(&g, &im, sq_impair_limit(&im));
    assert_null(g.im.table);
    assert_null(sq_packet_differs(&g, &im));
    for (size_t i = 0; i < sizeof field / sizeof field[0]; i++) {
        ((uint8_t *)&g.im)[field[i].at] ^= 1;
        assert_non_null(sq_packet_differs(&g, &im));
        assert_string_equal(sq_packet_differs(&g, &im), field[i].name);
        ((uint8_t *)&g.im)[field[i].at] ^= 1;
    }
    im.table->v[im.table->n / 2]++;
    assert_string_equal(sq_packet_differs(&g, &im), "distribution");
    im.table->v[im.table->n / 2]--;
    im.slot_table = some_table(3);
    assert_string_equal(sq_packet_differs(&g, &im), "slot distribution");
    free(im.slot_table);
    im.slot_table = NULL;
    g.offload = 1;
    assert_null(sq_packet_differs(&g, &im));
    im.corrupt = 1;
    sq_packet_got_fill(&g, &im, sq_impair_limit(&im));
    assert_string_equal(sq_packet_differs(&g, &im), "offload");
    g.offload = 0;
    assert_null(sq_packet_differs(&g, &im));
    free(im.table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire_length), cmocka_unit_test(ecn_mark),  cmocka_unit_test(one_bit),
        cmocka_unit_test(messages),    cmocka_unit_test(read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
