/* Runs the probe on a load as of a normalized scenario (standard input) for so many seconds, and says what it found:
 *   probe_load SECONDS < load.json
 * {"endpoint": {"planned", "ok", "bad": {..}, "status": {..}, "reconnects", "p": {"50": ms, ...}, "ps": service time,
 * "end": the probe record}}; exit 2 and the error on standard error when it can't be run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe/probe.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/hist.h"
#include "squall/json.h"

static void add_counts(json_t *into, const char *key, const json_t *from)
{
    json_t *o = json_object_get(into, key), *v;
    const char *name;

    if (!o) {
        o = json_object();
        (void)json_object_set_new(into, key, o);
    }
    json_object_foreach((json_t *)(uintptr_t)from, name, v)
    {
        (void)json_object_set_new(o, name, json_integer(sq_json_int_or(o, name, 0) + json_integer_value(v)));
    }
}

static void add_percentiles(json_t *o, const char *key, const struct sq_hist *h)
{
    static const char *const which[] = {"0", "50", "90", "95", "99", "99.9", "100"};
    json_t *p = json_object();

    for (size_t i = 0; i < SQ_COUNT(which); i++)
        (void)json_object_set_new(p, which[i], json_real((double)sq_hist_percentile(h, strtod(which[i], NULL)) / 1e6));
    (void)json_object_set_new(p, "n", json_integer((json_int_t)sq_hist_count(h)));
    (void)json_object_set_new(o, key, p);
}

static json_t *one(const json_t *samples, const json_t *end, const char *name)
{
    static const char *const sums[] = {"planned", "sent", "ok", "late", "lag_late", "reconnects", "bytes"};
    struct sq_hist *h = sq_hist_new(), *hs = sq_hist_new();
    json_t *o = json_object(), *s;
    size_t i, k;

    json_array_foreach(samples, i, s)
    {
        if (strcmp(sq_json_str_or(s, "endpoint", ""), name) != 0)
            continue;
        for (k = 0; k < SQ_COUNT(sums); k++)
            (void)json_object_set_new(o, sums[k],
                                      json_integer(sq_json_int_or(o, sums[k], 0) + sq_json_int_or(s, sums[k], 0)));
        add_counts(o, "bad", json_object_get(s, "bad"));
        add_counts(o, "status", json_object_get(s, "status"));
        (void)sq_hist_add_json(h, json_object_get(s, "h"), NULL);
        (void)sq_hist_add_json(hs, json_object_get(s, "hs"), NULL);
    }
    add_percentiles(o, "p", h);
    add_percentiles(o, "ps", hs);
    json_array_foreach(end, i, s)
    {
        if (strcmp(sq_json_str_or(s, "endpoint", ""), name) == 0)
            (void)json_object_set(o, "end", s);
    }
    sq_hist_free(h);
    sq_hist_free(hs);
    return o;
}

int main(int argc, char **argv)
{
    double seconds = argc == 2 ? strtod(argv[1], NULL) : 0;
    cleanup_json json_t *load = json_loadf(stdin, 0, NULL);
    cleanup_json json_t *samples = json_array(), *out = json_object(), *end = NULL;
    struct sq_probe_opts o = {.load = load, .run_id = "probe_load"};
    struct sq_probe *p = NULL;
    struct sq_err e = {0};
    const char *name;
    json_t *s;

    if (seconds <= 0 || sq_probe_create(&o, &p, &e) < 0 || sq_probe_start(p, sq_mono_ns(), 0, &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        sq_probe_free(p);
        return 2;
    }
    while (sq_mono_ns() < sq_probe_begin_ns(p) + (int64_t)(seconds * 1e9))
        (void)usleep(1000);
    sq_probe_stop(p, -1);
    while (!sq_probe_done(p))
        (void)usleep(1000);
    while ((s = sq_probe_next(p)))
        (void)json_array_append_new(samples, s);
    end = sq_probe_end(p);
    json_object_foreach(load, name, s)
    {
        (void)json_object_set_new(out, name, one(samples, end, name));
    }
    (void)json_dumpf(out, stdout, JSON_INDENT(1));
    (void)putchar('\n');
    sq_probe_free(p);
    return 0;
}
