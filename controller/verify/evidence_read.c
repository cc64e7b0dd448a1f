/* From lines to records. A record of a known type whose members are missing or of the wrong type counts as damaged: it
 * is left out, and the run can't pass any more (verdict.c). */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "verify/evidence_private.h"

#define MAX_SECONDS ((double)SQ_EV_MAX_SECONDS)
#define MAX_COUNT INT64_C(1000000000000)

#define OUTLINE_FROM 512 /* bytes of a line */

/* Distinguishes "this record is damaged" from errors that end the reading. */
#define DAMAGED 1

const char *sq_ev_intern(struct sq_evidence *ev, const char *s)
{
    json_t *names = ev->priv->names;

    if (!json_object_get(names, s) && json_object_set_new(names, s, json_true()))
        return NULL;
    return json_object_iter_key(json_object_iter_at(names, s));
}

int sq_ev_grow(void **array, size_t *cap, size_t n, size_t size, struct sq_err *e)
{
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap * 2 : 16;
    void *p = reallocarray(*array, want, size);
    if (!p)
        return sq_err(e, -ENOMEM, "no memory for the evidence");
    memset((char *)p + n * size, 0, (want - n) * size);
    *array = p;
    *cap = want;
    return 0;
}

static int too_many(const char *what, unsigned most, struct sq_err *e)
{
    return sq_err_cls(e, SQ_C_INPUT, -E2BIG, "the evidence has more than %u %s", most, what);
}

/* The index of KEY in IX, which it gets when it is new (*fresh). -ENOMEM, -E2BIG. */
static int index_of(json_t *ix, const char *key, size_t *out, bool *fresh, const char *what, struct sq_err *e)
{
    const json_t *v = json_object_get(ix, key);

    *fresh = !v;
    *out = v ? (size_t)json_integer_value(v) : json_object_size(ix);
    if (v)
        return 0;
    if (*out >= SQ_EV_MAX_NAMES)
        return too_many(what, SQ_EV_MAX_NAMES, e);
    if (json_object_set_new(ix, key, json_integer((json_int_t)*out)))
        return sq_err(e, -ENOMEM, "no memory for the evidence");
    return 0;
}

static int fault_of(struct sq_evidence *ev, const char *id, struct sq_ev_fault **out, struct sq_err *e)
{
    size_t i;
    bool fresh;
    int rc = index_of(ev->priv->faults, id, &i, &fresh, "faults", e);

    if (rc)
        return rc;
    if (fresh) {
        rc = sq_ev_grow((void **)&ev->faults, &ev->priv->cap_faults, i, sizeof *ev->faults, e);
        if (rc)
            return rc;
        ev->faults[i] =
            (struct sq_ev_fault){.id = sq_ev_intern(ev, id), .step = "", .uses = "", .error = "", .clean = true};
        ev->n_faults = i + 1;
        if (!ev->faults[i].id)
            return sq_err(e, -ENOMEM, "no memory for the evidence");
    }
    *out = &ev->faults[i];
    return 0;
}

static bool time_of(const json_t *rec, int64_t *ns)
{
    double t = sq_json_num_or(rec, "t", NAN);

    if (!(t >= -MAX_SECONDS && t <= MAX_SECONDS))
        return false;
    *ns = (int64_t)llround(t * 1e6) * 1000;
    return true;
}

static bool count_of(const json_t *o, const char *key, uint64_t *out)
{
    const json_t *v = json_object_get(o, key);

    *out = 0;
    if (!v)
        return true;
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 0 || n > MAX_COUNT)
        return false;
    *out = (uint64_t)n;
    return true;
}

static bool bad_of(const json_t *rec, uint64_t *out)
{
    json_t *bad = json_object_get(rec, "bad"), *v;
    const char *key;

    *out = 0;
    if (json_is_integer(bad))
        return count_of(rec, "bad", out);
    json_object_foreach(bad, key, v)
    {
        uint64_t n;

        if (!count_of(bad, key, &n))
            return false;
        *out += n;
    }
    return true;
}

/* ---- the record types ---- */

