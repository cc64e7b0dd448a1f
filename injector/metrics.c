#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine.h"
#include "intercept/intercept.h"
#include "run.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/version.h"

/* In a label's value backslash, quote and newline are escaped; a newline anywhere else would end the sample. */
static void put_label(FILE *f, const char *name, const char *value, bool first)
{
    (void)fprintf(f, "%s%s=\"", first ? "" : ",", name);
    for (; *value; value++) {
        if (*value == '\n')
            (void)fputs("\\n", f);
        else if (*value == '\\' || *value == '"')
            (void)fprintf(f, "\\%c", *value);
        else
            (void)fputc(*value, f);
    }
    (void)fputc('"', f);
}

static void head(FILE *f, const char *name, const char *type, const char *help)
{
    (void)fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void labels(FILE *f, const char *name, const json_t *edge, const json_t *instance)
{
    (void)fprintf(f, "%s{", name);
    put_label(f, "run", sq_json_str_or(edge, "run", ""), true);
    put_label(f, "edge", sq_json_str_or(edge, "edge", ""), false);
    if (instance)
        put_label(f, "instance", sq_json_str_or(instance, "instance", ""), false);
}

/* One family with a sample for each edge, or for each instance of each. */
struct family {
    const char *name, *key, *help;
};

static const struct family of_edge[] = {
    {"squall_edge_bypassed_total", "bypassed", "Calls that could not be taken and went past the proxy."},
    {"squall_edge_lost_total", "lost", "Failed connects that are missing in the evidence."},
};
static const struct family of_instance[] = {
    {"squall_connects_total", "connects", "Connects of a caller over an edge."},
    {"squall_retries_total", "retries", "Calls whose trace id the edge has seen before."},
};
static const struct family of_fault[] = {
    {"squall_fault_seen_total", "seen", "Calls that a fault would hit: those that its percent draws."},
    {"squall_fault_hits_total", "hits", "Calls that a fault hit."},
};
static const struct family of_proxy[] = {
    {"squall_proxy_calls_lost_total", "lost", "Calls that the proxy could not report."},
    {"squall_proxy_stray_total", "stray", "Connections to the proxy that no caller of an edge made."},
};

static void edges_family(FILE *f, const struct family *m, const json_t *edges)
{
    const json_t *edge;
    size_t i;

    head(f, m->name, "counter", m->help);
    json_array_foreach(edges, i, edge)
    {
        labels(f, m->name, edge, NULL);
        (void)fprintf(f, "} %" PRId64 "\n", sq_json_int_or(edge, m->key, 0));
    }
}

static void instances_family(FILE *f, const struct family *m, const json_t *edges)
{
    const json_t *edge, *one;
    size_t i, k;

    head(f, m->name, "counter", m->help);
    json_array_foreach(edges, i, edge) json_array_foreach(json_object_get(edge, "instances"), k, one)
    {
        labels(f, m->name, edge, one);
        (void)fprintf(f, "} %" PRId64 "\n", sq_json_int_or(one, m->key, 0));
    }
}

static void faults_family(FILE *f, const struct family *m, const json_t *edges)
{
    const json_t *edge, *one;
    size_t i, k;

    head(f, m->name, "counter", m->help);
    json_array_foreach(edges, i, edge) json_array_foreach(json_object_get(edge, "faults"), k, one)
    {
        labels(f, m->name, edge, NULL);
        put_label(f, "fault", sq_json_str_or(one, "fault", ""), false);
        put_label(f, "uses", sq_json_str_or(one, "uses", ""), false);
        (void)fprintf(f, "} %" PRId64 "\n", sq_json_int_or(one, m->key, 0));
    }
}

static void calls_family(FILE *f, const json_t *edges)
{
    static const char name[] = "squall_calls_total";
    const json_t *edge, *one, *n;
    const char *outcome;
    size_t i, k;

    head(f, name, "counter", "Calls of a caller over an edge, by the outcome that it saw.");
    json_array_foreach(edges, i, edge) json_array_foreach(json_object_get(edge, "instances"), k, one)
    {
        void *it = json_object_iter(json_object_get(one, "outcomes"));

        for (; it; it = json_object_iter_next(json_object_get(one, "outcomes"), it)) {
            outcome = json_object_iter_key(it);
            n = json_object_iter_value(it);
            labels(f, name, edge, one);
            put_label(f, "outcome", outcome, false);
            (void)fprintf(f, "} %" JSON_INTEGER_FORMAT "\n", json_integer_value(n));
        }
    }
}

static void histogram(FILE *f, const json_t *edge, const json_t *one)
{
    const json_t *d = json_object_get(one, "durations"), *le;
    int64_t n = sq_json_int_or(d, "count", 0);
    size_t i;

    json_array_foreach(json_object_get(d, "le"), i, le)
    {
        labels(f, "squall_request_duration_seconds_bucket", edge, one);
        (void)fprintf(f, ",le=\"%g\"} %" JSON_INTEGER_FORMAT "\n", json_number_value(json_array_get(le, 0)),
                      json_integer_value(json_array_get(le, 1)));
    }
    labels(f, "squall_request_duration_seconds_bucket", edge, one);
    (void)fprintf(f, ",le=\"+Inf\"} %" PRId64 "\n", n);
    labels(f, "squall_request_duration_seconds_sum", edge, one);
    (void)fprintf(f, "} %.9f\n", (double)sq_json_int_or(d, "sum_ns", 0) / 1e9);
    labels(f, "squall_request_duration_seconds_count", edge, one);
    (void)fprintf(f, "} %" PRId64 "\n", n);
}

static void durations_family(FILE *f, const json_t *edges)
{
    const json_t *edge, *one;
    size_t i, k;

    head(f, "squall_request_duration_seconds", "histogram",
         "How long requests over an edge took, as the caller saw it.");
    json_array_foreach(edges, i, edge) json_array_foreach(json_object_get(edge, "instances"), k, one)
        histogram(f, edge, one);
}

static void gave_up_family(FILE *f, const json_t *edges)
{
    static const char name[] = "squall_last_give_up_timestamp_seconds";
    const json_t *edge, *one;
    struct timespec now;
    size_t i, k;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    double ahead = (double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)sq_mono_ns() / 1e9;
    head(f, name, "gauge", "When a caller last gave up a call.");
    json_array_foreach(edges, i, edge) json_array_foreach(json_object_get(edge, "instances"), k, one)
    {
        int64_t at = sq_json_int_or(one, "gave_up_ns", 0);

        if (at == 0)
            continue;
        labels(f, name, edge, one);
        (void)fprintf(f, "} %.2f\n", ahead + (double)at / 1e9);
    }
}

static void value(FILE *f, const char *name, const char *type, const char *help, int64_t n)
{
    head(f, name, type, help);
    (void)fprintf(f, "%s %" PRId64 "\n", name, n);
}

static void proxy_families(FILE *f, const json_t *proxy)
{
    value(f, "squall_proxy_up", "gauge", "Is there a proxy?", sq_json_bool_or(proxy, "up", false));
    value(f, "squall_proxy_connections_open", "gauge", "Connections that the proxy carries.",
          sq_json_int_or(proxy, "open", 0));
    value(f, "squall_proxy_resident_memory_bytes", "gauge", "Resident memory of the proxy.",
          sq_json_int_or(proxy, "rss", 0));
    head(f, "squall_proxy_bytes_total", "counter",
         "Bytes that the proxy read, up to dependencies and down to callers.");
    (void)fprintf(f, "squall_proxy_bytes_total{direction=\"up\"} %" PRId64 "\n", sq_json_int_or(proxy, "bytes_up", 0));
    (void)fprintf(f, "squall_proxy_bytes_total{direction=\"down\"} %" PRId64 "\n",
                  sq_json_int_or(proxy, "bytes_down", 0));
    for (size_t i = 0; i < SQ_COUNT(of_proxy); i++)
        value(f, of_proxy[i].name, "counter", of_proxy[i].help, sq_json_int_or(proxy, of_proxy[i].key, 0));
}

char *sq_metrics_of(const json_t *edges, const json_t *proxy)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    bool bad;

    if (!f)
        return NULL;
    head(f, "squall_build_info", "gauge", "The version of squalld.");
    (void)fprintf(f, "squall_build_info{version=\"%s\"} 1\n", SQUALL_VERSION);
    calls_family(f, edges);
    for (size_t i = 0; i < SQ_COUNT(of_instance); i++)
        instances_family(f, &of_instance[i], edges);
    durations_family(f, edges);
    gave_up_family(f, edges);
    for (size_t i = 0; i < SQ_COUNT(of_fault); i++)
        faults_family(f, &of_fault[i], edges);
    for (size_t i = 0; i < SQ_COUNT(of_edge); i++)
        edges_family(f, &of_edge[i], edges);
    proxy_families(f, proxy);
    bad = ferror(f);
    if (fclose(f) == 0 && !bad)
        return text;
    free(text);
    return NULL;
}

static void keep_own(struct sq_engine *eng, const struct sq_peer *peer, json_t *edges)
{
    for (size_t i = json_array_size(edges); i-- > 0;) {
        const struct sq_run *run = sq_run_find(eng, sq_json_str_or(json_array_get(edges, i), "run", ""));

        if (!run || run->uid != peer->uid)
            (void)json_array_remove(edges, i);
    }
}

char *sq_metrics_text(struct sq_engine *eng, const struct sq_peer *peer)
{
    cleanup_json json_t *edges = sq_intercept_edges(sq_engine_intercept(eng), NULL);
    cleanup_json json_t *proxy = sq_intercept_proxy(sq_engine_intercept(eng));

    if (peer && peer->uid != 0)
        keep_own(eng, peer, edges);
    return sq_metrics_of(edges, proxy);
}
