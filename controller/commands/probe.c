/* squall probe: a load at one place, what its users felt, and whether that is good enough. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/command.h"
#include "commands/probe_args.h"
#include "commands/probe_view.h"
#include "report/report.h"
#include "run/adhoc.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/rng.h"
#include "squall/units.h"
#include "verify/verdict.h"

static const struct sq_option options[] = {
    {"rate", 'r', "RATE",
     "how many per second (1000/s, or just 1000), minute (300/m) or hour (default 50/s); with --ramp where it begins",
     SQ_COMPLETE_NONE, NULL},
    {"for", 't', "TIME", "how long, in whole seconds: 30s, 5m (default 10s, or as long as --ramp)", SQ_COMPLETE_NONE,
     NULL},
    {"ramp", 0, "STAGES", "change the rate evenly: 30s:500/s,1m:500/s,10s:2000/s", SQ_COMPLETE_NONE, NULL},
    {"poisson", 0, NULL, "draw the gaps as independent users make them, instead of even ones", SQ_COMPLETE_NONE, NULL},
    {"closed-loop", 0, NULL, "instead of a rate: each connection sends when its last answer is there (blind to stalls)",
     SQ_COMPLETE_NONE, NULL},
    {"connections", 'c', "N",
     "most connections open at once (default 100); a request that finds none is sent late, "
     "and counts from its planned time",
     SQ_COMPLETE_NONE, NULL},
    {"threads", 0, "N", "threads of the probe (default 1: good for about 100,000/s)", SQ_COMPLETE_NONE, NULL},
    {"from", 0, "HOSTS",
     "send from other hosts, each an equal part: NAME=SOCKET of their squalld, self for this one, between commas",
     SQ_COMPLETE_NONE, NULL},
    {"streams", 0, "N", "HTTP/2: most requests at once on a connection (default 100)", SQ_COMPLETE_NONE, NULL},
    {"timeout", 0, "TIME", "from the planned send; what takes longer is bad (default 5s)", SQ_COMPLETE_NONE, NULL},
    {"method", 'X', "NAME", "HTTP method (default GET, with --body POST)", SQ_COMPLETE_NONE, NULL},
    {"header", 'H', "NAME: VALUE", "a header field; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"body", 'd', "TEXT|@FILE", "the request's body; for tcp:// and udp:// the bytes to send", SQ_COMPLETE_FILE, NULL},
    {"data", 0, "FILE", "CSV or JSON Lines, row by row: ${data.COLUMN} in path, headers and body", SQ_COMPLETE_FILE,
     NULL},
    {"arg", 0, "TEXT", "exec: an argument of the program; may be given several times", SQ_COMPLETE_NONE, NULL},
    {"password-env", 0, "NAME", "redis, postgres: the environment variable that holds the password", SQ_COMPLETE_NONE,
     NULL},
    {"expect-status", 0, "LIST", "statuses of a good answer: 200, 200-299,404 (default 200-399)", SQ_COMPLETE_NONE,
     NULL},
    {"expect-body", 0, "TEXT", "a text that a good answer has in it", SQ_COMPLETE_NONE, NULL},
    {"no-keepalive", 0, NULL, "a connection for each request", SQ_COMPLETE_NONE, NULL},
    {"http2", 0, NULL, "https: offer HTTP/2 (without TLS write h2c://)", SQ_COMPLETE_NONE, NULL},
    {"ca", 0, "FILE", "TLS: whom to trust (PEM; default: the system's)", SQ_COMPLETE_FILE, NULL},
    {"cert", 0, "FILE", "TLS: a client certificate (PEM)", SQ_COMPLETE_FILE, NULL},
    {"key", 0, "FILE", "TLS: its key (default: in the certificate's file)", SQ_COMPLETE_FILE, NULL},
    {"server-name", 0, "NAME", "TLS: whom the certificate must name (default: the host)", SQ_COMPLETE_NONE, NULL},
    {"insecure", 'k', NULL, "TLS: any certificate will do", SQ_COMPLETE_NONE, NULL},
    {"no-resume", 0, NULL, "TLS: a full handshake for each connection", SQ_COMPLETE_NONE, NULL},
    {"threshold", 'T', "LIMIT", "what must hold: 'p(99)<200ms', 'error_rate<0.1%', 'sent_rate>=990/s'; several times",
     SQ_COMPLETE_NONE, NULL},
    {"confidence", 0, "PERCENT", "how sure a threshold's bound must be, one-sided (default 95%)", SQ_COMPLETE_NONE,
     NULL},
    {"lateness", 0, "TIME",
     "sends later than this by the probe's own fault, if more than 1 %, void the figures (default 5ms)",
     SQ_COMPLETE_NONE, NULL},
    {"seed", 0, "N", "of what is drawn, to repeat it", SQ_COMPLETE_NONE, NULL},
    {"name", 0, "NAME", "of the endpoint in the evidence (default: probe)", SQ_COMPLETE_NONE, NULL},
    {"out", 'o', "DIR", "keep the evidence and the reports here, for squall compare, baseline, verify, report",
     SQ_COMPLETE_DIR, NULL},
    {"hlog", 0, "FILE", "write the histograms of every second for HdrHistogram's tools", SQ_COMPLETE_FILE, NULL},
    {"json", 'j', NULL, "print the result as JSON", SQ_COMPLETE_NONE, NULL},
    {"quiet", 'q', NULL, "no live view and no summary: only errors, --json, and the exit code", SQ_COMPLETE_NONE, NULL},
    {"no-color", 0, NULL, "no colours (NO_COLOR does the same)", SQ_COMPLETE_NONE, NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

/* "http://127.0.0.1:8080/: 1,000/s for 30 s, 100 connections", in ASCII. */
static void title_of(const json_t *doc, char *buf, size_t len)
{
    const json_t *spec = json_object_get(doc, "spec");
    const json_t *ep = json_object_iter_value(json_object_iter(json_object_get(spec, "load")));
    int64_t ns = sq_json_int_or(json_array_get(json_object_get(spec, "steps"), 0), "wait", 0);
    const char *executor = sq_json_str_or(ep, "executor", "");
    char what[64] = "", n[32];

    if (strcmp(executor, "constant-arrival-rate") == 0)
        (void)snprintf(what, sizeof what, "%.6g/s for", sq_json_num_or(ep, "rate", 0));
    else
        (void)snprintf(what, sizeof what, "%s for", *executor == 'r' ? "a ramp" : "a closed loop");
    (void)snprintf(buf, len, "%.110s  %s %lld s, %s%s connections",
                   sq_json_str_or(json_object_get(ep, "request"), "url", ""), what, (long long)(ns / SQ_S),
                   strcmp(sq_json_str_or(ep, "arrivals", ""), "poisson") == 0 ? "poisson, " : "",
                   sq_fmt_count((uint64_t)sq_json_int_or(ep, "connections", 100), n));
    for (char *s = buf; *s; s++)
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
}

