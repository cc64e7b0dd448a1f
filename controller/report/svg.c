#include "report/svg.h"

#include <math.h>
#include <string.h>

#include "report/markup.h"

#define LEFT 62.0
#define RIGHT 12.0
#define TOP 26.0
#define BOTTOM 22.0
#define GLYPH 6.5 /* the width of a letter of a span's label, about */

double sq_round_up(double v)
{
    double unit = pow(10, floor(log10(v > 1e-9 ? v : 1e-9)));

    if (v <= unit * 1.0000001)
        return unit;
    if (v <= 2 * unit)
        return 2 * unit;
    return v <= 5 * unit ? 5 * unit : 10 * unit;
}

static double x_of(const struct sq_chart *c, double t)
{
    double x = (t - c->t0) / (c->t1 - c->t0);

    x = x < 0 ? 0 : x > 1 ? 1 : x;
    return LEFT + x * (SQ_CHART_WIDTH - LEFT - RIGHT);
}

static double y_of(const struct sq_chart *c, double v)
{
    double y = c->log ? log(fmax(v, c->min) / c->min) / log(c->max / c->min) : v / c->max;

    y = y < 0 ? 0 : y > 1 ? 1 : y;
    return TOP + (1 - y) * c->height;
}

static void grid_line(struct sq_chart *c, double v)
{
    double y = y_of(c, v);

    (void)fprintf(c->out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT,
                  SQ_CHART_WIDTH - RIGHT, y, y);
    (void)fprintf(c->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 6, y + 4,
                  v);
}

static void y_axis(struct sq_chart *c)
{
    if (c->log) {
        for (double v = c->min; v <= c->max * 1.001; v *= 10)
            grid_line(c, v);
        return;
    }
    for (int i = 0; i <= 4; i++)
        grid_line(c, c->max * i / 4);
}

static void x_axis(struct sq_chart *c)
{
    double step = sq_round_up((c->t1 - c->t0) / 12);

    if (step < 1)
        step = 1;
    for (double t = ceil(c->t0 / step) * step; t <= c->t1 + 1e-9; t += step)
        (void)fprintf(c->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g s</text>",
                      x_of(c, t), TOP + c->height + 16, t);
    (void)fputc('\n', c->out);
}

void sq_chart_begin(struct sq_chart *c)
{
    (void)fprintf(c->out, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", SQ_CHART_WIDTH,
                  TOP + c->height + BOTTOM);
    sq_xml(c->out, c->title);
    (void)fprintf(c->out, "\">\n<text class=\"title\" x=\"%.0f\" y=\"14\">", LEFT);
    sq_xml(c->out, c->title);
    if (c->unit && c->unit[0])
        (void)fprintf(c->out, "<tspan class=\"unit\">  %s</tspan>", c->unit);
    (void)fputs("</text>\n", c->out);
    if (c->height >= 60)
        y_axis(c);
    x_axis(c);
}

void sq_chart_span(struct sq_chart *c, double from, double to, const char *class, const char *label)
{
    double x = x_of(c, from), width = x_of(c, to) - x;

    (void)fprintf(c->out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", class, x,
                  TOP, width > 1 ? width : 1, c->height);
    sq_xml(c->out, label);
    (void)fprintf(c->out, " (%.1f s to %.1f s)</title></rect>", from, to);
    if (label[0]) {
        bool below = x < c->label_end; /* the one before it reaches into it */

        c->label_end = x + 8 + GLYPH * (double)strlen(label);
        (void)fprintf(c->out, "<text class=\"span\" x=\"%.1f\" y=\"%.1f\">", x + 4, TOP + (below ? 25 : 13));
        sq_xml(c->out, label);
        (void)fputs("</text>", c->out);
    }
    (void)fputc('\n', c->out);
}

void sq_chart_line(struct sq_chart *c, const double *t, const double *v, size_t n, const char *class)
{
    bool drawing = false;

    (void)fprintf(c->out, "<path class=\"line %s\" d=\"", class);
    for (size_t i = 0; i < n; i++) {
        if (isnan(v[i])) {
            drawing = false;
            continue;
        }
        (void)fprintf(c->out, "%c%.1f %.1f", drawing ? 'L' : 'M', x_of(c, t[i]), y_of(c, v[i]));
        drawing = true;
    }
    (void)fputs("\"/>\n", c->out);
}

void sq_chart_bar(struct sq_chart *c, double t, double width, double low, double high, const char *class)
{
    double x = x_of(c, t), top = y_of(c, high), bottom = y_of(c, low);

    if (high > low)
        (void)fprintf(c->out, "<rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"/>\n", class, x,
                      top, x_of(c, t + width) - x, bottom - top);
}

void sq_chart_end(struct sq_chart *c)
{
    (void)fputs("</svg>\n", c->out);
}

void sq_legend(FILE *out, const char *const *entries)
{
    (void)fputs("<p class=\"legend\">", out);
    for (; entries[0]; entries += 2)
        (void)fprintf(out, "<span><i class=\"key %s\"></i>%s</span>", entries[0], entries[1]);
    (void)fputs("</p>\n", out);
}
