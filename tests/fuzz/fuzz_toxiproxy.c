/* Toxiproxy's API: never a crash; each request is answered once, by JSON of the documented shape; what it takes as a
 * toxic is what the proxy takes as rules. Connections are carried by nobody here: an address that parses is listened
 * on.
 *
 * Input: requests divided by NUL, each "METHOD PATH\nBODY". */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/rules.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "toxiproxy.h"

#define REQUESTS 64 /* of one input */

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "violated: %s (line %d)\n", #c, __LINE__);                                           \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct sq_names names;

static int op_rules(void *arg, struct sq_toxi_proxy *p, struct sq_err *e)
{
    static struct sq_rules rules;
    uint32_t gone, fresh;
    struct sq_err err = {0};
    cleanup_json json_t *all = sq_toxi_rules(p, 42);
    (void)arg;
    (void)e;
    rules.names = &names;
    MUST(json_is_array(all) && json_array_size(all) <= SQ_TOXI_TOXICS);
    MUST(sq_rules_replace(&rules, ++p->epoch, all, &gone, &fresh, &err) == 0);
    return 0;
}

static int op_start(void *arg, struct sq_toxi_proxy *p, struct sq_err *e)
{
    struct sockaddr_storage sa;
    socklen_t n;
    char host[SQ_TOXI_TEXT];
    uint16_t port;
    MUST(!p->enabled);
    if (sq_toxi_sockaddr(p->listen, &sa, &n) != 0 || sq_toxi_split(p->upstream, host, &port) != 0)
        return sq_err(e, -EINVAL, "no such address: %.200s", p->listen);
    MUST(n > 0 && n <= sizeof(sa) && strlen(host) < sizeof(host));
    return op_rules(arg, p, e);
}

static void op_stop(void *arg, struct sq_toxi_proxy *p)
{
    (void)arg;
    MUST(p->enabled);
}

static int op_count(void *arg, struct sq_toxi_proxy *p, uint64_t read[2], uint64_t sent[2])
{
    (void)arg;
    (void)p;
    memset(read, 0, 2 * sizeof(read[0]));
    memset(sent, 0, 2 * sizeof(sent[0]));
    return 0;
}

static void check(const struct sq_toxi_answer *a)
{
    cleanup_json json_t *o = NULL;
    MUST(a->status == 200 || a->status == 201 || a->status == 204 || a->status == 400 || a->status == 404 ||
         a->status == 405 || a->status == 409 || a->status == 500);
    MUST((a->body == NULL) == (a->status == 204 || a->status == 405));
    if (!a->body || strncmp(a->type, "application/json", 16) != 0)
        return;
    MUST(sq_json_parse(a->body, strlen(a->body), &o, NULL) == 0);
    if (a->status < 400)
        return;
    MUST(json_string_length(json_object_get(o, "error")) > 0);
    MUST(json_integer_value(json_object_get(o, "status")) == a->status);
}

static void ask(struct sq_toxi *t, const char *text, size_t len)
{
    struct sq_toxi_answer a = {0};
    const char *eol = memchr(text, '\n', len), *blank;
    size_t line = eol ? (size_t)(eol - text) : len, rest = eol ? len - line - 1 : 0;
    cleanup_free char *method = strndup(text, line), *body = malloc(rest ? rest : 1); /* a byte beyond shows */
    MUST(method && body);
    if (rest)
        memcpy(body, eol + 1, rest);
    blank = strchr(method, ' ');
    if (!blank)
        return;
    cleanup_free char *path = strdup(blank + 1);
    MUST(path);
    method[blank - method] = '\0';
    sq_toxi_handle(t, method, path, body, rest, &a);
    check(&a);
    free(a.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct sq_toxi_ops ops = {op_start, op_stop, op_rules, op_count};
    const char *text = (const char *)data;
    struct sq_toxi t;
    sq_toxi_init(&t, &ops, NULL);
    t.metrics = true;
    for (unsigned i = 0; i < REQUESTS; i++) {
        const char *end = memchr(text, '\0', len);
        size_t n = end ? (size_t)(end - text) : len;
        ask(&t, text, n);
        if (!end)
            break;
        text = end + 1;
        len -= n + 1;
    }
    unsigned n = 0;
    const struct sq_toxi_proxy *p;
    TAILQ_FOREACH(p, &t.proxies, link)
    {
        n++;
    }
    MUST(n == t.n && n <= SQ_TOXI_PROXIES);
    sq_toxi_clear(&t);
    MUST(t.n == 0);
    return 0;
}