/* Without thresholds nothing is judged; then it counts that the load was what it should be, and that somebody answered.
 */
static int conclude(const struct sq_adhoc *a, const char **verdict, char *why, size_t len)
{
    const json_t *end = json_array_get(a->ends, 0);
    bool judged = json_array_size(json_object_get(a->verdict, "checks")) > 0;

    *verdict = sq_json_str_or(a->verdict, "verdict", "inconclusive");
    if (a->interrupted) {
        (void)snprintf(why, len, "interrupted after %.3g s; the figures are those of what was sent",
                       (double)a->ran_ns / 1e9);
        return (int)sq_json_int_or(a->verdict, "exit", SQ_ABORTED);
    }
    (void)snprintf(why, len, "%s", sq_json_str_or(a->verdict, "why", ""));
    if (judged)
        return (int)sq_json_int_or(a->verdict, "exit", SQ_INFRA);
    if (sq_json_bool_or(end, "void", false)) {
        (void)snprintf(why, len, "the probe missed its own schedule: %s", sq_json_str_or(end, "why", ""));
        return SQ_INCONCLUSIVE;
    }
    *verdict = a->sums.ok > 0 ? "pass" : "fail";
    (void)snprintf(why, len, "%s",
                   a->sums.ok > 0 ? "the load was sent; nothing else was to be judged (--threshold)"
                                  : "not one answer was good");
    return a->sums.ok > 0 ? SQ_PASS : SQ_FAIL;
}

