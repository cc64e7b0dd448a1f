#include "probe/session.h"

#include <stdlib.h>
#include <string.h>

struct sq_session *sq_session_begin(struct sq_sessions *s, size_t row)
{
    struct sq_session *one = s->spare;

    if (one) {
        s->spare = one->spare;
    } else {
        one = calloc(1, sizeof *one);
        if (!one)
            return NULL;
        one->keep.value = calloc(s->n_values + 1, sizeof *one->keep.value);
        if (!one->keep.value) {
            free(one);
            return NULL;
        }
        one->next = s->all;
        s->all = one;
    }
    one->row = row;
    return one;
}

static void forget_values(const struct sq_sessions *s, struct sq_session *one)
{
    for (size_t i = 0; i < s->n_values; i++) {
        free(one->keep.value[i]);
        one->keep.value[i] = NULL;
    }
}

void sq_session_end(struct sq_sessions *s, struct sq_session *one)
{
    if (!one)
        return;
    forget_values(s, one);
    sq_buf_clear(&one->keep.body);
    one->spare = s->spare;
    s->spare = one;
}

static bool before(const struct sq_follow *a, const struct sq_follow *b)
{
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

bool sq_follow_put(struct sq_sessions *s, int64_t at, struct sq_session *one, size_t step)
{
    size_t i = s->n;

    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct sq_follow *more = realloc(s->heap, cap * sizeof *more);

        if (!more)
            return false;
        s->heap = more;
        s->cap = cap;
    }
    s->heap[i] = (struct sq_follow){at, s->order++, one, step};
    s->n++;
    while (i > 0 && before(&s->heap[i], &s->heap[(i - 1) / 2])) {
        struct sq_follow up = s->heap[(i - 1) / 2];

        s->heap[(i - 1) / 2] = s->heap[i];
        s->heap[i] = up;
        i = (i - 1) / 2;
    }
    return true;
}

int64_t sq_follow_next(const struct sq_sessions *s)
{
    return s->n > 0 ? s->heap[0].at : INT64_MAX;
}

struct sq_follow sq_follow_take(struct sq_sessions *s)
{
    struct sq_follow first = s->heap[0], last = s->heap[--s->n];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < s->n) {
        if (child + 1 < s->n && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return first;
}

void sq_sessions_clear(struct sq_sessions *s)
{
    while (s->all) {
        struct sq_session *one = s->all;

        s->all = one->next;
        forget_values(s, one);
        sq_buf_free(&one->keep.body);
        free(one->keep.value);
        free(one);
    }
    free(s->heap);
    memset(s, 0, sizeof *s);
}
