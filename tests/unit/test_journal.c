/* The undo journal: what is held survives its writer, what is torn or of another boot does not, and room is taken
 * first. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "journal.h"
#include "squall/json.h"

#define SLOT 4096

static char dir[] = "/tmp/squall-journal-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/journal", dir);
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(dir);
}

static int fresh(void **state)
{
    (void)state;
    (void)unlink(path);
    return 0;
}

static struct sq_journal *open_it(unsigned slots)
{
    struct sq_journal *j = NULL;
    struct sq_err e = {0};
    int rc = sq_journal_open(path, slots, &j, &e);
    if (rc)
        fail_msg("%s", e.msg);
    return j;
}

static unsigned hold(struct sq_journal *j, const char *fault)
{
    unsigned slot = 9999;
    cleanup_json json_t *r =
        json_pack("{s:s,s:s,s:s,s:{s:i}}", "run", "r1", "fault", fault, "kind", "k", "undo", "n", 7);
    assert_int_equal(sq_journal_hold(j, r, &slot, NULL), 0);
    return slot;
}

struct seen {
    char text[256];
    const char *keep; /* "": keep all; NULL: keep none */
};

static int see(const json_t *record, unsigned slot, void *arg)
{
    struct seen *s = arg;
    const char *fault = sq_json_str_or(record, "fault", "?");
    (void)slot;
    strncat(s->text, fault, sizeof(s->text) - strlen(s->text) - 1);
    strncat(s->text, " ", sizeof(s->text) - strlen(s->text) - 1);
    return s->keep && (!s->keep[0] || strcmp(s->keep, fault) == 0) ? 1 : 0;
}

static void patch(off_t at, const void *bytes, size_t len)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, at), (ssize_t)len);
    close(fd);
}

static void survives_its_writer(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(8);
    struct seen s = {.keep = "b"};
    hold(j, "a");
    hold(j, "b");
    unsigned c = hold(j, "c");
    assert_int_equal(sq_journal_release(j, c, NULL), 0);
    assert_int_equal(sq_journal_release(j, c, NULL), -EINVAL); /* once */
    hold(j, "d");
    sq_journal_close(j);

    j = open_it(0);
    assert_int_equal(sq_journal_held(j), 3);
    assert_int_equal(sq_journal_each(j, see, &s, NULL), 1); /* one stays */
    assert_string_equal(s.text, "d b a ");
    sq_journal_close(j);

    j = open_it(0);
    assert_int_equal(sq_journal_held(j), 1);
    hold(j, "e"); /* newer than what was there */
    s = (struct seen){.keep = NULL};
    assert_int_equal(sq_journal_each(j, see, &s, NULL), 0);
    assert_string_equal(s.text, "e b ");
    sq_journal_close(j);
}

static void newest_first_after_wrapping(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(3);
    struct seen s = {.keep = ""};
    unsigned a = hold(j, "a");
    hold(j, "b");
    sq_journal_release(j, a, NULL);
    hold(j, "c");
    hold(j, "d"); /* in a's slot */
    assert_int_equal(sq_journal_each(j, see, &s, NULL), 3);
    assert_string_equal(s.text, "d c b ");
    sq_journal_close(j);
}

static void full(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(2);
    struct sq_err e = {0};
    unsigned slot;
    hold(j, "a");
    unsigned b = hold(j, "b");
    cleanup_json json_t *r = json_pack("{s:s}", "run", "r1");
    assert_int_equal(sq_journal_hold(j, r, &slot, &e), -ENOSPC);
    assert_non_null(strstr(e.msg, "all 2 slots"));
    sq_journal_release(j, b, NULL);
    assert_int_equal(sq_journal_hold(j, r, &slot, NULL), 0);
    sq_journal_close(j);
}

static void too_large(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(2);
    char text[5000];
    unsigned slot;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    cleanup_json json_t *r = json_pack("{s:s}", "run", text);
    assert_int_equal(sq_journal_hold(j, r, &slot, NULL), -E2BIG);
    assert_int_equal(sq_journal_held(j), 0);
    text[4000] = '\0';
    cleanup_json json_t *fits = json_pack("{s:s}", "run", text);
    assert_int_equal(sq_journal_hold(j, fits, &slot, NULL), 0);
    assert_int_equal(sq_journal_update(j, slot, r, NULL), -E2BIG); /* and the old one is still whole */
    assert_int_equal(sq_journal_reload(j, NULL), 0);
    assert_int_equal(sq_journal_held(j), 1);
    sq_journal_close(j);
}

static void update_keeps_the_order(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(4);
    struct seen s = {.keep = ""};
    unsigned a = hold(j, "a");
    hold(j, "b");
    cleanup_json json_t *r = json_pack("{s:s}", "fault", "A2");
    assert_int_equal(sq_journal_update(j, a, r, NULL), 0);
    assert_int_equal(sq_journal_update(j, 3, r, NULL), -EINVAL); /* not held */
    sq_journal_close(j);
    j = open_it(0);
    sq_journal_each(j, see, &s, NULL);
    assert_string_equal(s.text, "b A2 ");
    sq_journal_close(j);
}

