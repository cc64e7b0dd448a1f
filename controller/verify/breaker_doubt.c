/* What may look like a breaker and is none. */
#include "squall/units.h"
#include "verify/breaker.h"

#define BASE_NS SQ_S
#define STAMP_NS (20 * SQ_MS)   /* two stamps, each rounded to 10 ms */
#define PROMPT_NS (100 * SQ_MS) /* a call that waited for another one begins this soon after it */
#define PROMPT_MANY 3           /* so many times it is no accident */

uint64_t sq_breaker_harmed(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns)
{
    uint64_t n = 0;

    for (size_t i = sq_breaker_at(b, from_ns); i < b->n && b->calls[i].from_ns < to_ns; i++)
        n += b->calls[i].harmed;
    return n;
}

uint64_t sq_breaker_made(const struct sq_breaker *b, int64_t from_ns, int64_t to_ns)
{
    uint64_t n = 0;

    for (size_t i = 0; i < b->n_busy && b->busy[i].from_ns < to_ns; i++)
        n += b->busy[i].from_ns >= from_ns;
    return n;
}

const struct sq_silence *sq_breaker_silent_base(const struct sq_evidence *ev, const struct sq_breaker *b,
                                                int64_t fault_ns)
{
    const struct sq_ev_phase *steady = sq_ev_steady(ev);

    for (size_t i = 0; steady && i < b->n_silences; i++) {
        const struct sq_silence *s = &b->silences[i];

        if (s->from_ns < steady->win.to_ns - BASE_NS && s->to_ns - s->from_ns >= BASE_NS && s->to_ns <= fault_ns)
            return s;
    }
    return NULL;
}

int sq_breaker_doubt_base(const struct sq_evidence *ev, const char *edge, int64_t fault_ns, struct sq_result *r,
                          struct sq_err *e)
{
    const struct sq_ev_series *series;
    size_t n = sq_ev_series(ev, edge, &series);

    for (size_t i = 0; i < n && r->verdict == SQ_V_FAIL; i++) {
        struct sq_breaker *b;
        int rc = sq_breaker_new(ev, &series[i], &b, e);

        if (rc)
            return rc;
        const struct sq_silence *s = sq_breaker_silent_base(ev, b, fault_ns);
        if (s)
            (void)sq_result_set(
                r, SQ_V_INCONCLUSIVE,
                "in steady state %s made no call for %.1f s from %.1f s on: there is no rate to compare with",
                series[i].instance, (double)(s->to_ns - s->from_ns) / 1e9, (double)s->from_ns / 1e9);
        sq_breaker_free(b);
    }
    return 0;
}

uint64_t sq_breaker_one_at_a_time(const struct sq_breaker *b, struct sq_window win)
{
    int64_t ended = INT64_MIN;
    uint64_t all = 0, prompt = 0;
    size_t k = 0;

    for (size_t i = 0; i < b->n_silences; i++) {
        const struct sq_silence *s = &b->silences[i];

        if (s->before == SIZE_MAX || s->open_ended || s->from_ns < win.from_ns || s->to_ns > win.to_ns)
            continue;
        for (; k <= s->before; k++)
            ended = b->calls[k].to_ns > ended ? b->calls[k].to_ns : ended;
        int64_t pause = s->to_ns - ended;
        all++;
        prompt += pause >= -STAMP_NS && pause <= PROMPT_NS && 2 * pause < s->to_ns - s->from_ns;
    }
    return prompt >= PROMPT_MANY && prompt + 1 >= all ? prompt : 0;
}
