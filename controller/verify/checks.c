/* The table of checks. */
#include <string.h>

#include "squall/cleanup.h"
#include "verify/check.h"

#define CHECK(name) extern const struct sq_check sq_check_##name;
#include "verify/checks.def"
#undef CHECK

#define CHECK(name) &sq_check_##name,
static const struct sq_check *const all[] = {
#include "verify/checks.def"
};
#undef CHECK

size_t sq_checks(const struct sq_check *const **out)
{
    *out = all;
    return SQ_COUNT(all);
}

const struct sq_check *sq_check_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(all); i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}
