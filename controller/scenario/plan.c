#include "scenario/plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "scenario/scenario.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static void add_services(const json_t *normalized, json_t *started, json_t *selected)
{
    const char *name;
    json_t *service;

    json_object_foreach(json_object_get(json_object_get(normalized, "spec"), "services"), name, service)
    {
        unsigned n = (unsigned)sq_json_int_or(service, "instances", 1);

        if (json_object_get(service, "select")) {
            (void)json_array_append_new(
                selected, json_pack("{s:s, s:O}", "service", name, "select", json_object_get(service, "select")));
            continue;
        }
        for (unsigned i = 0; i < n; i++) {
            json_t *one = NULL;

            if (sq_scenario_instance(normalized, name, i, &one, NULL) == 0)
                (void)json_array_append_new(started, one);
        }
    }
}

/* One stretch of the run; moves *at behind it. */
static void add_stretch(json_t *timeline, int64_t *at, int64_t length, const char *what, const json_t *step)
{
    static const char *const of_fault[] = {"uses", "target", "with"};
    json_t *o = json_pack("{s:I, s:I, s:s}", "at", (json_int_t)*at, "for", (json_int_t)length, "what", what);

    *at += length;
    if (step) {
        (void)json_object_set(o, "step", json_object_get(step, "id"));
        (void)json_object_set(o, "name", json_object_get(step, "name"));
    }
    for (size_t i = 0; step && strcmp(what, "fault") == 0 && i < SQ_COUNT(of_fault); i++)
        (void)json_object_set(o, of_fault[i], json_object_get(step, of_fault[i]));
    (void)json_array_append_new(timeline, o);
}

static int64_t add_timeline(const json_t *spec, json_t *timeline, json_t *faults)
{
    const json_t *steady = json_object_get(spec, "steady_state"), *step;
    cleanup_json json_t *seen = json_object();
    int64_t at = 0;
    size_t i;

    if (steady)
        add_stretch(timeline, &at, sq_json_int_or(steady, "for", 0), "steady_state", NULL);
    json_array_foreach(json_object_get(spec, "steps"), i, step)
    {
        const char *uses = sq_json_str_or(step, "uses", NULL);

        if (!uses) {
            add_stretch(timeline, &at, sq_json_int_or(step, "wait", 0), "wait", step);
            continue;
        }
        if (!json_object_get(seen, uses))
            (void)json_array_append_new(faults, json_string(uses));
        (void)json_object_set_new(seen, uses, json_true());
        add_stretch(timeline, &at, sq_json_int_or(step, "duration", 0), "fault", step);
        if (sq_json_int_or(step, "settle", 0) > 0)
            add_stretch(timeline, &at, sq_json_int_or(step, "settle", 0), "settle", step);
    }
    return at;
}

json_t *sq_plan_make(const json_t *normalized, struct sq_err *e)
{
    const json_t *spec = json_object_get(normalized, "spec"), *meta = json_object_get(normalized, "metadata");
    json_t *started = json_array(), *selected = json_array(), *timeline = json_array(), *faults = json_array(), *plan;
    int64_t total = 0;

    if (started && selected && timeline && faults) {
        add_services(normalized, started, selected);
        total = add_timeline(spec, timeline, faults);
    }
    /* json_pack takes the arrays over, and gives NULL when one of them is. */
    plan = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:I, s:O?, s:O?}", "name", sq_json_str_or(meta, "name", ""),
                     "hypothesis", sq_json_str_or(spec, "hypothesis", ""), "services", started, "selected", selected,
                     "timeline", timeline, "faults", faults, "total", (json_int_t)total, "load",
                     json_object_get(spec, "load"), "hosts", json_object_get(spec, "hosts"));
    if (!plan)
        sq_err(e, -ENOMEM, "out of memory");
    return plan;
}

/* A list as people write one; what does not fit is "..." */
static void join(const json_t *list, char *buf, size_t len)
{
    size_t used = 0, i;
    const json_t *v;

    buf[0] = '\0';
    json_array_foreach(list, i, v)
    {
        const char *s = json_string_value(v);
        size_t n = s ? strlen(s) : 0;

        if (used + n + 6 > len) {
            (void)snprintf(buf + used, len - used, " ...");
            return;
        }
        used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? " " : "", s ? s : "?");
    }
}

static char *one_value(const struct sq_param *p, const json_t *v, char *buf, size_t len)
{
    char *dump;

    if (json_is_number(v) && json_number_value(v) <= 0)
        (void)snprintf(buf, len, "0");
    else if (p->type == SQ_P_DURATION)
        return sq_fmt_duration(json_integer_value(v), buf, len);
    else if (p->type == SQ_P_PERCENT)
        (void)snprintf(buf, len, "%.6g %%", json_number_value(v));
    else if (p->type == SQ_P_RATE)
        (void)snprintf(buf, len, "%.6g/s", json_number_value(v));
    else if (p->type == SQ_P_ERRNO)
        (void)snprintf(buf, len, "%s", sq_errno_name((int)json_integer_value(v)));
    else if (p->type == SQ_P_SIGNAL)
        (void)snprintf(buf, len, "%s", sq_signal_name((int)json_integer_value(v)));
    else if (json_is_string(v))
        (void)snprintf(buf, len, "%s", *json_string_value(v) ? json_string_value(v) : "\"\"");
    else if (p->type == SQ_P_STRINGS && json_is_array(v))
        join(v, buf, len);
    else {
        dump = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        (void)snprintf(buf, len, "%s", dump ? dump : "?");
        free(dump);
    }
    return buf;
}

char *sq_plan_values(const struct sq_param *params, const json_t *values, char *buf, size_t len)
{
    size_t used = 0;

    buf[0] = '\0';
    for (const struct sq_param *p = params; p && p->name && used < len; p++) {
        const json_t *v = json_object_get(values, p->name);
        char text[256];
        int n;

        if (!v)
            continue;
        n = snprintf(buf + used, len - used, "%s%s %s", used ? ", " : "", p->name, one_value(p, v, text, sizeof text));
        used += n < 0 ? 0 : (size_t)n;
    }
    return buf;
}
