/* Finds the verb, parses its options by its table, prints help. */
#include "commands/command.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/spec.h"
#include "squall/version.h"

#define COMMAND(name) extern const struct sq_command sq_cmd_##name;
#include "commands/commands.def"
#undef COMMAND

#define COMMAND(name) &sq_cmd_##name,
static const struct sq_command *const all[] = {
#include "commands/commands.def"
};
#undef COMMAND

#define HELP_OPTION 1000 /* getopt_long's value of --help; others: 1001 + index */
#define FIRST_OPTION 1001

const struct sq_command *const *sq_commands(size_t *n)
{
    *n = SQ_COUNT(all);
    return all;
}

const struct sq_command *sq_command_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

bool sq_args_has(const struct sq_args *a, const char *name)
{
    for (size_t i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].option->name, name) == 0)
            return true;
    return false;
}

const char *sq_args_value(const struct sq_args *a, const char *name)
{
    const char *value = NULL;

    for (size_t i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].option->name, name) == 0)
            value = a->given[i].value;
    return value;
}

static void print_option(const struct sq_term *t, const struct sq_option *o)
{
    char left[64];
    int n = snprintf(left, sizeof left, "%s%c%s --%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                     o->letter ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");

    (void)fprintf(t->out, "  %s%s%s", sq_term_out(t, SQ_CYAN), left, sq_term_out(t, SQ_PLAIN));
    if (n > 26)
        (void)fprintf(t->out, "\n%30s", "");
    else
        (void)fprintf(t->out, "%*s", 28 - n, "");
    sq_term_wrap(t, 30, o->doc);
}

/* Paragraphs fill the width; lines that begin with a space stay as they are. */
static void print_text(const struct sq_term *t, const char *text)
{
    while (*text) {
        cleanup_free char *whole = NULL;
        size_t len = strcspn(text, "\n"), n = len;

        if (*text == ' ' || len == 0) {
            (void)fprintf(t->out, "%.*s\n", (int)len, text);
            text += len + (text[len] == '\n');
            continue;
        }
        while (text[n] == '\n' && text[n + 1] && text[n + 1] != ' ' && text[n + 1] != '\n')
            n += 1 + strcspn(text + n + 1, "\n");
        whole = strndup(text, n);
        for (char *c = whole; c && (c = strchr(c, '\n'));)
            *c = ' ';
        sq_term_wrap(t, 0, whole ? whole : "");
        text += n + (text[n] == '\n');
    }
}

void sq_command_help(const struct sq_term *t, const struct sq_command *c)
{
    static const struct sq_option help = {"help", 'h', NULL, "this help", SQ_COMPLETE_NONE, NULL};

    (void)fprintf(t->out, "%susage:%s squall %s [options]%s%s\n\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  c->name, *c->args ? " " : "", c->args);
    print_text(t, c->text);
    (void)fprintf(t->out, "\n%soptions:%s\n", sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN));
    for (const struct sq_option *o = c->options; o && o->name; o++)
        print_option(t, o);
    print_option(t, &help);
}

static int overview(const struct sq_term *t)
{
    (void)fprintf(t->out,
                  "%ssquall%s " SQUALL_VERSION ": rehearse failures, and find out whether your services hold\n\n"
                  "%susage:%s squall VERB [options] ...\n\n%sverbs:%s\n",
                  sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN), sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN),
                  sq_term_out(t, SQ_BOLD), sq_term_out(t, SQ_PLAIN));
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        (void)fprintf(t->out, "  %s%-12s%s %s\n", sq_term_out(t, SQ_CYAN), all[i]->name, sq_term_out(t, SQ_PLAIN),
                      all[i]->summary);
    (void)fprintf(t->out, "\nBegin with:\n  squall doctor               which faults work on this host\n"
                          "  squall check FILE.yaml      is the scenario right?\n"
                          "  squall run FILE.yaml        run it\n\n`squall help VERB` tells more.\n\n"
                          "Exit codes: 0 pass, 1 fail, 2 invalid input or usage, 3 inconclusive, 4 aborted,\n"
                          "5 infrastructure (permission, kernel, no injector), 6 clean-up incomplete.\n");
    return SQ_PASS;
}

static int unknown_verb(const struct sq_term *t, const char *word)
{
    const char *names[SQ_COUNT(all) + 1], *near;
    char hint[96];

    for (size_t i = 0; i < SQ_COUNT(all); i++)
        names[i] = all[i]->name;
    names[SQ_COUNT(all)] = "help";
    near = sq_nearest(word, names, SQ_COUNT(names));
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean \"squall %s\"?", near);
    else
        (void)snprintf(hint, sizeof hint, "squall help lists the verbs");
    return sq_term_usage(t, hint, "there is no verb \"%.60s\"", word);
}

static int help(const struct sq_term *t, int argc, char **argv)
{
    const struct sq_command *c;

    if (argc < 1)
        return overview(t);
    if (strcmp(argv[0], "help") == 0)
        return overview(t);
    c = sq_command_find(argv[0]);
    if (!c)
        return unknown_verb(t, argv[0]);
    sq_command_help(t, c);
    return SQ_PASS;
}

