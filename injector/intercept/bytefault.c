/* Faults on the bytes of an edge: what they ask for, as a rule of the proxy. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "intercept/callfault.h"
#include "net/impair.h"
#include "proxy/dnsmsg.h"
#include "squall/cleanup.h"
#include "squall/json.h"

static const char *const kinds[] = {"bandwidth", "slicer", "slow_close", "timeout",   "limit_data",
                                    "reset",     "loss",   "corrupt",    "duplicate", "dns"};

static const char *const of_dns[] = {"answer", "address", "names", "types"};

static const char *kind_of(const char *name)
{
    return strncmp(name, "call/", 5) == 0 ? name + 5 : "";
}

bool sq_is_byte_fault(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(kind_of(name), kinds[i]) == 0)
            return true;
    return false;
}

int sq_byte_check(const char *name, const json_t *with, struct sq_err *e)
{
    int64_t size = sq_json_int_or(with, "size", 1), vary = sq_json_int_or(with, "variation", 0);
    uint64_t rate;

    if (!sq_is_byte_fault(name))
        return 0;
    if (size < 1 || size > (INT64_C(1) << 40) || vary < 0 || vary >= (size > 1 ? size : 2))
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "%s: size must be at least 1, and variation less than size", name);
    if (sq_json_int_or(with, "bytes", 0) < 0 || sq_json_int_or(with, "bytes", 0) > (INT64_C(1) << 50))
        return sq_err_cls(e, SQ_C_INPUT, -ERANGE, "%s: bytes must be 0 to 2^50", name);
    if (strcmp(kind_of(name), "bandwidth") == 0 && sq_impair_rate(sq_json_str_or(with, "rate", ""), &rate, e) < 0)
        return sq_err_prefix(e, "%s", name);
    return 0;
}

int sq_byte_rule(const char *name, const json_t *with, json_t *rule, struct sq_err *e)
{
    const char *kind = kind_of(name);
    const bool own = strcmp(kind, "loss") == 0 || strcmp(kind, "duplicate") == 0; /* its share has its name */
    double share = sq_json_num_or(with, own ? kind : "corrupt", 0.0) / 100.0;
    uint64_t rate = 0;
    json_t *more;

    if (!sq_is_byte_fault(name))
        return 0;
    if (strcmp(kind, "bandwidth") == 0 && sq_impair_rate(sq_json_str_or(with, "rate", ""), &rate, e) < 0)
        return e ? e->code : -EINVAL;
    more = json_pack("{s:s,s:f,s:I,s:I,s:f,s:f}", "stream", sq_json_str_or(with, "stream", "downstream"), "rate",
                     (double)rate, "size", (json_int_t)sq_json_int_or(with, "size", sq_json_int_or(with, "bytes", 0)),
                     "variation", (json_int_t)sq_json_int_or(with, "variation", 0), "share", share, "correlation",
                     sq_json_num_or(with, "correlation", 0.0) / 100.0);
    if (!more)
        return sq_err(e, -ENOMEM, "out of memory");
    if (json_object_get(with, "after"))
        (void)json_object_set(more, "delay", json_object_get(with, "after"));
    for (size_t i = 0; i < sizeof(of_dns) / sizeof(of_dns[0]); i++)
        if (strcmp(kind, "dns") == 0 && json_object_get(with, of_dns[i]))
            (void)json_object_set(more, of_dns[i], json_object_get(with, of_dns[i]));
    (void)json_object_update(rule, more);
    json_decref(more);
    return 0;
}

/* Both as the proxy writes them: order and spelling may differ in what was asked. */
static bool same_dns(const json_t *rule, const json_t *have)
{
    cleanup_free struct sq_dns_rule *a = NULL, *b = NULL;
    cleanup_json json_t *ja = json_object(), *jb = json_object();

    if (strcmp(sq_json_str_or(rule, "kind", ""), "dns") != 0)
        return true;
    if (sq_dns_rule_parse(rule, &a, NULL) < 0 || sq_dns_rule_parse(have, &b, NULL) < 0)
        return false;
    sq_dns_rule_json(a, ja);
    sq_dns_rule_json(b, jb);
    return json_equal(ja, jb);
}

int sq_byte_same(const json_t *rule, const json_t *have, struct sq_err *e)
{
    static const char *const keys[] = {"rate", "size", "variation", "share", "correlation", "delay"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        double a = sq_json_num_or(rule, keys[i], 0.0), b = sq_json_num_or(have, keys[i], NAN);

        if (!(fabs(a - b) <= 1e-9 * fabs(a)))
            return sq_err(e, -EBADE, "asked for %s %g, in force is %g", keys[i], a, b);
    }
    if (!same_dns(rule, have))
        return sq_err(e, -EBADE, "asked for other answers than are in force");
    if (strcmp(sq_json_str_or(rule, "stream", ""), sq_json_str_or(have, "stream", "?")) != 0)
        return sq_err(e, -EBADE, "asked for the other stream than is in force");
    return 0;
}
