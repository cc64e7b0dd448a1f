/* `squalld proxy`: the unprivileged process through which the calls of edges go. It is told what to do on descriptor 3
 * (wire.h); it reads hostile bytes, so it drops every privilege before it reads the first one. */
#ifndef SQUALL_PROXY_PROXY_H
#define SQUALL_PROXY_PROXY_H

/* Runs until squalld is gone (or said quit) and no connection is left. Returns the exit status. */
int sq_proxy_main(int argc, char **argv);

#endif
