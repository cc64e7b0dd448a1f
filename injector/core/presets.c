#include "squall/preset.h"

#include <string.h>

#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/spec.h"

static const struct sq_preset presets[] = {
#define PRESET(name, with, doc, source) {name, doc, source, with},
#define ALIAS(name, of)
#include "../net/presets.def"
#undef ALIAS
#undef PRESET
};

static const struct {
    const char *name, *of;
} aliases[] = {
#define PRESET(name, with, doc, source)
#define ALIAS(name, of) {name, of},
#include "../net/presets.def"
#undef ALIAS
#undef PRESET
};

const struct sq_preset *sq_presets(size_t *n)
{
    *n = SQ_COUNT(presets);
    return presets;
}

json_t *sq_preset_find(const char *name)
{
    json_t *with = NULL;

    for (size_t i = 0; i < SQ_COUNT(aliases); i++)
        if (strcmp(aliases[i].name, name) == 0)
            name = aliases[i].of;
    for (size_t i = 0; i < SQ_COUNT(presets); i++)
        if (strcmp(presets[i].name, name) == 0 &&
            sq_json_parse(presets[i].with, strlen(presets[i].with), &with, NULL) < 0)
            return NULL;
    return with;
}

const char *sq_preset_nearest(const char *name)
{
    const char *names[SQ_COUNT(presets) + SQ_COUNT(aliases)];
    size_t n = 0;

    for (size_t i = 0; i < SQ_COUNT(presets); i++)
        names[n++] = presets[i].name;
    for (size_t i = 0; i < SQ_COUNT(aliases); i++)
        names[n++] = aliases[i].name;
    return sq_nearest(name, names, n);
}
