/* What the injector tells: its events become evidence. */
#include <string.h>

#include "run/state.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/units.h"

void sq_run_fault_record(struct run *r, const struct run_fault *f, const char *state, int64_t at_ns, json_t *more)
{
    json_t *rec = json_pack("{s:s, s:s, s:s, s:s}", "state", state, "step", f->step, "fault", f->id, "uses", f->uses);
    if (more) {
        json_object_update(rec, more);
        json_decref(more);
    }
    sq_evlog_put_durable(r->log, "fault", at_ns, rec);
}

void sq_run_fault_reverted(struct run *r, struct run_fault *f, const char *by, const json_t *answer)
{
    if (f->reverted)
        return;
    f->reverted = true;
    f->reverted_ns = sq_json_int_or(answer, "reverted_ns", sq_json_int_or(answer, "at", sq_mono_ns()));
    json_t *more = json_pack("{s:s, s:b}", "by", by, "clean", sq_json_bool_or(answer, "clean", true));
    static const char *const copied[] = {"left", "took_ns", "seen",  "hits", "acts", "unjudged",
                                         "tls",  "packets", "bytes", "out",  "in",   "intact"};
    json_object_set_new(more, "left", json_array());
    for (size_t i = 0; i < SQ_COUNT(copied); i++)
        if (json_object_get(answer, copied[i]))
            json_object_set(more, copied[i], json_object_get(answer, copied[i]));
    sq_run_fault_record(r, f, "reverted", f->reverted_ns, more);
    sq_progress_event(r->o->progress, SQ_TONE_GOOD, (double)(f->reverted_ns - r->start_ns) / 1e9, "%s: taken back%s%s",
                      f->step, strcmp(by, "request") == 0 ? "" : " by ", strcmp(by, "request") == 0 ? "" : by);
}

static struct run_fault *fault_of(struct run *r, const char *id)
{
    for (size_t i = 0; i < r->n_faults; i++)
        if (strcmp(r->faults[i].id, id) == 0)
            return &r->faults[i];
    return NULL;
}

/* Members as they came, without what belongs to the transport. */
static json_t *plain(const json_t *ev)
{
    json_t *rec = json_copy((json_t *)(uintptr_t)ev);
    json_object_del(rec, "seq");
    json_object_del(rec, "at");
    json_object_del(rec, "type");
    json_object_del(rec, "t");
    return rec;
}

/* What we asked for is recorded from the answers to our requests, which say more; here is what others did. */
static void on_fault(struct run *r, const json_t *ev, int64_t at)
{
    const char *state = sq_json_str_or(ev, "state", ""), *by = sq_json_str_or(ev, "by", "");
    struct run_fault *f = fault_of(r, sq_json_str_or(ev, "fault", ""));
    if (strcmp(by, "halt") == 0)
        r->halted = true;
    if (strcmp(state, "reverted") == 0) {
        if (f && !f->deleting)
            sq_run_fault_reverted(r, f, by, ev);
    } else if (strcmp(state, "changed") == 0) {
        sq_evlog_put_durable(r->log, "fault", at, plain(ev));
    }
}

/* [[start_ns, kind, outcome, status, dur_ns, held_ns, fault, trace, answer_ns], ...] -> EVIDENCE.md */
static json_t *call_rows(struct run *r, const json_t *in, const char *edge, const char *instance)
{
    json_t *out = json_array();
    size_t i;
    json_t *row;
    json_array_foreach(in, i, row)
    {
        int64_t start = json_integer_value(json_array_get(row, 0));
        int64_t t_ms = (start - r->start_ns + 5 * SQ_MS) / (10 * SQ_MS) * 10;
        json_t *n = json_array();
        json_array_append_new(n, json_integer(t_ms));
        for (size_t k = 1; k <= 3; k++)
            json_array_append(n, json_array_get(row, k));
        json_array_append_new(n, json_integer(json_integer_value(json_array_get(row, 4)) / SQ_US));
        json_array_append_new(n, json_integer(json_integer_value(json_array_get(row, 5)) / SQ_US));
        json_array_append(n, json_array_get(row, 6));
        json_array_append(n, json_array_get(row, 7));
        json_array_append_new(n, json_integer(json_integer_value(json_array_get(row, 8)) / SQ_US));
        json_array_append_new(out, n);
        sq_live_call(r->live, edge, instance, t_ms);
    }
    return out;
}

static void on_calls(struct run *r, const json_t *ev, int64_t at)
{
    json_t *rec = plain(ev);
    const char *edge = sq_json_str_or(ev, "edge", ""), *instance = sq_json_str_or(ev, "instance", "");
    json_object_set_new(rec, "calls", call_rows(r, json_object_get(ev, "calls"), edge, instance));
    sq_evlog_put(r->log, "calls", at, rec);
}

static bool hit_by_us(const struct run *r)
{
    return r->fault && !r->fault->reverted && strncmp(r->fault->uses, "process/", 8) == 0;
}

/* The last line of what the service said. */
static const char *last_line(const json_t *ev, char *buf, size_t len)
{
    const char *tail = sq_json_str_or(ev, "tail", "");
    size_t n = strlen(tail);
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == '\r'))
        n--;
    size_t from = n;
    while (from > 0 && tail[from - 1] != '\n')
        from--;
    snprintf(buf, len, "%s%.*s", n > from ? ": " : "", (int)(n - from > 300 ? 300 : n - from), tail + from);
    return buf;
}

