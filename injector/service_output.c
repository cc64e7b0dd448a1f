/* What a service prints. It goes through a pipe that squalld reads, never straight to a file: the first mebibyte is
 * kept in RUN/<injector>/logs, so that a chatty service cannot fill /run, and the last lines are kept for the event
 * that says why it ended. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service_int.h"
#include "squall/cleanup.h"

#define LINES 10
#define PIPE_BYTES (1024 * 1024) /* what it may print while squalld does not read, before it has to wait (pipe(7)) */

static int log_path(const struct svc *i, char *buf, size_t len)
{
    int n = snprintf(buf, len, "%s/logs/%s.%s.log", sq_engine_dir(i->s->eng), i->run, i->name);
    return n > 0 && (size_t)n < len ? 0 : -ENAMETOOLONG;
}

/* The log is the peer's to read. Without a log the service still runs: its last lines are in the events. */
static void open_log(struct svc *i)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/logs", sq_engine_dir(i->s->eng));
    (void)mkdir(path, 0711);
    if (i->log >= 0 || log_path(i, path, sizeof path) < 0)
        return;
    i->log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (i->log >= 0 && geteuid() == 0)
        (void)!fchown(i->log, i->peer.uid, i->peer.gid);
}

static void keep(struct svc *i, const char *data, size_t n)
{
    for (size_t k = 0; k < n; k++)
        i->tail[i->tail_len++ % SVC_TAIL] = data[k];
    static const char cut[] = "\n[squall: 1 MiB is kept; the rest of the output is discarded]\n";
    if (i->log < 0 || i->logged >= SVC_LOG_MAX)
        return;
    size_t room = SVC_LOG_MAX - i->logged;
    (void)!write(i->log, data, n < room ? n : room);
    if (n >= room)
        (void)!write(i->log, cut, sizeof cut - 1);
    i->logged += n;
}

/* Bounded, so that one service that prints without end leaves the loop to others. */
static void on_output(void *owner)
{
    struct svc *i = owner;
    char buf[16384];
    for (int k = 0; k < 8 && i->out; k++) {
        ssize_t n = read(i->out->fd, buf, sizeof buf);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            watch_end(&i->out);
            return;
        }
        if (!svc_lines_take(i, buf, (size_t)n))
            keep(i, buf, (size_t)n);
    }
}

void svc_output_drain(struct svc *i)
{
    if (i->out)
        on_output(i);
}

/* The service holds a reading end as well: when squalld is killed, it lives until its lease ends (keeper.c), and must
 * not die of SIGPIPE before. */
static void keep_open(int *fd)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    int both = open(path, O_RDWR | O_CLOEXEC);
    if (both < 0)
        return;
    close(*fd);
    *fd = both;
}

int svc_output(struct svc *i, int *fd, struct sq_err *e)
{
    int p[2];
    svc_output_end(i, false);
    if (pipe2(p, O_CLOEXEC) < 0)
        return sq_err_sys(e, -errno, "cannot make a pipe for the output of %s", i->name);
    cleanup_close int ours = p[0], theirs = p[1];
    if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
        return sq_err_sys(e, -errno, "cannot make a pipe for the output of %s", i->name);
    (void)fcntl(ours, F_SETPIPE_SZ, PIPE_BYTES);
    keep_open(&theirs);
    if (geteuid() == 0)
        (void)!fchown(theirs, i->peer.uid, i->peer.gid); /* programs that open /dev/stderr again may do so */
    open_log(i);
    i->out = watch_fd(i->s, SQ_TAKE_FD(ours), on_output, i);
    if (!i->out)
        return sq_err(e, -ENOMEM, "out of memory");
    *fd = SQ_TAKE_FD(theirs);
    return 0;
}

void svc_output_end(struct svc *i, bool forget)
{
    svc_output_drain(i);
    watch_end(&i->out);
    if (!forget)
        return;
    char path[1024];
    if (i->log >= 0 && log_path(i, path, sizeof path) == 0)
        (void)unlink(path);
    if (i->log >= 0)
        close(i->log);
    i->log = -1;
}

/* Valid UTF-8 stays, other bytes become '?'. */
static json_t *as_text(char *s, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (s[k] == '\0')
            s[k] = '?';
    json_t *j = json_stringn(s, n);
    for (size_t k = 0; !j && k < n; k++)
        if (s[k] & 0x80)
            s[k] = '?';
    return j ? j : json_stringn(s, n);
}

json_t *svc_tail(const struct svc *i)
{
    char buf[SVC_TAIL];
    size_t n = i->tail_len < SVC_TAIL ? i->tail_len : SVC_TAIL, from = i->tail_len - n;
    for (size_t k = 0; k < n; k++)
        buf[k] = i->tail[(from + k) % SVC_TAIL];
    while (n && buf[n - 1] == '\n') /* cppcheck-suppress uninitvar */
        n--;
    size_t begin = n;
    for (int lines = 0; begin > 0; begin--)
        if (buf[begin - 1] == '\n' && ++lines == LINES)
            break;
    return as_text(buf + begin, n - begin);
}
