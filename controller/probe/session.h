/* Sessions on their way, and when each goes on: a user who sends several requests, with time to think between. */
#ifndef SQUALL_PROBE_SESSION_H
#define SQUALL_PROBE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "probe/capture.h"

struct sq_session {
    struct sq_session *next; /* all of the endpoint, for the end */
    struct sq_session *spare;
    size_t row; /* of the data, for the whole session */
    struct sq_keep keep;
};

/* What is due later: step number `step` of a session, or (session NULL) a user of a closed loop who begins anew. */
struct sq_follow {
    int64_t at;
    uint64_t order; /* of those at the same time the one that was put first comes first */
    struct sq_session *session;
    size_t step;
};

struct sq_sessions {
    size_t n_values;
    struct sq_session *all, *spare;
    struct sq_follow *heap; /* by time */
    size_t n, cap;
    uint64_t order;
};

/* A session with no value known; NULL: no memory. */
struct sq_session *sq_session_begin(struct sq_sessions *s, size_t row);
void sq_session_end(struct sq_sessions *s, struct sq_session *one);
/* False: no memory. */
bool sq_follow_put(struct sq_sessions *s, int64_t at, struct sq_session *one, size_t step);
int64_t sq_follow_next(const struct sq_sessions *s);    /* INT64_MAX: none */
struct sq_follow sq_follow_take(struct sq_sessions *s); /* the earliest; there is one */
void sq_sessions_clear(struct sq_sessions *s);

#endif
