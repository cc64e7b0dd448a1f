/* The launch protocol: what squalld and a launcher (`squalld launch`) say to each other on a SOCK_SEQPACKET Unix
 * socket.
 *
 *   launcher -> squalld   "T<token>"            only on launch.sock (`squall exec`): who it is
 *   squalld  -> launcher  "M<json>,<filter>"    + a sealed memfd: <json> bytes of JSON (API.md), <filter> bytes of
 * sock_filter launcher -> squalld   "L"                   + the seccomp listener, when there is a filter launcher ->
 * squalld   "R"                   ready: all that can fail before execve(2) has worked squalld  -> launcher  "G" go:
 * execve(2) launcher -> squalld   "E<errno> <what>"     it failed; the launcher leaves with 127 (end of file) after
 * "G": the command runs, for the socket is close-on-exec
 *
 * A launcher that sees the end of file before "G" leaves at once: a command never runs without what was ordered. */
#ifndef SQUALL_LAUNCH_H
#define SQUALL_LAUNCH_H

#include <stddef.h>
#include <sys/types.h>

#define SQ_LAUNCH_FD 3           /* the launcher's end, when squalld spawned it */
#define SQ_LAUNCH_PACKET 1024    /* no packet is longer */
#define SQ_LAUNCH_MAX (8u << 20) /* most bytes of JSON and filter together */
/* Of sendmsg(2) of these packets: MSG_RST, which means nothing to the kernel here. A filter that asks the supervisor
 * about sendmsg(2) lets it go, for the listener itself is sent under it. */
#define SQ_LAUNCH_FLAG 0x1000

/* Send one packet, with a descriptor when fd >= 0. -errno. */
int sq_packet_send(int sock, const void *data, size_t len, int fd);
/* Receive one packet into buf (NUL-terminated, at most len - 1 bytes kept; longer: -EMSGSIZE). *fd is -1 or a
 * descriptor that came with it (owned by the caller, close-on-exec). Returns its length, 0 at the end of file, or
 * -errno. */
ssize_t sq_packet_recv(int sock, char *buf, size_t len, int *fd);

#endif
