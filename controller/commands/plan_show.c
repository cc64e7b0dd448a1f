/* A plan for people. */
#include <string.h>
#include <unistd.h>

#include "commands/plan.h"
#include "scenario/plan.h"
#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

static void heading(const struct sq_term *t, const char *text)
{
    (void)fprintf(t->out, "\n%s%s%s\n", sq_term_out(t, SQ_BOLD), text, sq_term_out(t, SQ_PLAIN));
}

static void print_ready(const struct sq_term *t, const json_t *s)
{
    const json_t *ready = json_object_get(s, "ready");
    const char *http = sq_json_str_or(ready, "http", NULL), *sock = sq_json_str_or(ready, "unix", NULL);
    char within[32];

    if (json_object_get(s, "port"))
        (void)fprintf(t->out, "port %lld, ", (long long)sq_json_int_or(s, "port", 0));
    (void)sq_fmt_duration(sq_json_int_or(ready, "within", 0), within, sizeof within);
    if (http)
        (void)fprintf(t->out, "ready when GET %s answers within %s, ", http, within);
    else if (sock)
        (void)fprintf(t->out, "ready when %s accepts within %s, ", sock, within);
    else if (ready)
        (void)fprintf(t->out, "ready when the port accepts within %s, ", within);
    (void)fprintf(t->out, "restart %s\n", sq_json_str_or(s, "restart", "never"));
}

static void print_services(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *s, *word;
    size_t i, k;

    if (json_array_size(json_object_get(p->plan, "services")))
        heading(t, "starts");
    json_array_foreach(json_object_get(p->plan, "services"), i, s)
    {
        (void)fprintf(t->out, "  %s%-18s%s", sq_term_out(t, SQ_CYAN), sq_json_str_or(s, "name", ""),
                      sq_term_out(t, SQ_PLAIN));
        json_array_foreach(json_object_get(s, "command"), k, word)
        {
            const char *w = json_string_value(word);
            bool quote = !*w || strpbrk(w, " \t\n\"'$;|&<>()*?") != NULL;

            (void)fprintf(t->out, " %s%s%s", quote ? "'" : "", w, quote ? "'" : "");
        }
        (void)fprintf(t->out, "\n%21s", "");
        print_ready(t, s);
    }
}

static void print_names(const struct sq_term *t, json_t *names)
{
    const char *name;
    json_t *list, *addr;
    size_t i;

    json_object_foreach(names, name, list)
    {
        (void)fprintf(t->out, "%19s%s is", "", name);
        json_array_foreach(list, i, addr)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " ", json_string_value(addr));
        }
        (void)fputs(" now\n", t->out);
    }
}

static void print_edges(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const char *name;
    json_t *edge, *to;
    size_t i;

    if (json_object_size(json_object_get(json_object_get(p->doc, "spec"), "edges")))
        heading(t, "intercepts");
    json_object_foreach(json_object_get(json_object_get(p->doc, "spec"), "edges"), name, edge)
    {
        (void)fprintf(t->out, "  %s%-18s%s calls of %s to", sq_term_out(t, SQ_CYAN), name, sq_term_out(t, SQ_PLAIN),
                      sq_json_str_or(edge, "from", ""));
        json_array_foreach(json_object_get(edge, "to"), i, to)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " ", json_string_value(to));
        }
        json_array_foreach(json_object_get(edge, "except"), i, to)
        {
            (void)fprintf(t->out, "%s%s", i ? ", " : " but not ", json_string_value(to));
        }
        (void)fputc('\n', t->out);
        print_names(t, json_object_get(json_object_get(p->plan, "names"), name));
    }
}

/* Which hosts send an endpoint, and where their injectors are asked. */
static void print_senders(const struct sq_planning *p, const json_t *from)
{
    const json_t *hosts = json_object_get(json_object_get(p->doc, "spec"), "hosts"), *name;
    size_t i;

    json_array_foreach(from, i, name)
    {
        const json_t *host = json_object_get(hosts, json_string_value(name));

        (void)fprintf(p->t->out, "%19s%s from %s%s%s%s%s\n", "", i ? "and" : "an equal part each",
                      host ? json_string_value(name) : "this host", host ? " (" : "",
                      host ? sq_json_str_or(host, "injector", "") : "", host ? ")" : "",
                      i + 1 < json_array_size(from) ? "," : "");
    }
}

