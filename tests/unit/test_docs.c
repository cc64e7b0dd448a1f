/* SCENARIO.md and squall-scenario(5) name every check with all that it takes, every fault and every protocol; squall(1)
 * every verb. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/proto.h"
#include "squall/spec.h"
#include "verify/check.h"

#define SCENARIO "SCENARIO.md"
#define MANUAL "controller/man/squall-scenario.5"
#define VERBS "controller/man/squall.1"

#define SQ_PROTOCOL(p) extern const struct sq_proto p;
#include "probe/protocols.def"
#undef SQ_PROTOCOL

static unsigned missing;

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "r");
    char *s = NULL;
    size_t cap = 0;

    if (!f)
        fail_msg("%s is not here: run in the project's root", path);
    if (getdelim(&s, &cap, '\0', f) < 0)
        fail_msg("%s can't be read", path);
    (void)fclose(f);
    return s;
}

static bool part_of_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '/';
}

/* Is WORD in the LEN bytes of TEXT, as a word of its own? */
static bool has(const char *text, size_t len, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = text; (p = memmem(p, len - (size_t)(p - text), word, n)); p++)
        if ((p == text || !part_of_name(p[-1])) && (p + n == text + len || !part_of_name(p[n])))
            return true;
    return false;
}

static void want(const char *file, const char *text, size_t len, const char *about, const char *word)
{
    if (has(text, len, word))
        return;
    print_message("%s: %s: \"%s\" is missing\n", file, about, word);
    missing++;
}

static void want_params(const char *file, const char *text, size_t len, const char *about, const struct sq_param *p)
{
    for (; p && p->name; p++) {
        want(file, text, len, about, p->name);
        want_params(file, text, len, about, p->fields);
    }
}

/* ENTRY begins what FILE says about NAME, the first of ENDS what it says about something else. */
static void check_entry(const char *file, const char *doc, const char *entry, const char *const ends[2],
                        const struct sq_check *c)
{
    const char *at = strstr(doc, entry);

    if (!at) {
        print_message("%s: there is no entry for the check %s\n", file, c->name);
        missing++;
        return;
    }
    size_t len = strlen(at);
    for (size_t i = 0; i < 2; i++) {
        const char *end = strstr(at + strlen(entry), ends[i]);

        if (end && (size_t)(end - at) < len)
            len = (size_t)(end - at);
    }
    want_params(file, at, len, c->name, c->params);
    for (const struct sq_check_map *m = c->maps; m && m->key; m++)
        want_params(file, at, len, c->name, m->params);
}

static void checks(void **state)
{
    static const char *const row[2] = {"\n", "\n"}, *const item[2] = {".It Cm ", ".El"};
    char *scenario = slurp(SCENARIO), *manual = slurp(MANUAL), entry[80];
    const struct sq_check *const *list;
    size_t n = sq_checks(&list);
    const char *section = strstr(manual, ".Ss Checks");

    (void)state;
    missing = 0;
    assert_non_null(section);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(entry, sizeof entry, "\n| `%s` | ", list[i]->name);
        check_entry(SCENARIO, scenario, entry, row, list[i]);
        (void)snprintf(entry, sizeof entry, ".It Cm %s\n", list[i]->name);
        check_entry(MANUAL, section, entry, item, list[i]);
    }
    free(scenario);
    free(manual);
    assert_int_equal(missing, 0);
}

static void names(void **state)
{
    static const struct sq_proto *const protocols[] = {
#define SQ_PROTOCOL(p) &p,
#include "probe/protocols.def"
#undef SQ_PROTOCOL
    };
    static const char *const files[] = {SCENARIO, MANUAL};
    const struct sq_fault_spec *const *faults;
    size_t n = sq_fault_specs(&faults);

    (void)state;
    missing = 0;
    for (size_t f = 0; f < 2; f++) {
        char *doc = slurp(files[f]);

        for (size_t i = 0; i < n; i++)
            want(files[f], doc, strlen(doc), "faults", faults[i]->name);
        for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++) {
            const char *name = protocols[i]->name;

            want(files[f], doc, strlen(doc), "protocols", strcmp(name, "http2") == 0 ? "h2c" : name);
        }
        free(doc);
    }
    assert_int_equal(missing, 0);
}

static void verbs(void **state)
{
    static const char *const all[] = {
#define COMMAND(name) #name,
#include "commands/commands.def"
#undef COMMAND
    };
    char *doc = slurp(VERBS), entry[80];

    (void)state;
    missing = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        (void)snprintf(entry, sizeof entry, ".It Cm %s", all[i]);
        want(VERBS, doc, strlen(doc), "verbs", entry);
    }
    want(VERBS, doc, strlen(doc), "run", "approve");
    free(doc);
    assert_int_equal(missing, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(checks), cmocka_unit_test(names), cmocka_unit_test(verbs)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
