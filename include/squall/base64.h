/* Base64 (RFC 4648, section 4). */
#ifndef SQUALL_BASE64_H
#define SQUALL_BASE64_H

#include <stddef.h>

/* Characters of N bytes, without the 0 behind them. */
#define SQ_BASE64_LEN(n) (((n) + 2) / 3 * 4)

/* LEN characters at TEXT into OUT (room for 3/4 of them), with or without padding. Returns bytes; 0: it is none. */
size_t sq_base64_decode(const char *text, size_t len, unsigned char *out);
/* LEN bytes into OUT (room for SQ_BASE64_LEN(LEN) + 1), padded, with a 0 behind it. */
void sq_base64_encode(const unsigned char *bytes, size_t len, char *out);

#endif
