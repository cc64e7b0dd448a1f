#include "squall/pattern.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "squall/clock.h"

#define HEAP_KIB 4096
#define STEPS_A_LOOK 256 /* how many steps of the matcher between two looks at the clock */

struct sq_pattern {
    pcre2_code *code;
    pcre2_match_context *context;
    pcre2_match_data *data;
    int64_t deadline;
    unsigned steps;
};

/* PCRE2 calls this before each item it tries (PCRE2_AUTO_CALLOUT). */
static int on_step(pcre2_callout_block *block, void *arg)
{
    struct sq_pattern *p = arg;

    (void)block;
    if (++p->steps % STEPS_A_LOOK != 0 || sq_mono_ns() < p->deadline)
        return 0;
    return PCRE2_ERROR_CALLOUT;
}

int sq_pattern_compile(const char *text, struct sq_pattern **out, struct sq_err *e)
{
    struct sq_pattern *p;
    PCRE2_UCHAR why[128];
    PCRE2_SIZE at = 0;
    int code = 0;

    if (!*text || strlen(text) > SQ_PATTERN_MAX)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a pattern has 1 to %d characters", SQ_PATTERN_MAX);
    p = calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    p->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                            PCRE2_AUTO_CALLOUT | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_UTF, &code, &at, NULL);
    if (!p->code) {
        (void)pcre2_get_error_message(code, why, sizeof why);
        sq_pattern_free(p);
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%.100s\" is not a regular expression: %s at character %zu", text,
                   (const char *)why, at + 1);
        return -EINVAL;
    }
    p->context = pcre2_match_context_create(NULL);
    p->data = pcre2_match_data_create(1, NULL);
    if (!p->context || !p->data) {
        sq_pattern_free(p);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    (void)pcre2_set_heap_limit(p->context, HEAP_KIB);
    (void)pcre2_set_callout(p->context, on_step, p);
    *out = p;
    return 0;
}

void sq_pattern_free(struct sq_pattern *p)
{
    if (!p)
        return;
    pcre2_match_data_free(p->data);
    pcre2_match_context_free(p->context);
    pcre2_code_free(p->code);
    free(p);
}

int sq_pattern_match(struct sq_pattern *p, const char *text, int64_t deadline)
{
    int r;

    if (sq_mono_ns() >= deadline)
        return -ETIMEDOUT;
    p->deadline = deadline;
    r = pcre2_match(p->code, (PCRE2_SPTR)text, strlen(text), 0, 0, p->data, p->context);
    if (r >= 0)
        return 1;
    return r == PCRE2_ERROR_NOMATCH ? 0 : -ETIMEDOUT; /* the clock, or a limit on steps or memory */
}
