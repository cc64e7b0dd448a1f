/* squall doctor: which faults work on this host, and how to get those that don't. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/begin.h"
#include "commands/command.h"
#include "run/private.h"
#include "run/session.h"
#include "squall/json.h"
#include "squall/paths.h"

static const struct sq_option options[] = {
    {"json", 0, NULL, "print what the injector answers, as JSON", SQ_COMPLETE_NONE, NULL},
    {"injector", 0, "SOCKET", "ask this injector (default: $SQUALL_INJECTOR, else a private one)", SQ_COMPLETE_FILE,
     NULL},
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static void print_check(struct sq_term *t, const json_t *c, int name_width)
{
    bool ok = sq_json_bool_or(c, "ok", false);
    const char *how = sq_json_str_or(c, "how", ""), *why = sq_json_str_or(c, "why", ""),
               *hint = sq_json_str_or(c, "hint", "");
    (void)fprintf(t->out, "  %s%-4s%s %-*s  ", sq_term_out(t, ok ? SQ_GREEN : SQ_RED), ok ? "yes" : "no",
                  sq_term_out(t, SQ_PLAIN), name_width, sq_json_str_or(c, "name", "?"));
    sq_term_wrap(t, name_width + 9, ok ? (*how ? how : "works") : *why ? why : "does not work");
    if (!*hint)
        return;
    (void)fprintf(t->out, "%*s%s", name_width + 9, "", sq_term_out(t, SQ_DIM));
    sq_term_wrap(t, name_width + 9, hint);
    (void)fputs(sq_term_out(t, SQ_PLAIN), t->out);
}

static bool is_fault(const json_t *c)
{
    return strchr(sq_json_str_or(c, "name", ""), '/') != NULL;
}

static void print_group(struct sq_term *t, const json_t *checks, bool faults, int name_width)
{
    size_t i;
    json_t *c;
    json_array_foreach(checks, i, c)
    {
        if (is_fault(c) == faults)
            print_check(t, c, name_width);
    }
}

static void print_table(struct sq_term *t, const json_t *info, const json_t *checks)
{
    size_t i, works = 0, faults = 0;
    int width = 0;
    json_t *c;
    json_array_foreach(checks, i, c)
    {
        int n = (int)strlen(sq_json_str_or(c, "name", "?"));
        width = n > width && n < 40 ? n : width;
        faults += is_fault(c);
        works += is_fault(c) && sq_json_bool_or(c, "ok", false);
    }
    int64_t uid = sq_json_int_or(info, "uid", -1);
    (void)fprintf(t->out, "%s%s%s: squalld %s, %s\n\n", sq_term_out(t, SQ_BOLD),
                  sq_json_str_or(info, "host", "this host"), sq_term_out(t, SQ_PLAIN),
                  sq_json_str_or(info, "version", "?"), uid == 0 ? "as root" : "as an ordinary user");
    (void)fprintf(t->out, "%sfaults%s (%zu of %zu work here)\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  works, faults);
    print_group(t, checks, true, width);
    (void)fprintf(t->out, "\n%sways%s\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN));
    print_group(t, checks, false, width);
}

/* The host's own injector, if it runs and is for us. */
static const char *host_injector(char *buf, size_t len)
{
    char run[PATH_MAX], dir[PATH_MAX];
    if (sq_run_dir(run, sizeof(run), NULL) || sq_path_join(dir, sizeof(dir), run, "squalld", NULL) ||
        !sq_private_alive(dir) || sq_path_join(buf, len, dir, "api.sock", NULL))
        return NULL;
    return buf;
}

static int doctor_main(const struct sq_args *a, struct sq_term *t)
{
    struct sq_session *s = NULL;
    struct sq_err e = {0};
    cleanup_json json_t *info = NULL;
    cleanup_json json_t *answer = NULL;
    cleanup_json json_t *left = NULL;
    int code = sq_begin(t);
    if (code)
        return code;
    char host[PATH_MAX];
    const char *socket = sq_begin_injector(sq_args_value(a, "injector"));
    int rc = sq_session_open(socket ? socket : host_injector(host, sizeof(host)), &s, &e);
    if (!rc)
        rc = sq_session_ask(s, "GET", "/v1/info", NULL, &info, &e);
    if (!rc)
        rc = sq_session_ask(s, "GET", "/v1/doctor", NULL, &answer, &e);
    sq_session_close(s, &left);
    if (rc)
        return sq_term_fail(t, &e);
    if (sq_args_has(a, "json")) {
        (void)json_dumpf(answer, t->out, JSON_INDENT(2));
        (void)fputc('\n', t->out);
    } else {
        print_table(t, info, json_object_get(answer, "checks"));
    }
    return json_array_size(left) ? SQ_UNCLEAN : SQ_PASS;
}

const struct sq_command sq_cmd_doctor = {
    .name = "doctor",
    .args = "",
    .summary = "which faults work on this host, and how to get the others",
    .text = "Asks the injector what this host and this user can do: which kinds of faults work, in which way, and\n"
            "for each that does not, why and what to do about it. Nothing is touched.\n\n"
            "  squall doctor\n"
            "  sudo squall doctor          what root adds\n"
            "  squall doctor --json",
    .options = options,
    .min_args = 0,
    .max_args = 0,
    .main = doctor_main,
};
