/* What TCP and UDP endpoints have in common: bytes out, bytes back. */
#ifndef SQUALL_PROBE_ECHO_H
#define SQUALL_PROBE_ECHO_H

#include "probe/proto.h"

/* The answer is whole when the text of `expect` has come; without one, when the bytes sent have come back. Nothing to
 * send and nothing to expect: connecting is all. */
struct sq_echo_plan {
    const struct sq_rules *rules;
    char *send;
    size_t len;
    bool datagram;
};

struct sq_echo_talk {
    const struct sq_echo_plan *plan;
    struct sq_match_state match;
    bool open; /* the connection is good for another one */
};

int sq_echo_prepare(const json_t *endpoint, const char *scheme, bool datagram, const struct sq_rules *rules,
                    void **plan, struct sq_place *place, struct sq_err *e);
void sq_echo_release(void *plan);
bool sq_echo_repeatable(const void *plan);
const char *sq_echo_request(void *plan, const struct sq_values *v, const char *trace, size_t *len);
void sq_echo_open(void *talk, const void *plan);
void sq_echo_begin(void *talk, const void *plan, struct sq_keep *keep);
enum sq_feed sq_echo_feed(void *talk, const char *data, size_t len);
enum sq_feed sq_echo_eof(void *talk);
void sq_echo_answer(const void *talk, struct sq_answer *out);

#endif
