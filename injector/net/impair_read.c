/* From JSON to struct sq_impair: presets, loss models, slots, rates and distributions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/dist.h"
#include "net/impair.h"
#include "net/recorded.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/netspec.h"

#define FILE_MAX ((size_t)1 << 20) /* of a .dist: 16384 numbers need 7 bytes each */

static const struct sq_param all_params[] = {SQ_IMPAIR_DELAY(0), SQ_IMPAIR_LOSS(0), SQ_IMPAIR_REST, SQ_PARAM_END};

int sq_impair_rate(const char *s, uint64_t *rate, struct sq_err *e)
{
    return sq_parse_bandwidth(s, rate, e);
}

static int read_int(const json_t *with, const char *key, int64_t min, int64_t max, int64_t *v, struct sq_err *e)
{
    *v = sq_json_int_or(with, key, 0);
    if (*v < min || *v > max)
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "\"%s\" must be %lld to %lld", key, (long long)min, (long long)max);
    return 0;
}

static const char *after(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

static int read_file(const char *path, struct sq_dist_table **table, struct sq_err *e)
{
    cleanup_free char *text = NULL;
    size_t len;
    int r = sq_dist_slurp(path, FILE_MAX, &text, &len, e);

    return r < 0 ? r : sq_dist_parse(path, text, len, table, e);
}

/* PATH, PATH#ns, PATH#us, PATH#ms: what 1 stands for in the log. */
static int read_hlog(char *path, struct sq_values *v, struct sq_err *e)
{
    static const struct {
        const char *name;
        int64_t ns;
    } log_units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}};
    cleanup_free char *text = NULL;
    char *mark = strrchr(path, '#');
    int64_t unit = 1;
    size_t len;
    int r;

    for (size_t i = 0; mark && i < SQ_COUNT(log_units); i++)
        if (strcmp(mark + 1, log_units[i].name) == 0) {
            *mark = 0;
            unit = log_units[i].ns;
        }
    r = sq_dist_slurp(path, SQ_RECORDED_MAX, &text, &len, e);
    if (r < 0)
        return r;
    r = sq_values_hlog(v, text, len, unit, e);
    return r < 0 ? sq_err_prefix(e, "%.300s", path) : 0;
}

/* DIR#ENDPOINT, or DIR for all endpoints together. */
static int read_run(char *dir, struct sq_values *v, struct sq_err *e)
{
    cleanup_free char *text = NULL, *path = NULL;
    char *endpoint = strchr(dir, '#');
    size_t len;
    int r;

    if (endpoint)
        *endpoint++ = 0;
    if (asprintf(&path, "%s/evidence.jsonl", dir) < 0) {
        path = NULL;
        return sq_err(e, -ENOMEM, "out of memory");
    }
    r = sq_dist_slurp(path, SQ_RECORDED_MAX, &text, &len, e);
    if (r < 0)
        return r;
    r = sq_values_run(v, text, len, endpoint, e);
    if (r == 0 && v->n == 0)
        r = sq_err_cls(e, SQ_C_NOTFOUND, -ENODATA, "there are no samples of %s%.100s",
                       endpoint ? "endpoint " : "any endpoint", endpoint ? endpoint : "");
    return r < 0 ? sq_err_prefix(e, "%.300s", path) : 0;
}

static int read_recording(const char *what, bool run, struct sq_dist_table **table, int64_t *mean, int64_t *jitter,
                          struct sq_err *e)
{
    cleanup_free char *copy = strdup(what);
    struct sq_values v = {0};
    int r;

    if (!copy)
        return sq_err(e, -ENOMEM, "out of memory");
    r = run ? read_run(copy, &v, e) : read_hlog(copy, &v, e);
    if (r == 0)
        r = sq_values_table(&v, mean, jitter, table, e);
    sq_values_clear(&v);
    return r;
}

int sq_dist_read(const char *s, enum sq_dist *d, struct sq_dist_table **table, int64_t *mean, int64_t *jitter,
                 struct sq_err *e)
{
    const char *file = after(s, "file:"), *hlog = after(s, "hlog:"), *run = after(s, "run:");
    int r;