static void print_load(const struct sq_planning *p)
{
    const json_t *load = json_object_get(json_object_get(p->doc, "spec"), "load"), *request, *stage;
    const struct sq_term *t = p->t;
    const char *name;
    json_t *endpoint;
    size_t i;

    if (json_object_size(load))
        heading(t, "sends");
    json_object_foreach((json_t *)(uintptr_t)load, name, endpoint)
    {
        char buf[32];

        request = json_object_get(endpoint, "request");
        (void)fprintf(t->out, "  %s%-18s%s ", sq_term_out(t, SQ_CYAN), name, sq_term_out(t, SQ_PLAIN));
        if (json_object_get(endpoint, "baseline"))
            (void)fprintf(t->out, "%.6g times %s", sq_json_num_or(endpoint, "multiply", 1),
                          sq_json_str_or(endpoint, "baseline", ""));
        else if (json_object_get(endpoint, "rate") || json_object_get(endpoint, "start"))
            (void)fprintf(t->out, "%.6g/s", sq_json_num_or(endpoint, "rate", sq_json_num_or(endpoint, "start", 0)));
        else
            (void)fprintf(t->out, "closed loop,");
        if (strcmp(sq_json_str_or(endpoint, "arrivals", ""), "poisson") == 0)
            (void)fprintf(t->out, " (Poisson)");
        json_array_foreach(json_object_get(endpoint, "stages"), i, stage)
        {
            (void)fprintf(t->out, ", in %s to %.6g/s",
                          sq_fmt_duration(sq_json_int_or(stage, "for", 0), buf, sizeof buf),
                          sq_json_num_or(stage, "to", 0));
        }
        (void)fprintf(t->out, " %s %s, timeout %s, at most %lld connections\n", sq_json_str_or(request, "method", ""),
                      sq_json_str_or(request, "url", ""),
                      sq_fmt_duration(sq_json_int_or(request, "timeout", 0), buf, sizeof buf),
                      (long long)sq_json_int_or(endpoint, "connections", 0));
        print_senders(p, json_object_get(endpoint, "from"));
    }
}

static void print_hit(const struct sq_term *t, const json_t *hit)
{
    const char *ns = sq_json_str_or(hit, "namespace", NULL);

    if (json_object_get(hit, "pid"))
        (void)fprintf(t->out, "%19s-> pid %lld %.100s\n", "", (long long)sq_json_int_or(hit, "pid", 0),
                      sq_json_str_or(hit, "cmd", ""));
    else if (json_object_get(hit, "interface"))
        (void)fprintf(t->out, "%19s-> %s%s%s, %s, by %s: %s\n", "", sq_json_str_or(hit, "interface", ""),
                      ns ? " of " : "", ns ? ns : "", sq_json_str_or(hit, "direction", ""),
                      sq_json_str_or(hit, "backend", ""), sq_json_str_or(hit, "match", ""));
    else if (json_object_get(hit, "addresses"))
        (void)fprintf(t->out, "%19s-> %s, by nftables: %lld networks or addresses\n", "", ns ? ns : "",
                      (long long)sq_json_int_or(hit, "addresses", 0));
}

/* Whom a fault will meet, as far as it can be known before the services are there. */
static void print_target(const struct sq_planning *p, const json_t *stretch)
{
    const json_t *target = json_object_get(stretch, "target"), *hits = json_object_get(stretch, "hit"), *hit, *note,
                 *notes;
    const struct sq_fault_spec *spec = sq_fault_spec_find(sq_json_str_or(stretch, "uses", ""));
    const struct sq_term *t = p->t;
    size_t i, chosen = 0;
    char buf[512];

    (void)fprintf(t->out, "%19son ", "");
    sq_term_words(t, 22, sq_plan_values(spec ? sq_target_params(spec->target) : NULL, target, buf, sizeof buf));
    if (spec && spec->target == SQ_T_EDGE && sq_call_counts(target))
        (void)fprintf(t->out, "%19shits %s, of each instance\n", "", sq_call_count_text(target, buf, sizeof buf));
    if (spec && json_object_size(json_object_get(stretch, "with")))
        (void)fprintf(t->out, "%19swith %s\n", "",
                      sq_plan_values(spec->with, json_object_get(stretch, "with"), buf, sizeof buf));
    json_array_foreach(hits, i, hit)
    {
        chosen += sq_json_bool_or(hit, "chosen", true);
    }
    if (chosen < json_array_size(hits))
        (void)fprintf(t->out, "%19s%zu of these, chosen at random when the time comes:\n", "", chosen);
    json_array_foreach(hits, i, hit)
    {
        print_hit(t, hit);
    }
    notes = json_object_get(stretch, "notes");
    json_array_foreach(notes, i, note)
    {
        bool said = false;

        for (size_t k = 0; k < i; k++)
            said |= json_equal(json_array_get(notes, k), note); /* one for each direction */
        if (json_is_string(note) && !said) {
            (void)fprintf(t->out, "%19s", "");
            sq_term_words(t, 19, json_string_value(note));
        }
    }
}

