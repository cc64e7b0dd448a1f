/* Parameters of network faults, from text to netem's bytes and back. First byte, modulo 8: 0 a .dist file, 1 an
 * HdrHistogram log, 2 a run's evidence, 3 a histogram in netlink, else JSON parameters. Whatever is accepted must
 * encode (or be refused as more than netem can), parse back and be the same; what is encoded must be what was given.
 * The same for what a packet process is told, and says that it carries out. */
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/netem.h"
#include "net/recorded.h"
#include "packet/control.h"
#include "packet/stage.h"
#include "squall/json.h"
#include "squall/spec.h"

static const struct sq_param params[] = {SQ_IMPAIR_DELAY(0), SQ_IMPAIR_LOSS(0), SQ_IMPAIR_REST, SQ_PARAM_END};

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "violated: %s\n", #c);                                                               \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct nlattr *options_of(struct nl_msg *msg)
{
    struct nlattr *tb[TCA_MAX + 1];

    MUST(nlmsg_parse(nlmsg_hdr(msg), sizeof(struct tcmsg), tb, TCA_MAX, NULL) == 0 && tb[TCA_OPTIONS]);
    return tb[TCA_OPTIONS];
}

static struct nl_msg *message(void)
{
    struct tcmsg tc = {0};
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);

    MUST(msg && nlmsg_put(msg, 0, 0, RTM_NEWQDISC, 0, 0) && nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO) == 0);
    return msg;
}

/* Every part that is on came from the input, and none that the input has is off. */
static void as_given(const json_t *with, const struct sq_impair *im)
{
    bool preset = json_object_get(with, "preset") != NULL;
    json_t *said = sq_impair_json(im);
    const char *key;
    json_t *value;

    json_object_foreach(said, key, value)
    {
        MUST(preset || strcmp(key, "limit") == 0 || json_object_get(with, key) ||
             ((strcmp(key, "delay") == 0 || strcmp(key, "jitter") == 0) && json_object_get(with, "distribution")));
    }
    MUST(preset || im->delay == sq_json_int_or(with, "delay", im->delay));
    MUST(preset || im->loss_model != SQ_LOSS_RANDOM || im->loss == sq_json_num_or(with, "loss", -1));
    MUST(preset || im->duplicate == sq_json_num_or(with, "duplicate", 0));
    MUST(preset || im->corrupt == sq_json_num_or(with, "corrupt", 0));
    MUST(preset || im->reorder == sq_json_num_or(with, "reorder", 0));
    json_decref(said);
}

static void there_and_back(const struct sq_impair *im, bool change)
{
    struct nl_msg *msg = message();
    struct sq_impair back;
    struct sq_err e = {0};
    int r = sq_netem_put(msg, im, change, &e);

    if (r == 0) {
        MUST(sq_netem_parse(options_of(msg), &back, &e) == 0);
        if (!sq_netem_same(im, &back, &e)) {
            (void)fprintf(stderr, "%s\n", e.msg);
            abort();
        }
        json_decref(sq_impair_json(&back));
    } else {
        MUST(e.cls == SQ_C_UNSUPPORTED && (r == -ERANGE || r == -EMSGSIZE));
    }
    nlmsg_free(msg);
}

/* To a packet process, and what it would say that it carries out. */
static void there_and_back_packet(const struct sq_impair *im)
{
    const struct sq_packet_set h = {.op = SQ_PK_SET, .bit = 7, .ingress = 1, .seq = 1, .seed = im->seed};
    struct sq_packet_set head;
    struct sq_packet_got got = {0};
    struct sq_pstage *s = calloc(1, sizeof *s);
    struct sq_impair told;
    struct sq_err e = {0};
    size_t len = 0;
    void *m = sq_packet_set_write(&h, im, &len);

    MUST(s && m && len <= SQ_PACKET_MESSAGE_MAX);
    MUST(sq_packet_set_read(m, len, &head, &told, &e) == 0 && head.bit == 7 && head.ingress == 1);
    sq_pstage_init(s, &told, head.seed);
    sq_packet_got_fill(&got, &s->im, s->limit);
    const char *what = sq_packet_differs(&got, im);
    if (what) {
        (void)fprintf(stderr, "the packet process has another %s\n", what);
        abort();
    }
    sq_pstage_clear(s);
    free(s);
    free(m);
}

static void parameters(const char *text, size_t len)
{
    json_t *in = NULL, *with = NULL;
    struct sq_impair im;
    struct sq_err e = {0};

    if (sq_json_parse(text, len, &in, NULL) == 0 && sq_spec_normalize("fuzz", params, in, &with, NULL) == 0) {
        if (sq_impair_read(with, &im, &e) == 0) {
            MUST(sq_impair_check(&im, NULL) == 0);
            MUST(sq_impair_limit(&im) >= 1 && sq_impair_limit(&im) <= SQ_IMPAIR_LIMIT_MAX);
            as_given(with, &im);
            there_and_back(&im, false);
            there_and_back(&im, true);
            there_and_back_packet(&im);
        } else {
            MUST(e.code < 0 && e.msg[0]);
        }
        sq_impair_clear(&im);
    }
    json_decref(in);
    json_decref(with);
}

static void table_of(struct sq_values *v)
{
    struct sq_dist_table *t;
    int64_t mean = 0, jitter = 0;

    if (sq_values_table(v, &mean, &jitter, &t, NULL) == 0) {
        MUST(mean >= 0 && mean <= SQ_IMPAIR_MAX_NS && jitter >= 0);
        MUST(!t || (t->n == SQ_DIST_POINTS && jitter > 0));
        for (uint32_t i = 1; t && i < t->n; i++)
            MUST(t->v[i - 1] <= t->v[i]);
        free(t);
    }
    sq_values_clear(v);
}

static void netlink(const char *data, size_t len)
{
    struct nl_msg *msg = message();
    struct nlattr *options = nla_reserve(msg, TCA_OPTIONS, (int)len);
    struct sq_impair im;

    memcpy(nla_data(options), data, len);
    if (sq_netem_parse(options, &im, NULL) == 0) {
        (void)sq_netem_same(&im, &im, NULL);
        json_decref(sq_impair_json(&im));
    }
    nlmsg_free(msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sq_dist_table *t;
    struct sq_values v = {0};
    char *text;

    if (size < 1 || size > 60000)
        return 0;
    text = malloc(size); /* so that reading beyond it is seen */
    MUST(text);
    memcpy(text, data + 1, size - 1);
    switch (data[0] % 8) {
    case 0:
        if (sq_dist_parse("fuzz", text, size - 1, &t, NULL) == 0) {
            MUST(t->n >= 1 && t->n <= SQ_DIST_MAX);
            free(t);
        }
        break;
    case 1:
        if (sq_values_hlog(&v, text, size - 1, 1000, NULL) == 0)
            table_of(&v);
        break;
    case 2:
        if (sq_values_run(&v, text, size - 1, NULL, NULL) == 0)
            table_of(&v);
        break;
    case 3:
        netlink(text, size - 1);
        break;
    default:
        parameters(text, size - 1);
    }
    sq_values_clear(&v);
    free(text);
    return 0;
}
