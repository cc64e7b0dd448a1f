/* All fault kinds that squalld was built with: kinds.def with the operations beside the schemas. */
#include <string.h>

#include "faults/fault.h"
#include "squall/cleanup.h"

#define KIND(symbol)                                                                                                   \
    extern const struct sq_fault_spec sq_spec_##symbol;                                                                \
    extern const struct sq_fault_ops sq_ops_##symbol;
#include "faults/kinds.def"
#undef KIND

static const struct sq_fault_entry kinds[] = {
#define KIND(symbol) {&sq_spec_##symbol, &sq_ops_##symbol},
#include "faults/kinds.def"
#undef KIND
};

const struct sq_fault_entry *sq_fault_kinds(size_t *n)
{
    *n = SQ_COUNT(kinds);
    return kinds;
}

const struct sq_fault_entry *sq_fault_kind_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(kinds); i++)
        if (strcmp(kinds[i].spec->name, name) == 0)
            return &kinds[i];
    return NULL;
}