static int endpoint_of(struct sq_evidence *ev, const char *name, struct sq_ev_endpoint **out, struct sq_err *e)
{
    size_t i;
    bool fresh;
    int rc = index_of(ev->priv->endpoints, name, &i, &fresh, "endpoints", e);

    if (rc)
        return rc;
    if (fresh) {
        rc = sq_ev_grow((void **)&ev->endpoints, &ev->priv->cap_endpoints, i, sizeof *ev->endpoints, e);
        if (rc)
            return rc;
        ev->endpoints[i] = (struct sq_ev_endpoint){.name = sq_ev_intern(ev, name), .void_why = ""};
        ev->n_endpoints = i + 1;
        if (!ev->endpoints[i].name)
            return sq_err(e, -ENOMEM, "no memory for the evidence");
    }
    *out = &ev->endpoints[i];
    return 0;
}

/* A line of the log; `cells` where its histograms are in it, NULL: they are in the record. */
struct line {
    const char *text;
    size_t len;
    const struct sq_cells *cells;
};

static int on_sample(struct sq_evidence *ev, const json_t *rec, const struct line *line, struct sq_err *e)
{
    struct sq_ev_second s = {0};
    struct sq_ev_endpoint *ep;
    const json_t *sec = json_object_get(rec, "sec");
    const char *name = sq_json_str_or(rec, "endpoint", NULL);
    uint64_t second;

    if (!name || !sec || !count_of(rec, "sec", &second) || (double)second > MAX_SECONDS || !bad_of(rec, &s.bad) ||
        !count_of(rec, "sent", &s.sent) || !count_of(rec, "ok", &s.ok) || !count_of(rec, "late", &s.late) ||
        !count_of(rec, "lag_late", &s.lag_late))
        return DAMAGED;
    s.sec = (int64_t)second;
    if (ev->priv->n_samples >= SQ_EV_MAX_SAMPLES)
        return too_many("samples", SQ_EV_MAX_SAMPLES, e);
    int rc = endpoint_of(ev, name, &ep, e);
    if (rc)
        return rc;
    rc = sq_ev_grow((void **)&ep->secs, &ep->cap, ep->n, sizeof *ep->secs, e);
    if (rc)
        return rc;
    char *text = malloc(line->len + 1);
    if (!text)
        return sq_err(e, -ENOMEM, "no memory for the evidence");
    memcpy(text, line->text, line->len);
    text[line->len] = '\0';
    s.text = text;
    s.text_len = line->len;
    s.outlined = line->cells != NULL;
    if (line->cells)
        memcpy(s.cells, line->cells, sizeof s.cells);
    ep->secs[ep->n++] = s;
    ev->priv->n_samples++;
    return 0;
}

static int series_of(struct sq_evidence *ev, const char *edge, const char *instance, struct sq_ev_series **out,
                     struct sq_err *e)
{
    char key[1024];
    size_t i;
    bool fresh;

    if ((size_t)snprintf(key, sizeof key, "%s\x1f%s", edge, instance) >= sizeof key)
        return DAMAGED;
    int rc = index_of(ev->priv->series, key, &i, &fresh, "callers on edges", e);
    if (rc)
        return rc;
    if (fresh) {
        rc = sq_ev_grow((void **)&ev->series, &ev->priv->cap_series, i, sizeof *ev->series, e);
        if (rc)
            return rc;
        ev->series[i] = (struct sq_ev_series){.edge = sq_ev_intern(ev, edge), .instance = sq_ev_intern(ev, instance)};
        ev->n_series = i + 1;
        if (!ev->series[i].edge || !ev->series[i].instance)
            return sq_err(e, -ENOMEM, "no memory for the evidence");
    }
    *out = &ev->series[i];
    return 0;
}

