#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shop.h"

static const char usage[] = "usage: shop payments --port N\n"
                            "       shop checkout --port N --payments HOST:PORT[,HOST:PORT...] [--broken HOW]\n"
                            "The demo shop of Squall. HOW: none, no-breaker, never-opens, never-closes, no-timeout, "
                            "retry-storm, empty-fallback.\n";

static int parse(int argc, char **argv, struct shop_opts *o)
{
    static const struct option options[] = {{"port", required_argument, NULL, 'p'},
                                            {"payments", required_argument, NULL, 'y'},
                                            {"broken", required_argument, NULL, 'b'},
                                            {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'p')
            o->port = atoi(optarg);
        else if (c == 'y')
            o->payments = optarg;
        else if (c == 'b')
            o->broken = optarg;
        else
            return -1;
    }
    return optind == argc - 1 && o->port > 0 && o->port < 65536 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct shop_opts o = {.broken = "none"};
    uv_loop_t *loop = uv_default_loop();
    int r = -1;

    (void)signal(SIGPIPE, SIG_IGN);
    if (parse(argc, argv, &o) == 0) {
        if (strcmp(argv[optind], "payments") == 0)
            r = shop_payments(loop, &o);
        else if (strcmp(argv[optind], "checkout") == 0 && o.payments)
            r = shop_checkout(loop, &o);
    }
    if (r == -1) {
        (void)fputs(usage, stderr);
        return 2;
    }
    if (r < 0) {
        (void)fprintf(stderr, "shop: cannot listen on 127.0.0.1:%d: %s\n", o.port, uv_strerror(r));
        return 1;
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
