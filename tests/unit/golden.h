/* Golden files: tests/golden/ROOM/NAME.yaml and, beside each, NAME.expect with the words it must lead to
 * (SQUALL_GOLDEN_UPDATE=1 writes them anew). Runs in the project's root. */
#ifndef SQUALL_TESTS_GOLDEN_H
#define SQUALL_TESTS_GOLDEN_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *golden_text(const char *path)
{
    FILE *f = fopen(path, "r");
    char *s = calloc(1, 65536);

    assert_non_null(s);
    if (f) {
        (void)!fread(s, 1, 65535, f);
        (void)fclose(f);
    }
    return s;
}

/* OUTCOME says, malloc'd, what the file leads to. There are at least LEAST of them. */
static void golden_all(const char *where, char *outcome(const char *path), unsigned least)
{
    DIR *dir = opendir(where);
    struct dirent *entry;
    unsigned n = 0, wrong = 0;

    if (!dir)
        fail_msg("%s is not here: run in the project's root", where);
    while (dir && (entry = readdir(dir))) {
        char path[512], expected[512], *dot = strstr(entry->d_name, ".yaml");

        if (!dot || dot[5])
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", where, entry->d_name);
        (void)snprintf(expected, sizeof expected, "%s/%.*s.expect", where, (int)(dot - entry->d_name), entry->d_name);
        char *got = outcome(path);
        if (getenv("SQUALL_GOLDEN_UPDATE")) {
            FILE *f = fopen(expected, "w");

            assert_non_null(f);
            (void)fputs(got, f);
            (void)fclose(f);
        }
        char *want = golden_text(expected);
        if (strcmp(got, want) != 0) {
            print_message("%s\n--- expected\n%s--- got\n%s", path, want, got);
            wrong++;
        }
        n++;
        free(got);
        free(want);
    }
    (void)closedir(dir);
    assert_true(n >= least);
    assert_int_equal(wrong, 0);
}

#endif
