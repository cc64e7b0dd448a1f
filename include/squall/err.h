/* Errors: every function that can fail returns 0 (or a count >= 0) or -errno, and fills a struct sq_err once, where
 * the failure happened. Libraries never log; the caller that owns a terminal, a log or a socket prints the error. */
#ifndef SQUALL_ERR_H
#define SQUALL_ERR_H

#define SQ_PRINTF(a, b) __attribute__((format(printf, a, b)))

/* What kind of failure it is; decides the exit code (see sq_exit_of) and the HTTP status of the API. */
enum sq_class {
    SQ_C_INTERNAL = 0, /* infrastructure: the host said no (exit 5, HTTP 500) */
    SQ_C_INPUT,        /* the person asked for something malformed (exit 2, HTTP 400) */
    SQ_C_NOTFOUND,     /* a named thing does not exist: zero targets, no such run (exit 2, HTTP 404) */
    SQ_C_DENIED,       /* the peer may not do that (exit 5, HTTP 403) */
    SQ_C_UNSUPPORTED,  /* this kernel or this user can't (exit 5, HTTP 501) */
    SQ_C_CONFLICT,     /* it exists already, or is in use (exit 5, HTTP 409) */
};

#define SQ_ERR_MSG 768

struct sq_err {
    int code; /* -errno; 0: no error */
    enum sq_class cls;
    char msg[SQ_ERR_MSG]; /* what happened, to what: no trailing newline or full stop */
    char hint[384];       /* what to do about it; may be empty */
};

enum sq_exit {
    SQ_PASS = 0,
    SQ_FAIL = 1,
    SQ_USAGE = 2,
    SQ_INCONCLUSIVE = 3,
    SQ_ABORTED = 4,
    SQ_INFRA = 5,
    SQ_UNCLEAN = 6
};

/* Fill E (may be NULL) and return CODE, which must be negative. The first fill wins: a filled E is left as it is. */
int sq_err(struct sq_err *e, int code, const char *fmt, ...) SQ_PRINTF(3, 4);
int sq_err_cls(struct sq_err *e, enum sq_class cls, int code, const char *fmt, ...) SQ_PRINTF(4, 5);
/* As sq_err, and appends ": " and strerror(-code). */
int sq_err_sys(struct sq_err *e, int code, const char *fmt, ...) SQ_PRINTF(3, 4);
/* Add what to do about it, if nobody has yet. */
void sq_err_hint(struct sq_err *e, const char *fmt, ...) SQ_PRINTF(2, 3);
/* Put "context: " before the message on its way up. Returns e->code. */
int sq_err_prefix(struct sq_err *e, const char *fmt, ...) SQ_PRINTF(2, 3);
void sq_err_clear(struct sq_err *e);
enum sq_exit sq_exit_of(const struct sq_err *e);

#endif
