/* Bytes on their way out: grows up to a limit, remembers when it could not. */
#ifndef SQUALL_PROBE_BUF_H
#define SQUALL_PROBE_BUF_H

#include <stdbool.h>
#include <stddef.h>

#define SQ_BUF_MAX ((size_t)4 << 20)

struct sq_buf {
    char *data;
    size_t at, len, cap; /* [at, len) is still to be sent */
    bool failed;         /* no memory, or more than SQ_BUF_MAX: its contents are incomplete */
};

void sq_buf_put(struct sq_buf *b, const void *data, size_t len);
void sq_buf_text(struct sq_buf *b, const char *s);
void sq_buf_clear(struct sq_buf *b); /* empty, memory kept */
void sq_buf_free(struct sq_buf *b);

#endif
