/* The YAML reader: shapes, types of scalars, positions, limits. What it refuses is in tests/golden/scenario. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "scenario/yaml.h"

static struct sq_node *parse(const char *text)
{
    struct sq_node *n = NULL;
    struct sq_diags d;

    sq_diags_init(&d, "t.yaml");
    assert_int_equal(sq_yaml_parse(text, strlen(text), &n, &d), 0);
    assert_int_equal(d.errors, 0);
    sq_diags_free(&d);
    return n;
}

/* The one error of TEXT: its position; the message has WORD in it. */
static struct sq_pos refused(const char *text, size_t len, const char *word)
{
    struct sq_node *n = (void *)1;
    struct sq_diags d;
    struct sq_pos pos;

    sq_diags_init(&d, "t.yaml");
    assert_int_equal(sq_yaml_parse(text, len, &n, &d), -EINVAL);
    assert_null(n);
    assert_int_equal(d.n, 1);
    if (!strstr(d.list[0].msg, word))
        fail_msg("\"%s\" has no \"%s\"", d.list[0].msg, word);
    pos = d.list[0].pos;
    sq_diags_free(&d);
    return pos;
}

static void types_of_scalars(void **state)
{
    static const struct {
        const char *yaml;
        json_type type;
    } cases[] = {
        {"12", JSON_INTEGER},
        {"-3", JSON_INTEGER},
        {"0", JSON_INTEGER},
        {"1.5", JSON_REAL},
        {"1e3", JSON_REAL},
        {"-0.5E-2", JSON_REAL},
        {"true", JSON_TRUE},
        {"false", JSON_FALSE},
        {"null", JSON_NULL},
        {"~", JSON_NULL},
        {"", JSON_NULL},
        {"yes", JSON_STRING},
        {"on", JSON_STRING},
        {"True", JSON_STRING},
        {"012", JSON_STRING},
        {"0x1f", JSON_STRING},
        {"1_000", JSON_STRING},
        {".5", JSON_STRING},
        {"5.", JSON_STRING},
        {"+1", JSON_STRING},
        {"12:30", JSON_STRING},
        {".inf", JSON_STRING},
        {"'12'", JSON_STRING},
        {"\"true\"", JSON_STRING},
        {"30%", JSON_STRING},
        {"2001-01-01", JSON_STRING},
        {"1e", JSON_STRING},
        {"--1", JSON_STRING},
        {"null ", JSON_NULL},
        {"|\n  12", JSON_STRING},
        {"9223372036854775807", JSON_INTEGER},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        struct sq_node *n;
        json_t *j;

        (void)snprintf(text, sizeof text, "k: %s\n", cases[i].yaml);
        n = parse(text);
        j = sq_node_json(sq_node_get(n, "k"));
        assert_non_null(j);
        if (json_typeof(j) != cases[i].type)
            fail_msg("%s: type %d, not %d", cases[i].yaml, (int)json_typeof(j), (int)cases[i].type);
        json_decref(j);
        sq_node_free(n);
    }
}

static void too_large_a_number(void **state)
{
    struct sq_node *n = parse("[9223372036854775808, 1e999]");

    (void)state;
    assert_null(sq_node_json(n->items[0]));
    assert_null(sq_node_json(n->items[1]));
    assert_null(sq_node_json(n));
    sq_node_free(n);
}

static void shape_and_positions(void **state)
{
    struct sq_node *n = parse("a: 1\nb:\n  - x\n  - {c: y, \"d\": [z]}\nä: ü\n"), *b, *d;
    json_t *j = sq_node_json(n),
           *want = json_pack("{s:i, s:[s, {s:s, s:[s]}], s:s}", "a", 1, "b", "x", "c", "y", "d", "z", "ä", "ü");

    (void)state;
    assert_true(json_equal(j, want));
    b = sq_node_get(n, "b");
    assert_int_equal(b->pos.line, 3);
    assert_int_equal(b->pos.col, 3);
    assert_int_equal(sq_node_key(n, "b")->pos.line, 2);
    d = sq_node_get(b->items[1], "d");
    assert_int_equal(d->pos.line, 4);
    assert_int_equal(d->pos.col, 17);
    assert_int_equal(sq_node_get(n, "ä")->pos.col, 4); /* characters, not bytes */
    assert_null(sq_node_get(n, "nothing"));
    assert_null(sq_node_get(b, "list"));
    assert_null(sq_node_get(NULL, "x"));
    json_decref(j);
    json_decref(want);
    sq_node_free(n);
}