    for (*d = SQ_DIST_UNIFORM; *d < SQ_DIST_TABLE; (*d)++)
        if (strcmp(s, sq_dist_name(*d)) == 0)
            return *jitter > 0 ? sq_dist_named(*d, table, e) : 0;
    *d = SQ_DIST_UNIFORM;
    if (!file && !hlog && !run)
        return sq_distribution_check(s, e);
    r = file ? read_file(file, table, e) : read_recording(run ? run : hlog, run != NULL, table, mean, jitter, e);
    /* A recording of one value only has no distribution. */
    *d = r == 0 && *table ? SQ_DIST_TABLE : SQ_DIST_UNIFORM;
    return r < 0 ? sq_err_prefix(e, "\"distribution\"") : 0;
}

static int read_loss_state(const json_t *in, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *m = NULL;
    int r = sq_spec_normalize("loss_state", sq_impair_state_params, in, &m, e);

    if (r < 0)
        return r;
    im->loss_model = SQ_LOSS_STATE;
    im->p13 = sq_json_num_or(m, "p13", 0);
    im->p31 = sq_json_num_or(m, "p31", 100 - im->p13);
    im->p32 = sq_json_num_or(m, "p32", 0);
    im->p23 = sq_json_num_or(m, "p23", 100);
    im->p14 = sq_json_num_or(m, "p14", 0);
    return 0;
}

static int read_loss_gemodel(const json_t *in, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *m = NULL;
    int r = sq_spec_normalize("loss_gemodel", sq_impair_gemodel_params, in, &m, e);

    if (r < 0)
        return r;
    im->loss_model = SQ_LOSS_GEMODEL;
    im->ge_p = sq_json_num_or(m, "p", 0);
    im->ge_r = sq_json_num_or(m, "r", 100 - im->ge_p);
    im->ge_1h = sq_json_num_or(m, "1-h", 100);
    im->ge_1k = sq_json_num_or(m, "1-k", 0);
    return 0;
}

static int read_loss(const json_t *with, struct sq_impair *im, struct sq_err *e)
{
    const json_t *state = json_object_get(with, "loss_state"), *gemodel = json_object_get(with, "loss_gemodel");

    im->loss = sq_json_num_or(with, "loss", 0);
    im->loss_corr = sq_json_num_or(with, "loss_correlation", 0);
    im->loss_model = im->loss > 0 ? SQ_LOSS_RANDOM : SQ_LOSS_NONE;
    im->ecn = sq_json_bool_or(with, "ecn", false);
    if ((state != NULL) + (gemodel != NULL) + (im->loss > 0) > 1)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "only one of \"loss\", \"loss_state\" and \"loss_gemodel\" can be in one fault");
    if (state)
        return read_loss_state(state, im, e);
    return gemodel ? read_loss_gemodel(gemodel, im, e) : 0;
}

static int read_slot(const json_t *in, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *m = NULL;
    const char *dist;
    int64_t v;
    int r = sq_spec_normalize("slot", sq_impair_slot_params, in, &m, e);

    if (r < 0)
        return r;
    im->slot = true;
    im->slot_min = sq_json_int_or(m, "min", 0);
    im->slot_max = sq_json_int_or(m, "max", im->slot_min);
    im->slot_delay = sq_json_int_or(m, "delay", 0);
    im->slot_jitter = sq_json_int_or(m, "jitter", 0);
    r = read_int(m, "packets", 0, INT32_MAX, &v, e);
    im->slot_packets = r < 0 ? 0 : (uint32_t)v;
    if (r == 0)
        r = read_int(m, "bytes", 0, INT32_MAX, &v, e);
    im->slot_bytes = r < 0 ? 0 : (uint32_t)v;
    dist = sq_json_str_or(m, "distribution", NULL);
    if (r == 0 && dist)
        r = sq_dist_read(dist, &im->slot_dist, &im->slot_table, &im->slot_delay, &im->slot_jitter, e);
    return r < 0 ? sq_err_prefix(e, "\"slot\"") : 0;
}

