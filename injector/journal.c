/* Layout of a slot (4 KiB, native byte order: the file never leaves the host nor outlives its boot):
 *   0 state   one byte: SLOT_FREE or SLOT_HELD; the only byte that a release writes, hence outside the checksum
 *   4 crc     CRC-32 of everything from `seq` to the end of the record
 *   8 seq     order of holding, for LIFO
 *  16 len     bytes of the record
 *  20 boot    boot id, NUL-padded to 40 bytes
 *  60 record  compact JSON
 * A slot is written by one pwrite that stays inside one page, so a SIGKILL leaves either the old or the new one. A
 * crash of the host may tear it; but then the boot id is another one, and no fault of ours outlives a boot. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"

#define SLOT_SIZE 4096u
#define MAX_SLOTS 65536u

enum slot_state { SLOT_FREE = 0, SLOT_HELD = 0xa5 };

struct slot_head {
    uint8_t state;
    uint8_t pad[3];
    uint32_t crc;
    uint64_t seq;
    uint32_t len;
    char boot[40];
};
#define RECORD_AT 60u
#define RECORD_MAX (SLOT_SIZE - RECORD_AT)
_Static_assert(offsetof(struct slot_head, boot) + 40 == RECORD_AT, "the layout above");

struct sq_journal {
    int fd;
    unsigned n; /* slots */
    unsigned held;
    unsigned hint; /* where to look for a free one first */
    uint64_t next_seq;
    uint64_t *seq; /* per slot; 0: free */
};

