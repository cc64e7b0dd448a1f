#include "run/session.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "run/private.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/units.h"

#define ASK_NS (15 * SQ_S)
#define END_NS (8 * SQ_S)

struct sq_session {
    uv_loop_t loop;
    struct sq_private *priv;
    struct sq_client *client;
    int log; /* memfd: what the private injector says */
    bool ready, dead, ended;
    struct sq_err err;
    json_t *left;
};

static void on_ready(void *arg, const struct sq_err *e)
{
    struct sq_session *s = arg;
    s->ready = true;
    if (e)
        s->err = *e;
}

static void on_exit_cb(void *arg, int status, int sig)
{
    struct sq_session *s = arg;
    (void)status;
    (void)sig;
    s->dead = true;
}

/* The last line of what it said is usually why. */
static void add_last_words(struct sq_session *s, struct sq_err *e)
{
    char text[1024];
    off_t size = lseek(s->log, 0, SEEK_END);
    off_t from = size > (off_t)sizeof(text) - 1 ? size - (off_t)sizeof(text) + 1 : 0;
    ssize_t n = pread(s->log, text, sizeof(text) - 1, from);
    if (n <= 0)
        return;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    sq_err_hint(e, "it said: %.360s", text);
}

static int start_private(struct sq_session *s, struct sq_err *e)
{
    s->log = memfd_create("squalld log", MFD_CLOEXEC);
    int rc = sq_private_start(&s->loop, s->log, on_ready, s, &s->priv, e);
    if (rc)
        return rc;
    while (!s->ready)
        uv_run(&s->loop, UV_RUN_ONCE);
    if (s->err.code) {
        add_last_words(s, &s->err);
        if (e && !e->code)
            *e = s->err;
        return s->err.code;
    }
    sq_private_on_exit(s->priv, on_exit_cb, s);
    return sq_client_new(&s->loop, sq_private_socket(s->priv), &s->client, e);
}

int sq_session_open(const char *socket, struct sq_session **out, struct sq_err *e)
{
    struct sq_session *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "no memory");
    s->log = -1;
    int rc = uv_loop_init(&s->loop);
    if (rc) {
        free(s);
        return sq_err(e, rc, "no event loop: %s", uv_strerror(rc));
    }
    rc = socket ? sq_client_new(&s->loop, socket, &s->client, e) : start_private(s, e);
    if (rc) {
        sq_session_close(s, NULL);
        return rc;
    }
    *out = s;
    return 0;
}

uv_loop_t *sq_session_loop(struct sq_session *s)
{
    return &s->loop;
}

struct sq_client *sq_session_client(struct sq_session *s)
{
    return s->client;
}

struct answer {
    bool done;
    json_t *body;
    struct sq_err err;
};

static void on_answer(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct answer *a = arg;
    (void)status;
    a->done = true;
    a->body = json_incref(body);
    if (e)
        a->err = *e;
}

int sq_session_ask(struct sq_session *s, const char *method, const char *path, json_t *body, json_t **out,
                   struct sq_err *e)
{
    struct answer a = {0};
    sq_client_call(s->client, method, path, body, ASK_NS, on_answer, &a);
    while (!a.done)
        uv_run(&s->loop, UV_RUN_ONCE);
    if (a.err.code && e && !e->code)
        *e = a.err;
    if (out)
        *out = a.body;
    else
        json_decref(a.body);
    return a.err.code;
}

static void on_ended(void *arg, const json_t *left)
{
    struct sq_session *s = arg;
    s->ended = true;
    s->left = json_deep_copy(left);
}

void sq_session_close(struct sq_session *s, json_t **left)
{
    if (left)
        *left = NULL;
    if (!s)
        return;
    if (s->priv && s->client) {
        if (s->dead || sq_session_ask(s, "POST", "/v1/quit", NULL, NULL, NULL))
            sq_private_term(s->priv);
        sq_private_end(s->priv, END_NS, on_ended, s);
        while (!s->ended)
            uv_run(&s->loop, UV_RUN_ONCE);
    }
    sq_client_close(s->client, NULL, NULL);
    sq_private_free(s->priv);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    if (s->log >= 0)
        close(s->log);
    if (left)
        *left = s->left ? s->left : json_array();
    else
        json_decref(s->left);
    free(s);
}
