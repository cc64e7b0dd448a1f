/* DNS queries as a hostile caller might send them, to the proxy's faults. The first byte says whether it came over TCP.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/dnsmsg.h"

#define N 4
#define ROOM 65535

static struct sq_dns_rule *rules[N];

static void prepare(void)
{
    static const char *const text[N] = {
        "{\"answer\":\"nxdomain\"}",
        "{\"answer\":\"wrong\",\"address\":[\"192.0.2.1\",\"192.0.2.2\",\"2001:db8::1\"]}",
        "{\"answer\":\"servfail\",\"names\":[\"a.b\",\"*.example.org\"],\"types\":[\"A\",\"ANY\"]}",
        "{\"answer\":\"timeout\",\"names\":[\"*\"]}",
    };

    for (int i = 0; i < N; i++) {
        json_t *o = json_loads(text[i], 0, NULL);

        if (!o || sq_dns_rule_parse(o, &rules[i], NULL) != 0)
            abort();
        json_decref(o);
    }
}

/* What it answers must be an answer to just this query. */
static void judge(const struct sq_dns_question *q, const uint8_t *p, size_t n, bool tcp)
{
    static uint8_t out[ROOM];

    for (int i = 0; i < N; i++) {
        size_t len = sq_dns_answer(rules[i], q, p, tcp, out, sizeof(out));

        (void)sq_dns_concerns(rules[i], q);
        if (len == 0)
            continue;
        if (len < q->end || len > sizeof(out) || (!tcp && len > q->size) || q->end > n || memcmp(out, p, 2) != 0 ||
            !(out[2] & 0x80) || memcmp(out + 12, p + 12, q->end - 12) != 0)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sq_dns_question q;
    uint8_t *copy;
    bool tcp;

    if (!rules[0])
        prepare();
    if (size < 1)
        return 0;
    tcp = data[0] & 1;
    data++;
    size--;
    copy = malloc(size ? size : 1); /* of its own, so that a byte read beyond it is seen */
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    if (sq_dns_question(copy, size, &q) == 0)
        judge(&q, copy, size, tcp);
    (void)sq_dns_rcode(copy, size);
    free(copy);
    return 0;
}