static int keep(const struct sq_args *a, const char *dir, bool temporary, struct sq_err *e)
{
    const char *hlog = sq_args_value(a, "hlog");
    cleanup_json json_t *verdict = NULL;
    struct sq_evidence *ev = NULL;
    int rc = sq_evidence_read(dir, &ev, e);

    if (rc == 0)
        rc = sq_verify(ev, &verdict, e);
    if (rc == 0) {
        struct sq_report_in in = {.ev = ev, .verdict = verdict};

        if (!temporary && (rc = sq_verdict_write(dir, verdict, e)) == 0)
            rc = sq_report_all(dir, &in, e);
        if (rc == 0 && hlog)
            rc = sq_report_to(sq_report_find("hlog"), hlog, &in, e);
    }
    sq_evidence_free(ev);
    return rc;
}

static void drop(const char *dir)
{
    char path[PATH_MAX];

    if (sq_path_join(path, sizeof path, dir, "evidence.jsonl", NULL) == 0)
        (void)unlink(path);
    (void)rmdir(dir);
}

static int show(const struct sq_args *a, const struct sq_term *t, const char *title, const json_t *doc,
                const struct sq_adhoc *r, const struct sq_heat *heat)
{
    const char *verdict;
    char why[1024];
    int code = conclude(r, &verdict, why, sizeof why);

    if (sq_args_has(a, "json")) {
        cleanup_json json_t *o = sq_probe_json(doc, r);

        (void)json_object_set_new(o, "verdict", json_string(verdict));
        (void)json_object_set_new(o, "exit", json_integer(code));
        (void)json_object_set_new(o, "why", json_string(why));
        if (!o || json_dumpf(o, t->out, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0 || fputc('\n', t->out) == EOF)
            return SQ_INFRA;
    } else if (!sq_args_has(a, "quiet")) {
        bool fits = (int)(strlen(verdict) + strlen(why) + 2) <= t->width;

        sq_probe_show(t, title, doc, r, heat);
        (void)fprintf(t->out, "\n%s%s%s:%s",
                      sq_term_out(t, code == SQ_PASS   ? SQ_GREEN
                                     : code == SQ_FAIL ? SQ_RED
                                                       : SQ_YELLOW),
                      verdict, sq_term_out(t, SQ_PLAIN), t->tty && !fits ? "\n  " : " ");
        sq_term_words(t, 2, why);
    }
    return code;
}

static int run(const struct sq_args *a, struct sq_term *t, const json_t *doc, const char *dir, uint64_t seed)
{
    int64_t ns = sq_json_int_or(json_array_get(json_object_get(json_object_get(doc, "spec"), "steps"), 0), "wait", 0);
    bool temporary = !sq_args_has(a, "out");
    struct sq_probe_view view;
    struct sq_adhoc *r = NULL;
    struct sq_err e = {0};
    char title[200];
    int code, rc;

    title_of(doc, title, sizeof title);
    if (sq_probe_view_init(&view, t->err, sq_args_has(a, "quiet"), !sq_args_has(a, "no-color"), title, ns) < 0)
        return SQ_INFRA;
    struct sq_adhoc_opts o = {.scenario = doc,
                              .file = "squall probe",
                              .out = dir,
                              .seed = seed,
                              .tick = sq_probe_view_tick,
                              .second = sq_probe_view_second,
                              .arg = &view};
    rc = sq_adhoc_run(&o, &r, &e);
    sq_probe_view_end(&view);
    for (size_t i = 0; rc == 0 && i < json_array_size(r->left); i++)
        (void)fprintf(t->err, "%swarning:%s %s\n", sq_term_err(t, SQ_YELLOW), sq_term_err(t, SQ_PLAIN),
                      json_string_value(json_array_get(r->left, i)));
    code = rc < 0 ? sq_term_fail(t, &e) : show(a, t, title, doc, r, &view.heat);
    if (rc == 0 && dir && keep(a, dir, temporary, &e) < 0)
        code = sq_term_fail(t, &e);
    else if (rc == 0 && !temporary && !sq_args_has(a, "quiet") && !sq_args_has(a, "json"))
        (void)fprintf(t->out, "%sevidence and reports: %s%s\n", sq_term_out(t, SQ_DIM), dir, sq_term_out(t, SQ_PLAIN));
    sq_adhoc_free(r);
    return code;
}

static int probe_main(const struct sq_args *a, struct sq_term *t)
{
    const char *out = sq_args_value(a, "out"), *number = sq_args_value(a, "seed"), *top = getenv("TMPDIR");
    char made[PATH_MAX], *end = NULL;
    uint64_t seed = number ? strtoull(number, &end, 10) : sq_rng_entropy() >> 11;
    cleanup_json json_t *doc = NULL;
    struct sq_err e = {0};
    int code;

    if (number && (end == number || *end || *number == '-' || seed > (uint64_t)INT64_MAX >> 10))
        return sq_term_usage(t, NULL, "--seed: \"%.40s\" is no number below 2^53", number);
    if (sq_args_has(a, "no-color"))
        t->color_out = t->color_err = false;
    if (sq_probe_scenario(a, t, &doc, &e) < 0)
        return sq_term_fail(t, &e);
    if (out || !sq_args_has(a, "hlog"))
        return run(a, t, doc, out, seed);
    (void)snprintf(made, sizeof made, "%s/squall-probe-XXXXXX", top && *top ? top : "/tmp");
    if (!mkdtemp(made)) {
        (void)sq_err_sys(&e, -errno, "cannot make a folder in %s", top && *top ? top : "/tmp");
        return sq_term_fail(t, &e);
    }
    code = run(a, t, doc, made, seed);
    drop(made);
    return code;
}

const struct sq_command sq_cmd_probe = {
    .name = "probe",
    .args = "URL",
    .summary = "send a load, and see what its users feel",
    .text =
        "Sends requests at a rate that no slow server can hold back, and measures each from the time it was planned\n"
        "for. A server that stops for a second shows as what it is: everybody who came in that second has waited.\n\n"
        "  squall probe http://127.0.0.1:8080/ --rate 1000/s --for 30s\n"
        "  squall probe https://shop/cart -r 200/s -t 1m -T 'p(99)<200ms' -T 'error_rate<0.1%'\n"
        "  squall probe http://shop/cart --rate 10/s --ramp 1m:500/s,5m:500/s --poisson -o before/\n"
        "  squall probe redis://127.0.0.1 -r 5000/s         PING; as well postgres://, grpc://, dns://, tcp://, "
        "udp://\n"
        "  squall probe http://shop/ -r 900/s --from self,east=/run/east.sock,west=/run/west.sock\n"
        "  squall probe 127.0.0.1:8080 --closed-loop -c 64  how much it can do (but not how it feels)\n\n"
        "URL is what `load` in a scenario takes: http(s)://, h2c://, unix:/path.sock:/path, grpc(s)://, tcp://, "
        "udp://,\n"
        "dns://server/name, redis(s)://, postgres://user@host/db, exec:program (`squall explain request`).\n\n"
        "A request that finds all connections busy is sent when one is free, and its wait counts. What the probe "
        "itself\n"
        "sends late (send lag) would be its fault: more than 1 % of the sends over 5 ms void the figures.\n\n"
        "A threshold passes when even the upper bound of its interval is under the limit, fails when the lower bound "
        "is\n"
        "over it, and is inconclusive in between: p(99) needs 299 requests, p(99.9) 2,995, to be proven at all.\n"
        "With --out the folder is a run like any other: squall verify, report, compare and baseline read it.\n\n"
        "Ctrl-C ends it early and still shows what was measured; again: at once.\n\n"
        "Exit code: 0 every threshold holds (or none was given and answers came), 1 one fails (or no answer was "
        "good),\n"
        "3 it can't be told, 4 interrupted, 2 or 5 it could not be sent.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .main = probe_main,
};
