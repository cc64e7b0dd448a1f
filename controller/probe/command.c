/* Requests that are processes: a command without a shell, its exit status, what it says on standard output. Each is the
 * leader of a process group of its own, which is killed as a whole when it takes too long. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe/engine.h"
#include "squall/clock.h"

#define OUTPUT_PIECE 16384

struct sq_process {
    uv_process_t process;
    uv_pipe_t out;
    struct sq_endpoint *ep;
    struct sq_process *next, *prev;
    struct sq_request *req; /* NULL: it was given up */
    struct sq_match_state match;
    int status; /* -1: still runs */
    int signal;
    unsigned handles; /* libuv's, still open */
    bool eof;
    char buf[OUTPUT_PIECE];
};

static void on_closed(uv_handle_t *h)
{
    struct sq_process *c = h->data;

    if (--c->handles == 0)
        free(c);
}

static void process_close(struct sq_process *c)
{
    struct sq_endpoint *ep = c->ep;

    if (c->prev)
        c->prev->next = c->next;
    else
        ep->processes = c->next;
    if (c->next)
        c->next->prev = c->prev;
    ep->open--;
    uv_close((uv_handle_t *)&c->out, on_closed);
    uv_close((uv_handle_t *)&c->process, on_closed);
}

static void finish_if_over(struct sq_process *c)
{
    struct sq_endpoint *ep = c->ep;
    struct sq_request *r = c->req;
    struct sq_answer a = {0};

    if (c->status < 0 || !c->eof)
        return;
    ep->probe->now = sq_mono_ns();
    process_close(c);
    if (r) {
        r->carrier = NULL;
        a.status = c->status;
        a.bytes = c->match.bytes;
        sq_match_end(&r->variant->rules, &c->match, a.status, &a.matched);
        if (c->signal)
            sq_engine_finish(ep, r, SQ_BAD_RESET, NULL);
        else
            sq_engine_finish(ep, r, sq_judge(&a), &a);
    }
    sq_pump(ep);
    if (ep->probe->now >= ep->probe->next_due)
        sq_engine_issue(ep->probe);
}

static void on_exit_status(uv_process_t *process, int64_t status, int sig)
{
    struct sq_process *c = process->data;

    c->status = (int)(status & 0xff);
    c->signal = sig;
    /* What a grandchild still holds open is not waited for. */
    (void)kill(-process->pid, SIGKILL);
    finish_if_over(c);
}

static void on_room(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct sq_process *c = h->data;

    (void)suggested;
    *buf = uv_buf_init(c->buf, sizeof c->buf);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct sq_process *c = stream->data;

    if (n > 0 && c->req)
        sq_match_body(&c->req->variant->rules, &c->match, buf->base, (size_t)n);
    if (n < 0) {
        c->eof = true;
        (void)uv_read_stop(stream);
        finish_if_over(c);
    }
}

static int start(struct sq_process *c, const struct sq_program *program)
{
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE}, {.flags = UV_IGNORE}};
    uv_process_options_t o = {
        .exit_cb = on_exit_status,
        .file = program->argv[0],
        .args = (char **)(uintptr_t)program->argv,
        .flags = UV_PROCESS_DETACHED, /* a session and process group of its own */
        .stdio = stdio,
        .stdio_count = 3,
    };
    int rc = uv_pipe_init(&c->ep->probe->loop, &c->out, 0);

    if (rc < 0)
        return rc;
    c->handles = 1;
    c->out.data = c;
    stdio[1].data.stream = (uv_stream_t *)&c->out;
    c->process.data = c;
    c->handles++;
    rc = uv_spawn(&c->ep->probe->loop, &c->process, &o);
    if (rc == 0)
        rc = uv_read_start((uv_stream_t *)&c->out, on_room, on_output);
    return rc;
}

static bool room(const struct sq_endpoint *ep)
{
    return ep->open < ep->limit;
}

static void take(struct sq_endpoint *ep, struct sq_request *r)
{
    struct sq_process *c = calloc(1, sizeof *c);
    int rc;

    sq_note_sent(ep, r);
    if (!c) {
        sq_engine_finish(ep, r, SQ_BAD_CONNECT, NULL);
        return;
    }
    c->ep = ep;
    c->status = -1;
    sq_match_begin(&r->variant->rules, &c->match);
    c->next = ep->processes;
    if (c->next)
        c->next->prev = c;
    ep->processes = c;
    ep->open++;
    rc = start(c, ep->proto->program(r->variant->plan));
    if (rc == 0) {
        c->req = r;
        r->carrier = c;
        return;
    }
    if (c->handles == 2) {
        process_close(c);
    } else {
        ep->processes = c->next;
        if (c->next)
            c->next->prev = NULL;
        ep->open--;
        free(c);
    }
    sq_engine_finish(ep, r, rc == -ENOENT ? SQ_BAD_REFUSED : SQ_BAD_CONNECT, NULL);
}

static void forget(struct sq_endpoint *ep, struct sq_request *r)
{
    struct sq_process *c = r->carrier;

    (void)ep;
    c->req = NULL;
    r->carrier = NULL;
    if (c->status < 0)
        (void)kill(-c->process.pid, SIGKILL);
}

static void close_all(struct sq_endpoint *ep)
{
    while (ep->processes) {
        struct sq_process *c = ep->processes;

        if (c->status < 0 && c->process.pid > 0) {
            (void)kill(-c->process.pid, SIGKILL);
            (void)waitpid(c->process.pid, NULL, 0);
        }
        process_close(c);
    }
}

static void free_spare(struct sq_endpoint *ep)
{
    (void)ep;
}

const struct sq_driver sq_driver_command = {room, take, forget, close_all, free_spare};
