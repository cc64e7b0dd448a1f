/* What is written of HTTP/2: frames (RFC 9113), and header blocks that use no table (RFC 7541). */
#include "proxy/h2_priv.h"

#include <string.h>

void sq_h2_put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16 & 255);
    p[2] = (unsigned char)(v >> 8 & 255);
    p[3] = (unsigned char)(v & 255);
}

uint32_t sq_h2_get32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

void sq_h2_frame(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    unsigned char fh[9] = {(unsigned char)(n >> 16 & 255), (unsigned char)(n >> 8 & 255), (unsigned char)(n & 255),
                           type, flags};
    sq_h2_put32(fh + 5, id);
    sq_out_put(o, (char *)fh, sizeof(fh));
    sq_out_put(o, p, n);
}

/* RFC 7541, 5.1 with a prefix of 7 bits */
static void integer(struct sq_out *o, size_t v)
{
    unsigned char c = v < 127 ? (unsigned char)v : 127;
    sq_out_put(o, (char *)&c, 1);
    if (v < 127)
        return;
    for (v -= 127; v >= 128; v >>= 7) {
        c = (unsigned char)(v & 127) | 128;
        sq_out_put(o, (char *)&c, 1);
    }
    c = (unsigned char)v;
    sq_out_put(o, (char *)&c, 1);
}

void sq_h2_literal(struct sq_out *o, struct sq_text name, struct sq_text value, bool secret)
{
    sq_out_put(o, secret ? "\x10" : "\0", 1); /* RFC 7541, 6.2.3 and 6.2.2 */
    integer(o, name.n);
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i] >= 'A' && name.p[i] <= 'Z' ? (char)(name.p[i] + 'a' - 'A') : name.p[i];
        sq_out_put(o, &c, 1);
    }
    integer(o, value.n);
    sq_out_put(o, value.p, value.n);
}

void sq_h2_field(struct sq_out *o, const char *name, const char *value)
{
    sq_h2_literal(o, (struct sq_text){name, strlen(name)}, (struct sq_text){value, strlen(value)}, false);
}

/* A block begins: no table is used from here on. */
void sq_h2_begin_block(struct sq_out *o)
{
    sq_out_put(o, "\x20", 1); /* size update to 0, which also answers every SETTINGS_HEADER_TABLE_SIZE */
}

/* HEADERS or PUSH_PROMISE with its CONTINUATIONs. */
void sq_h2_block_frames(struct sq_out *o, uint8_t type, uint8_t flags, uint32_t id, const struct sq_out *prefix,
                        const struct sq_out *block)
{
    struct sq_out all = {0};
    if (prefix)
        sq_out_put(&all, prefix->p, prefix->n);
    sq_out_put(&all, block->p, block->n);
    size_t at = 0;
    do {
        size_t some = all.n - at < FRAME_MAX ? all.n - at : FRAME_MAX;
        uint8_t last = at + some == all.n ? END_HEADERS : 0;
        sq_h2_frame(o, at ? CONTINUATION : type, (uint8_t)((at ? 0 : flags) | last), id, all.p + at, some);
        at += some;
    } while (at < all.n);
    o->failed = o->failed || all.failed || block->failed;
    sq_out_free(&all);
}

/* gRPC over HTTP/2, Responses: Percent-Encoded */
void sq_h2_percent_encoded(struct sq_out *block, const char *name, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    struct sq_out value = {0};
    for (; *s; s++) {
        char code[3] = {'%', hex[(unsigned char)*s >> 4], hex[*s & 15]};
        bool plain = *s >= ' ' && *s <= '~' && *s != '%';
        sq_out_put(&value, plain ? s : code, plain ? 1 : 3);
    }
    sq_h2_literal(block, (struct sq_text){name, strlen(name)}, (struct sq_text){value.p, value.n}, false);
    block->failed = block->failed || value.failed;
    sq_out_free(&value);
}
