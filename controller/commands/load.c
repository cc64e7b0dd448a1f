#include "commands/load.h"

#include <string.h>

int sq_load_vars(const struct sq_args *a, const struct sq_term *t, struct sq_vars *vars)
{
    struct sq_err e = {0};

    *vars = (struct sq_vars){0};
    for (size_t i = 0; i < a->n_given && e.code == 0; i++)
        if (strcmp(a->given[i].option->name, "var") == 0)
            (void)sq_vars_add(vars, a->given[i].value, &e);
    if (e.code == 0)
        return 0;
    sq_vars_free(vars);
    return sq_term_fail(t, &e);
}

void sq_load_print(const struct sq_term *t, const struct sq_diags *d, bool quiet)
{
    (void)fflush(t->out);
    for (size_t i = 0; i < d->n; i++) {
        const struct sq_diag *g = &d->list[i];
        char where[4200];

        if (g->warning && quiet)
            continue;
        (void)fprintf(t->err, "%s%s%s%s%s%s%s\n", sq_term_err(t, SQ_BOLD), sq_diag_where(d, g, where, sizeof where),
                      sq_term_err(t, SQ_PLAIN), sq_term_err(t, g->warning ? SQ_YELLOW : SQ_RED),
                      g->warning ? "warning: " : "", sq_term_err(t, SQ_PLAIN), g->msg);
        if (g->hint[0])
            (void)fprintf(t->err, "%s  hint: %s%s\n", sq_term_err(t, SQ_DIM), g->hint, sq_term_err(t, SQ_PLAIN));
    }
    if (d->errors > SQ_DIAG_MAX)
        (void)fprintf(t->err, "%s: and %u more errors\n", d->file, d->errors - SQ_DIAG_MAX);
}

int sq_load_scenario(const struct sq_args *a, const struct sq_term *t, const char *file, bool quiet, json_t **doc)
{
    struct sq_vars vars;
    struct sq_diags d;
    int code = sq_load_vars(a, t, &vars);

    *doc = NULL;
    if (code)
        return code;
    sq_diags_init(&d, file);
    (void)sq_scenario_check(&vars, doc, &d);
    sq_load_print(t, &d, quiet);
    if (d.errors)
        code = d.cls == SQ_C_INTERNAL ? SQ_INFRA : SQ_USAGE;
    sq_diags_free(&d);
    sq_vars_free(&vars);
    return code;
}
