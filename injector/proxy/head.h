/* Heads of HTTP messages: what a rule on HTTP means (match), and what it writes (edits, answers). Pure. The heads of
 * HTTP/1 are text as it was read (RFC 9112), those of HTTP/2 the same fields without their framing. */
#ifndef SQUALL_PROXY_HEAD_H
#define SQUALL_PROXY_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/rules.h"

#define SQ_HEAD_MAX (64 * 1024) /* bytes of a head that is judged; a longer one is passed on as it is */
#define SQ_HEAD_FIELDS 1024     /* fields of one */

struct sq_text {
    const char *p;
    size_t n;
};

struct sq_field {
    struct sq_text name, value; /* value: without the blanks around it; it may be folded */
    struct sq_text line;        /* HTTP/1: with its end */
    bool secret;                /* HTTP/2: it must not be put into a table on any hop (RFC 7541, 6.2.3) */
};

struct sq_head {
    struct sq_text method, path; /* of a request; path: the target, without scheme and authority */
    struct sq_text first;        /* HTTP/1: the first line with its end */
    int status;                  /* of an answer */
    bool old;                    /* HTTP/1.0 */
    unsigned n;
    struct sq_field *field; /* points into the bytes it was read from */
};

/* A text that grows. `failed`: memory ran out, and what it holds is not whole. */
struct sq_out {
    char *p;
    size_t n, cap;
    bool failed;
};
void sq_out_put(struct sq_out *o, const char *p, size_t n);
void sq_out_str(struct sq_out *o, const char *s);
void sq_out_free(struct sq_out *o);

/* Read a head that llhttp found complete. 0, -E2BIG (too many fields), -EBADMSG (not told apart by us) or -ENOMEM. */
int sq_head_parse(struct sq_head *h, const char *p, size_t n, bool request);
void sq_head_free(struct sq_head *h);
const struct sq_field *sq_head_field(const struct sq_head *h, const char *name); /* the first of that name; NULL */
/* Is TOKEN in the comma-separated lists of the fields of that name? */
bool sq_head_has(const struct sq_head *h, const char *name, const char *token);
bool sq_head_is_grpc(const struct sq_head *h);

/* Does the request match what the rule means? MATCH: {"method":[..],"path":glob,"header":{name: glob | bool}}; in a
 * glob "*" is any text. A path without "?" is compared without the query. NULL or {}: every request. */
bool sq_head_matches(const struct sq_head *h, const json_t *match);
bool sq_glob(const char *glob, const char *p, size_t n);

/* Which of the slots mean this request? */
uint32_t sq_rules_matching(const struct sq_rules *r, uint32_t among, const struct sq_head *h);
/* Of these hits those of a kind that act on the request (or on the answer). */
uint32_t sq_rules_side(const struct sq_rules *r, uint32_t hits, enum sq_rule_kind kind, bool request);

/* The head (HTTP/1) with fields removed and set as the http_header rules among HITS say for this side. */
void sq_head_edit(struct sq_out *out, const struct sq_head *h, const struct sq_rules *r, uint32_t hits, bool request);
/* Does a rule name this field, so that it goes away or is set anew? */
bool sq_rules_edit_field(const struct sq_rules *r, uint32_t hits, bool request, const char *name, size_t n);
/* Of several rules that set a field the last one counts: is there one behind place AT of the order? */
bool sq_rules_set_later(const struct sq_rules *r, uint32_t edits, unsigned at, const char *name);
/* Does a field of that name tell of the body as it was, so that it goes when the body changes? */
bool sq_head_frames(const char *name, size_t n, bool encoded);
/* The same head with this framing of its body: LENGTH >= 0 content-length, else none at all; ENCODED: its
 * content-encoding stays. */
void sq_head_reframe(struct sq_out *out, const struct sq_head *h, int64_t length, bool encoded);

/* The answer (HTTP/1) that an http_status rule gives in place of the dependency's. */
void sq_head_answer(struct sq_out *out, const struct sq_rule *rule, const struct sq_head *request, bool closes);

#endif
