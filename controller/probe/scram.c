#include "probe/scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/rng.h"

#define ITERATIONS_MAX 200000 /* more would make the probe itself late */

static void hmac(const unsigned char key[SQ_SCRAM_KEY], const char *text, unsigned char out[SQ_SCRAM_KEY])
{
    unsigned len = SQ_SCRAM_KEY;

    (void)HMAC(EVP_sha256(), key, SQ_SCRAM_KEY, (const unsigned char *)text, strlen(text), out, &len);
}

void sq_scram_first(struct sq_scram *s, char *out)
{
    (void)snprintf(s->first, sizeof s->first, "n=,r=%016llx%016llx", (unsigned long long)sq_rng_entropy(),
                   (unsigned long long)sq_rng_entropy());
    (void)snprintf(out, SQ_SCRAM_TEXT, "n,,%s", s->first);
}

/* The attribute NAME of "r=...,s=...,i=..." into OUT; false: not there, or too long. */
static bool attribute(const char *text, size_t len, char name, char *out, size_t room)
{
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, ',', len - at);
        size_t n = end ? (size_t)(end - text) - at : len - at;

        if (n >= 2 && text[at] == name && text[at + 1] == '=') {
            if (n - 2 >= room)
                return false;
            memcpy(out, text + at + 2, n - 2);
            out[n - 2] = '\0';
            return true;
        }
        at += n + 1;
    }
    return false;
}

/* Bytes; -1: not base64. */
static int decode(const char *text, unsigned char *out, size_t room)
{
    unsigned char buf[256];
    size_t len = strlen(text), pad = 0;
    int n;

    if (len == 0 || len % 4 != 0 || len / 4 * 3 > sizeof buf)
        return -1;
    while (pad < 2 && text[len - 1 - pad] == '=')
        pad++;
    n = EVP_DecodeBlock(buf, (const unsigned char *)text, (int)len);
    if (n < (int)pad || (size_t)n - pad > room)
        return -1;
    memcpy(out, buf, (size_t)n - pad);
    return n - (int)pad;
}

static bool make_key(struct sq_scram_key *key, const char *password, const unsigned char *salt, int len, int iterations)
{
    if (key->known && key->iterations == iterations && key->salt_len == (size_t)len &&
        memcmp(key->salt, salt, (size_t)len) == 0)
        return true;
    if (PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, len, iterations, EVP_sha256(), SQ_SCRAM_KEY,
                          key->salted) != 1)
        return false;
    memcpy(key->salt, salt, (size_t)len);
    key->salt_len = (size_t)len;
    key->iterations = iterations;
    key->known = true;
    return true;
}

bool sq_scram_final(struct sq_scram *s, struct sq_scram_key *key, const char *password, const char *server, size_t len,
                    char *out)
{
    char nonce[128], salt_text[128], count[16], without[SQ_SCRAM_TEXT], all[2 * SQ_SCRAM_TEXT + 256], proof64[64];
    unsigned char salt[64], client[SQ_SCRAM_KEY], stored[SQ_SCRAM_KEY], signature[SQ_SCRAM_KEY],
        server_key[SQ_SCRAM_KEY];
    const char *mine = strstr(s->first, "r=") + 2;
    int salt_len, iterations;

    if (len > SQ_SCRAM_TEXT - 1 || !attribute(server, len, 'r', nonce, sizeof nonce) ||
        !attribute(server, len, 's', salt_text, sizeof salt_text) || !attribute(server, len, 'i', count, sizeof count))
        return false;
    iterations = atoi(count);
    salt_len = decode(salt_text, salt, sizeof salt);
    if (strncmp(nonce, mine, strlen(mine)) != 0 || strlen(nonce) == strlen(mine) || iterations < 1 ||
        iterations > ITERATIONS_MAX || salt_len < 1 || !make_key(key, password, salt, salt_len, iterations))
        return false;
    (void)snprintf(without, sizeof without, "c=biws,r=%s", nonce);
    (void)snprintf(all, sizeof all, "%s,%.*s,%s", s->first, (int)len, server, without);
    hmac(key->salted, "Client Key", client);
    (void)SHA256(client, sizeof client, stored);
    hmac(stored, all, signature);
    for (size_t i = 0; i < SQ_SCRAM_KEY; i++)
        client[i] ^= signature[i];
    hmac(key->salted, "Server Key", server_key);
    hmac(server_key, all, s->server);
    (void)EVP_EncodeBlock((unsigned char *)proof64, client, sizeof client);
    return snprintf(out, SQ_SCRAM_TEXT, "%s,p=%s", without, proof64) < SQ_SCRAM_TEXT;
}

bool sq_scram_verify(const struct sq_scram *s, const char *server, size_t len)
{
    unsigned char given[64];
    char text[128];

    return attribute(server, len, 'v', text, sizeof text) && decode(text, given, sizeof given) == SQ_SCRAM_KEY &&
           CRYPTO_memcmp(given, s->server, SQ_SCRAM_KEY) == 0;
}