static void on_exited(struct run *r, const json_t *ev, const char *instance, double t)
{
    char how[64], said[320];
    int64_t sig = sq_json_int_or(ev, "signal", 0);
    if (sig)
        snprintf(how, sizeof(how), "%s", sq_signal_name((int)sig));
    else if (json_object_get(ev, "exit"))
        snprintf(how, sizeof(how), "status %lld", (long long)sq_json_int_or(ev, "exit", 0));
    else /* somebody else's child */
        snprintf(how, sizeof(how), "pid %lld", (long long)sq_json_int_or(ev, "pid", 0));
    last_line(ev, said, sizeof(said));
    sq_progress_event(r->o->progress, hit_by_us(r) ? SQ_TONE_FAULT : SQ_TONE_BAD, t, "%s ended (%s)%s", instance, how,
                      hit_by_us(r) ? "" : said);
    for (size_t i = 0; i < r->n_ready; i++)
        if (r->ready[i].check && r->ready[i].once && strcmp(r->ready[i].instance, instance) == 0) {
            sq_run_end(r, "infrastructure", NULL, "%s ended before it was ready (%s)%s", instance, how, said);
            return;
        }
}

/* Its readiness is (or was) the better news. */
static bool awaited(const struct run *r, const char *instance)
{
    for (size_t i = 0; i < r->n_ready; i++)
        if (strcmp(r->ready[i].instance, instance) == 0)
            return true;
    return false;
}

static void on_service(struct run *r, const json_t *ev, int64_t at)
{
    const char *state = sq_json_str_or(ev, "state", ""), *instance = sq_json_str_or(ev, "instance", "?");
    double t = (double)(at - r->start_ns) / 1e9;
    sq_evlog_put(r->log, "service", at, plain(ev));
    if (r->ending)
        return;
    if (strcmp(state, "exited") == 0)
        on_exited(r, ev, instance, t);
    else if (strcmp(state, "restarted") == 0 || (strcmp(state, "started") == 0 && !awaited(r, instance)))
        sq_progress_event(r->o->progress, SQ_TONE_DIM, t, "%s %s (pid %lld)", instance, state,
                          (long long)sq_json_int_or(ev, "pid", 0));
}

/* It becomes a part of a line of the log as it is. */
static bool is_type(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz_");
    return n > 0 && n <= 32 && !s[n];
}

static void on_event(struct run *r, const json_t *ev)
{
    const char *type = sq_json_str_or(ev, "type", "");
    int64_t at = sq_json_int_or(ev, "at", sq_mono_ns());
    if (strcmp(type, "fault") == 0) {
        on_fault(r, ev, at);
        return;
    }
    if (strcmp(type, "calls") == 0) {
        on_calls(r, ev, at);
        return;
    }
    if (strcmp(type, "service") == 0) {
        on_service(r, ev, at);
        return;
    }
    if (strcmp(type, "warning") == 0)
        sq_progress_event(r->o->progress, SQ_TONE_BAD, (double)(at - r->start_ns) / 1e9, "%s",
                          sq_json_str_or(ev, "text", ""));
    sq_evlog_put(r->log, is_type(type) ? type : "unknown", at, plain(ev));
    if (strcmp(type, "proxy") == 0 && strcmp(sq_json_str_or(ev, "state", ""), "died") == 0)
        sq_run_end(r, "infrastructure", NULL, "the proxy died: calls on every edge go direct from then on");
    if (strcmp(type, "packet") == 0 && strcmp(sq_json_str_or(ev, "state", ""), "died") == 0)
        sq_run_end(r, "infrastructure", NULL, "the packet process died: traffic flows without faults from then on");
    if (strcmp(type, "lease") == 0 && strcmp(sq_json_str_or(ev, "by", ""), "halt") == 0)
        r->halted = true;
}

/* The run is over at the injector, and not by us. */
static void explain_end(struct run *r)
{
    if (r->ending)
        return;
    if (r->halted)
        sq_run_end(r, "aborted", "halt", "somebody halted every run");
    else if (!sq_run_lease_over(r))
        sq_run_end(r, "aborted", "lease", "the injector says that the lease has ended");
}

static void polled(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct run *r = arg;
    size_t i;
    json_t *ev;
    if (e && e->code == -ECANCELED)
        return;
    r->polling = false;
    if (e) {
        r->quiet_polls++;
        if (status == 404) /* the run was forgotten meanwhile */
            explain_end(r);
        else if (status == 0)
            sq_run_failed(r, status, e, "reading the injector's events");
        return;
    }
    const json_t *events = json_object_get(body, "events");
    r->quiet_polls = json_array_size(events) ? 0 : r->quiet_polls + 1;
    r->after = sq_json_int_or(body, "next", r->after);
    json_array_foreach(events, i, ev)
    {
        on_event(r, ev);
    }
    if (json_array_size(events) >= 1000) /* there is more */
        sq_run_poll(r);
    if (r->halted || (r->gone && json_array_size(events) == 0))
        explain_end(r);
    else if (r->gone)
        sq_run_poll(r);
}

void sq_run_poll(struct run *r)
{
    char path[64];
    if (r->polling || r->injector_dead || !r->client)
        return;
    r->polling = true;
    snprintf(path, sizeof(path), "/events?after=%lld", (long long)r->after);
    sq_run_ask(r, "GET", path, NULL, polled);
}