static uint32_t saturated(json_int_t us)
{
    return us < 0 ? 0 : us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static bool trace_of(const char *hex, struct sq_ev_call *c)
{
    if (!hex || strlen(hex) != 32)
        return false;
    for (size_t i = 0; i < 32; i++) {
        unsigned char ch = (unsigned char)hex[i];

        if (!isxdigit(ch))
            return false;
        unsigned digit = isdigit(ch) ? ch - (unsigned)'0' : (unsigned)tolower(ch) - 'a' + 10u;
        c->trace[i / 2] = (uint8_t)((unsigned)c->trace[i / 2] << 4 | digit);
    }
    return true;
}

static int call_of(struct sq_evidence *ev, const json_t *a, struct sq_ev_call *c, struct sq_err *e)
{
    json_int_t n[6];

    if (json_array_size(a) < 6)
        return DAMAGED;
    for (size_t i = 0; i < 6; i++) {
        const json_t *v = json_array_get(a, i);

        if (!json_is_integer(v))
            return DAMAGED;
        n[i] = json_integer_value(v);
    }
    if (n[0] < -(json_int_t)(MAX_SECONDS * 1e3) || n[0] > (json_int_t)(MAX_SECONDS * 1e3) || n[1] < SQ_EV_REQUEST ||
        n[1] > SQ_EV_CONN || n[2] < SQ_EV_ANSWERED || n[2] > SQ_EV_NONE || n[3] < 0 || n[3] > UINT16_MAX)
        return DAMAGED;
    *c = (struct sq_ev_call){.t_ns = n[0] * 1000000,
                             .kind = (uint8_t)n[1],
                             .outcome = (uint8_t)n[2],
                             .status = (uint16_t)n[3],
                             .dur_us = saturated(n[4]),
                             .held_us = saturated(n[5])};
    const char *fault = json_string_value(json_array_get(a, 6));
    if (fault && fault[0]) {
        struct sq_ev_fault *f;
        int rc = fault_of(ev, fault, &f, e);

        if (rc)
            return rc;
        c->fault = (uint16_t)(f - ev->faults + 1);
    }
    c->traced = trace_of(json_string_value(json_array_get(a, 7)), c);
    return 0;
}

static int on_calls(struct sq_evidence *ev, const json_t *rec, struct sq_err *e)
{
    const json_t *calls = json_object_get(rec, "calls");
    const char *edge = sq_json_str_or(rec, "edge", NULL), *instance = sq_json_str_or(rec, "instance", NULL);
    struct sq_ev_series *s;
    bool damaged = false;

    if (!edge || !instance || !json_is_array(calls))
        return DAMAGED;
    int rc = series_of(ev, edge, instance, &s, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < json_array_size(calls); i++) {
        struct sq_ev_call c;

        if (ev->priv->n_calls >= SQ_EV_MAX_CALLS)
            return too_many("calls", SQ_EV_MAX_CALLS, e);
        rc = call_of(ev, json_array_get(calls, i), &c, e);
        if (rc < 0)
            return rc;
        damaged |= rc == DAMAGED;
        if (rc == DAMAGED)
            continue;
        rc = sq_ev_grow((void **)&s->calls, &s->cap, s->n, sizeof *s->calls, e);
        if (rc)
            return rc;
        s->calls[s->n++] = c;
        ev->priv->n_calls++;
    }
    return damaged ? DAMAGED : 0;
}

static int on_fault(struct sq_evidence *ev, const json_t *rec, int64_t t_ns, struct sq_err *e)
{
    const char *state = sq_json_str_or(rec, "state", ""), *id = sq_json_str_or(rec, "fault", NULL);
    struct sq_ev_fault *f;
    char made_up[64];

    if (!id) { /* one that failed before it got an id */
        if (strcmp(state, "failed") != 0)
            return DAMAGED;
        (void)snprintf(made_up, sizeof made_up, "failed@%zu", ev->priv->lines);
        id = made_up;
    }
    int rc = fault_of(ev, id, &f, e);
    if (rc)
        return rc;
    if (!f->step[0])
        f->step = sq_json_str_or(rec, "step", "");
    if (!f->uses[0])
        f->uses = sq_json_str_or(rec, "uses", "");
    if (strcmp(state, "applied") == 0) {
        f->applied = true;
        f->win.from_ns = t_ns;
        f->target = json_object_get(rec, "target");
        f->with = json_object_get(rec, "with");
        f->hit = json_object_get(rec, "hit");
        f->readback = json_object_get(rec, "readback");
    } else if (strcmp(state, "changed") == 0) {
        f->changes++;
        f->with = json_object_get(rec, "with") ? json_object_get(rec, "with") : f->with;
        f->readback = json_object_get(rec, "readback") ? json_object_get(rec, "readback") : f->readback;
    } else if (strcmp(state, "reverted") == 0) {
        if (!f->reverted || t_ns < f->win.to_ns) /* the controller and the injector may both report it */
            f->win.to_ns = t_ns;
        f->ending_ns = f->win.to_ns - sq_json_int_or(rec, "took_ns", 0);
        f->reverted = true;
        f->clean = f->clean && sq_json_bool_or(rec, "clean", true);
        if (json_array_size(json_object_get(rec, "left")) > 0)
            f->left = json_object_get(rec, "left");
    } else if (strcmp(state, "failed") == 0) {
        f->failed = true;
        f->error = sq_json_str_or(rec, "error", "");
    }
    return 0;
}

static int on_phase(struct sq_evidence *ev, const json_t *rec, int64_t t_ns, struct sq_err *e)
{
    const char *phase = sq_json_str_or(rec, "phase", NULL), *state = sq_json_str_or(rec, "state", "");
    const char *step = sq_json_str_or(rec, "step", "");

    if (!phase)
        return DAMAGED;
    if (strcmp(state, "begin") == 0) {
        int rc = sq_ev_grow((void **)&ev->phases, &ev->priv->cap_phases, ev->n_phases, sizeof *ev->phases, e);

        if (rc)
            return rc;
        ev->phases[ev->n_phases++] =
            (struct sq_ev_phase){.phase = phase, .step = step, .win = {.from_ns = t_ns}, .why = ""};
        return 0;
    }
    if (strcmp(state, "end") != 0)
        return DAMAGED;
    /* Phases follow one another or nest by one: looking back a little finds the one that ends. */
    for (size_t i = ev->n_phases, looked = 0; i-- > 0 && looked < 16; looked++) {
        struct sq_ev_phase *p = &ev->phases[i];

        if (p->ended || strcmp(p->phase, phase) != 0 || strcmp(p->step, step) != 0)
            continue;
        p->ended = true;
        p->win.to_ns = t_ns;
        p->met = sq_json_bool_or(rec, "met", false);
        p->why = sq_json_str_or(rec, "why", "");
        break;
    }
    return 0;
}

static void on_snapshot(struct sq_evidence *ev, const json_t *rec)
{
    bool before = strcmp(sq_json_str_or(rec, "when", ""), "before") == 0;
    const json_t *state = json_object_get(rec, "state");

    if (!json_is_object(state))
        return;
    *(before ? &ev->before : &ev->after) = state;
    *(before ? &ev->before_rec : &ev->after_rec) = rec;
}

static int on_probe(struct sq_evidence *ev, const json_t *rec, struct sq_err *e)
{
    const char *name = sq_json_str_or(rec, "endpoint", NULL);
    struct sq_ev_endpoint *ep;

    if (!name)
        return DAMAGED;
    int rc = endpoint_of(ev, name, &ep, e);
    if (rc)
        return rc;
    ep->has_probe = true;
    ep->is_void = sq_json_bool_or(rec, "void", false);
    ep->void_why = sq_json_str_or(rec, "why", "");
    ep->probe = rec;
    return 0;
}

static void on_end(struct sq_evidence *ev, const json_t *rec)
{
    ev->ended = true;
    ev->end = rec;
    ev->end_reason = sq_json_str_or(rec, "reason", "");
    ev->end_why = sq_json_str_or(rec, "why", "");
    ev->end_clean = sq_json_bool_or(rec, "clean", false);
}

static void on_run(struct sq_evidence *ev, const json_t *rec)
{
    ev->run = rec;
    ev->id = sq_json_str_or(rec, "id", "");
    ev->name = sq_json_str_or(rec, "name", "");
    ev->start = sq_json_str_or(rec, "start", "");
    ev->host = sq_json_str_or(rec, "host", "");
    ev->squall = sq_json_str_or(rec, "squall", "");
    ev->seed = (uint64_t)sq_json_int_or(rec, "seed", 0);
    ev->scenario = json_object_get(rec, "scenario");
    const json_t *spec = json_object_get(ev->scenario, "spec");
    ev->spec = json_is_object(spec) ? spec : ev->scenario;
}

/* Everything that is kept whole. */
static int on_event(struct sq_evidence *ev, json_t *rec, const char *type, struct sq_err *e)
{
    int64_t t_ns;

    if (!time_of(rec, &t_ns))
        return DAMAGED;
    if (ev->n_events >= SQ_EV_MAX_EVENTS)
        return too_many("events", SQ_EV_MAX_EVENTS, e);
    int rc = sq_ev_grow((void **)&ev->events, &ev->priv->cap_events, ev->n_events, sizeof *ev->events, e);
    if (rc)
        return rc;
    if (json_array_append(ev->priv->keep, rec))
        return sq_err(e, -ENOMEM, "no memory for the evidence");
    ev->events[ev->n_events++] = (struct sq_ev_event){.t_ns = t_ns, .line = ev->priv->lines, .type = type, .obj = rec};
    if (t_ns > ev->last_ns)
        ev->last_ns = t_ns;
    if (strcmp(type, "fault") == 0)
        return on_fault(ev, rec, t_ns, e);
    if (strcmp(type, "phase") == 0)
        return on_phase(ev, rec, t_ns, e);
    if (strcmp(type, "probe") == 0)
        return on_probe(ev, rec, e);
    if (strcmp(type, "snapshot") == 0)
        on_snapshot(ev, rec);
    if (strcmp(type, "end") == 0)
        on_end(ev, rec);
    if (strcmp(type, "run") == 0 && !ev->run)
        on_run(ev, rec);
    return 0;
}

static int on_record(struct sq_evidence *ev, json_t *rec, const struct line *line, struct sq_err *e)
{
    const char *type = sq_json_str_or(rec, "type", NULL);

    if (!type)
        return DAMAGED;
    if (!ev->run && strcmp(type, "run") != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "this is no evidence log: its first record is not of type \"run\"");
    if (strcmp(type, "sample") == 0)
        return on_sample(ev, rec, line, e);
    if (strcmp(type, "calls") == 0)
        return on_calls(ev, rec, e);
    return on_event(ev, rec, type, e);
}

/* A sample's histograms are most of the log: they are not parsed before somebody asks. */
static json_t *parse_line(struct line *line, struct sq_cells cells[SQ_CELLS_COUNT])
{
    cleanup_free char *rest = line->len > OUTLINE_FROM ? malloc(line->len) : NULL;
    size_t n = rest ? sq_cells_outline(line->text, line->len, rest, cells) : 0;
    json_t *rec = NULL;

    if (n > 0)
        line->cells = cells;
    return sq_json_parse(n > 0 ? rest : line->text, n > 0 ? n : line->len, &rec, NULL) == 0 ? rec : NULL;
}

int sq_ev_line(struct sq_evidence *ev, const char *text, size_t len, bool last, struct sq_err *e)
{
    struct line line = {text, len, NULL};
    struct sq_cells cells[SQ_CELLS_COUNT];
    cleanup_json json_t *rec = NULL;
    int rc = DAMAGED;

    ev->priv->lines++;
    if (len == 0)
        return 0;
    if ((rec = parse_line(&line, cells)))
        rc = on_record(ev, rec, &line, e);
    else if (last && ev->run) {
        ev->torn = true;
        ev->torn_line = ev->priv->lines;
        return 0;
    }
    if (rc < 0)
        return sq_err_prefix(e, "line %zu", ev->priv->lines);
    if (rc == DAMAGED && !ev->run)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "this is no evidence log: line %zu is no record", ev->priv->lines);
    if (rc == DAMAGED && ev->damaged++ == 0)
        ev->damaged_line = ev->priv->lines;
    return 0;
}
