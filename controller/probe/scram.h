/* The client's side of SCRAM-SHA-256 (RFC 5802, 7677), without channel binding. */
#ifndef SQUALL_PROBE_SCRAM_H
#define SQUALL_PROBE_SCRAM_H

#include <stdbool.h>
#include <stddef.h>

#define SQ_SCRAM_TEXT 512
#define SQ_SCRAM_KEY 32

/* What a password comes to with a server's salt: dear to compute (thousands of hashes), so it is kept. */
struct sq_scram_key {
    bool known;
    int iterations;
    size_t salt_len;
    unsigned char salt[64], salted[SQ_SCRAM_KEY];
};

struct sq_scram {
    char first[64];                     /* client-first-message-bare */
    unsigned char server[SQ_SCRAM_KEY]; /* the signature that proves the server */
};

/* client-first-message into OUT (SQ_SCRAM_TEXT bytes). */
void sq_scram_first(struct sq_scram *s, char *out);
/* Answer the server's first message; false: it is none, or not to be trusted. */
bool sq_scram_final(struct sq_scram *s, struct sq_scram_key *key, const char *password, const char *server, size_t len,
                    char *out);
/* Did the server prove that it knows the password? */
bool sq_scram_verify(const struct sq_scram *s, const char *server, size_t len);

#endif
