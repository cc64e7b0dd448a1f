#include "squall/callspec.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"

#define COUNT_MAX 1000000000 /* injector/proxy/count.h */

static const char *const counts[] = {"first", "every", "after"};

int sq_call_target_check(const json_t *target, const char **key, struct sq_err *e)
{
    for (size_t i = 0; i < SQ_COUNT(counts); i++) {
        int64_t least = i < 2, v = sq_json_int_or(target, counts[i], least);

        if (v >= least && v <= COUNT_MAX)
            continue;
        if (key)
            *key = counts[i];
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" must be %lld to %d", counts[i], (long long)least, COUNT_MAX);
        sq_err_hint(e, "of the calls of an instance: skip `after`, of the rest take each `every`-th, at most `first`");
        return -EINVAL;
    }
    return 0;
}

/* A recording has a mean and a deviation of its own. */
static bool recorded(const char *dist)
{
    return sq_distribution_path(dist) > 0 && strncmp(dist, "file:", 5) != 0;
}

int sq_call_with_check(const char *uses, const json_t *with, const char **key, struct sq_err *e)
{
    const char *dist = sq_json_str_or(with, "distribution", "uniform"), *ignored;
    int64_t delay = sq_json_int_or(with, "delay", 0), jitter = sq_json_int_or(with, "jitter", 0);

    key = key ? key : &ignored;
    if (strcmp(uses, "call/latency") != 0)
        return 0;
    *key = "distribution";
    if (sq_distribution_check(dist, e) < 0)
        return -EINVAL;
    *key = "";
    if (!json_object_get(with, "delay") && !recorded(dist)) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"delay\" is missing");
        sq_err_hint(e, "how long each call is held");
        return -EINVAL;
    }
    *key = "jitter";
    if (jitter > delay && strcmp(dist, "uniform") == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "the jitter can't be larger than the delay");
    *key = "distribution";
    if (jitter == 0 && strcmp(dist, "uniform") != 0 && !recorded(dist)) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"distribution\" needs a \"jitter\": without one each call is held alike");
        return -EINVAL;
    }
    return 0;
}

bool sq_call_counts(const json_t *target)
{
    return sq_json_int_or(target, "first", 0) > 0 || sq_json_int_or(target, "every", 1) > 1 ||
           sq_json_int_or(target, "after", 0) > 0;
}

static const char *ordinal(int64_t n)
{
    if (n % 100 >= 11 && n % 100 <= 13)
        return "th";
    return n % 10 == 1 ? "st" : n % 10 == 2 ? "nd" : n % 10 == 3 ? "rd" : "th";
}

const char *sq_call_count_text(const json_t *target, char *buf, size_t len)
{
    long long first = sq_json_int_or(target, "first", 0), every = sq_json_int_or(target, "every", 1),
              after = sq_json_int_or(target, "after", 0);
    char a[48] = "", b[48] = "", c[48] = "";

    if (first > 0)
        (void)snprintf(a, sizeof a, "the first %lld of ", first);
    if (every > 1)
        (void)snprintf(b, sizeof b, "every %lld%s call", every, ordinal(every));
    else
        (void)snprintf(b, sizeof b, "%s calls", first > 0 ? "the" : "all");
    if (after > 0)
        (void)snprintf(c, sizeof c, " after %lld", after);
    (void)snprintf(buf, len, "%s%s%s", a, b, c);
    if (!sq_call_counts(target) && len > 0)
        buf[0] = 0;
    return buf;
}
