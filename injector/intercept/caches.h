/* Caches of names that glibc asks first, by Unix sockets of their own: they refuse a caller that has a DNS edge, so
 * that its queries are its own. */
#ifndef SQUALL_INTERCEPT_CACHES_H
#define SQUALL_INTERCEPT_CACHES_H

/* As glibc names them: _PATH_NSCDSOCKET (nscd/nscd-client.h), and systemd's nss-resolve. */
#define SQ_NSCD "/var/run/nscd/socket"
#define SQ_RESOLVED "/run/systemd/resolve/io.systemd.Resolve"
#define SQ_CACHE_MAX 64

#ifndef __bpf__
#include <stdbool.h>

struct sq_caller;
struct sq_edge;
struct sq_err;
struct sq_follow;
struct sq_intercept;

bool sq_caches_is(const char *path);
bool sq_caches_wanted(const struct sq_intercept *ic, const struct sq_caller *c); /* it has a DNS edge */
/* Has the proxy hold the hook of a caller that has a DNS edge: all in the cgroup, or those in it that F follows. Once;
 * nothing where the kernel can't. */
int sq_caches_attach(struct sq_caller *c, int cgroup_fd, const struct sq_follow *f, struct sq_err *e);
void sq_caches_tell(const struct sq_edge *edge); /* warns, where there is such a cache */
#endif

#endif
