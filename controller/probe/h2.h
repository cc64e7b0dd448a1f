/* HTTP/2 conversations (RFC 9113, by nghttp2), for HTTP itself and for what is spoken over it. */
#ifndef SQUALL_PROBE_H2_H
#define SQUALL_PROBE_H2_H

#include "probe/http.h"
#include "probe/proto.h"

/* What a request and its answer are beyond HTTP; NULL: nothing. */
struct sq_h2_over {
    /* The answer is whole: HTTP's status, the trailing field grpc-status (-1: none), its body. Gives the status. */
    int (*status)(int http, int grpc, const char *body, size_t len);
};

struct sq_h2_plan {
    const struct sq_rules *rules;
    const struct sq_h2_over *over;
    bool repeatable, head;
    size_t n; /* fields, with the pseudo ones */
    char **name;
    struct sq_template *value; /* the traceparent's is empty */
    size_t trace;              /* which one that is */
    struct sq_template body;
    bool has_body;
};

int sq_h2_plan(const struct sq_http *h, const struct sq_names *names, const struct sq_rules *rules,
               struct sq_h2_plan **out, struct sq_err *e);
void sq_h2_release(void *plan);
bool sq_h2_repeatable(const void *plan);

extern const struct sq_mux sq_h2_mux;

#endif