static void print_timeline(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *s, *th;
    char length[32];
    size_t i, k;

    heading(t, "timeline (from when all services are ready)");
    json_array_foreach(json_object_get(p->plan, "timeline"), i, s)
    {
        const char *what = sq_json_str_or(s, "what", "");
        int64_t sec = sq_json_int_or(s, "at", 0) / SQ_S;
        bool fault = strcmp(what, "fault") == 0;

        (void)fprintf(t->out, "  %3lld:%02lld  %8s  ", (long long)(sec / 60), (long long)(sec % 60),
                      sq_fmt_duration(sq_json_int_or(s, "for", 0), length, sizeof length));
        if (strcmp(what, "steady_state") == 0) {
            (void)fprintf(t->out, "steady state:");
            json_array_foreach(
                json_object_get(json_object_get(json_object_get(p->doc, "spec"), "steady_state"), "thresholds"), k, th)
            {
                (void)fprintf(t->out, "%s %s", k ? "," : "", sq_json_str_or(th, "text", ""));
            }
            (void)fputs("; else nothing is injected\n", t->out);
        } else if (fault) {
            const char *step = sq_json_str_or(s, "step", ""), *name = sq_json_str_or(s, "name", "");
            bool named = strcmp(step, name) != 0;

            (void)fprintf(t->out, "%s%s%s %s%s%s\n", sq_term_out(t, SQ_RED), sq_json_str_or(s, "uses", ""),
                          sq_term_out(t, SQ_PLAIN), step, named ? ": " : "", named ? name : "");
            print_target(p, s);
        } else {
            (void)fprintf(t->out, "%s%s %s%s\n", sq_term_out(t, SQ_DIM), what, sq_json_str_or(s, "step", ""),
                          sq_term_out(t, SQ_PLAIN));
        }
    }
    (void)fprintf(t->out, "  %3lld:%02lld  end\n", (long long)(sq_json_int_or(p->plan, "total", 0) / (60 * SQ_S)),
                  (long long)(sq_json_int_or(p->plan, "total", 0) / SQ_S % 60));
}

static void print_checks(const struct sq_planning *p)
{
    const json_t *spec = json_object_get(p->doc, "spec"), *c;
    const struct sq_term *t = p->t;
    size_t i;

    if (json_array_size(json_object_get(spec, "verify")))
        heading(t, "verifies");
    json_array_foreach(json_object_get(spec, "verify"), i, c)
    {
        const char *step = sq_json_str_or(c, "step", sq_json_str_or(c, "after", ""));
        const char *subject = sq_json_str_or(c, "edge", sq_json_str_or(c, "endpoint", ""));

        (void)fprintf(t->out, "  %s%-18s%s %s%s%s%s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(c, "check", ""),
                      sq_term_out(t, SQ_PLAIN), json_object_get(c, "after") ? "after " : "",
                      strcmp(step, "*") == 0 ? "every step with a fault" : step, *subject ? ": " : "", subject);
    }
}

