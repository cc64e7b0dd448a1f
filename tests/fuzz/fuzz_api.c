/* What the injector is told by others: requests to its API, definitions of services, destinations of edges, reports of
 * the proxy. Never a crash; each request is answered once, by JSON of the documented shape; no report makes evidence
 * that cannot be true. It runs in a jail, and asks for nothing that would start, signal or change anything.
 *
 * Input: a byte that says what it is, a byte that says who asks (bit by request), then for the API requests divided by
 * NUL, each "METHOD TARGET\nBODY"; else the text itself. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "fuzz/jail.h"
#include "intercept/priv.h"
#include "page.h"
#include "run.h"
#include "service_int.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"

#define REQUESTS 80 /* of one input: more than there may be runs */
#define CALLERS 9   /* callers times edges: more than one report is grouped by */
#define EDGES 9
#define CALL_FIELDS 9 /* in the evidence */

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "violated: %s (line %d)\n", #c, __LINE__);                                           \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* What is slow is done at first, so that an input alone shows what it does, and then now and then. */
static bool now_and_then(unsigned *counter, unsigned every)
{
    unsigned n = (*counter)++;

    return n < 8 || n % every == 0;
}

/* ---- the API ---- */

struct stage {
    uv_loop_t loop;
    struct sq_page *page;
    struct sq_beat_page *beats;
    struct sq_journal *journal;
    struct sq_engine *eng;
    unsigned asked, answered;
};

static void on_quit(void *arg)
{
    (void)arg;
}

static struct stage *set_up(void)
{
    struct stage *s = calloc(1, sizeof(*s));
    char dir[] = "/tmp/squall-fuzz-XXXXXX", journal[sizeof(dir) + 16];
    void *page = NULL, *beats = NULL;
    int page_fd, beat_fd;

    MUST(s && mkdtemp(dir) && uv_loop_init(&s->loop) == 0);
    MUST(sq_page_new(sizeof(struct sq_page), &page, &page_fd, NULL) == 0);
    MUST(sq_page_new(sizeof(struct sq_beat_page), &beats, &beat_fd, NULL) == 0);
    s->page = page;
    s->beats = beats;
    (void)snprintf(journal, sizeof(journal), "%s/journal", dir);
    MUST(sq_journal_open(journal, 2, &s->journal, NULL) == 0);
    MUST(unlink(journal) == 0 && rmdir(dir) == 0);
    struct sq_engine_opts o = {.loop = &s->loop,
                               .dir = dir,
                               .self = "/bin/false",
                               .is_private = true,
                               .journal = s->journal,
                               .page = s->page,
                               .beats = s->beats,
                               .beat_fd = beat_fd,
                               .keeper_fd = -1,
                               .quit = on_quit};
    MUST(sq_engine_new(&o, &s->eng, NULL) == 0);
    return s;
}

static void check_error(const json_t *answer)
{
    static const char *const keys[] = {"message", "hint", "errno"};
    const json_t *error = json_object_get(answer, "error");

    MUST(json_object_size(answer) == 1 && json_object_size(error) == SQ_COUNT(keys));
    for (size_t i = 0; i < SQ_COUNT(keys); i++)
        MUST(json_is_string(json_object_get(error, keys[i])));
    MUST(json_string_length(json_object_get(error, "message")) > 0);
}

/* Prometheus text: "# ..." or "name... value" in each line, the last one ended, too. */
static void check_metrics(const char *text, size_t len)
{
    MUST(len > 0 && text[len - 1] == '\n');
    for (const char *end; *text; text = end + 1) {
        end = strchr(text, '\n');
        MUST(strncmp(text, "# ", 2) == 0 ||
             (strncmp(text, "squall_", 7) == 0 && memchr(text, ' ', (size_t)(end - text))));
    }
}

