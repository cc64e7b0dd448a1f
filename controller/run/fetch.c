#include "run/fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "run/multi.h"
#include "squall/units.h"

struct fetch_request {
    struct sq_fetch *fetch;
    struct fetch_request *prev, *next;
    CURL *easy;
    sq_fetch_done *done;
    void *arg;
    struct sq_answer answer;
    char text[CURL_ERROR_SIZE];
    char url[600];
};

struct sq_fetch {
    struct sq_multi *multi;
    struct fetch_request *requests;
    bool closing;
};

static void unlink_request(struct fetch_request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        r->fetch->requests = r->next;
    if (r->next)
        r->next->prev = r->prev;
}

static void request_free(struct fetch_request *r)
{
    curl_easy_cleanup(r->easy);
    free(r->answer.data);
    free(r);
}

static void complete(void *request, CURLcode code)
{
    struct fetch_request *r = request;
    struct sq_err e = {0};
    long status = 0;

    if (r->answer.too_big)
        sq_err(&e, -EMSGSIZE, "%s answered more than %u MiB", r->url, SQ_FETCH_MAX_BODY >> 20);
    else if (code == CURLE_OPERATION_TIMEDOUT)
        sq_err(&e, -ETIMEDOUT, "%s did not answer in time", r->url);
    else if (code != CURLE_OK)
        sq_err(&e, -EPROTO, "%s: %s", r->url, r->text[0] ? r->text : curl_easy_strerror(code));
    else
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    unlink_request(r); /* done() may close all that are left */
    r->done(r->arg, (int)status, r->answer.data ? r->answer.data : "", r->answer.len, e.code ? &e : NULL);
    request_free(r);
}

int sq_fetch_new(uv_loop_t *loop, struct sq_fetch **out, struct sq_err *e)
{
    struct sq_fetch *f = calloc(1, sizeof(*f));
    int rc = f ? sq_multi_new(loop, complete, &f->multi, e) : sq_err(e, -ENOMEM, "no memory");

    if (rc == 0)
        *out = f;
    else
        free(f);
    return rc;
}

static void set_up(struct fetch_request *r, const char *form, int64_t timeout_ns)
{
    CURL *h = r->easy;

    curl_easy_setopt(h, CURLOPT_URL, r->url);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    sq_multi_read_into(h, &r->answer);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, r->text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / SQ_MS > 0 ? timeout_ns / SQ_MS : 1));
    curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, form);
}

int sq_fetch_post(struct sq_fetch *f, const char *url, const char *form, int64_t timeout_ns, sq_fetch_done *done,
                  void *arg, struct sq_err *e)
{
    struct fetch_request *r = f->closing ? NULL : calloc(1, sizeof(*r));

    if (!r || !(r->easy = curl_easy_init())) {
        free(r);
        return sq_err(e, -ENOMEM, "no memory for a request");
    }
    if ((size_t)snprintf(r->url, sizeof(r->url), "%s", url) >= sizeof(r->url)) {
        curl_easy_cleanup(r->easy);
        free(r);
        return sq_err(e, -ENAMETOOLONG, "the address is too long: %.80s", url);
    }
    r->fetch = f;
    r->done = done;
    r->arg = arg;
    r->answer.most = SQ_FETCH_MAX_BODY;
    set_up(r, form, timeout_ns);
    r->next = f->requests;
    if (r->next)
        r->next->prev = r;
    f->requests = r;
    int rc = sq_multi_add(f->multi, r->easy, r, e);
    if (rc < 0) {
        unlink_request(r);
        request_free(r);
    }
    return rc;
}

void sq_fetch_close(struct sq_fetch *f)
{
    if (!f)
        return;
    f->closing = true;
    while (f->requests) {
        struct fetch_request *r = f->requests;

        unlink_request(r);
        sq_multi_remove(f->multi, r->easy);
        request_free(r);
    }
    sq_multi_close(f->multi, free, f);
}

char *sq_fetch_escape(const char *text)
{
    char *curls = curl_easy_escape(NULL, text, 0), *mine = curls ? strdup(curls) : NULL;

    curl_free(curls);
    return mine;
}
