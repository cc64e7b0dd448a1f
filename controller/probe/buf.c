#include "probe/buf.h"

#include <stdlib.h>
#include <string.h>

void sq_buf_put(struct sq_buf *b, const void *data, size_t len)
{
    size_t cap = b->cap ? b->cap : 256;
    char *p;

    if (b->failed || len == 0)
        return;
    if (len > SQ_BUF_MAX || b->len > SQ_BUF_MAX - len) {
        b->failed = true;
        return;
    }
    while (cap < b->len + len)
        cap *= 2;
    if (cap > b->cap) {
        p = realloc(b->data, cap);
        if (!p) {
            b->failed = true;
            return;
        }
        b->data = p;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void sq_buf_text(struct sq_buf *b, const char *s)
{
    sq_buf_put(b, s, strlen(s));
}

void sq_buf_clear(struct sq_buf *b)
{
    b->at = b->len = 0;
    b->failed = false;
}

void sq_buf_free(struct sq_buf *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}
