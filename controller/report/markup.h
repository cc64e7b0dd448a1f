/* Text into XML and HTML. */
#ifndef SQUALL_REPORT_MARKUP_H
#define SQUALL_REPORT_MARKUP_H

#include <stdio.h>

/* Escaped for element content and attribute values; what XML 1.0 forbids (control bytes, broken UTF-8) becomes '?'. */
void sq_xml(FILE *out, const char *text);

#endif