static void on_answer(void *arg, int status, char *body, size_t len)
{
    struct stage *s = arg;
    json_t *answer = NULL;

    s->answered++;
    MUST(status >= 100 && status <= 599 && body && strlen(body) == len);
    if (status == 200 && body[0] == '#') {
        check_metrics(body, len);
        free(body);
        return;
    }
    MUST(sq_json_parse(body, len, &answer, NULL) == 0 && json_is_object(answer));
    if (status >= 400)
        check_error(answer);
    else
        MUST(!json_object_get(answer, "error"));
    json_decref(answer);
    free(body);
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void decode(char *out, const char *target)
{
    for (; *target; target++) {
        int hi = *target == '%' ? hex(target[1]) : -1, lo = hi >= 0 ? hex(target[2]) : -1;

        *out++ = lo >= 0 ? (char)(hi * 16 + lo) : *target;
        target += lo >= 0 ? 2 : 0;
    }
    *out = '\0';
}

static bool plan_now(const char *body, size_t len)
{
    static unsigned scans, processes, edges, networks;
    json_t *def = NULL, *target;
    bool now = true;

    if (sq_json_parse(body, len, &def, NULL) < 0)
        return true;
    target = json_object_get(def, "target");
    if (strncmp(sq_json_str_or(def, "uses", ""), "process/", 8) == 0)
        now = json_object_get(target, "pattern") || json_object_get(target, "port") ? now_and_then(&scans, 64)
                                                                                    : now_and_then(&processes, 16);
    else if (strncmp(sq_json_str_or(def, "uses", ""), "call/", 5) == 0)
        now = now_and_then(&edges, 16);
    else if (strncmp(sq_json_str_or(def, "uses", ""), "network/", 8) == 0)
        now = now_and_then(&networks, 64);
    json_decref(def);
    return now;
}

/* Whatever might be one of these routes is left out, or is asked rarely because it looks at the whole host. */
static bool may_ask(const char *method, const char *target, const char *body, size_t len)
{
    static const char *const acts[] = {"edges", "services", "exec", "faults"};
    static unsigned doctors, snapshots;
    cleanup_free char *path = malloc(strlen(target) + 1);

    MUST(path);
    decode(path, target);
    for (size_t i = 0; i < SQ_COUNT(acts); i++)
        if (strcmp(method, "POST") == 0 && strstr(path, acts[i]))
            return false;
    if (strstr(path, "doctor"))
        return now_and_then(&doctors, 1u << 18);
    if (strstr(path, "snapshot"))
        return now_and_then(&snapshots, 1u << 14);
    return !strstr(path, "plan") || plan_now(body, len);
}

static void due(uv_handle_t *h, void *arg)
{
    uv_timer_t *t = (uv_timer_t *)h;

    (void)arg;
    if (h->type == UV_TIMER && uv_is_active(h))
        (void)uv_timer_start(t, t->timer_cb, 0, uv_timer_get_repeat(t));
}

/* What the loop waits for happens now: nothing that is asked for here takes time. */
static void turn(struct stage *s)
{
    uv_walk(&s->loop, due, NULL);
    (void)uv_run(&s->loop, UV_RUN_NOWAIT);
}

static void ask(struct stage *s, const char *text, size_t len, uid_t uid)
{
    const char *eol = memchr(text, '\n', len), *blank;
    size_t line = eol ? (size_t)(eol - text) : len, rest = eol ? len - line - 1 : 0;
    cleanup_free char *method = strndup(text, line), *body = malloc(rest ? rest : 1); /* so that a byte beyond shows */
    struct sq_peer peer = {.uid = uid, .gid = uid, .pid = getpid()};
    unsigned before = s->answered;

    MUST(method && body);
    if (rest)
        memcpy(body, eol + 1, rest);
    blank = strchr(method, ' ');
    if (!blank)
        return;
    cleanup_free char *target = strdup(blank + 1);
    MUST(target);
    method[blank - method] = '\0';
    if (!may_ask(method, target, body, rest))
        return;
    sq_api_handle(s->eng, &peer, method, target, body, rest, on_answer, s);
    for (int i = 0; i < 100 && s->answered == before; i++)
        turn(s);
    MUST(s->answered == before + 1);
    s->asked++;
}

/* As if the time had passed for which ended runs are kept: each input finds the same injector. */
static void forget(struct stage *s)
{
    unsigned before = s->answered;

    for (struct sq_run *r = s->eng->runs; r; r = r->next)
        sq_run_end(r, "end", 0, NULL, NULL);
    for (int i = 0; i < 100 && sq_engine_busy(s->eng); i++)
        turn(s);
    for (struct sq_run *r = s->eng->runs; r; r = r->next) {
        MUST(r->state == SQ_RUN_ENDED);
        r->ended_at -= 2 * SQ_KEPT_NS;
    }
    sq_runs_tick(s->eng);
    MUST(!s->eng->runs && s->answered == before && sq_journal_held(s->journal) == 0);
    s->eng->n_runs = 0;
}

static void fuzz_api(const char *text, size_t len, uint8_t who, bool root)
{
    static struct stage *s;
    static unsigned turns;

    if (!s)
        s = set_up();
    for (unsigned i = 0; i < REQUESTS; i++) {
        const char *end = memchr(text, '\0', len);
        size_t n = end ? (size_t)(end - text) : len;

        ask(s, text, n, root ? 0 : (who >> i % 8) & 1 ? 1001 : 1000);
        if (!end)
            break;
        text = end + 1;
        len -= n + 1;
    }
    if (s->eng->runs)
        forget(s);
    if (turns++ % 256 == 0)
        turn(s);
    MUST(s->asked == s->answered);
}

/* ---- definitions ---- */

/* The message can be told: not empty, and it fits. */
static void check_refusal(int rc, const struct sq_err *e)
{
    MUST(rc < 0 && rc == e->code);
    MUST(e->msg[0] && memchr(e->msg, 0, sizeof(e->msg)) && memchr(e->hint, 0, sizeof(e->hint)));
    MUST(e->cls == SQ_C_INPUT);
}

static void check_strings(const json_t *list)
{
    size_t i;
    const json_t *v;

    MUST(json_is_array(list));
    json_array_foreach(list, i, v) MUST(json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v));
}