static void torn_and_foreign(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(8);
    struct seen s = {.keep = ""};
    hold(j, "a");
    hold(j, "b");
    hold(j, "c");
    hold(j, "d");
    sq_journal_close(j);
    patch(0 * SLOT + 69, "#", 1);        /* a: a byte inside a string of the record */
    patch(1 * SLOT + 16, "\xff\xff", 2); /* b: its length */
    patch(2 * SLOT + 20, "0", 1);        /* c: its boot id, checksum now wrong */
    j = open_it(0);
    assert_int_equal(sq_journal_held(j), 1);
    sq_journal_each(j, see, &s, NULL);
    assert_string_equal(s.text, "d ");
    sq_journal_close(j);
}

/* A whole record, but of another boot: the checksum is computed as journal.c does. */
static void another_boot(void **state)
{
    (void)state;
    unsigned char buf[SLOT];
    uint32_t len;
    struct sq_journal *j = open_it(2);
    hold(j, "a");
    sq_journal_close(j);
    for (int round = 0; round < 2; round++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, buf, SLOT, 0), SLOT);
        memcpy(&len, buf + 16, 4);
        buf[20] = round ? 'X' : buf[20]; /* first unchanged: our checksum must be the journal's */
        uint32_t crc = (uint32_t)crc32(0, buf + 8, 52 + len);
        memcpy(buf + 4, &crc, 4);
        assert_int_equal(pwrite(fd, buf, SLOT, 0), SLOT);
        close(fd);
        j = open_it(0);
        assert_int_equal(sq_journal_held(j), round ? 0 : 1);
        sq_journal_close(j);
    }
}

static void damaged_while_held(void **state)
{
    (void)state;
    struct sq_journal *j = open_it(4);
    struct seen s = {.keep = NULL};
    struct sq_err e = {0};
    hold(j, "a");
    hold(j, "b");
    patch(1 * SLOT + 70, "#", 1);
    assert_int_equal(sq_journal_each(j, see, &s, &e), -EBADMSG); /* unknown is not recovered */
    assert_string_equal(s.text, "a ");                           /* and the other is not given up for it */
    assert_int_equal(sq_journal_held(j), 1);
    sq_journal_close(j);
}

static void what_is_no_journal(void **state)
{
    (void)state;
    struct sq_journal *j = NULL;
    assert_int_equal(sq_journal_open(path, 0, &j, NULL), -ENOENT);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(sq_journal_open(path, 4, &j, NULL), -EBADMSG);
    unlink(path);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(sq_journal_open(path, 4, &j, NULL), -ELOOP);
    unlink(path);
    assert_int_equal(sq_journal_open(path, 0x7fffffff, &j, NULL), -EINVAL);
}

/* On a disk of 64 KiB: too small to begin with, or filled by somebody else afterwards. */
static int on_a_tiny_disk(void)
{
    struct sq_journal *j = NULL;
    struct sq_err e = {0};
    unsigned slot;
    char junk[4096] = "";
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
        return 77;
    if (sq_journal_open(path, 64, &j, &e) != -ENOSPC || !strstr(e.msg, "no room"))
        return 1;
    if (access(path, F_OK) == 0)
        return 2;
    if (sq_journal_open(path, 8, &j, NULL))
        return 3;
    char other[80];
    snprintf(other, sizeof(other), "%s/other", dir);
    int fd = open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, junk, sizeof(junk)) > 0)
        ;
    if (errno != ENOSPC)
        return 4;
    cleanup_json json_t *r = json_pack("{s:s}", "run", "r1");
    for (int i = 0; i < 8; i++)
        if (sq_journal_hold(j, r, &slot, NULL))
            return 5;
    for (unsigned i = 0; i < 8; i++)
        if (sq_journal_update(j, i, r, NULL) || sq_journal_release(j, i, NULL))
            return 6;
    sq_journal_close(j);
    return 0;
}

static void full_disk(void **state)
{
    (void)state;
    int st;
    pid_t pid = fork();
    if (pid == 0)
        _exit(unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) ? 77 : on_a_tiny_disk());
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_true(WIFEXITED(st));
    if (WEXITSTATUS(st) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(st), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(survives_its_writer, fresh),
        cmocka_unit_test_setup(newest_first_after_wrapping, fresh),
        cmocka_unit_test_setup(full, fresh),
        cmocka_unit_test_setup(too_large, fresh),
        cmocka_unit_test_setup(update_keeps_the_order, fresh),
        cmocka_unit_test_setup(torn_and_foreign, fresh),
        cmocka_unit_test_setup(another_boot, fresh),
        cmocka_unit_test_setup(damaged_while_held, fresh),
        cmocka_unit_test_setup(what_is_no_journal, fresh),
        cmocka_unit_test_setup(full_disk, fresh),
    };
    return cmocka_run_group_tests_name("journal", tests, make_dir, drop_dir);
}
