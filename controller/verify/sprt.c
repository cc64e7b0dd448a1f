#include "verify/sprt.h"

#include <errno.h>
#include <math.h>
#include <string.h>

int sq_sprt_init(struct sq_sprt *s, double p0, double p1, double alpha, double beta, struct sq_err *e)
{
    memset(s, 0, sizeof *s);
    if (!(p0 > 0.0 && p0 < p1 && p1 < 1.0))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a sequential test needs 0 < p0 < p1 < 1, not %g and %g", p0, p1);
    if (!(alpha > 0.0 && alpha < 0.5 && beta > 0.0 && beta < 0.5))
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "a sequential test needs alpha and beta between 0 and 50 %%, not %g and %g", alpha, beta);
    s->per_bad = log(p1 / p0);
    s->per_good = log1p(-p1) - log1p(-p0);
    s->upper = log((1.0 - beta) / alpha);
    s->lower = log(beta / (1.0 - alpha));
    return 0;
}

enum sq_sprt_says sq_sprt_add(struct sq_sprt *s, uint64_t bad, uint64_t good)
{
    s->n += bad + good;
    s->bad += bad;
    /* From the counts, not by adding up: a million small numbers would leave their rounding behind. */
    s->llr = (double)s->bad * s->per_bad + (double)(s->n - s->bad) * s->per_good;
    return s->llr >= s->upper ? SQ_SPRT_SICK : s->llr <= s->lower ? SQ_SPRT_WELL : SQ_SPRT_GOES_ON;
}

static int next(struct sq_sprt_watch *w, struct sq_err *e)
{
    double k = (double)++w->k;

    return sq_sprt_init(&w->test, w->p0, w->p1, w->alpha / (k * (k + 1.0)), w->beta, e);
}

int sq_sprt_watch_init(struct sq_sprt_watch *w, double p0, double p1, double alpha, double beta, uint64_t min,
                       struct sq_err *e)
{
    *w = (struct sq_sprt_watch){.p0 = p0, .p1 = p1, .alpha = alpha, .beta = beta, .min = min};
    return next(w, e);
}

bool sq_sprt_watch_add(struct sq_sprt_watch *w, uint64_t bad, uint64_t good)
{
    switch (sq_sprt_add(&w->test, bad, good)) {
    case SQ_SPRT_SICK:
        return w->test.n >= w->min;
    case SQ_SPRT_WELL:
        (void)next(w, NULL); /* what was right once is right again */
        break;
    case SQ_SPRT_GOES_ON:
        break;
    }
    return false;
}
