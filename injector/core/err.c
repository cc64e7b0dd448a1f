#include "squall/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum sq_class class_of(int code)
{
    switch (-code) {
    case EPERM:
    case EACCES:
        return SQ_C_DENIED;
    case ENOSYS:
    case EOPNOTSUPP:
        return SQ_C_UNSUPPORTED;
    default:
        return SQ_C_INTERNAL;
    }
}

static void SQ_PRINTF(4, 0) fill(struct sq_err *e, enum sq_class cls, int code, const char *fmt, va_list ap)
{
    if (!e || e->code != 0)
        return;
    e->code = code;
    e->cls = cls;
    (void)vsnprintf(e->msg, sizeof e->msg, fmt, ap);
}

int sq_err(struct sq_err *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(e, class_of(code), code, fmt, ap);
    va_end(ap);
    return code;
}

int sq_err_cls(struct sq_err *e, enum sq_class cls, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fill(e, cls, code, fmt, ap);
    va_end(ap);
    return code;
}

int sq_err_sys(struct sq_err *e, int code, const char *fmt, ...)
{
    va_list ap;
    size_t used;

    if (!e || e->code != 0)
        return code;
    va_start(ap, fmt);
    fill(e, class_of(code), code, fmt, ap);
    va_end(ap);
    used = strlen(e->msg);
    (void)snprintf(e->msg + used, sizeof e->msg - used, ": %s", strerror(-code));
    return code;
}

void sq_err_hint(struct sq_err *e, const char *fmt, ...)
{
    va_list ap;

    if (!e || e->hint[0])
        return;
    va_start(ap, fmt);
    (void)vsnprintf(e->hint, sizeof e->hint, fmt, ap);
    va_end(ap);
}

int sq_err_prefix(struct sq_err *e, const char *fmt, ...)
{
    char context[256], old[SQ_ERR_MSG];
    va_list ap;

    if (!e)
        return -EINVAL;
    va_start(ap, fmt);
    (void)vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    memcpy(old, e->msg, sizeof old);
    (void)snprintf(e->msg, sizeof e->msg, "%s: %.*s", context, (int)(SQ_ERR_MSG - sizeof context - 4), old);
    return e->code;
}

void sq_err_clear(struct sq_err *e)
{
    if (!e)
        return;
    e->code = 0;
    e->cls = SQ_C_INTERNAL;
    e->msg[0] = '\0';
    e->hint[0] = '\0';
}

enum sq_exit sq_exit_of(const struct sq_err *e)
{
    if (!e || e->code == 0)
        return SQ_PASS;
    switch (e->cls) {
    case SQ_C_INPUT:
    case SQ_C_NOTFOUND:
        return SQ_USAGE;
    case SQ_C_INTERNAL:
    case SQ_C_DENIED:
    case SQ_C_UNSUPPORTED:
    case SQ_C_CONFLICT:
        return SQ_INFRA;
    }
    return SQ_INFRA;
}
