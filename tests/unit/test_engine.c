/* The engine behind sq_api_handle, without HTTP: who may do what, what an error leaves behind, what a lease is. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "api.h"
#include "page.h"
#include "run.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

#define SLOTS 2

struct stage {
    char dir[64];
    uv_loop_t loop;
    struct sq_page *page;
    struct sq_beat_page *beats;
    int page_fd, beat_fd;
    struct sq_journal *journal;
    struct sq_engine *eng;
    int status;
    json_t *answer;
    bool answered, stopped;
};

static void on_quit(void *arg)
{
    (void)arg;
}

static int set_up(void **state)
{
    struct stage *s = calloc(1, sizeof(*s));
    void *page = NULL, *beats = NULL;
    char journal[96];
    struct sq_err e = {0};
    snprintf(s->dir, sizeof(s->dir), "/tmp/squall-engine-XXXXXX");
    if (!mkdtemp(s->dir) || uv_loop_init(&s->loop) || sq_page_new(sizeof(struct sq_page), &page, &s->page_fd, NULL) ||
        sq_page_new(sizeof(struct sq_beat_page), &beats, &s->beat_fd, NULL))
        return -1;
    s->page = page;
    s->beats = beats;
    snprintf(journal, sizeof(journal), "%s/journal", s->dir);
    struct sq_engine_opts o = {.loop = &s->loop,
                               .dir = s->dir,
                               .self = "/bin/false",
                               .is_private = true,
                               .page = s->page,
                               .beats = s->beats,
                               .beat_fd = s->beat_fd,
                               .keeper_fd = -1,
                               .quit = on_quit};
    *state = s;
    if (sq_journal_open(journal, SLOTS, &s->journal, &e))
        return -1;
    o.journal = s->journal;
    return sq_engine_new(&o, &s->eng, &e);
}

static void stopped(void *arg)
{
    struct stage *s = arg;
    s->stopped = true;
}

static int tear_down(void **state)
{
    struct stage *s = *state;
    char journal[96];
    sq_engine_stop(s->eng, stopped, s);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    sq_engine_free(s->eng);
    sq_journal_close(s->journal);
    json_decref(s->answer);
    snprintf(journal, sizeof(journal), "%s/journal", s->dir);
    (void)unlink(journal);
    (void)rmdir(s->dir);
    int bad = !s->stopped || uv_loop_close(&s->loop) != 0;
    free(s);
    return bad;
}

static void on_answer(void *arg, int status, char *body, size_t len)
{
    struct stage *s = arg;
    assert_false(s->answered);
    s->answered = true;
    s->status = status;
    assert_non_null(body);
    assert_int_equal(strlen(body), len);
    assert_int_equal(sq_json_parse(body, len, &s->answer, NULL), 0);
    free(body);
}

static int ask(struct stage *s, uid_t uid, const char *method, const char *target, const char *body)
{
    struct sq_peer peer = {.uid = uid, .gid = uid, .pid = getpid()};
    json_decref(s->answer);
    s->answer = NULL;
    s->answered = false;
    sq_api_handle(s->eng, &peer, method, target, body, strlen(body), on_answer, s);
    for (int64_t end = sq_mono_ns() + 5 * SQ_S; !s->answered && sq_mono_ns() < end;)
        uv_run(&s->loop, UV_RUN_ONCE);
    assert_true(s->answered);
    return s->status;
}

static const char *message(struct stage *s)
{
    return sq_json_str_or(json_object_get(s->answer, "error"), "message", "");
}

/* Another program than this one: Squall never touches its own processes, by whatever name they are asked for. */
static pid_t victim_of(const char *seconds)
{
    struct sq_proc p;
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test must not leave it, stopped, behind */
        (void)execlp("sleep", "sleep", seconds, (char *)NULL);
        _exit(1);
    }
    for (int i = 0; i < 200 && sq_proc_read(pid, &p, NULL) == 0 && strcmp(p.comm, "sleep") != 0; i++)
        usleep(10000);
    return pid;
}

static pid_t victim(void)
{
    return victim_of("100");
}

