/* Histogram logs (version 1.3, compressed V2) as HdrHistogram's own tools read them: a line for each second and
 * endpoint, the endpoint its tag, latencies from the planned send in nanoseconds. Sources: HistogramLogWriter and
 * AbstractHistogram.encodeIntoCompressedByteBuffer of HdrHistogram 2.1. */
#include <endian.h>
#include <errno.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "report/report.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#define COOKIE UINT32_C(0x1c849313)            /* V2, words of LEB128 */
#define COOKIE_COMPRESSED UINT32_C(0x1c849314) /* V2, deflated */
#define HEADER 40
#define CELLS_MAX ((size_t)33 * 1024) /* as the histograms of evidence (squall/hist.h) */
#define HIGHEST ((INT64_C(2048) << 31) - 1)
#define VARINT 9

struct bytes {
    unsigned char *p;
    size_t n;
};

static void put32(struct bytes *b, uint32_t v)
{
    v = htobe32(v);
    memcpy(b->p + b->n, &v, 4);
    b->n += 4;
}

static void put64(struct bytes *b, uint64_t v)
{
    v = htobe64(v);
    memcpy(b->p + b->n, &v, 8);
    b->n += 8;
}

/* ZigZag LEB128-64b9B: at most nine bytes, the ninth has all of its eight bits. */
static void put_varint(struct bytes *b, int64_t value)
{
    uint64_t v = (uint64_t)value << 1 ^ (uint64_t)(value >> 63);

    for (int i = 0; i < VARINT - 1 && v >= 128; i++, v >>= 7)
        b->p[b->n++] = (unsigned char)(v | 128);
    b->p[b->n++] = (unsigned char)v;
}

/* The histogram's cells up to the last one that counts; runs of empty ones are a negative number. */
static int put_cells(struct bytes *b, const json_t *sparse, struct sq_err *e)
{
    int64_t next = 0;

    for (size_t i = 0; i + 1 < json_array_size(sparse); i += 2) {
        int64_t cell = json_integer_value(json_array_get(sparse, i));
        int64_t n = json_integer_value(json_array_get(sparse, i + 1));

        if (cell < next || cell >= (int64_t)CELLS_MAX || n < 1)
            return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a histogram of the evidence is damaged");
        if (cell > next)
            put_varint(b, next - cell);
        put_varint(b, n);
        next = cell + 1;
    }
    return 0;
}

static int encode(struct bytes *b, const json_t *sparse, struct sq_err *e)
{
    const double ratio = 1;
    uint64_t bits;
    size_t len;
    int rc;

    memcpy(&bits, &ratio, sizeof bits);
    b->n = HEADER;
    rc = put_cells(b, sparse, e);
    if (rc < 0)
        return rc;
    len = b->n - HEADER;
    b->n = 0;
    put32(b, COOKIE);
    put32(b, (uint32_t)len);
    put32(b, 0); /* no offset */
    put32(b, 3); /* significant digits */
    put64(b, 1);
    put64(b, (uint64_t)HIGHEST);
    put64(b, bits);
    b->n = HEADER + len;
    return 0;
}

/* Deflated, with its own header, as base64 (malloc'd). */
static char *pack(const struct bytes *b)
{
    uLongf room = compressBound(b->n);
    cleanup_free unsigned char *out = malloc(room + 8);
    struct bytes head = {out, 0};
    char *text;

    if (!out || compress2(out + 8, &room, b->p, b->n, Z_DEFAULT_COMPRESSION) != Z_OK)
        return NULL;
    put32(&head, COOKIE_COMPRESSED);
    put32(&head, (uint32_t)room);
    text = malloc((room + 8 + 2) / 3 * 4 + 1);
    if (text)
        (void)EVP_EncodeBlock((unsigned char *)text, out, (int)(room + 8));
    return text;
}

static double epoch_of(const char *iso)
{
    struct tm tm = {0};
    const char *rest = strptime(iso, "%Y-%m-%dT%H:%M:%S", &tm);

    return rest ? (double)timegm(&tm) + (*rest == '.' ? strtod(rest, NULL) : 0) : 0;
}

/* A line of the log is split at commas, and ends at its end. */
static void plain(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || strchr(",\"", *text) ? '_' : *text, out);
}

static int write_second(FILE *out, const struct sq_ev_endpoint *ep, const struct sq_ev_second *second, struct bytes *b,
                        struct sq_err *e)
{
    cleanup_json json_t *record = NULL;
    cleanup_json json_t *cells = NULL;
    struct sq_hist *h = sq_hist_new();
    cleanup_free char *text = NULL;
    double max = 0;
    int rc = h ? sq_ev_second_json(second, &record, e) : sq_err(e, -ENOMEM, "out of memory");

    if (rc == 0)
        rc = sq_hist_add_json(h, json_object_get(record, "h"), e);
    if (rc == 0 && sq_hist_count(h) > 0) {
        max = (double)sq_hist_max(h) / 1e6;
        cells = sq_hist_to_json(h);
        rc = cells ? encode(b, cells, e) : sq_err(e, -ENOMEM, "out of memory");
        if (rc == 0 && !(text = pack(b)))
            rc = sq_err(e, -ENOMEM, "out of memory");
    }
    sq_hist_free(h);
    if (rc == 0 && text) {
        (void)fputs("Tag=", out);
        plain(out, ep->name);
        (void)fprintf(out, ",%.3f,1.000,%.6f,%s\n", (double)second->sec, max, text);
    }
    return rc;
}

static int write_hlog(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    cleanup_free unsigned char *room = malloc(HEADER + 2 * VARINT * CELLS_MAX);
    struct bytes b = {room, 0};
    double start = epoch_of(ev->start);
    int rc = 0;

    if (!room)
        return sq_err(e, -ENOMEM, "out of memory");
    (void)fputs("#[Squall ", out);
    plain(out, ev->squall);
    (void)fputs(", run ", out);
    plain(out, ev->id);
    (void)fprintf(out,
                  ": latencies from the planned send, in ns]\n#[Histogram log format version 1.3]\n"
                  "#[StartTime: %.3f (seconds since epoch), ",
                  start);
    plain(out, ev->start);
    (void)fputs("]\n", out);
    (void)fputs("\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n", out);
    for (size_t i = 0; rc == 0 && i < ev->n_endpoints; i++)
        for (size_t k = 0; rc == 0 && k < ev->endpoints[i].n; k++)
            rc = write_second(out, &ev->endpoints[i], &ev->endpoints[i].secs[k], &b, e);
    return rc;
}

const struct sq_report sq_report_hlog = {"hlog", NULL, "histograms of every second for HdrHistogram's tools",
                                         write_hlog};