static void line_ends_and_marks(void **state)
{
    struct sq_node *n = parse("\xef\xbb\xbf"
                              "---\r\na: 1\r\nb: |\r\n  x\r\n  y\r\n...\r\n");

    (void)state;
    assert_string_equal(sq_node_get(n, "a")->text, "1");
    assert_string_equal(sq_node_get(n, "b")->text, "x\ny\n");
    sq_node_free(n);
}

static void positions_of_errors(void **state)
{
    struct sq_pos p = refused("a: 1\nb: \xff\n", 10, "UTF-8");

    (void)state;
    assert_int_equal(p.line, 2);
    assert_int_equal(p.col, 4);
    p = refused("ä: 1\nü: {ä: 1, ä: 2}\n", strlen("ä: 1\nü: {ä: 1, ä: 2}\n"), "twice");
    assert_int_equal(p.line, 2);
    assert_int_equal(p.col, 11);
    p = refused("a: b\0c\n", 7, "NUL");
    assert_int_equal(p.col, 5);
    assert_int_equal(refused("\xed\xa0\x80", 3, "UTF-8").line, 1);     /* a surrogate */
    assert_int_equal(refused("\xf4\x90\x80\x80", 4, "UTF-8").line, 1); /* beyond U+10FFFF */
    assert_int_equal(refused("a: \xe2\x82", 5, "UTF-8").col, 4);       /* cut off */
    (void)refused("", 0, "empty");
}

static char *repeat(const char *head, const char *what, size_t n, const char *tail)
{
    size_t len = strlen(what);
    char *s = malloc(strlen(head) + n * len + strlen(tail) + 1), *p = s;

    assert_non_null(s);
    p = stpcpy(p, head);
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, what);
    (void)stpcpy(p, tail);
    return s;
}

static void limits(void **state)
{
    char *deep = repeat("", "[", SQ_YAML_MAX_DEPTH, "");
    char *fits = repeat(deep, "]", SQ_YAML_MAX_DEPTH, ""), *over = repeat("[", fits, 1, "]");
    char *many = repeat("", "- a\n", SQ_YAML_MAX_NODES, ""), *enough = repeat("", "- a\n", SQ_YAML_MAX_NODES - 1, "");
    char *keys = repeat("", "? a\n", 1, ""), *large = repeat("# ", "x", SQ_YAML_MAX_BYTES, "\n");
    char *scalar = repeat("a: ", "x", SQ_YAML_MAX_SCALAR + 1, "\n"), *bomb = repeat("", "{a: ", 5000, "");

    (void)state;
    sq_node_free(parse(fits));
    (void)refused(over, strlen(over), "32 levels");
    sq_node_free(parse(enough));
    (void)refused(many, strlen(many), "20000 values");
    sq_node_free(parse(keys));
    (void)refused(large, strlen(large), "1 MiB");
    (void)refused(scalar, strlen(scalar), "65536 bytes");
    (void)refused(bomb, strlen(bomb), "32 levels");
    free(deep);
    free(fits);
    free(over);
    free(many);
    free(enough);
    free(keys);
    free(large);
    free(scalar);
    free(bomb);
}

static void reads_no_more_than_it_must(void **state)
{
    char path[] = "/tmp/squall-yaml-XXXXXX";
    int fd = mkstemp(path);
    struct sq_node *n;
    struct sq_diags d;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)100 << 20), 0); /* 100 MB, sparse */
    sq_diags_init(&d, path);
    assert_int_equal(sq_yaml_read(&n, &d), -EINVAL);
    assert_non_null(strstr(d.list[0].msg, "1 MiB"));
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
    sq_diags_free(&d);
    (void)close(fd);
    (void)unlink(path);

    sq_diags_init(&d, path);
    assert_int_equal(sq_yaml_read(&n, &d), -ENOENT);
    assert_int_equal(d.cls, SQ_C_INPUT);
    sq_diags_free(&d);
    sq_diags_init(&d, "/");
    assert_int_equal(sq_yaml_read(&n, &d), -EISDIR);
    sq_diags_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_of_scalars),           cmocka_unit_test(too_large_a_number),
        cmocka_unit_test(shape_and_positions),        cmocka_unit_test(line_ends_and_marks),
        cmocka_unit_test(positions_of_errors),        cmocka_unit_test(limits),
        cmocka_unit_test(reads_no_more_than_it_must),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