static void fuzz_service(const char *text, size_t len)
{
    static unsigned users;
    struct sq_peer peer = {.uid = JAIL_UID, .gid = JAIL_UID, .pid = getpid()};
    struct svc_def *d = NULL;
    struct sq_err e = {0};
    cleanup_json json_t *in = NULL;

    if (sq_json_parse(text, len, &in, NULL) < 0)
        return;
    int rc = svc_def_parse(in, &d, &e);
    if (rc < 0) {
        check_refusal(rc, &e);
        return;
    }
    MUST(d->instances >= 1 && d->instances <= 64 && d->port + (int)d->instances - 1 <= 65535);
    int last = (int)d->instances - 1;
    cleanup_json json_t *argv = svc_def_argv(d, last), *env = NULL;
    cleanup_free char *cwd = svc_def_cwd(d, last);
    check_strings(argv);
    MUST(json_array_size(argv) == json_array_size(d->command) && cwd && cwd[0] == '/');
    if (now_and_then(&users, 64)) { /* it reads /etc/passwd */
        env = svc_def_env(d, last, &peer, "r1/x@y");
        check_strings(env);
    }
    svc_def_unref(d);
}

/* It takes itself, and nothing besides its ports. */
static void check_table(const struct sq_dest *d)
{
    struct sq_table_rule rule = {.addr = d->addr, .bits = d->bits, .from = d->from, .to = d->to, .edge = 7};
    cleanup_free struct sq_tables *t = calloc(1, sizeof(*t));
    cleanup_free struct sq_table *made = malloc(sizeof(*made));
    uint32_t addr[4];

    MUST(t && made && sq_table_build(&rule, 1, made, NULL) == 0);
    sq_tables_switch(t, made);
    memcpy(addr, &d->addr, sizeof(addr));
    MUST(sq_tables_find(t, addr, htons(d->to)) == 8 && sq_tables_find(t, addr, htons(d->from)) == 8);
    MUST(sq_tables_find(t, addr, htons((uint16_t)(d->from - 1))) == 0);
}

