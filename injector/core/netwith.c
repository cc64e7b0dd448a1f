/* What the parameters of network faults can't say in their tables: presets, bandwidths, distributions, what needs what.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"
#include "squall/point.h"
#include "squall/preset.h"
#include "squall/spec.h"

/* Units as tc's, case ignored (iproute2 lib/utils_math.c): bit is 1, bps is 8 bits, a bare number is bits. */
static const struct {
    const char *name;
    double bits;
} units[] = {
    {"", 1},
    {"bit", 1},
    {"kibit", 1024},
    {"kbit", 1e3},
    {"mibit", 1024. * 1024},
    {"mbit", 1e6},
    {"gibit", 1024. * 1024 * 1024},
    {"gbit", 1e9},
    {"tibit", 1024. * 1024 * 1024 * 1024},
    {"tbit", 1e12},
    {"bps", 8},
    {"kibps", 8. * 1024},
    {"kbps", 8e3},
    {"mibps", 8. * 1024 * 1024},
    {"mbps", 8e6},
    {"gibps", 8. * 1024 * 1024 * 1024},
    {"gbps", 8e9},
    {"tibps", 8. * 1024 * 1024 * 1024 * 1024},
    {"tbps", 8e12},
};

int sq_parse_bandwidth(const char *s, uint64_t *bytes, struct sq_err *e)
{
    size_t digits = strspn(s, "0123456789.");
    char *end = NULL;
    double v = digits > 0 && digits <= 18 ? strtod(s, &end) : NAN;

    /* strtod would also take an exponent, and stop at a second point. */
    if (end == s + digits)
        for (size_t i = 0; i < SQ_COUNT(units); i++)
            if (strcasecmp(end, units[i].name) == 0) {
                v = v * units[i].bits / 8;
                if (v < 1 || v > 1e15)
                    return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"rate\" must be 8bit to 8000tbit, not \"%.60s\"", s);
                *bytes = (uint64_t)v;
                return 0;
            }
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"rate\": \"%.60s\" is not a bandwidth", s);
    sq_err_hint(e, "write bits as 10mbit, 1.5gbit, 64kbit, or bytes as 125kbps, per second");
    return -EINVAL;
}

size_t sq_distribution_path(const char *s)
{
    static const char *const kinds[] = {"file:", "hlog:", "run:"};

    for (size_t i = 0; i < SQ_COUNT(kinds); i++)
        if (strncmp(s, kinds[i], strlen(kinds[i])) == 0)
            return strlen(kinds[i]);
    return 0;
}

int sq_distribution_check(const char *s, struct sq_err *e)
{
    static const char *const known[] = {"uniform", "normal", "pareto", "paretonormal"};
    size_t path = sq_distribution_path(s);

    if (path && s[path] && s[path] != '#')
        return 0;
    for (size_t i = 0; i < SQ_COUNT(known); i++)
        if (strcmp(s, known[i]) == 0)
            return 0;
    const char *near = path ? NULL : sq_nearest(s, known, SQ_COUNT(known));
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"distribution\" can't be \"%.60s\"", s);
    if (near)
        sq_err_hint(e, "did you mean \"%s\"?", near);
    else
        sq_err_hint(e, "uniform, normal, pareto, paretonormal, file:PATH, hlog:PATH or run:DIR#ENDPOINT");
    return -EINVAL;
}

int sq_preset_check(const char *name, struct sq_err *e)
{
    cleanup_json json_t *preset = sq_preset_find(name);
    const char *near = preset ? NULL : sq_preset_nearest(name);

    if (preset)
        return 0;
    sq_err_cls(e, SQ_C_INPUT, -EINVAL, "there is no preset \"%.60s\"", name);
    if (near)
        sq_err_hint(e, "did you mean \"%s\"?", near);
    else
        sq_err_hint(e, "squall explain presets lists them");
    return -EINVAL;
}

static int check_needs(const json_t *with, const struct sq_point *at, struct sq_err *e)
{
    static const char *const correlations[] = {"loss", "duplicate", "corrupt", "reorder"};
    char key[40];

    /* A preset, or a recording, may have what it needs. */
    if (json_object_get(with, "preset") || sq_distribution_path(sq_json_str_or(with, "distribution", "")))
        return 0;
    if (sq_json_num_or(with, "reorder", 0) > 0 && sq_json_int_or(with, "delay", 0) == 0) {
        sq_point(at, "reorder");
        sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                   "\"reorder\" needs a \"delay\": packets that are not held can't be overtaken");
        return -EINVAL;
    }
    if (sq_json_int_or(with, "gap", 0) > 0 && sq_json_num_or(with, "reorder", 0) <= 0) {
        sq_point(at, "gap");
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"gap\" needs a \"reorder\"");
    }
    for (size_t i = 0; i < SQ_COUNT(correlations); i++) {
        (void)snprintf(key, sizeof key, "%s_correlation", correlations[i]);
        if (sq_json_num_or(with, key, 0) <= 0 || sq_json_num_or(with, correlations[i], 0) > 0)
            continue;
        sq_point(at, "%s", key);
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "\"%s\" needs a \"%s\"", key, correlations[i]);
    }
    return 0;
}