static int read_rates(const json_t *with, struct sq_impair *im, struct sq_err *e)
{
    const char *rate = sq_json_str_or(with, "rate", NULL);
    int64_t v = 0;
    int r = rate ? sq_impair_rate(rate, &im->rate, e) : 0;

    if (r == 0)
        r = read_int(with, "packet_overhead", INT16_MIN, UINT16_MAX, &v, e);
    im->packet_overhead = (int32_t)(r < 0 ? 0 : v);
    if (r == 0)
        r = read_int(with, "cell_size", 0, UINT16_MAX, &v, e);
    im->cell_size = (uint32_t)(r < 0 ? 0 : v);
    if (r == 0)
        r = read_int(with, "cell_overhead", -UINT16_MAX, UINT16_MAX, &v, e);
    im->cell_overhead = (int32_t)(r < 0 ? 0 : v);
    return r;
}

static int read_parts(const json_t *with, struct sq_impair *im, struct sq_err *e)
{
    const json_t *slot = json_object_get(with, "slot");
    int64_t gap = 0, limit = 0;
    int r;

    im->delay = sq_json_int_or(with, "delay", 0);
    im->jitter = sq_json_int_or(with, "jitter", 0);
    im->delay_corr = sq_json_num_or(with, "correlation", 0);
    im->duplicate = sq_json_num_or(with, "duplicate", 0);
    im->duplicate_corr = sq_json_num_or(with, "duplicate_correlation", 0);
    im->corrupt = sq_json_num_or(with, "corrupt", 0);
    im->corrupt_corr = sq_json_num_or(with, "corrupt_correlation", 0);
    im->reorder = sq_json_num_or(with, "reorder", 0);
    im->reorder_corr = sq_json_num_or(with, "reorder_correlation", 0);
    r = read_loss(with, im, e);
    if (r == 0)
        r = read_int(with, "gap", 0, INT32_MAX, &gap, e);
    if (r == 0)
        r = read_int(with, "limit", 0, SQ_IMPAIR_LIMIT_MAX, &limit, e);
    if (r == 0)
        r = read_rates(with, im, e);
    if (r == 0)
        r = sq_dist_read(sq_json_str_or(with, "distribution", "uniform"), &im->dist, &im->table, &im->delay,
                         &im->jitter, e);
    if (r == 0 && slot)
        r = read_slot(slot, im, e);
    im->gap = (uint32_t)(r < 0 ? 0 : gap);
    im->limit = (uint32_t)(r < 0 ? 0 : limit);
    return r;
}

/* The preset's parameters, overridden by what WITH gives; WITH itself when it names none. New reference. */
static int with_preset(const json_t *with, json_t **out, struct sq_err *e)
{
    static const char *const losses[] = {"loss", "loss_state", "loss_gemodel", "loss_correlation"};
    const char *name = sq_json_str_or(with, "preset", NULL);
    cleanup_json json_t *preset = name ? sq_preset_find(name) : json_object();
    cleanup_json json_t *o = NULL;
    bool loss = false;
    int r;

    if (!preset)
        return name && sq_preset_check(name, e) < 0 ? -EINVAL : sq_err(e, -ENOMEM, "out of memory");
    r = sq_spec_normalize("preset", all_params, preset, &o, e);
    if (r < 0)
        return r;
    /* Another loss than the preset's takes its place. */
    for (size_t i = 0; i < SQ_COUNT(losses); i++)
        loss |= json_object_get(with, losses[i]) != NULL;
    for (size_t i = 0; loss && i < SQ_COUNT(losses); i++)
        (void)json_object_del(o, losses[i]);
    if (json_object_update(o, (json_t *)(uintptr_t)with) != 0)
        return sq_err(e, -ENOMEM, "out of memory");
    *out = SQ_TAKE(o);
    return 0;
}

int sq_impair_read(const json_t *with, struct sq_impair *im, struct sq_err *e)
{
    cleanup_json json_t *all = NULL;
    int r;

    memset(im, 0, sizeof *im);
    r = with_preset(with, &all, e);
    if (r == 0)
        r = read_parts(all, im, e);
    return r == 0 ? sq_impair_check(im, e) : r;
}