static char state_of(pid_t pid)
{
    struct sq_proc p;
    return sq_proc_read(pid, &p, NULL) ? '-' : p.state;
}

static void end_victim(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

static int pause_it(struct stage *s, pid_t pid)
{
    char body[128];
    snprintf(body, sizeof(body), "{\"uses\":\"process/pause\",\"target\":{\"pid\":%d}}", (int)pid);
    return ask(s, getuid(), "POST", "/v1/runs/r1/faults", body);
}

static void a_run_is_its_makers(void **state)
{
    struct stage *s = *state;
    uid_t me = 1000, other = 1001;
    assert_int_equal(ask(s, me, "POST", "/v1/runs", "{\"lease\":\"5s\",\"seed\":7}"), 201);
    assert_int_equal(sq_json_int_or(s->answer, "lease_ns", 0), 5 * SQ_S);
    assert_int_equal(ask(s, me, "POST", "/v1/runs/r1/renew", ""), 200);
    assert_int_equal(ask(s, other, "POST", "/v1/runs/r1/renew", ""), 403);
    assert_int_equal(ask(s, other, "GET", "/v1/runs/r1/events?after=0", ""), 403);
    assert_int_equal(ask(s, other, "DELETE", "/v1/runs/r1", ""), 403);
    assert_int_equal(ask(s, 0, "POST", "/v1/runs/r1/renew", ""), 200);
    assert_int_equal(ask(s, other, "POST", "/v1/halt", ""), 200); /* but anyone may halt */
    assert_int_equal(sq_json_int_or(s->answer, "runs", 0), 1);
    assert_int_equal(ask(s, me, "POST", "/v1/runs/r1/renew", ""), 404);
    assert_int_equal(ask(s, me, "GET", "/v1/runs/r1/events?after=0", ""), 200); /* kept for a while */
    assert_int_equal(ask(s, me, "DELETE", "/v1/runs/r1", ""), 200);
}

static void no_room_no_fault(void **state)
{
    struct stage *s = *state;
    pid_t v[3];
    for (int i = 0; i < 3; i++)
        v[i] = victim();
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs", ""), 201);
    assert_int_equal(pause_it(s, v[0]), 201);
    assert_int_equal(pause_it(s, v[1]), 201);
    assert_int_equal(pause_it(s, v[2]), 500); /* both slots are held */
    assert_non_null(strstr(message(s), "all 2 slots"));
    assert_int_equal(state_of(v[0]), 'T');
    assert_int_not_equal(state_of(v[2]), 'T');
    assert_int_equal(sq_journal_held(s->journal), 2);
    assert_int_equal(ask(s, getuid(), "DELETE", "/v1/runs/r1", ""), 200);
    assert_true(sq_json_bool_or(s->answer, "clean", false));
    assert_int_not_equal(state_of(v[0]), 'T');
    assert_int_not_equal(state_of(v[1]), 'T');
    assert_int_equal(sq_journal_held(s->journal), 0);
    for (int i = 0; i < 3; i++)
        end_victim(v[i]);
}

static void half_a_fault_is_none(void **state)
{
    struct stage *s = *state;
    pid_t v[3];
    char seconds[32], body[160];
    snprintf(seconds, sizeof(seconds), "98.%d", (int)getpid()); /* nobody else's */
    for (int i = 0; i < 3; i++)
        v[i] = victim_of(seconds);
    snprintf(body, sizeof(body),
             "{\"uses\":\"process/pause\",\"target\":{\"pattern\":\"^sleep 98[.]%d$\",\"count\":\"all\"}}",
             (int)getpid());
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs", ""), 201);
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs/r1/faults", body), 500); /* 3 records, 2 slots */
    assert_non_null(strstr(message(s), "all 2 slots"));
    assert_int_equal(sq_journal_held(s->journal), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_not_equal(state_of(v[i]), 'T');
        end_victim(v[i]);
    }
}

static void the_keeper_sees_the_lease(void **state)
{
    struct stage *s = *state;
    pid_t v = victim();
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs", "{\"lease\":600000000}"), 201);
    int64_t deadline = SQ_GET(s->page->lease[0]), now = sq_boot_ns();
    assert_true(deadline > now && deadline <= now + 600 * SQ_MS);
    assert_int_equal(pause_it(s, v), 201);
    for (int64_t end = sq_mono_ns() + 3 * SQ_S; SQ_GET(s->page->lease[0]) && sq_mono_ns() < end;)
        uv_run(&s->loop, UV_RUN_ONCE);
    assert_int_equal(SQ_GET(s->page->lease[0]), 0);
    assert_true(sq_boot_ns() >= deadline);
    assert_int_not_equal(state_of(v), 'T');
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs/r1/renew", ""), 404);
    end_victim(v);
}

