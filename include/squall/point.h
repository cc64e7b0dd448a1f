/* Where in a document an error is, as a JSON pointer without its first slash ("egress/0/cidr/1"). */
#ifndef SQUALL_POINT_H
#define SQUALL_POINT_H

#include <stddef.h>

#include "squall/err.h"

struct sq_point {
    char *where; /* LEN bytes */
    size_t len;
};

void sq_point(const struct sq_point *at, const char *fmt, ...) SQ_PRINTF(2, 3);

#endif
