/* What the HTTP servers on TCP share: libmicrohttpd driven from the uv loop. (The API on its Unix socket suspends
 * requests, and drives its own.) */
#ifndef SQUALL_HTTPD_H
#define SQUALL_HTTPD_H

#include <microhttpd.h>
#include <uv.h>

#include "squall/err.h"

struct sq_httpd {
    struct MHD_Daemon *mhd; /* NULL: closing */
    uv_poll_t poll;
    uv_timer_t timer;
    int handles;
    void (*closed)(struct sq_httpd *h); /* it may be freed */
};

/* Where OPTION says; EXAMPLE: what would be right. A listening descriptor, or SQ_C_INPUT for what is no address with a
 * port, or -errno. */
int sq_httpd_listen(const char *address, const char *option, const char *example, const char *what, int backlog,
                    struct sq_err *e);
/* MHD was started on the descriptor FD, with MHD_USE_EPOLL (NULL: it could not be). -EIO: it is stopped, FD closed. */
int sq_httpd_drive(struct sq_httpd *h, uv_loop_t *loop, struct MHD_Daemon *mhd, int fd);
/* Stops MHD now; h->closed() comes later, from the loop. */
void sq_httpd_close(struct sq_httpd *h, void (*closed)(struct sq_httpd *h));

#endif
