#include "commands/begin.h"

#include <errno.h>
#include <stdlib.h>

#include "run/private.h"
#include "squall/cleanup.h"

int sq_begin(const struct sq_term *t)
{
    cleanup_free char *said = NULL;
    struct sq_err e = {0};
    int rc = sq_private_sweep(&said, &e);
    if (rc == 0 && said)
        (void)fprintf(t->err, "squall: took back what an earlier run left: %s\n", said);
    if (rc == 0 || rc == -ENOENT) /* without squalld there is nothing to sweep with; who needs one will say so */
        return 0;
    (void)sq_term_fail(t, &e);
    return rc == -EBUSY ? SQ_UNCLEAN : SQ_INFRA;
}

const char *sq_begin_injector(const char *value)
{
    const char *env = getenv("SQUALL_INJECTOR");
    return value ? value : env && *env ? env : NULL;
}
