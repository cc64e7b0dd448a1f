#include "verify/verdict.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "verify/check.h"
#include "verify/result.h"
#include "verify/slo_series.h"

struct tally {
    size_t pass, fail, inconclusive;
    const json_t *first_fail, *first_open; /* borrowed from the results */
    const json_t *unclean;                 /* the check `clean`, when it failed */
};

struct conclusion {
    const char *verdict;
    enum sq_exit exit;
    char why[900];
};

/* Run one entry of `verify`, and put its name on what it says. */
static int run_check(const struct sq_evidence *ev, const json_t *entry, size_t index, json_t *results, struct sq_err *e)
{
    const char *name = sq_json_str_or(entry, "check", "");
    const struct sq_check *check = sq_check_find(name);
    size_t from = json_array_size(results);
    cleanup_json json_t *params = json_is_object(entry) ? json_copy((json_t *)(uintptr_t)entry) : NULL;

    if (!check)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                          "the scenario asks for a check \"%s\", which this squall does not have", name);
    if (!params || json_object_set_new(params, "index", json_integer((json_int_t)index)))
        return sq_err(e, -ENOMEM, "no memory for a check");
    int rc = check->run(ev, params, results, e);
    if (rc)
        return sq_err_prefix(e, "check %s", name);
    for (size_t i = from; i < json_array_size(results); i++)
        if (json_object_set_new(json_array_get(results, i), "check", json_string(name)))
            return sq_err(e, -ENOMEM, "no memory for a check");
    return 0;
}

static void count(const json_t *results, struct tally *t)
{
    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *r = json_array_get(results, i);
        const char *v = sq_json_str_or(r, "verdict", "inconclusive");

        if (strcmp(v, "pass") == 0)
            t->pass++;
        else if (strcmp(v, "fail") == 0) {
            t->fail++;
            t->first_fail = t->first_fail ? t->first_fail : r;
            if (strcmp(sq_json_str_or(r, "check", ""), "clean") == 0)
                t->unclean = r;
        } else {
            t->inconclusive++;
            t->first_open = t->first_open ? t->first_open : r;
        }
    }
}

/* "circuit_breaker, step slow, checkout.0: it never opened ...; and 2 more" */
static void say(struct conclusion *c, const json_t *r, size_t more)
{
    const char *step = sq_json_str_or(r, "step", ""), *subject = sq_json_str_or(r, "subject", "");
    int n = snprintf(c->why, sizeof c->why, "%s%s%s%s%s: %s", sq_json_str_or(r, "check", ""), step[0] ? ", step " : "",
                     step, subject[0] ? ", " : "", subject, sq_json_str_or(r, "why", ""));

    if (more && n > 0 && (size_t)n < sizeof c->why)
        (void)snprintf(c->why + n, sizeof c->why - (size_t)n, "; and %zu more", more);
}

static const struct sq_ev_endpoint *void_endpoint(const struct sq_evidence *ev)
{
    for (size_t i = 0; i < ev->n_endpoints; i++)
        if (ev->endpoints[i].is_void)
            return &ev->endpoints[i];
    return NULL;
}

static void conclude_as(struct conclusion *c, const char *verdict, enum sq_exit exit_code, const char *fmt, ...)
    SQ_PRINTF(4, 5);
static void conclude_as(struct conclusion *c, const char *verdict, enum sq_exit exit_code, const char *fmt, ...)
{
    va_list ap;

    c->verdict = verdict;
    c->exit = exit_code;
    va_start(ap, fmt);
    (void)vsnprintf(c->why, sizeof c->why, fmt, ap);
    va_end(ap);
}

static void say_left(const struct sq_evidence *ev, struct conclusion *c)
{
    const json_t *left = json_object_get(ev->end, "left");
    size_t used = (size_t)snprintf(c->why, sizeof c->why, "cleanup is incomplete: ");

    for (size_t i = 0; i < json_array_size(left) && used + 2 < sizeof c->why; i++) {
        const char *s = json_string_value(json_array_get(left, i));

        used += (size_t)snprintf(c->why + used, sizeof c->why - used, "%s%s", i ? ", " : "", s ? s : "?");
    }
    if (json_array_size(left) == 0)
        (void)snprintf(c->why + used, sizeof c->why - used, "what is left is not recorded");
}