int sq_network_with_check(const json_t *with, char *where, size_t len, struct sq_err *e)
{
    const struct sq_point at = {where, len};
    const char *preset = sq_json_str_or(with, "preset", NULL), *rate = sq_json_str_or(with, "rate", NULL);
    const char *dist = sq_json_str_or(with, "distribution", NULL);
    const char *slot = sq_json_str_or(json_object_get(with, "slot"), "distribution", NULL);
    uint64_t bytes;
    int r = 0;

    if (preset) {
        sq_point(&at, "preset");
        r = sq_preset_check(preset, e);
    }
    if (r == 0 && rate) {
        sq_point(&at, "rate");
        r = sq_parse_bandwidth(rate, &bytes, e);
    }
    if (r == 0 && dist) {
        sq_point(&at, "distribution");
        r = sq_distribution_check(dist, e);
    }
    if (r == 0 && slot) {
        sq_point(&at, "slot/distribution");
        r = sq_distribution_check(slot, e);
    }
    if (r == 0) {
        sq_point(&at, "%s", "");
        r = check_needs(with, &at, e);
    }
    return r;
}

static int check_ports(const json_t *with, const char *key, const struct sq_point *at, struct sq_err *e)
{
    const json_t *list = json_object_get(with, key), *port;
    uint16_t from, to;
    size_t i;

    sq_point(at, "%s", key);
    if (list && strcmp(sq_json_str_or(with, "protocol", ""), "icmp") == 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "ICMP has no ports");
    json_array_foreach(list, i, port)
    {
        const char *text = json_string_value(port);

        sq_point(at, "%s/%zu", key, i);
        if (sq_parse_ports(text ? text : "", &from, &to, e) < 0)
            return -EINVAL;
    }
    return 0;
}

int sq_partition_with_check(const json_t *with, char *where, size_t len, struct sq_err *e)
{
    const struct sq_point at = {where, len};
    const char *protocol = sq_json_str_or(with, "protocol", "any");
    int r = check_ports(with, "port", &at, e);

    r = r ? r : check_ports(with, "local_port", &at, e);
    if (r < 0)
        return r;
    sq_point(&at, "how");
    if (strcmp(sq_json_str_or(with, "how", ""), "reject-rst") == 0 && strcmp(protocol, "any") != 0 &&
        strcmp(protocol, "tcp") != 0) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL, "only TCP can be reset");
        sq_err_hint(e, "how: reject-icmp");
        return -EINVAL;
    }
    sq_point(&at, "%s", "");
    return 0;
}

/* ---- for people ---- */

#define NAMED 3 /* of a group of hosts */

static size_t put_group(const char *word, const json_t *list, char *buf, size_t len)
{
    size_t used = 0, i;
    const json_t *v;
    int n = snprintf(buf, len, "%s", word);

    used = n < 0 ? 0 : (size_t)n;
    json_array_foreach(list, i, v)
    {
        if (used >= len)
            return len - 1;
        n = snprintf(buf + used, len - used, i < NAMED ? "%s%.60s" : "%s%.0s...", i && i < NAMED ? ", " : " ",
                     json_string_value(v) ? json_string_value(v) : "?");
        used += n < 0 ? 0 : (size_t)n;
        if (i == NAMED)
            break;
    }
    return used < len ? used : len - 1;
}

bool sq_network_hit_text(const json_t *hit, char *buf, size_t len)
{
    const char *interface = sq_json_str_or(hit, "interface", NULL), *backend = sq_json_str_or(hit, "backend", NULL);
    const json_t *between = json_object_get(hit, "between"), *and = json_object_get(hit, "and");

    if (interface) {
        (void)snprintf(buf, len, "%s %s%s%s", interface, sq_json_str_or(hit, "direction", ""), backend ? " by " : "",
                       backend ? backend : "");
        return true;
    }
    if (!json_is_array(between) || !json_is_array(and))
        return false;
    size_t used = put_group("between", between, buf, len);
    (void)put_group(" and", and, buf + used, len - used);
    return true;
}
