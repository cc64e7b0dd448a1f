/* Arbitrary bytes as an evidence log: never a crash, and whatever can be read gets a verdict, the same one twice. Half
 * of the inputs are put behind a run record with every check, so that they need not invent one (but without SLOs, whose
 * three days of seconds make each input take a hundred times as long). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"
#include "verify/breaker.h"
#include "verify/verdict.h"

static const char head[] =
    "{\"t\":0,\"type\":\"run\",\"v\":1,\"id\":\"r\",\"scenario\":{\"spec\":{\"steady_state\":{\"threshol"
    "ds\":[{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1}]},\"steps\":[{\"id\":\"s\",\"uses\":\"cal"
    "l/latency\",\"target\":{\"edge\":\"e\"}},{\"id\":\"w\",\"wait\":1}],\"verify\":[{\"check\":\"fault"
    "_felt\",\"step\":\"*\",\"min_calls\":1},{\"check\":\"slo\",\"thresholds\":[{\"metric\":\"p\",\"p\":"
    "95,\"op\":\"<\",\"value\":1000},{\"metric\":\"error_rate\",\"op\":\"<\",\"value\":1},{\"metric\":\""
    "sent_rate\",\"op\":\">=\",\"value\":1}]},{\"check\":\"timeout\",\"step\":\"s\",\"max\":1000},{\"ch"
    "eck\":\"retries\",\"step\":\"s\",\"max_attempts\":2,\"amplification\":1.5,\"min_backoff\":10}"
    ",{\"check\":\"circuit_breaker\",\"step\":\"s\",\"expect\":{\"open_for\":2000000000,\"probes\":"
    "2}},{\"check\":\"fallback\",\"step\":\"s\"},{\"check\":\"recovered\",\"after\":\"s\"},{\"check\":\""
    "clean\"},{\"check\":\"budget\",\"target\":99,\"max_spend\":1,\"burn_rate\":2,\"for\":20000000"
    "00},{\"check\":\"retry_storm\",\"after\":\"s\"},{\"check\":\"fuse\",\"step\":\"s\",\"expect\":{\"tr"
    "ip_calls\":2,\"open_for\":1000000000}},{\"check\":\"fail_fast\",\"step\":\"s\",\"max\":100000"
    "0},{\"check\":\"bulkhead\",\"step\":\"s\",\"endpoints\":[\"a\"],\"max_in_flight\":2},{\"check\":"
    "\"failover\",\"step\":\"s\"},{\"check\":\"alert\",\"step\":\"s\",\"fires\":{\"A\":1000000000},\"sil"
    "ent\":[\"B\"],\"resolves\":1000000000},{\"check\":\"runbook\",\"file\":\"f\"},{\"check\":\"regre"
    "ssion\"},{\"check\":\"trend\"},{\"check\":\"canary\",\"control\":\"a\",\"experiment\":\"b\"},{\"ch"
    "eck\":\"performance_budget\",\"window\":\"load\"}],\"budgets\":{\"a\":{\"latency_p95\":100000"
    "0,\"throughput_min\":2.0,\"on_budget_exceed\":\"require_approval\"}}}}}\n"
    "{\"t\":0,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"begin\"}\n"
    "{\"t\":5,\"type\":\"phase\",\"phase\":\"steady\",\"state\":\"end\",\"met\":true}\n"
    "{\"t\":6,\"type\":\"fault\",\"state\":\"applied\",\"step\":\"s\",\"fault\":\"f1\",\"uses\":\"call/lat"
    "ency\",\"with\":{\"delay\":1000000}}\n"
    "{\"t\":9,\"type\":\"fault\",\"state\":\"reverted\",\"step\":\"s\",\"fault\":\"f1\",\"uses\":\"call/la"
    "tency\"}\n";

static void must(int ok)
{
    if (!ok)
        abort();
}

static void use(const struct sq_evidence *ev)
{
    json_t *first = NULL, *second = NULL;
    int a = sq_verify(ev, &first, NULL), b = sq_verify(ev, &second, NULL);

    must(a == b && (a == 0) == (first != NULL));
    must(a != 0 || json_equal(first, second));
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
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sq_evidence *ev = NULL;
    size_t lead = len && data[0] != '{' ? sizeof head - 1 : 0;
    char *text = malloc(lead + len + 1);

    must(text != NULL);
    memcpy(text, head, lead);
    if (len)
        memcpy(text + lead, data + (lead > 0), len - (lead > 0));
    if (sq_evidence_parse(text, lead + len - (lead > 0), &ev, NULL) == 0)
        use(ev);
    sq_evidence_free(ev);
    free(text);
    return 0;
}
