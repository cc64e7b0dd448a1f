/* Messages of DNS as a fault needs them (RFC 1035, 6891): what a query asks, and answers to it that its resolver takes
 * for the real ones. Pure; the bytes are hostile. */
#ifndef SQUALL_PROXY_DNSMSG_H
#define SQUALL_PROXY_DNSMSG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

#define SQ_DNS_NAMES 32 /* of one rule */
#define SQ_DNS_TYPES 16
#define SQ_DNS_ADDRESSES 16

struct sq_dns_question {
    char name[1025]; /* as written: lower case, no final dot (the root: ""), other bytes as \DDD */
    uint16_t type, class;
    size_t end;    /* offset behind the question */
    bool edns;     /* it has an OPT record: so must the answer */
    uint16_t size; /* what its resolver takes over UDP */
};

struct sq_dns_rule; /* immutable */

/* "answer", "address", "names", "types" of a rule (wire.h). *out is the caller's: free(3). */
int sq_dns_rule_parse(const json_t *o, struct sq_dns_rule **out, struct sq_err *e);
void sq_dns_rule_json(const struct sq_dns_rule *r, json_t *o);
/* 0, or -EBADMSG: not a query with one question, or cut off. */
int sq_dns_question(const uint8_t *p, size_t len, struct sq_dns_question *q);
bool sq_dns_concerns(const struct sq_dns_rule *r, const struct sq_dns_question *q);
bool sq_dns_swallows(const struct sq_dns_rule *r); /* answer: timeout */
/* The answer to the query P (LEN bytes, of which Q was read) in at most CAP (>= 512) bytes; one that is too long for
 * UDP says that it is cut off. 0: the dependency's own. */
size_t sq_dns_answer(const struct sq_dns_rule *r, const struct sq_dns_question *q, const uint8_t *p, bool tcp,
                     uint8_t *out, size_t cap);
int sq_dns_rcode(const uint8_t *p, size_t len);

#endif
