/* What the terminal is told about a run. */
#include <string.h>

#include "run/state.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

static bool fault_on(const struct run *r)
{
    return r->fault && !r->fault->reverted;
}

/* Once a second: p99 of the last one. */
static void remember(struct run *r, int64_t now)
{
    struct sq_probe_window w;
    int64_t sec = (now - r->start_ns) / SQ_S;
    if (sec == r->spark_sec || sq_farm_window(r->farm, 1, &w) || w.seconds == 0)
        return;
    r->spark_sec = sec;
    if (r->spark_n == SQ_PROGRESS_SPARK) {
        memmove(r->spark, r->spark + 1, sizeof(r->spark) - sizeof(r->spark[0]));
        memmove(r->spark_fault, r->spark_fault + 1, sizeof(r->spark_fault) - sizeof(r->spark_fault[0]));
        r->spark_n--;
    }
    r->spark[r->spark_n] = w.n ? (double)w.p99 / 1e6 : -1;
    r->spark_fault[r->spark_n++] = fault_on(r);
}

static void view_load(struct run *r, struct sq_progress_view *v, int64_t now)
{
    struct sq_probe_window w;
    struct sq_probe_live l;
    remember(r, now);
    if (sq_farm_window(r->farm, 3, &w) == 0) {
        v->rate = w.rate;
        v->error_percent = w.error_percent;
        v->p50 = w.p50;
        v->p99 = w.p99;
        v->load = true;
    }
    sq_farm_live(r->farm, &l);
    v->late = l.lag_late;
    memcpy(v->spark, r->spark, sizeof(v->spark));
    memcpy(v->spark_fault, r->spark_fault, sizeof(v->spark_fault));
    v->spark_n = r->spark_n;
}

void sq_run_view(struct run *r)
{
    struct sq_progress_view v = {0};
    int64_t now = sq_mono_ns();
    v.name = sq_json_str_or(json_object_get(r->o->scenario, "metadata"), "name", "run");
    v.stage = r->stage_name;
    v.fault = fault_on(r);
    v.step = r->step_no;
    v.steps = r->step_count;
    v.elapsed_ns = now - r->start_ns;
    if (r->stage_to_ns) {
        v.stage_ns = r->stage_to_ns - r->stage_from_ns;
        v.stage_left_ns = r->stage_to_ns > now ? r->stage_to_ns - now : 0;
    }
    if (r->probe_on && !r->load_over)
        view_load(r, &v, now);
    const char *edge;
    json_t *def;
    json_object_foreach(json_object_get(r->spec, "edges"), edge, def)
    {
        if (v.n_edges == SQ_PROGRESS_EDGES || !r->id[0])
            break;
        v.edges[v.n_edges].edge = edge;
        v.edges[v.n_edges].state = sq_live_look(r->live, edge, (now - r->start_ns) / SQ_MS, &v.edges[v.n_edges].rate);
        v.n_edges++;
    }
    sq_progress_draw(r->o->progress, &v, now);
}
