#include "proxy/body.h"

#include <stdint.h>

/* RFC 7396: B is merged into A. New reference. */
static json_t *merged(json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;
    if (!json_is_object(b))
        return json_deep_copy(b);
    json_t *out = json_is_object(a) ? json_copy(a) : json_object();
    json_object_foreach((json_t *)(uintptr_t)b, key, v)
    {
        if (json_is_null(v))
            (void)json_object_del(out, key);
        else
            (void)json_object_set_new(out, key, merged(json_object_get(a, key), v));
    }
    return out;
}

char *sq_body_patch(const char *p, size_t n, const json_t *patch)
{
    json_t *doc = patch ? json_loadb(n ? p : "", n, JSON_DECODE_ANY, NULL) : NULL;
    json_t *made = doc ? merged(doc, patch) : NULL;
    char *text = made ? json_dumps(made, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(doc);
    json_decref(made);
    return text;
}
