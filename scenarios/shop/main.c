#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shop.h"

#define POOL 64

static const struct {
    const char *name, *what;
} defects[] = {
    [SHOP_SOUND] = {"none", "as it should be"},
#define DEFECT(id, name, what) [SHOP_##id] = {name, what},
#include "defects.def"
#undef DEFECT
};

enum shop_defect shop_defect_named(const char *name)
{
    unsigned i = 0;

    while (i < SHOP_DEFECTS && strcmp(defects[i].name, name) != 0)
        i++;
    return (enum shop_defect)i;
}

static void usage(void)
{
    (void)fputs("usage: shop payments|stock --port N\n"
                "       shop checkout --port N --payments HOST:PORT[,HOST:PORT...] [--stock HOST:PORT] [--pool N]\n"
                "                     [--alerts HOST:PORT] [--broken HOW]\n"
                "The demo shop of Squall. HOW it may be broken:\n",
                stderr);
    for (unsigned i = 0; i < SHOP_DEFECTS; i++)
        (void)fprintf(stderr, "  %-18s %s\n", defects[i].name, defects[i].what);
}

static int parse(int argc, char **argv, struct shop_opts *o)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"payments", required_argument, NULL, 'y'},
        {"stock", required_argument, NULL, 's'},
        {"pool", required_argument, NULL, 'l'},
        {"alerts", required_argument, NULL, 'a'},
        {"broken", required_argument, NULL, 'b'},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'p')
            o->port = atoi(optarg);
        else if (c == 'y')
            o->payments = optarg;
        else if (c == 's')
            o->stock = optarg;
        else if (c == 'l')
            o->pool = (unsigned)atoi(optarg);
        else if (c == 'a')
            o->alerts = optarg;
        else if (c == 'b')
            o->defect = shop_defect_named(optarg);
        else
            return -1;
    }
    return optind == argc - 1 && o->port > 0 && o->port < 65536 && o->pool > 0 && o->defect < SHOP_DEFECTS ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct shop_opts o = {.pool = POOL};
    uv_loop_t *loop = uv_default_loop();
    int r = -1;

    (void)signal(SIGPIPE, SIG_IGN);
    if (parse(argc, argv, &o) == 0) {
        if (strcmp(argv[optind], "payments") == 0)
            r = shop_page(loop, o.port, "/pay");
        else if (strcmp(argv[optind], "stock") == 0)
            r = shop_page(loop, o.port, "/stock");
        else if (strcmp(argv[optind], "checkout") == 0 && o.payments)
            r = shop_checkout(loop, &o);
    }
    if (r == -1) {
        usage();
        return 2;
    }
    if (r < 0) {
        (void)fprintf(stderr, "shop: cannot listen on 127.0.0.1:%d: %s\n", o.port, uv_strerror(r));
        return 1;
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