static void runs_are_bounded(void **state)
{
    struct stage *s = *state;
    for (int i = 0; i < SQ_MAX_RUNS; i++)
        assert_int_equal(ask(s, 1000, "POST", "/v1/runs", ""), 201);
    assert_int_equal(ask(s, 1000, "POST", "/v1/runs", ""), 409);
    assert_int_equal(ask(s, 1000, "DELETE", "/v1/runs/r5", ""), 200);
    assert_int_equal(ask(s, 1000, "POST", "/v1/runs", ""), 201);
}

static void hostile_requests(void **state)
{
    struct stage *s = *state;
    static const struct {
        const char *method, *target, *body;
        int status;
    } bad[] = {
        {"GET", "", "", 404},
        {"GET", "v1/info", "", 404},
        {"GET", "//v1/info", "", 404},
        {"GET", "/v1/info/", "", 404},
        {"GET", "/v1/%zz", "", 404},
        {"GET", "/v1/%", "", 404},
        {"GET", "/v1/info%00", "", 404},
        {"GET", "/a/b/c/d/e/f/g/h", "", 404},
        {"BREW", "/v1/info", "", 404},
        {"POST", "/v1/runs", "nope", 400},
        {"POST", "/v1/runs", "[]", 400},
        {"POST", "/v1/runs", "{\"lease\":\"-5s\"}", 400},
        {"POST", "/v1/runs", "{\"lease\":\"2h\"}", 400},
        {"POST", "/v1/runs", "{\"seed\":\"x\"}", 400},
        {"POST", "/v1/runs", "{\"name\":\"\xff\"}", 400},
        {"GET", "/v1/runs/r1/events?after=-1", "", 400},
        {"GET", "/v1/runs/r1/events?after=99999999999999999999", "", 400},
        {"POST", "/v1/runs/r1/faults", "{}", 400},
        {"POST", "/v1/runs/r1/faults", "{\"uses\":5}", 400},
        {"POST", "/v1/runs/r1/faults", "{\"uses\":\"process/pause\"}", 400},
        {"POST", "/v1/runs/r1/faults", "{\"uses\":\"process/pause\",\"target\":7}", 400},
        {"POST", "/v1/runs/r1/faults", "{\"uses\":\"process/pause\",\"target\":{\"pid\":1},\"with\":[]}", 400},
        {"PATCH", "/v1/runs/r1/faults/f9", "{\"with\":{}}", 404},
        {"DELETE", "/v1/runs/r1/faults/f9", "", 404},
    };
    assert_int_equal(ask(s, getuid(), "POST", "/v1/runs", ""), 201);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int status = ask(s, getuid(), bad[i].method, bad[i].target, bad[i].body);
        if (status != bad[i].status || !message(s)[0])
            fail_msg("%s %s %s: %d %s", bad[i].method, bad[i].target, bad[i].body, status, message(s));
    }
    assert_int_equal(ask(s, getuid(), "GET", "/v1/inf%6f", ""), 200);
    assert_int_equal(sq_journal_held(s->journal), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_is_its_makers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_room_no_fault, set_up, tear_down),
        cmocka_unit_test_setup_teardown(half_a_fault_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_keeper_sees_the_lease, set_up, tear_down),
        cmocka_unit_test_setup_teardown(runs_are_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_requests, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