static void fuzz_dest(const char *text, size_t len)
{
    cleanup_free char *s = strndup(text, len);
    struct sq_dest d;
    struct sq_err e = {0};

    MUST(s);
    int rc = sq_dest_parse(s, &d, &e);
    if (rc < 0) {
        check_refusal(rc, &e);
        MUST(e.hint[0]);
        return;
    }
    MUST(d.path_len <= sizeof(d.path) - 1);
    MUST(d.kind == SQ_DEST_UNIX ? d.path_len > 0 : d.from > 0 && d.from <= d.to);
    MUST((d.kind == SQ_DEST_NAME) == (d.name[0] != '\0') && d.bits <= 128);
    if (d.kind == SQ_DEST_ADDRESS)
        check_table(&d);
}

/* ---- reports of the proxy ---- */

static void check_call(const json_t *c)
{
    MUST(json_array_size(c) == CALL_FIELDS && json_integer_value(json_array_get(c, 0)) <= sq_mono_ns() + SQ_S);
    for (size_t i = 0; i < CALL_FIELDS; i++) {
        const json_t *v = json_array_get(c, i);

        MUST(i == 6 || i == 7 ? json_is_string(v) : json_is_integer(v) && json_integer_value(v) >= 0);
    }
}

static void on_event(void *arg, const char *run, json_t *o)
{
    const json_t *calls = json_object_get(o, "calls"), *c;
    size_t i;

    (void)arg;
    MUST(o && run && json_is_string(json_object_get(o, "type")));
    if (strcmp(sq_json_str_or(o, "type", ""), "calls") == 0) {
        MUST(strcmp(run, "r1") == 0 && json_array_size(calls) > 0);
        MUST(json_is_string(json_object_get(o, "edge")) && json_is_string(json_object_get(o, "instance")));
        json_array_foreach(calls, i, c) check_call(c);
    } else {
        MUST(strcmp(sq_json_str_or(o, "type", ""), "warning") == 0 && json_is_string(json_object_get(o, "text")));
    }
    json_decref(o);
}

static struct sq_intercept *known(void)
{
    struct sq_intercept *ic = calloc(1, sizeof(*ic));

    MUST(ic);
    ic->o.event = on_event;
    ic->link.fd = -1;
    for (uint32_t i = 0; i < CALLERS; i++) {
        struct sq_caller *c = ic->caller[i] = calloc(1, sizeof(*c));

        MUST(c);
        *c = (struct sq_caller){.ic = ic, .slot = i, .id = i + 1, .service = "c", .instance = "c.0", .armed = true};
        (void)snprintf(c->run, sizeof(c->run), "r%d", i == 0 ? 2 : 1); /* one of another run */
    }
    for (uint32_t i = 0; i < EDGES; i++) {
        struct sq_edge *edge = ic->edge[i] = calloc(1, sizeof(*edge));

        MUST(edge);
        *edge = (struct sq_edge){.ic = ic, .slot = i, .id = i + 1, .run = "r1", .name = "c->d", .from = "c"};
    }
    return ic;
}

static void fuzz_incoming(const char *text, size_t len)
{
    static struct sq_intercept *ic;

    if (!ic)
        ic = known();
    ic->bad_calls = ic->proxy_lost = 0;
    sq_incoming(ic, text, len);
    for (uint32_t i = 0; i < EDGES; i++) {
        struct sq_edge *edge = ic->edge[i];

        MUST(json_array_size(edge->ack_rules) <= SQ_EDGE_FAULTS);
        json_decref(edge->ack_rules);
        edge->ack_rules = NULL;
        edge->acked = 0;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    jail_enter();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *text = (const char *)data + 2;

    if (len < 2)
        return -1;
    len -= 2;
    switch (data[0] & 7) {
    case 4:
        fuzz_service(text, len);
        break;
    case 5:
        fuzz_dest(text, len);
        break;
    case 6:
        fuzz_incoming(text, len);
        break;
    default:
        fuzz_api(text, len, data[1], data[0] & 0x40);
        break;
    }
    return 0;
}
