/* Arbitrary bytes as an evidence log: never a crash, and whatever can be read gets a verdict, the same one twice. Most
 * inputs are put behind a run record, so that they need not invent one: their first byte chooses its check (all of them
 * would take ten times as long; and without SLOs, whose three days of seconds take a hundred times as long). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/arena.h"
#include "squall/json.h"
#include "verify/breaker.h"
#include "verify/verdict.h"

#define N_CHECKS (sizeof checks / sizeof checks[0])
#define COUNTS 0x40 /* in the first byte: the fault counts calls */

static const char before[] =
    "{\"t\":0,\"type\":\"run\",\"v\":1,\"id\":\"r\",\"scenario\":{\"spec\":{\"steady_state\":{\"thresholds\":"
    "[{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]},\"steps\":[{\"id\":\"s\",\"uses\":\"call/latency"
    "\",\"target\":{\"edge\":\"e\"}},{\"id\":\"w\",\"wait\":1}],\"budgets\":{\"c\":{\"latency_p95\":1000000,"
    "\"throughput_min\":2.0,\"on_budget_exceed\":\"require_approval\"}},\"verify\":[";
static const char *const checks[] = {
    "{\"check\":\"fault_felt\",\"step\":\"*\",\"min_calls\":1}",
    "{\"check\":\"slo\",\"thresholds\":[{\"metric\":\"p\",\"p\":95,\"op\":\"<\",\"value\":1000},{\"metric\":"
    "\"error_rate\",\"op\":\"<\",\"value\":1},{\"metric\":\"sent_rate\",\"op\":\">=\",\"value\":1}]}",
    "{\"check\":\"timeout\",\"step\":\"s\",\"max\":1000}",
    "{\"check\":\"retries\",\"step\":\"s\",\"max_attempts\":2,\"amplification\":1.5,\"min_backoff\":10}",
    "{\"check\":\"circuit_breaker\",\"step\":\"s\",\"expect\":{\"open_for\":2000000000,\"probes\":2}}",
    "{\"check\":\"fallback\",\"step\":\"s\"}",
    "{\"check\":\"recovered\",\"after\":\"s\"}",
    "{\"check\":\"clean\"}",
    "{\"check\":\"budget\",\"target\":99,\"max_spend\":1,\"burn_rate\":2,\"for\":2000000000}",
    "{\"check\":\"retry_storm\",\"after\":\"s\"}",
    "{\"check\":\"fuse\",\"step\":\"s\",\"expect\":{\"trip_calls\":2,\"open_for\":1000000000}}",
    "{\"check\":\"fail_fast\",\"step\":\"s\",\"max\":1000000}",
    "{\"check\":\"bulkhead\",\"step\":\"s\",\"endpoints\":[\"c\"],\"max_in_flight\":2}",
    "{\"check\":\"failover\",\"step\":\"s\"}",
    "{\"check\":\"alert\",\"step\":\"s\",\"fires\":{\"A\":1000000000},\"silent\":[\"B\"],\"resolves\":1000000"
    "000}",
    "{\"check\":\"runbook\",\"file\":\"f\"}",
    "{\"check\":\"regression\"}",
    "{\"check\":\"trend\"}",
    "{\"check\":\"canary\",\"control\":\"c\",\"experiment\":\"c\"}",
    "{\"check\":\"performance_budget\",\"window\":\"load\"}",
};
static const char after[] =
    "]}}}\n"
    "{\"t\":0,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"begin\"}\n"
    "{\"t\":5,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"end\",\"met\":true}\n"
    "{\"t\":6,\"type\":\"fault\",\"state\":\"applied\",\"step\":\"s\",\"fault\":\"f1\",\"uses\":\"call/latenc"
    "y\",\"with\":{\"delay\":1000000},\"target\":{\"edge\":\"e\"%s}}\n"
    "{\"t\":9,\"type\":\"fault\",\"state\":\"reverted\",\"step\":\"s\",\"fault\":\"f1\",\"uses\":\"call/laten"
    "cy\"}\n";

static void must(int ok)
{
    if (!ok)
        abort();
}

static void use(const struct sq_evidence *ev, int again)
{
    json_t *first = NULL, *second = NULL;
    int a = sq_verify(ev, &first, NULL), b = again ? sq_verify(ev, &second, NULL) : a;

    must(a == b && (a == 0) == (first != NULL));
    must(a != 0 || !again || json_equal(first, second));
    if (first)
        must(json_is_string(json_object_get(first, "why")) && json_is_integer(json_object_get(first, "exit")));
    json_decref(first);
    json_decref(second);
    for (size_t i = 0; i < ev->n_series && i < 4; i++) {
        struct sq_breaker_span *spans = NULL;
        size_t n = 0;

        if (sq_breaker_spans(ev, &ev->series[i], &spans, &n, NULL) == 0)
            for (size_t k = 1; k < n; k++) /* in order and without holes */
                must(spans[k].win.from_ns == spans[k - 1].win.to_ns && spans[k].win.to_ns > spans[k].win.from_ns);
        free(spans);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
/* What comes before the input, as its first byte says. */
static void lead(FILE *f, unsigned char choice)
{
    (void)fputs(before, f);
    (void)fputs(checks[(choice & 0x3f) % N_CHECKS], f);
    (void)fprintf(f, after, choice & COUNTS ? ",\"every\":2,\"after\":1" : "");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sq_evidence *ev = NULL;
    char *text = NULL;
    size_t n = 0, own = len && data[0] == '{' ? 0 : 1;
    FILE *f = open_memstream(&text, &n);

    must(f != NULL);
    if (len && own)
        lead(f, data[0]);
    if (len > own)
        (void)fwrite(data + own, 1, len - own, f);
    must(fclose(f) == 0 && text != NULL);
    if (sq_evidence_parse(text, n, &ev, NULL) == 0)
        use(ev, len % 8 == 0);
    sq_evidence_free(ev);
    free(text);
    arena_end();
    return 0;
}
