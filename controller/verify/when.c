#include "verify/when.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "squall/units.h"

/* N digits as a number; -1: not so many. */
static int digits(const char *s, int n)
{
    int v = 0;

    for (int i = 0; i < n; i++) {
        if (!isdigit((unsigned char)s[i]))
            return -1;
        v = 10 * v + (s[i] - '0');
    }
    return v;
}

/* "Z", "+01:00" at *s, to its end: seconds east of UTC. */
static bool offset(const char *s, int *secs)
{
    if ((*s == 'Z' || *s == 'z') && s[1] == '\0') {
        *secs = 0;
        return true;
    }
    if ((*s != '+' && *s != '-') || strlen(s) != 6 || s[3] != ':')
        return false;
    int h = digits(s + 1, 2), m = digits(s + 4, 2);
    if (h < 0 || h > 23 || m < 0 || m > 59)
        return false;
    *secs = (*s == '-' ? -1 : 1) * (h * 3600 + m * 60);
    return true;
}

bool sq_rfc3339(const char *text, int64_t *ns)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd";
    int64_t fraction = 0, unit = SQ_S;
    int east;

    for (size_t i = 0; i < sizeof form - 1; i++) /* stops at the end of TEXT, which no position allows */
        if (form[i] == 'd' ? !isdigit((unsigned char)text[i])
                           : text[i] != form[i] && !(form[i] == 'T' && (text[i] == 't' || text[i] == ' ')))
            return false;
    struct tm tm = {.tm_year = digits(text, 4) - 1900,
                    .tm_mon = digits(text + 5, 2) - 1,
                    .tm_mday = digits(text + 8, 2),
                    .tm_hour = digits(text + 11, 2),
                    .tm_min = digits(text + 14, 2),
                    .tm_sec = digits(text + 17, 2)};
    if (tm.tm_year < 70 || tm.tm_year > 300 || tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
        tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
        return false;
    const char *p = text + sizeof form - 1;
    if (*p == '.') {
        if (!isdigit((unsigned char)p[1]))
            return false;
        for (p++; isdigit((unsigned char)*p); p++) {
            unit /= 10;
            fraction += (*p - '0') * unit;
        }
    }
    if (!offset(p, &east))
        return false;
    *ns = ((int64_t)timegm(&tm) - east) * SQ_S + fraction;
    return true;
}