/* How the run ended outranks what the checks say; unclean outranks all. False: the checks decide. */
static bool by_end(const struct sq_evidence *ev, const struct tally *t, struct conclusion *c)
{
    if (ev->ended && !ev->end_clean) {
        conclude_as(c, "unclean", SQ_UNCLEAN, " ");
        say_left(ev, c);
    } else if (t->unclean) {
        conclude_as(c, "unclean", SQ_UNCLEAN, " ");
        say(c, t->unclean, 0);
    } else if (ev->torn)
        conclude_as(c, "aborted", SQ_ABORTED,
                    "the evidence is cut off within line %zu: the run died there, or something cut its log",
                    ev->torn_line);
    else if (!ev->ended)
        conclude_as(c, "aborted", SQ_ABORTED, "the evidence has no end: the run died");
    else if (strcmp(ev->end_reason, "aborted") == 0)
        conclude_as(c, "aborted", SQ_ABORTED, "the run was aborted: %s", ev->end_why);
    else if (strcmp(ev->end_reason, "infrastructure") == 0)
        conclude_as(c, "infrastructure", SQ_INFRA, "the run could not be carried out: %s", ev->end_why);
    else if (strcmp(ev->end_reason, "not_steady") == 0)
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE, "the system was not well before any fault: %s", ev->end_why);
    else if (strcmp(ev->end_reason, "completed") != 0)
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE, "the run ended for a reason that this squall does not know: %s",
                    ev->end_reason);
    else
        return false;
    return true;
}

static void conclude(const struct sq_evidence *ev, const json_t *results, struct conclusion *c)
{
    const struct sq_ev_endpoint *bad = void_endpoint(ev);
    struct tally t = {0};

    count(results, &t);
    if (by_end(ev, &t, c))
        return;
    if (bad) {
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE,
                    "the probe missed its own schedule, so nothing is proven (endpoint %s: %s)", bad->name,
                    bad->void_why);
    } else if (t.fail) {
        conclude_as(c, "fail", SQ_FAIL, " ");
        say(c, t.first_fail, t.fail - 1);
    } else if (t.inconclusive) {
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE, " ");
        say(c, t.first_open, t.inconclusive - 1);
    } else if (t.pass == 0)
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE, "nothing was verified: the scenario has no checks");
    else if (ev->damaged) {
        conclude_as(c, "inconclusive", SQ_INCONCLUSIVE, "%zu lines of the evidence are damaged, the first is line %zu",
                    ev->damaged, ev->damaged_line);
    } else {
        conclude_as(c, "pass", SQ_PASS, "%zu check%s passed", t.pass, t.pass == 1 ? "" : "s");
    }
}

int sq_verify(const struct sq_evidence *ev, json_t **verdict, struct sq_err *e)
{
    const json_t *entries = json_object_get(ev->spec, "verify");
    cleanup_json json_t *results = json_array();
    cleanup_json json_t *slos = NULL;
    struct conclusion c = {0};
    int rc = results ? 0 : sq_err(e, -ENOMEM, "no memory for a verdict");

    for (size_t i = 0; i < json_array_size(entries) && !rc; i++)
        rc = run_check(ev, json_array_get(entries, i), i, results, e);
    rc = rc ? rc : sq_slo_table(ev, &slos, e);
    if (rc)
        return rc;
    conclude(ev, results, &c);
    *verdict = json_pack("{s:s,s:i,s:o,s:O}", "verdict", c.verdict, "exit", (int)c.exit, "why", sq_result_text(c.why),
                         "checks", results);
    if (*verdict && json_array_size(slos))
        (void)json_object_set(*verdict, "slos", slos);
    return *verdict ? 0 : sq_err(e, -ENOMEM, "no memory for a verdict");
}

int sq_verify_run_dir(const char *dir, json_t **verdict, struct sq_err *e)
{
    struct sq_evidence *ev;
    int rc = sq_evidence_read(dir, &ev, e);

    if (rc)
        return rc;
    rc = sq_verify(ev, verdict, e);
    sq_evidence_free(ev);
    return rc;
}

static int write_all(int fd, const char *s, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, s, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        s += n;
        len -= (size_t)n;
    }
    return fsync(fd) ? -errno : 0;
}

int sq_verdict_write(const char *dir, const json_t *verdict, struct sq_err *e)
{
    char path[4096], tmp[4096];
    cleanup_free char *text = json_dumps(verdict, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    int rc = sq_path_join(path, sizeof path, dir, "verdict.json", e);

    rc = rc ? rc : sq_path_join(tmp, sizeof tmp, dir, ".verdict.json.XXXXXX", e);
    if (rc)
        return rc;
    if (!text)
        return sq_err(e, -ENOMEM, "no memory for a verdict");
    cleanup_close int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot write in %s", dir);
    rc = write_all(fd, text, strlen(text));
    rc = rc ? rc : write_all(fd, "\n", 1);
    if (!rc && fchmod(fd, 0644) != 0)
        rc = -errno;
    if (!rc && rename(tmp, path) != 0)
        rc = -errno;
    if (rc) {
        (void)unlink(tmp);
        return sq_err_sys(e, rc, "cannot write %s", path);
    }
    return 0;
}
