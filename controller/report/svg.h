/* Charts over the time of a run, as inline SVG. All colours are CSS classes, so that the page decides about light and
 * dark. A chart is begun, filled and ended; everything between is clipped to its plot area. */
#ifndef SQUALL_REPORT_SVG_H
#define SQUALL_REPORT_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct sq_chart {
    FILE *out;
    const char *title;
    double t0, t1; /* seconds on the x axis, t0 < t1 */
    double max;    /* top of the y axis, > 0 */
    bool log;      /* y from `min` (> 0) to max on a logarithmic scale */
    double min;
    const char *unit; /* of the y axis: "ms" */
    double height;    /* of the plot area, pixels */
    double label_end; /* of the last span's, pixels; 0 at first */
};

#define SQ_CHART_WIDTH 1080

void sq_chart_begin(struct sq_chart *c);
/* A shaded span with a label at its top; CLASS for its colour. */
void sq_chart_span(struct sq_chart *c, double from, double to, const char *class, const char *label);
/* A line through (t[i], v[i]); NaN interrupts it. */
void sq_chart_line(struct sq_chart *c, const double *t, const double *v, size_t n, const char *class);
/* A bar from y=low to y=high over [t, t+width). */
void sq_chart_bar(struct sq_chart *c, double t, double width, double low, double high, const char *class);
void sq_chart_end(struct sq_chart *c);
/* A legend entry list: pairs of class and text, ends with NULL. */
void sq_legend(FILE *out, const char *const *entries);
/* The next round number up: 1, 2 or 5 times a power of ten. */
double sq_round_up(double v);

#endif
