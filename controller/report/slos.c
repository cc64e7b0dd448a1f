#include "report/slos.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "squall/json.h"
#include "verify/result.h"

static void percent(char *buf, size_t len, const json_t *o, const char *key)
{
    double v = sq_json_num_or(o, key, (double)NAN);

    if (isnan(v))
        (void)snprintf(buf, len, "-");
    else if (v > 0 && v < 0.0001)
        (void)snprintf(buf, len, "under 0.0001 %%");
    else if (v > 99.9 && v < 100)
        (void)snprintf(buf, len, "%.4f %%", v);
    else
        (void)sq_fmt_percent(v, buf, len);
}

static void add_text(char *buf, size_t len, const char *text)
{
    size_t used = strlen(buf);

    (void)snprintf(buf + used, len - used, "%s%s", used ? "; " : "", text);
}

/* Those that fired; else that none did, or that none could. */
static void alerts(const json_t *o, struct sq_slo_row *r)
{
    const json_t *list = json_object_get(o, "alerts"), *a;
    bool possible = false;
    size_t i;

    r->tone = "pass";
    json_array_foreach(list, i, a)
    {
        const char *state = sq_json_str_or(a, "state", ""), *severity = sq_json_str_or(a, "severity", "");
        char one[160];

        possible |= strcmp(state, "impossible") != 0;
        if (strcmp(state, "fired") != 0)
            continue;
        (void)snprintf(one, sizeof one, "%.20s %gx (%.8s and %.8s) at %lld s", severity,
                       sq_json_num_or(a, "burn_rate", 0), sq_json_str_or(a, "long", ""), sq_json_str_or(a, "short", ""),
                       (long long)sq_json_int_or(a, "at", 0));
        add_text(r->alerts, sizeof r->alerts, one);
        if (strcmp(severity, "page") == 0)
            r->tone = "fail";
        else if (strcmp(r->tone, "fail") != 0)
            r->tone = "warn";
    }
    if (!r->alerts[0] && json_array_size(list))
        (void)snprintf(r->alerts, sizeof r->alerts, "%s",
                       possible ? "none" : "none: the run is too short for any to fire");
}

void sq_slo_row_of(const json_t *o, struct sq_slo_row *out)
{
    const char *why = sq_json_str_or(o, "why", "");
    int64_t window = sq_json_int_or(o, "window_s", 0);
    char text[280];

    *out = (struct sq_slo_row){.name = sq_json_str_or(o, "slo", "?"), .indicator = sq_json_str_or(o, "indicator", "")};
    percent(out->target, sizeof out->target, o, "target");
    percent(out->observed, sizeof out->observed, o, "observed");
    percent(out->spent, sizeof out->spent, o, "spent");
    if (window % 86400 == 0)
        (void)snprintf(out->window, sizeof out->window, "%lld d", (long long)(window / 86400));
    else
        (void)snprintf(out->window, sizeof out->window, "%.4g h", (double)window / 3600);
    alerts(o, out);
    if (!why[0])
        return;
    int64_t gap = sq_json_int_or(o, "gap_s", 0);
    if (gap)
        (void)snprintf(text, sizeof text, "no data for %lld s: %.230s", (long long)gap, why);
    else
        (void)snprintf(text, sizeof text, "%.250s", why);
    add_text(out->alerts, sizeof out->alerts, text);
    if (strcmp(out->tone, "pass") == 0)
        out->tone = "warn";
}

const char *sq_slo_note(const json_t *slos, char *buf, size_t len)
{
    const json_t *o;
    size_t i, clean = 0, known = 0;

    json_array_foreach(slos, i, o)
    {
        const char *before = sq_json_str_or(o, "before", "");

        clean += strcmp(before, "taken as clean") == 0;
        known += before[0] != '\0';
    }
    buf[0] = '\0';
    if (known)
        (void)snprintf(buf, len, "Budgets are those of this run's own traffic%s",
                       clean == 0 ? "; burn rates include what was measured before it."
                       : clean == known
                           ? "; the time before it is taken as clean."
                           : "; where a Prometheus does not know it, the time before it is taken as clean.");
    return buf;
}