static int write_all(int fd, const void *buf, size_t len, off_t at)
{
    const char *p = buf;
    while (len) {
        ssize_t n = pwrite(fd, p, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static int read_all(int fd, void *buf, size_t len, off_t at)
{
    char *p = buf;
    while (len) {
        ssize_t n = pread(fd, p, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* A slot's record if it is held, whole and of this boot, else NULL. BUF is SLOT_SIZE bytes. */
static json_t *slot_record(const unsigned char *buf, uint64_t *seq)
{
    struct slot_head h;
    memcpy(&h, buf, RECORD_AT);
    if (h.state != SLOT_HELD || h.len == 0 || h.len > RECORD_MAX || h.seq == 0)
        return NULL;
    size_t from = offsetof(struct slot_head, seq);
    if (crc32(0, buf + from, (uInt)(RECORD_AT - from + h.len)) != h.crc)
        return NULL;
    if (strncmp(h.boot, sq_boot_id(), sizeof(h.boot)) != 0)
        return NULL;
    json_t *record = NULL;
    if (sq_json_parse((const char *)buf + RECORD_AT, h.len, &record, NULL) < 0)
        return NULL;
    *seq = h.seq;
    return record;
}

static int load(struct sq_journal *j, struct sq_err *e)
{
    unsigned char buf[SLOT_SIZE];
    for (unsigned i = 0; i < j->n; i++) {
        int rc = read_all(j->fd, buf, sizeof(buf), (off_t)i * SLOT_SIZE);
        if (rc < 0)
            return sq_err_sys(e, rc, "cannot read the journal");
        uint64_t seq = 0;
        cleanup_json json_t *record = slot_record(buf, &seq);
        if (!record)
            continue;
        j->seq[i] = seq;
        j->held++;
        if (seq >= j->next_seq)
            j->next_seq = seq + 1;
    }
    return 0;
}

/* Size the file for SLOTS slots, its blocks allocated now; an existing journal keeps its size. */
static int size_file(struct sq_journal *j, unsigned slots, const char *path, struct sq_err *e)
{
    struct stat st;
    if (fstat(j->fd, &st) < 0)
        return sq_err_sys(e, -errno, "cannot look at the journal %s", path);
    if (!S_ISREG(st.st_mode))
        return sq_err(e, -EINVAL, "the journal %s is not a regular file", path);
    if (st.st_size > 0) {
        if (st.st_size % SLOT_SIZE || st.st_size / SLOT_SIZE > MAX_SLOTS)
            return sq_err(e, -EBADMSG, "%s is not a journal: %lld bytes", path, (long long)st.st_size);
        j->n = (unsigned)(st.st_size / SLOT_SIZE);
        return 0;
    }
    if (slots == 0 || slots > MAX_SLOTS)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "a journal has 1 to %u slots, not %u", MAX_SLOTS, slots);
    int rc = posix_fallocate(j->fd, 0, (off_t)slots * SLOT_SIZE);
    if (rc) {
        (void)unlink(path); /* a part of it would be taken for a smaller journal */
        sq_err_sys(e, -rc, "no room for the undo journal %s (%u KiB)", path, slots * (SLOT_SIZE / 1024));
        sq_err_hint(e, "free some space: a fault is never applied without room for its undo record");
        return -rc;
    }
    j->n = slots;
    return fsync(j->fd) < 0 ? sq_err_sys(e, -errno, "cannot sync the journal %s", path) : 0;
}

int sq_journal_open(const char *path, unsigned slots, struct sq_journal **out, struct sq_err *e)
{
    struct sq_journal *j = calloc(1, sizeof(*j));
    if (!j)
        return sq_err(e, -ENOMEM, "no memory");
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (slots ? O_CREAT : 0);
    j->next_seq = 1;
    j->fd = open(path, flags, 0600);
    int rc = j->fd < 0 ? sq_err_sys(e, -errno, "cannot open the journal %s", path) : size_file(j, slots, path, e);
    if (!rc) {
        j->seq = calloc(j->n, sizeof(*j->seq));
        rc = j->seq ? load(j, e) : sq_err(e, -ENOMEM, "no memory");
    }
    if (rc < 0) {
        sq_journal_close(j);
        return rc;
    }
    *out = j;
    return 0;
}

int sq_journal_reload(struct sq_journal *j, struct sq_err *e)
{
    memset(j->seq, 0, j->n * sizeof(*j->seq));
    j->held = 0;
    return load(j, e);
}

void sq_journal_close(struct sq_journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        (void)close(j->fd);
    free(j->seq);
    free(j);
}

static int write_slot(struct sq_journal *j, unsigned slot, uint64_t seq, const json_t *record, struct sq_err *e)
{
    unsigned char buf[SLOT_SIZE] = {0};
    struct slot_head h = {.state = SLOT_HELD, .seq = seq};
    size_t len = json_dumpb(record, (char *)buf + RECORD_AT, RECORD_MAX, JSON_COMPACT);
    if (len == 0)
        return sq_err(e, -EINVAL, "an undo record that is no JSON");
    if (len > RECORD_MAX)
        return sq_err(e, -E2BIG, "an undo record of %zu bytes does not fit a journal slot (%u)", len, RECORD_MAX);
    h.len = (uint32_t)len;
    memccpy(h.boot, sq_boot_id(), '\0', sizeof(h.boot));
    memcpy(buf, &h, RECORD_AT);
    size_t from = offsetof(struct slot_head, seq);
    h.crc = (uint32_t)crc32(0, buf + from, (uInt)(RECORD_AT - from + len));
    memcpy(buf, &h, RECORD_AT);
    int rc = write_all(j->fd, buf, RECORD_AT + len, (off_t)slot * SLOT_SIZE);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot write the undo journal");
    return fdatasync(j->fd) < 0 ? sq_err_sys(e, -errno, "cannot sync the undo journal") : 0;
}

static int write_free(struct sq_journal *j, unsigned slot, struct sq_err *e)
{
    uint8_t state = SLOT_FREE;
    int rc = write_all(j->fd, &state, 1, (off_t)slot * SLOT_SIZE);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot write the undo journal");
    return fdatasync(j->fd) < 0 ? sq_err_sys(e, -errno, "cannot sync the undo journal") : 0;
}

int sq_journal_hold(struct sq_journal *j, const json_t *record, unsigned *slot, struct sq_err *e)
{
    unsigned i = 0;
    while (i < j->n && j->seq[(j->hint + i) % j->n])
        i++;
    if (i == j->n) {
        sq_err(e, -ENOSPC, "all %u slots of the undo journal are held", j->n);
        sq_err_hint(e, "end some faults first, or choose fewer targets");
        return -ENOSPC;
    }
    unsigned at = (j->hint + i) % j->n;
    int rc = write_slot(j, at, j->next_seq, record, e);
    if (rc < 0) {
        /* It may be half there. Nothing was touched for it yet, so undoing it would be harmless, but free is right. */
        (void)write_free(j, at, NULL);
        return rc;
    }
    j->seq[at] = j->next_seq++;
    j->held++;
    j->hint = (at + 1) % j->n;
    *slot = at;
    return 0;
}

int sq_journal_update(struct sq_journal *j, unsigned slot, const json_t *record, struct sq_err *e)
{
    if (slot >= j->n || !j->seq[slot])
        return sq_err(e, -EINVAL, "journal slot %u is not held", slot);
    return write_slot(j, slot, j->seq[slot], record, e);
}

int sq_journal_release(struct sq_journal *j, unsigned slot, struct sq_err *e)
{
    if (slot >= j->n || !j->seq[slot])
        return sq_err(e, -EINVAL, "journal slot %u is not held", slot);
    int rc = write_free(j, slot, e);
    if (rc < 0)
        return rc;
    j->seq[slot] = 0;
    j->held--;
    return 0;
}

struct order {
    uint64_t seq;
    unsigned slot;
};

static int newest_first(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    return x->seq < y->seq ? 1 : x->seq > y->seq ? -1 : 0;
}

static int visit(struct sq_journal *j, unsigned slot, int (*fn)(const json_t *, unsigned, void *), void *arg,
                 struct sq_err *e)
{
    unsigned char buf[SLOT_SIZE];
    uint64_t seq = 0;
    int rc = read_all(j->fd, buf, sizeof(buf), (off_t)slot * SLOT_SIZE);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot read the journal");
    cleanup_json json_t *record = slot_record(buf, &seq);
    if (!record)
        return sq_err(e, -EBADMSG, "journal slot %u is damaged: what it undoes is unknown", slot);
    if (fn(record, slot, arg) != 0)
        return 0;
    return j->seq[slot] ? sq_journal_release(j, slot, e) : 0;
}

int sq_journal_each(struct sq_journal *j, int (*fn)(const json_t *record, unsigned slot, void *arg), void *arg,
                    struct sq_err *e)
{
    cleanup_free struct order *o = calloc(j->held + 1u, sizeof(*o));
    unsigned n = 0;
    if (!o)
        return sq_err(e, -ENOMEM, "no memory");
    for (unsigned i = 0; i < j->n && n < j->held; i++)
        if (j->seq[i])
            o[n++] = (struct order){j->seq[i], i};
    qsort(o, n, sizeof(*o), newest_first);
    int first = 0; /* one bad slot must not keep the others from being taken back */
    for (unsigned i = 0; i < n; i++) {
        int rc = j->seq[o[i].slot] ? visit(j, o[i].slot, fn, arg, e) : 0;
        if (rc < 0 && !first)
            first = rc;
    }
    return first < 0 ? first : (int)j->held;
}

unsigned sq_journal_held(struct sq_journal *j)
{
    return j->held;
}
