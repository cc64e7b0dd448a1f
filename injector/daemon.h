/* squalld proper: the process that serves the API. It lives only as long as its keeper does. */
#ifndef SQUALL_DAEMON_H
#define SQUALL_DAEMON_H

#include <stdbool.h>
#include <sys/types.h>

#include "journal.h"
#include "page.h"
#include "toxiproxy.h"

struct sq_daemon_opts {
    const char *dir;   /* RUN/<id> */
    const char *self;  /* path of this executable */
    const char *group; /* who beside root may use the API */
    bool is_private;
    struct sq_journal *journal;
    struct sq_page *page;
    struct sq_beat_page *beats;
    int beat_fd;
    int keeper_fd; /* our end of the pair */
    pid_t keeper;
    const struct sq_toxi_opts *toxi; /* Toxiproxy's API; NULL: none */
    const char *metrics;             /* where to serve /metrics; NULL: nowhere */
};

/* Serve until told to end, then take everything back. Returns the exit status: 0, SQ_INFRA (could not start, or the
 * keeper died), SQ_UNCLEAN. */
int sq_daemon_run(const struct sq_daemon_opts *o);

#endif
