/* A verb of squall: one file, commands/<verb>.c, that defines `const struct sq_command sq_cmd_<verb>`, and one line in
 * commands.def. Options are parsed here, from the table, before main() is called; --help, `squall help VERB`,
 * completion and the usage error for an unknown option come from the same table. Exit codes: enum sq_exit. */
#ifndef CONTROLLER_COMMANDS_COMMAND_H
#define CONTROLLER_COMMANDS_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "commands/term.h"
#include "squall/err.h"

#define SQ_OPTIONS_MAX 48
#define SQ_GIVEN_MAX 256

/* What completion offers for an option's value or for the arguments. */
enum sq_complete {
    SQ_COMPLETE_NONE,
    SQ_COMPLETE_FILE, /* any file */
    SQ_COMPLETE_DIR,
    SQ_COMPLETE_SCENARIO, /* *.yaml, *.yml */
    SQ_COMPLETE_RUN,      /* folders under squall-runs/ */
    SQ_COMPLETE_TOPIC,    /* what `squall explain` knows */
    SQ_COMPLETE_VERB,
    SQ_COMPLETE_COMMAND, /* a program, then its files */
    SQ_COMPLETE_WORDS,   /* the words of `values`, separated by '|' */
};

struct sq_args; /* below */

struct sq_option {
    const char *name; /* "out" for --out; NULL ends the table */
    char letter;      /* 'o' for -o; 0: none */
    const char *arg;  /* what its value is called in the help, "DIR"; NULL: takes none */
    const char *doc;  /* one sentence */
    enum sq_complete complete;
    const char *values; /* SQ_COMPLETE_WORDS */
};

struct sq_command {
    const char *name;
    const char *args;                /* what follows the options in the usage line: "FILE...", "" when nothing may */
    const char *summary;             /* one line for the list of verbs */
    const char *text;                /* what it does and how to use it, with examples; several lines */
    const struct sq_option *options; /* ends with .name NULL; NULL: none of its own */
    int min_args, max_args;          /* of the arguments; max < 0: any number */
    enum sq_complete complete;       /* of the arguments */
    bool raw; /* arguments begin at the first that is no option (or after --) and what follows is not looked at: exec */
    /* Returns the exit code. */
    int (*main)(const struct sq_args *args, struct sq_term *t);
};

/* What was given: options in their order, then the arguments. */
struct sq_args {
    const struct sq_command *command;
    struct sq_given {
        const struct sq_option *option;
        const char *value; /* NULL for an option that takes none */
    } given[SQ_GIVEN_MAX];
    size_t n_given;
    int argc; /* arguments alone: argv[0] is the first */
    char **argv;
};

/* Was --NAME given? */
bool sq_args_has(const struct sq_args *a, const char *name);
/* The last value of --NAME; NULL: not given. */
const char *sq_args_value(const struct sq_args *a, const char *name);

/* All verbs, in the order of commands.def. */
const struct sq_command *const *sq_commands(size_t *n);
const struct sq_command *sq_command_find(const char *name);
/* The help of one verb, on t->out. */
void sq_command_help(const struct sq_term *t, const struct sq_command *c);
/* What squall does when called: argv[0] is the program. Returns the exit code. */
int sq_command_main(int argc, char **argv, struct sq_term *t);

#endif
