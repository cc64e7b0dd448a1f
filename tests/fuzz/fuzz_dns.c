/* DNS answers as a hostile server might send them. The first byte chooses the question. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "probe/proto.h"

struct setup {
    struct sq_rules rules;
    struct sq_place place;
    void *plan;
};

static void prepare(struct setup *s, const char *url)
{
    json_t *o = json_pack("{s:{s:s}, s:{s:s}}", "request", "url", url, "expect", "body", "192.0.2.7");

    if (sq_rules_init(&s->rules, "e", json_object_get(o, "expect"), NULL, NULL) < 0 ||
        sq_proto_dns.prepare(o, NULL, &s->rules, &s->plan, &s->place, NULL) < 0)
        abort();
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct setup setups[2];
    static void *talk;
    struct sq_answer a;
    const struct setup *s;
    const char *query;
    char *copy;
    size_t len;

    if (!talk) {
        prepare(&setups[0], "dns://127.0.0.1/a.b?type=A");
        prepare(&setups[1], "dns://127.0.0.1/www.shop.test?type=TXT");
        talk = malloc(sq_proto_dns.talk_size);
    }
    if (size < 1)
        return 0;
    s = &setups[data[0] & 1];
    query = sq_proto_dns.request(s->plan, NULL, NULL, &len);
    data++;
    size--;
    copy = malloc(size ? size : 1); /* of its own, so that a byte read beyond it is seen */
    memcpy(copy, data, size);
    if (size >= 2)
        memcpy(copy, query, 2); /* the id, which the fuzzer can't guess */
    sq_proto_dns.open(talk, s->plan);
    if (sq_proto_dns.feed(talk, copy, size) == SQ_FEED_DONE) {
        sq_proto_dns.answer(talk, &a);
        if (a.status < 0 || a.status > 15 || size < 12)
            abort();
    }
    free(copy);
    return 0;
}