static void print_needs(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *c;
    size_t i;

    if (!json_object_get(p->plan, "needs"))
        return;
    (void)fprintf(t->out, "\n%sneeds%s (as %s)\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  geteuid() == 0 ? "root" : "an ordinary user");
    json_array_foreach(json_object_get(p->plan, "needs"), i, c)
    {
        bool ok = sq_json_bool_or(c, "ok", false);
        const char *how = sq_json_str_or(c, ok ? "how" : "why", "");

        (void)fprintf(t->out, "  %s%-18s%s %s%s%s%s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(c, "name", ""),
                      sq_term_out(t, SQ_PLAIN), ok ? "works here" : "does not work here", *how ? ": " : "", how,
                      ok && !sq_json_bool_or(c, "without_root", true) ? " (needs root)" : "");
    }
}

/* Whose calls would be taken. */
static void print_selected(const struct sq_planning *p, const json_t *s)
{
    static const char *const fate[][2] = {
        {"leave", "left alone: neither counted nor hit"}, {"reset", "reset"}, {"wait", "waited for, 10 s"}};
    long long processes = sq_json_int_or(s, "processes", 0);
    const struct sq_term *t = p->t;
    const json_t *hit;
    const char *name;
    json_t *edge;
    char buf[256];
    size_t i;

    (void)fprintf(t->out, "  %s%-18s%s exists already: %s\n", sq_term_out(t, SQ_CYAN), sq_json_str_or(s, "service", ""),
                  sq_term_out(t, SQ_PLAIN),
                  sq_plan_values(sq_target_params(SQ_T_PROCESS), json_object_get(s, "select"), buf, sizeof buf));
    json_array_foreach(json_object_get(s, "hit"), i, hit)
    {
        if (json_object_get(hit, "pid"))
            (void)fprintf(t->out, "%19s-> pid %lld %.100s\n", "", (long long)sq_json_int_or(hit, "pid", 0),
                          sq_json_str_or(hit, "cmd", ""));
        else
            (void)fprintf(t->out, "%19s-> whoever is in %s\n", "", sq_json_str_or(hit, "cgroup", ""));
    }
    if (json_object_get(s, "processes"))
        (void)fprintf(t->out, "%19s%lld process%s now, with all that %s forked\n", "", processes,
                      processes == 1 ? "" : "es", processes == 1 ? "it" : "they");
    json_array_foreach(json_object_get(s, "notes"), i, hit)
    {
        (void)fprintf(t->out, "%19s%s!%s ", "", sq_term_out(t, SQ_YELLOW), sq_term_out(t, SQ_PLAIN));
        sq_term_wrap(t, 21, json_string_value(hit));
    }
    json_object_foreach(json_object_get(s, "edges"), name, edge)
    {
        const char *how = sq_json_str_or(edge, "existing", "");

        long long open = sq_json_int_or(edge, "connections", 0);

        (void)fprintf(t->out, "%19s%s: %lld connection%s open", "", name, open, open == 1 ? " is" : "s are");
        for (i = 0; i < SQ_COUNT(fate) && open > 0; i++)
            if (strcmp(fate[i][0], how) == 0)
                (void)fprintf(t->out, ", which would be %s", fate[i][1]);
        (void)fputc('\n', t->out);
    }
}

static void print_problems(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const json_t *text;
    size_t i;

    if (json_array_size(p->problems))
        heading(t, "problems");
    json_array_foreach(p->problems, i, text)
    {
        (void)fprintf(t->out, "  %s", sq_term_out(t, SQ_RED));
        sq_term_wrap(t, 2, json_string_value(text) ? json_string_value(text) : "");
        (void)fputs(sq_term_out(t, SQ_PLAIN), t->out);
    }
}

void sq_planning_print(const struct sq_planning *p)
{
    const struct sq_term *t = p->t;
    const char *hypothesis = sq_json_str_or(p->plan, "hypothesis", "");
    const json_t *s;
    size_t i;

    (void)fprintf(t->out, "%s%s%s\n", sq_term_out(t, SQ_BOLD), sq_json_str_or(p->plan, "name", ""),
                  sq_term_out(t, SQ_PLAIN));
    if (*hypothesis)
        sq_term_wrap(t, 0, hypothesis);
    print_services(p);
    json_array_foreach(json_object_get(p->plan, "selected"), i, s)
    {
        if (i == 0)
            (void)fputc('\n', t->out);
        print_selected(p, s);
    }
    print_edges(p);
    print_load(p);
    print_timeline(p);
    print_checks(p);
    print_needs(p);
    print_problems(p);
}
