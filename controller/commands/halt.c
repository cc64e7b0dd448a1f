/* squall halt: take back every fault of every run, at once. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands/begin.h"
#include "commands/command.h"
#include "run/client.h"
#include "run/private.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/paths.h"
#include "squall/units.h"

#define MOST 256
#define ANSWER_NS (2 * SQ_S) /* a keeper kills an injector that has hung that long */
#define GONE_NS (5 * SQ_S)

struct injector {
    char dir[PATH_MAX];
    struct sq_client *client;
    int status;
    bool answered;
    json_t *body;
    struct sq_err err;
};

struct halt {
    struct sq_term *t;
    uv_loop_t loop;
    struct injector *list[MOST];
    size_t n;
    unsigned pending;
    bool unclean;
};

static const char *id_of(const char *dir)
{
    const char *slash = strrchr(dir, '/');
    return slash ? slash + 1 : dir;
}

static void answered(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct injector *i = arg;
    i->answered = true;
    i->status = status;
    i->body = json_incref(body);
    if (e)
        i->err = *e;
}

/* All at the same moment: none must wait for another one that hangs. */
static int begin_one(const char *dir, void *arg)
{
    struct halt *h = arg;
    char socket[PATH_MAX];
    if (h->n == MOST || !sq_private_alive(dir) || sq_path_join(socket, sizeof(socket), dir, "api.sock", NULL))
        return 0;
    struct injector *i = calloc(1, sizeof(*i));
    if (!i)
        return 0;
    snprintf(i->dir, sizeof(i->dir), "%s", dir);
    h->list[h->n++] = i;
    if (sq_client_new(&h->loop, socket, &i->client, &i->err))
        i->answered = true;
    else
        sq_client_call(i->client, "POST", "/v1/halt", NULL, ANSWER_NS, answered, i);
    return 0;
}

static bool all_answered(const struct halt *h)
{
    for (size_t k = 0; k < h->n; k++)
        if (!h->list[k]->answered)
            return false;
    return true;
}

/* No answer: it hangs, and its keeper kills it and takes everything back; or it has just ended. */
static void wait_gone(struct halt *h, const struct injector *i)
{
    int64_t until = sq_mono_ns() + GONE_NS;
    while (sq_private_alive(i->dir) && sq_mono_ns() < until)
        usleep(50000);
    if (sq_private_alive(i->dir)) {
        h->unclean = true;
        (void)fprintf(h->t->err, "%s: no answer (%s), and its keeper has not ended it within %d s\n", i->dir,
                      i->err.msg, (int)(GONE_NS / SQ_S));
    } else {
        (void)fprintf(h->t->out, "%s: did not answer; its keeper has ended it and taken everything back\n",
                      id_of(i->dir));
    }
}

static void tell(struct halt *h, const struct injector *i)
{
    size_t k;
    json_t *s;
    if (i->status == 0) {
        wait_gone(h, i);
        return;
    }
    if (i->status != 200) {
        h->unclean = true;
        (void)fprintf(h->t->err, "%s: %s\n", i->dir, i->err.msg);
        return;
    }
    int64_t runs = sq_json_int_or(i->body, "runs", 0), faults = sq_json_int_or(i->body, "faults", 0);
    (void)fprintf(h->t->out, "%s: %lld run%s ended, %lld fault%s taken back\n", id_of(i->dir), (long long)runs,
                  runs == 1 ? "" : "s", (long long)faults, faults == 1 ? "" : "s");
    if (sq_json_bool_or(i->body, "clean", false))
        return;
    h->unclean = true;
    json_array_foreach(json_object_get(i->body, "left"), k, s)
    {
        (void)fprintf(h->t->err, "  left: %s\n", json_string_value(s));
    }
}

static int halt_main(const struct sq_args *a, struct sq_term *t)
{
    struct halt *h = calloc(1, sizeof(*h));
    struct sq_err e = {0};
    (void)a;
    if (!h || uv_loop_init(&h->loop)) {
        free(h);
        return SQ_INFRA;
    }
    h->t = t;
    int code = SQ_PASS, rc = sq_private_each(begin_one, h, &e);
    if (rc)
        code = sq_term_fail(t, &e);
    while (!all_answered(h))
        uv_run(&h->loop, UV_RUN_ONCE);
    for (size_t k = 0; k < h->n; k++)
        tell(h, h->list[k]);
    for (size_t k = 0; k < h->n; k++) {
        sq_client_close(h->list[k]->client, NULL, NULL);
        json_decref(h->list[k]->body);
    }
    uv_run(&h->loop, UV_RUN_DEFAULT);
    uv_loop_close(&h->loop);
    /* After the living the dead: what a killed injector left. */
    int swept = sq_begin(t);
    if (h->n == 0 && !code && !swept)
        (void)fprintf(t->out, "no injector is running: nothing to take back\n");
    if (h->unclean || swept == SQ_UNCLEAN)
        code = SQ_UNCLEAN;
    else if (!code)
        code = swept;
    for (size_t k = 0; k < h->n; k++)
        free(h->list[k]);
    free(h);
    return code;
}

const struct sq_command sq_cmd_halt = {
    .name = "halt",
    .args = "",
    .summary = "take back every fault of every run, at once",
    .text = "Ends every run of every injector that this user may command (root: all of this host), takes back\n"
            "every fault, and waits until it is so. An injector that does not answer within 2 s is ended by its\n"
            "keeper, which takes everything back; what a killed one left is swept.\n\n"
            "  squall halt\n\n"
            "Exit code 0 when nothing is left, 6 when something is (it says what).",
    .options = NULL,
    .min_args = 0,
    .max_args = 0,
    .main = halt_main,
};
