/* Thresholds on what the probe felt, as the scenario's reader parsed them: {"metric","p","op","value"} (EVIDENCE.md).
 */
#ifndef SQUALL_VERIFY_THRESHOLD_H
#define SQUALL_VERIFY_THRESHOLD_H

#include <jansson.h>
#include <stdbool.h>

#include "squall/err.h"

enum sq_metric { SQ_M_PERCENTILE, SQ_M_ERROR_RATE, SQ_M_SENT_RATE };

struct sq_threshold {
    enum sq_metric metric;
    double p;         /* 0 < p < 100, of a percentile */
    double value;     /* ns, percent, per second */
    bool less, equal; /* < and <= : less; <= and >= : equal */
};

int sq_threshold_read(const json_t *o, struct sq_threshold *t, struct sq_err *e);
/* Does an observed value satisfy it? */
bool sq_threshold_holds(const struct sq_threshold *t, double value);
/* "p95 < 500 ms". */
char *sq_threshold_text(const struct sq_threshold *t, char *buf, size_t len);
/* A value of its metric: "212 ms", "0.1 %", "57.0/s". */
char *sq_threshold_value(const struct sq_threshold *t, double value, char *buf, size_t len);
/* "p95", "error rate", "sent rate". */
char *sq_threshold_metric(const struct sq_threshold *t, char *buf, size_t len);

#endif
