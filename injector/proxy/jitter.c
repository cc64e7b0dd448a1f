#include "proxy/jitter.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/base64.h"
#include "squall/cleanup.h"

static int no_table(struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "table of a rule: 1 to %d numbers of 16 bits, as base64", SQ_JITTER_MAX);
}

int sq_jitter_parse(const json_t *rule, struct sq_jitter **out, struct sq_err *e)
{
    const json_t *table = json_object_get(rule, "table");
    size_t len = json_string_length(table), bytes;
    cleanup_free unsigned char *raw = NULL;

    *out = NULL;
    if (!table)
        return 0;
    if (!json_is_string(table) || len == 0 || len % 4 || len > SQ_BASE64_LEN(SQ_JITTER_MAX * sizeof(int16_t)))
        return no_table(e);
    raw = malloc(len / 4 * 3);
    if (!raw)
        return sq_err(e, -ENOMEM, "no memory for rules");
    bytes = sq_base64_decode(json_string_value(table), len, raw);
    if (bytes == 0 || bytes % sizeof(int16_t) || bytes > SQ_JITTER_MAX * sizeof(int16_t) || SQ_BASE64_LEN(bytes) != len)
        return no_table(e);
    struct sq_jitter *t = malloc(sizeof(*t) + bytes);
    if (!t)
        return sq_err(e, -ENOMEM, "no memory for rules");
    t->n = (uint32_t)(bytes / sizeof(int16_t));
    memcpy(t->v, raw, bytes); /* both ends are on one host */
    *out = t;
    return 0;
}

int sq_jitter_rule(const int16_t *v, uint32_t n, json_t *rule, struct sq_err *e)
{
    cleanup_free char *text = NULL;

    if (n == 0 || n > SQ_JITTER_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the distribution of a call has 1 to %d numbers, not %u",
                          SQ_JITTER_MAX, (unsigned)n);
    text = malloc(SQ_BASE64_LEN(n * sizeof(*v)) + 1);
    if (!text)
        return sq_err(e, -ENOMEM, "out of memory");
    sq_base64_encode((const unsigned char *)v, n * sizeof(*v), text);
    return json_object_set_new(rule, "table", json_string(text)) < 0 ? sq_err(e, -ENOMEM, "out of memory") : 0;
}

const char *sq_jitter_sum(const struct sq_jitter *t, char buf[SQ_JITTER_SUM])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (uint32_t i = 0; i < t->n; i++) {
        h = (h ^ ((uint16_t)t->v[i] & 0xff)) * UINT64_C(0x100000001b3);
        h = (h ^ ((uint16_t)t->v[i] >> 8)) * UINT64_C(0x100000001b3);
    }
    (void)snprintf(buf, SQ_JITTER_SUM, "%u numbers, %016" PRIx64, (unsigned)t->n, h);
    return buf;
}

int64_t sq_jitter_draw(const struct sq_jitter *t, struct sq_rng *rng, int64_t delay, int64_t jitter)
{
    /* A sum of 2^53 ns (100 days) times 4: exact enough in a double, too large for 64 bits before the division. */
    double d = (double)jitter * t->v[sq_rng_below(rng, t->n)] / SQ_JITTER_SCALE;
    int64_t sum = delay + (int64_t)d;

    return sum > 0 ? sum : 0;
}
