#include "verify/cells.h"

#include <string.h>

static const char *const names[SQ_CELLS_COUNT] = {"h", "hs", "hok"};

int sq_cells_index(const char *name)
{
    for (int i = 0; i < SQ_CELLS_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

/* S is behind a quote: behind the one that ends the string, NULL: there is none. */
static const char *string_end(const char *s, const char *end)
{
    for (; s < end; s++) {
        if (*s == '\\')
            s++;
        else if (*s == '"')
            return s + 1;
    }
    return NULL;
}

/* S is behind a bracket: at the one that closes a list of plain numbers, NULL: it is not that. */
static const char *list_end(const char *s, const char *end)
{
    if (s < end && *s == ']')
        return s;
    while (s < end) {
        const char *number = s;

        while (s < end && *s >= '0' && *s <= '9')
            s++;
        if (s == number || s - number > 10 || (*number == '0' && s - number > 1) || s == end)
            return NULL;
        if (*s == ']')
            return s;
        if (*s++ != ',')
            return NULL;
    }
    return NULL;
}

/* Which histogram a key (between its quotes) is, when a list follows at once. */
static int histogram_at(const char *key, const char *behind, const char *end)
{
    const size_t n = (size_t)(behind - key) - 1;

    if (end - behind < 3 || behind[0] != ':' || behind[1] != '[')
        return -1;
    for (int i = 0; i < SQ_CELLS_COUNT; i++)
        if (strlen(names[i]) == n && memcmp(names[i], key, n) == 0)
            return i;
    return -1;
}

size_t sq_cells_outline(const char *line, size_t len, char *out, struct sq_cells cells[SQ_CELLS_COUNT])
{
    const char *s = line, *end = line + len, *kept = line;
    unsigned depth = 0;
    size_t used = 0;
    bool any = false;

    memset(cells, 0, SQ_CELLS_COUNT * sizeof *cells);
    while (s < end) {
        const char c = *s++, *key = s;
        int which;

        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        if (c != '"')
            continue;
        if (!(s = string_end(s, end)))
            return 0;
        /* In an object's top level a string before a colon is a key. */
        which = depth == 1 ? histogram_at(key, s, end) : -1;
        if (which < 0)
            continue;
        const char *list = s + 2, *close = list_end(list, end);
        if (!close || cells[which].at)
            return 0;
        cells[which] = (struct sq_cells){(uint32_t)(list - line), (uint32_t)(close - list)};
        memcpy(out + used, kept, (size_t)(list - 1 - kept));
        used += (size_t)(list - 1 - kept);
        out[used++] = '0';
        kept = s = close + 1;
        any = true;
    }
    memcpy(out + used, kept, (size_t)(end - kept));
    return any ? used + (size_t)(end - kept) : 0;
}
