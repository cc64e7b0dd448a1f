/* squall completion: a script for bash, made from the tables of the verbs. */
#include <string.h>

#include "commands/command.h"

static const struct sq_option options[] = {
    {NULL, 0, NULL, NULL, SQ_COMPLETE_NONE, NULL},
};

static const char functions[] =
    "# Completion of squall for bash. To use it: source <(squall completion bash)\n"
    "_squall_files() { local IFS=$'\\n'; compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- \"$1\")); }\n"
    "_squall_dirs() { local IFS=$'\\n'; compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- \"$1\")); }\n"
    "_squall_scenarios() {\n"
    "    local IFS=$'\\n'\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    COMPREPLY+=($(compgen -f -X '!*.y?(a)ml' -- \"$1\") $(compgen -d -- \"$1\"))\n"
    "}\n"
    "_squall_runs() {\n"
    "    local IFS=$'\\n' d\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    COMPREPLY+=($(compgen -d -- \"$1\"))\n"
    "    for d in squall-runs/*/; do d=${d#squall-runs/} d=${d%/}; [[ $d != '*' && $d == \"$1\"* ]] && "
    "COMPREPLY+=(\"$d\"); done\n"
    "}\n"
    "_squall_commands() { COMPREPLY+=($(compgen -c -- \"$1\")); _squall_files \"$1\"; }\n"
    "_squall_words() { COMPREPLY+=($(compgen -W \"$2\" -- \"$1\")); }\n"
    "_squall_topics() { _squall_words \"$1\" \"$(\"${COMP_WORDS[0]}\" explain --names 2>/dev/null)\"; }\n";

/* The shell command that offers what fits; CUR holds the word so far. */
static void offer(FILE *f, enum sq_complete how, const char *values)
{
    switch (how) {
    case SQ_COMPLETE_NONE:
        (void)fputs(":", f);
        return;
    case SQ_COMPLETE_FILE:
        (void)fputs("_squall_files \"$cur\"", f);
        return;
    case SQ_COMPLETE_DIR:
        (void)fputs("_squall_dirs \"$cur\"", f);
        return;
    case SQ_COMPLETE_SCENARIO:
        (void)fputs("_squall_scenarios \"$cur\"", f);
        return;
    case SQ_COMPLETE_RUN:
        (void)fputs("_squall_runs \"$cur\"", f);
        return;
    case SQ_COMPLETE_TOPIC:
        (void)fputs("_squall_topics \"$cur\"", f);
        return;
    case SQ_COMPLETE_VERB:
        (void)fputs("_squall_words \"$cur\" \"$verbs\"", f);
        return;
    case SQ_COMPLETE_COMMAND:
        (void)fputs("_squall_commands \"$cur\"", f);
        return;
    case SQ_COMPLETE_WORDS:
        (void)fputs("_squall_words \"$cur\" '", f);
        for (const char *p = values ? values : ""; *p; p++)
            (void)fputc(*p == '|' ? ' ' : *p, f);
        (void)fputc('\'', f);
        return;
    }
}

static void verb(FILE *f, const struct sq_command *c)
{
    (void)fprintf(f, "    %s)\n        case $prev in\n", c->name);
    for (const struct sq_option *o = c->options; o && o->name; o++) {
        if (!o->arg)
            continue;
        if (o->letter)
            (void)fprintf(f, "        -%c | --%s) ", o->letter, o->name);
        else
            (void)fprintf(f, "        --%s) ", o->name);
        offer(f, o->complete, o->values);
        (void)fputs("; return ;;\n", f);
    }
    (void)fputs("        esac\n        if [[ $cur == -* ]]; then _squall_words \"$cur\" '--help", f);
    for (const struct sq_option *o = c->options; o && o->name; o++)
        (void)fprintf(f, " --%s", o->name);
    (void)fputs("'; return; fi\n        ", f);
    offer(f, c->complete, c->args);
    (void)fputs(" ;;\n", f);
}

static void script(FILE *f)
{
    size_t n;
    const struct sq_command *const *all = sq_commands(&n);

    (void)fputs(functions, f);
    (void)fputs("_squall() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verbs='help",
                f);
    for (size_t i = 0; i < n; i++)
        (void)fprintf(f, " %s", all[i]->name);
    (void)fputs("'\n    COMPREPLY=()\n"
                "    if ((COMP_CWORD == 1)); then _squall_words \"$cur\" \"$verbs --help --version\"; return; fi\n"
                "    case ${COMP_WORDS[1]} in\n    help) _squall_words \"$cur\" \"$verbs\" ;;\n",
                f);
    for (size_t i = 0; i < n; i++)
        verb(f, all[i]);
    (void)fputs("    esac\n}\nshopt -s extglob\ncomplete -F _squall squall\n", f);
}

static int completion_main(const struct sq_args *a, struct sq_term *t)
{
    if (strcmp(a->argv[0], "bash") != 0)
        return sq_term_usage(t, "squall completion bash", "completion: there is none for \"%.40s\"", a->argv[0]);
    script(t->out);
    return SQ_PASS;
}

const struct sq_command sq_cmd_completion = {
    .name = "completion",
    .args = "bash",
    .summary = "a completion script for the shell",
    .text = "Prints a script that completes verbs, options, scenarios, runs and the names that `squall explain`\n"
            "knows. To use it now, and for good:\n\n"
            "  source <(squall completion bash)\n"
            "  squall completion bash > ~/.local/share/bash-completion/completions/squall",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .complete = SQ_COMPLETE_WORDS,
    .main = completion_main,
};
