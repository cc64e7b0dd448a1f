#include "squall/point.h"

#include <stdarg.h>
#include <stdio.h>

void sq_point(const struct sq_point *at, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(at->where, at->len, fmt, ap);
    va_end(ap);
}
