/* The ring of events, and how long a heartbeat has stood still. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "events.h"
#include "page.h"
#include "squall/json.h"
#include "squall/units.h"

static json_t *read_after(struct sq_events *ev, uint64_t after)
{
    size_t len = 0;
    char *text = sq_events_read(ev, after, &len);
    assert_non_null(text);
    assert_int_equal(strlen(text), len);
    json_t *j = NULL;
    assert_int_equal(sq_json_parse(text, len, &j, NULL), 0);
    free(text);
    return j;
}

static void add(struct sq_events *ev, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sq_events_add(ev, json_pack("{s:s}", "type", "x"));
}

static int64_t next_of(const json_t *j)
{
    return sq_json_int_or(j, "next", -1);
}

static void in_order(void **state)
{
    (void)state;
    struct sq_events *ev = sq_events_new();
    cleanup_json json_t *none = read_after(ev, 0);
    assert_int_equal(json_array_size(json_object_get(none, "events")), 0);
    assert_int_equal(next_of(none), 0);
    add(ev, 2500);
    int64_t after = 0, seq = 0;
    size_t sizes[4], n = 0;
    do {
        cleanup_json json_t *j = read_after(ev, (uint64_t)after);
        size_t i;
        json_t *e;
        json_array_foreach(json_object_get(j, "events"), i, e)
        {
            assert_int_equal(sq_json_int_or(e, "seq", -1), ++seq);
            assert_true(sq_json_int_or(e, "at", -1) > 0);
        }
        sizes[n++] = i;
        after = next_of(j);
    } while (n < 4);
    assert_int_equal(sizes[0], 1000);
    assert_int_equal(sizes[1], 1000);
    assert_int_equal(sizes[2], 500);
    assert_int_equal(sizes[3], 0);
    assert_int_equal(after, 2500);
    cleanup_json json_t *beyond = read_after(ev, INT64_MAX);
    assert_int_equal(json_array_size(json_object_get(beyond, "events")), 0);
    sq_events_free(ev);
}

static void own_time_is_kept(void **state)
{
    (void)state;
    struct sq_events *ev = sq_events_new();
    sq_events_add(ev, json_pack("{s:s,s:i}", "type", "x", "at", 42));
    cleanup_json json_t *j = read_after(ev, 0);
    assert_int_equal(sq_json_int_or(json_array_get(json_object_get(j, "events"), 0), "at", -1), 42);
    sq_events_free(ev);
}

static void oldest_goes_and_is_told(void **state)
{
    (void)state;
    struct sq_events *ev = sq_events_new();
    add(ev, SQ_EVENTS_MOST + 10);
    cleanup_json json_t *j = read_after(ev, 4); /* 5..10 are gone */
    const json_t *first = json_array_get(json_object_get(j, "events"), 0);
    assert_string_equal(sq_json_str_or(first, "type", ""), "warning");
    assert_non_null(strstr(sq_json_str_or(first, "text", ""), "6 events"));
    assert_int_equal(sq_json_int_or(first, "seq", -1), 10);
    assert_int_equal(sq_json_int_or(json_array_get(json_object_get(j, "events"), 1), "seq", -1), 11);
    cleanup_json json_t *k = read_after(ev, 10); /* all that this reader wants is there */
    assert_string_equal(sq_json_str_or(json_array_get(json_object_get(k, "events"), 0), "type", ""), "x");
    sq_events_free(ev);
}

static void bytes_are_bounded(void **state)
{
    (void)state;
    enum { BIG = 1 << 20 };
    struct sq_events *ev = sq_events_new();
    char *big = malloc(BIG);
    memset(big, 'x', BIG - 1);
    big[BIG - 1] = '\0';
    for (int i = 0; i < 80; i++)
        sq_events_add(ev, json_pack("{s:s}", "type", big));
    uint64_t after = 0;
    unsigned kept = 0;
    for (;;) {
        size_t len = 0;
        char *text = sq_events_read(ev, after, &len);
        assert_true(len < SQ_EVENTS_READ_BYTES + 2u * BIG);
        cleanup_json json_t *j = NULL;
        assert_int_equal(sq_json_parse(text, len, &j, NULL), 0);
        free(text);
        size_t n = json_array_size(json_object_get(j, "events"));
        if (n == 0)
            break;
        kept += (unsigned)n;
        after = (uint64_t)next_of(j);
    }
    assert_true(kept >= 60 && kept <= 65); /* 64 MiB, and the warning */
    assert_int_equal(after, 80);
    free(big);
    sq_events_free(ev);
}

static void stands_still(void **state)
{
    (void)state;
    struct sq_watch w = {0};
    int64_t t = 1000 * SQ_S;
    assert_int_equal(sq_watch_look(&w, 1, t, 200 * SQ_MS), 0);
    for (int i = 1; i <= 20; i++)
        assert_int_equal(sq_watch_look(&w, 1, t + i * 100 * SQ_MS, 200 * SQ_MS), i * 100 * SQ_MS);
    assert_int_equal(sq_watch_look(&w, 2, t + 3 * SQ_S, 200 * SQ_MS), 0); /* it moved */
    /* The watcher itself slept for an hour: that accuses nobody. */
    assert_int_equal(sq_watch_look(&w, 2, t + 3600 * SQ_S, 200 * SQ_MS), 200 * SQ_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order),
        cmocka_unit_test(own_time_is_kept),
        cmocka_unit_test(oldest_goes_and_is_told),
        cmocka_unit_test(bytes_are_bounded),
        cmocka_unit_test(stands_still),
    };
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
