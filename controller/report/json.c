/* report.json: the verdict, what users felt in each phase, and the faults, for machines. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "report/report.h"
#include "report/series.h"
#include "squall/cleanup.h"
#include "squall/json.h"

/* JSON has no NaN. */
static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *phases(const struct sq_phase_row *rows, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(
            list, json_pack("{s:s,s:s*,s:[f,f],s:I,s:I,s:o,s:o,s:o,s:o}", "phase", rows[i].name, "endpoint",
                            rows[i].endpoint, "window", (double)rows[i].win.from_ns / 1e9,
                            (double)rows[i].win.to_ns / 1e9, "requests", (json_int_t)rows[i].n, "bad",
                            (json_int_t)rows[i].bad, "p50_ms", number(rows[i].p50), "p95_ms", number(rows[i].p95),
                            "p99_ms", number(rows[i].p99), "error_rate_percent", number(rows[i].error_rate)));
    return list;
}

static json_t *faults(const struct sq_evidence *ev)
{
    json_t *list = json_array();

    for (size_t i = 0; i < ev->n_faults; i++) {
        const struct sq_ev_fault *f = &ev->faults[i];

        if (f->applied || f->failed)
            (void)json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:[f,f],s:b,s:b,s:O?,s:O?,s:s}", "fault", f->id,
                                                        "step", f->step, "uses", f->uses, "window",
                                                        (double)f->win.from_ns / 1e9, (double)f->win.to_ns / 1e9,
                                                        "applied", f->applied, "reverted", f->reverted, "hit", f->hit,
                                                        "readback", f->readback, "error", f->error));
    }
    return list;
}

static int write_json(FILE *out, const struct sq_report_in *in, struct sq_err *e)
{
    const struct sq_evidence *ev = in->ev;
    cleanup_free struct sq_phase_row *rows = NULL;
    cleanup_json json_t *doc = NULL;
    size_t n = 0;
    int r = sq_phase_rows(ev, &rows, &n, e);

    if (r < 0)
        return r;
    doc = json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:I,s:O,s:o,s:o}", "v", 1, "run", ev->id, "name", ev->name, "start",
                    ev->start, "host", ev->host, "squall", ev->squall, "seed", (json_int_t)ev->seed, "result",
                    in->verdict, "phases", phases(rows, n), "faults", faults(ev));
    if (!doc)
        return sq_err(e, -ENOMEM, "out of memory");
    if (json_dumpf(doc, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || fputc('\n', out) == EOF)
        return sq_err_sys(e, errno ? -errno : -EIO, "cannot write the report");
    return 0;
}

const struct sq_report sq_report_json = {"json", "report.json", "everything a program wants to know", write_json};
