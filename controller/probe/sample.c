#include "probe/sample.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const bad_names[SQ_BAD_COUNT] = {
    [SQ_BAD_NONE] = "",           [SQ_BAD_STATUS] = "status",     [SQ_BAD_BODY] = "body",
    [SQ_BAD_TIMEOUT] = "timeout", [SQ_BAD_REFUSED] = "refused",   [SQ_BAD_RESET] = "reset",
    [SQ_BAD_CONNECT] = "connect", [SQ_BAD_PROTOCOL] = "protocol", [SQ_BAD_UNSENT] = "unsent",
    [SQ_BAD_TLS] = "tls",
};

struct sq_second *sq_second_new(const char *endpoint, const struct sq_rules *rules, int64_t sec)
{
    struct sq_second *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->endpoint = endpoint;
    s->rules = rules;
    s->sec = sec;
    s->h = sq_hist_new();
    s->hs = sq_hist_new();
    s->hok = sq_hist_new();
    if (!s->h || !s->hs || !s->hok) {
        sq_second_free(s);
        return NULL;
    }
    return s;
}

void sq_second_free(struct sq_second *s)
{
    if (!s)
        return;
    sq_hist_free(s->h);
    sq_hist_free(s->hs);
    sq_hist_free(s->hok);
    free(s);
}

static void add_answer(struct sq_second *s, const struct sq_answer *a)
{
    uint64_t match = a->matched.match, forbid = a->matched.forbid;

    s->answered++;
    s->bytes += a->bytes;
    if (a->status >= 0 && a->status < SQ_STATUS_MAX)
        s->status[a->status]++;
    for (size_t i = 0; match; i++, match >>= 1)
        s->match[i] += match & 1;
    for (size_t i = 0; forbid; i++, forbid >>= 1)
        s->forbid[i] += forbid & 1;
}

void sq_second_add(struct sq_second *s, enum sq_bad bad, int64_t latency, int64_t service, const struct sq_answer *a)
{
    sq_hist_record(s->h, latency);
    if (service >= 0)
        sq_hist_record(s->hs, service);
    if (a)
        add_answer(s, a);
    if (bad == SQ_BAD_NONE) {
        s->ok++;
        sq_hist_record(s->hok, latency);
    } else {
        s->bad[bad]++;
    }
    s->outstanding--;
}

void sq_second_merge(struct sq_second *into, const struct sq_second *from)
{
    into->planned += from->planned;
    into->ok += from->ok;
    into->late += from->late;
    into->lag_late += from->lag_late;
    into->reconnects += from->reconnects;
    into->bytes += from->bytes;
    into->answered += from->answered;
    for (size_t i = 0; i < SQ_BAD_COUNT; i++)
        into->bad[i] += from->bad[i];
    for (size_t i = 0; i < SQ_MATCH_MAX; i++) {
        into->match[i] += from->match[i];
        into->forbid[i] += from->forbid[i];
    }
    for (size_t i = 0; i < SQ_STATUS_MAX; i++)
        into->status[i] += from->status[i];
    sq_hist_add(into->h, from->h);
    sq_hist_add(into->hs, from->hs);
    sq_hist_add(into->hok, from->hok);
}

static json_t *count(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *bad_json(const struct sq_second *s)
{
    json_t *o = json_object();

    for (int i = SQ_BAD_NONE + 1; i < SQ_BAD_COUNT; i++)
        if (s->bad[i] > 0)
            (void)json_object_set_new(o, bad_names[i], count(s->bad[i]));
    return o;
}

static json_t *status_json(const struct sq_second *s)
{
    json_t *o = json_object();
    char key[8];

    for (unsigned i = 0; i < SQ_STATUS_MAX; i++)
        if (s->status[i] > 0) {
            (void)snprintf(key, sizeof key, "%03u", i);
            (void)json_object_set_new(o, key, count(s->status[i]));
        }
    return o;
}

static json_t *matchers_json(const struct sq_second *s)
{
    json_t *o = json_object();

    for (size_t i = 0; i < s->rules->n_matchers; i++)
        (void)json_object_set_new(o, s->rules->matcher[i].id,
                                  json_pack("{s:I, s:I, s:I}", "n", (json_int_t)s->answered, "match",
                                            (json_int_t)s->match[i], "forbid", (json_int_t)s->forbid[i]));
    return o;
}

json_t *sq_second_json(const struct sq_second *s)
{
    uint64_t sent = s->ok;

    for (int i = 0; i < SQ_BAD_COUNT; i++)
        if (i != SQ_BAD_UNSENT)
            sent += s->bad[i];
    return json_pack("{s:s, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "type",
                     "sample", "sec", (json_int_t)s->sec, "endpoint", s->endpoint, "planned", count(s->planned), "sent",
                     count(sent), "ok", count(s->ok), "bad", bad_json(s), "status", status_json(s), "late",
                     count(s->late), "lag_late", count(s->lag_late), "reconnects", count(s->reconnects), "bytes",
                     count(s->bytes), "h", sq_hist_to_json(s->h), "hs", sq_hist_to_json(s->hs), "hok",
                     sq_hist_to_json(s->hok), "m", matchers_json(s));
}