/* The tables of getopt_long(3) from ours. */
static void getopt_tables(const struct sq_command *c, struct option *longs, char *shorts)
{
    size_t n = 0;
    char *s = shorts;

    *s++ = c->raw ? '+' : '-'; /* "-": arguments come as option 1, in their order, so that options may follow them */
    *s++ = ':';
    *s++ = 'h';
    for (const struct sq_option *o = c->options; o && o->name && n < SQ_OPTIONS_MAX; o++, n++) {
        longs[n] = (struct option){o->name, o->arg ? required_argument : no_argument, NULL, FIRST_OPTION + (int)n};
        if (!o->letter)
            continue;
        *s++ = o->letter;
        if (o->arg)
            *s++ = ':';
    }
    *s = '\0';
    longs[n] = (struct option){"help", no_argument, NULL, HELP_OPTION};
    longs[n + 1] = (struct option){NULL, 0, NULL, 0};
}

static const struct sq_option *option_of(const struct sq_command *c, int v)
{
    for (const struct sq_option *o = c->options; o && o->name; o++)
        if ((v >= FIRST_OPTION && o == &c->options[v - FIRST_OPTION]) || (o->letter && v == o->letter))
            return o;
    return NULL;
}

static int bad_option(const struct sq_term *t, const struct sq_command *c, int v, char **argv)
{
    const char *names[SQ_OPTIONS_MAX + 1] = {"help"}, *word = argv[optind - 1], *near = NULL;
    const struct sq_option *o;
    char hint[128], name[64];
    size_t n = 1;

    (void)snprintf(hint, sizeof hint, "squall help %s", c->name);
    o = option_of(c, optopt);
    if (v == ':' && o)
        return sq_term_usage(t, hint, "%s: --%s needs a value (%s)", c->name, o->name, o->arg);
    if (o)
        return sq_term_usage(t, hint, "%s: --%s takes no value", c->name, o->name);
    for (o = c->options; o && o->name; o++)
        names[n++] = o->name;
    if (optopt == 0 && strncmp(word, "--", 2) == 0) {
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
        near = sq_nearest(name, names, n);
    }
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean --%s?", near);
    if (optopt > 0 && optopt < 256)
        return sq_term_usage(t, hint, "%s: unknown option -%c", c->name, optopt);
    return sq_term_usage(t, hint, "%s: unknown option %.60s", c->name, word);
}

/* 0; 1: help was asked for; else a usage error was printed and this is -exit code. */
static int parse(const struct sq_term *t, const struct sq_command *c, int argc, char **argv, struct sq_args *a)
{
    struct option longs[SQ_OPTIONS_MAX + 2];
    char shorts[2 * SQ_OPTIONS_MAX + 8];
    int v;

    getopt_tables(c, longs, shorts);
    optind = 0; /* begin anew (GNU) */
    opterr = 0;
    while ((v = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        const struct sq_option *o;

        if (v == 1) { /* an argument: keep it at the front, where getopt has been already */
            a->argv[a->argc++] = optarg;
            continue;
        }
        if (v == 'h' || v == HELP_OPTION)
            return 1;
        o = v == '?' || v == ':' ? NULL : option_of(c, v);
        if (!o)
            return -bad_option(t, c, v, argv);
        if (a->n_given == SQ_GIVEN_MAX)
            return -sq_term_usage(t, NULL, "%s: more than %d options", c->name, SQ_GIVEN_MAX);
        a->given[a->n_given++] = (struct sq_given){o, o->arg ? optarg : NULL};
    }
    while (optind < argc)
        a->argv[a->argc++] = argv[optind++];
    return 0;
}

static int count_arguments(const struct sq_term *t, const struct sq_command *c, const struct sq_args *a)
{
    char hint[160];

    (void)snprintf(hint, sizeof hint, "usage: squall %s [options]%s%s", c->name, *c->args ? " " : "", c->args);
    if (a->argc < c->min_args)
        return sq_term_usage(t, hint, "%s: %s is missing", c->name, c->args);
    if (c->max_args >= 0 && a->argc > c->max_args)
        return sq_term_usage(t, hint, "%s: \"%.60s\" is one argument too many", c->name, a->argv[c->max_args]);
    return 0;
}

/* argv[0] is the verb. */
static int dispatch(const struct sq_command *c, int argc, char **argv, struct sq_term *t)
{
    cleanup_free struct sq_args *a = calloc(1, sizeof *a);
    cleanup_free char **arguments = calloc((size_t)argc + 1, sizeof *arguments);
    int r;

    if (!a || !arguments)
        return SQ_INFRA;
    a->command = c;
    a->argv = arguments;
    r = parse(t, c, argc, argv, a);
    if (r == 1) {
        sq_command_help(t, c);
        return SQ_PASS;
    }
    if (r < 0)
        return -r;
    r = count_arguments(t, c, a);
    return r ? r : c->main(a, t);
}

int sq_command_main(int argc, char **argv, struct sq_term *t)
{
    const struct sq_command *c;
    const char *verb;

    if (argc < 2) {
        (void)overview(t);
        return SQ_USAGE;
    }
    verb = argv[1];
    if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0)
        return sq_term_finish(t, help(t, argc - 2, argv + 2));
    if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0 || strcmp(verb, "version") == 0) {
        (void)fprintf(t->out, "squall %s\n", SQUALL_VERSION);
        return sq_term_finish(t, SQ_PASS);
    }
    c = sq_command_find(verb);
    if (!c)
        return unknown_verb(t, verb);
    return sq_term_finish(t, dispatch(c, argc - 1, argv + 1, t));
}
