#include "undo.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "service.h"
#include "squall/json.h"

int sq_undo(struct sq_engine *eng, const char *kind, const json_t *undo, struct sq_err *e)
{
    if (strcmp(kind, SQ_KIND_SERVICE) == 0) {
        int rc = sq_service_revert(eng, undo, e);
        return rc < 0 ? rc : sq_service_gone(eng, undo, e);
    }
    const struct sq_fault_entry *k = sq_fault_kind_find(kind);
    if (!k || !k->ops->revert)
        return sq_err(e, -ENOSYS, "this squalld does not know how to take back a fault of kind '%.64s'", kind);
    int rc = k->ops->revert(eng, undo, e);
    if (rc < 0 || !k->ops->gone)
        return rc;
    return k->ops->gone(eng, undo, e);
}

void sq_undo_describe(const json_t *record, const struct sq_err *e, char *buf, size_t len)
{
    const char *service = sq_json_str_or(record, "service", NULL);
    (void)snprintf(buf, len, "run %s, %s %s (%s): %s", sq_json_str_or(record, "run", "?"),
                   service ? "service" : "fault", service ? service : sq_json_str_or(record, "fault", "?"),
                   sq_json_str_or(record, "kind", "?"), e->code ? e->msg : "taken back");
}

struct walk {
    enum sq_undo_which which;
    void (*log)(void *arg, const char *line);
    void *arg;
    int stays; /* wanted, and not gone */
};

static int undo_one(const json_t *record, unsigned slot, void *arg)
{
    struct walk *w = arg;
    struct sq_err e = {0};
    char line[1024];
    const char *kind = sq_json_str_or(record, "kind", "");
    (void)slot;
    if (w->which == SQ_UNDO_FAULTS && strcmp(kind, SQ_KIND_SERVICE) == 0)
        return 1;
    int rc = sq_undo(NULL, kind, json_object_get(record, "undo"), &e);
    if (rc < 0) {
        sq_err_sys(&e, rc, "not taken back"); /* unless the kind said why */
        w->stays++;
    }
    if (w->log) {
        sq_undo_describe(record, &e, line, sizeof(line));
        w->log(w->arg, line);
    }
    return rc;
}

int sq_undo_journal(struct sq_journal *j, enum sq_undo_which which, void (*log)(void *arg, const char *line), void *arg,
                    struct sq_err *e)
{
    struct walk w = {which, log, arg, 0};
    int rc = sq_journal_each(j, undo_one, &w, e);
    return rc < 0 ? rc : w.stays;
}
