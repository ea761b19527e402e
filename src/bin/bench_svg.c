/* The plot of `hadal bench --svg`: decode speed by context and by batch, each with the roofline that its bytes and
 * operations allow. One curve and its roof a panel; powers of two across, zero at the bottom. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bin/bench.h"

enum { WIDTH = 960, HEIGHT = 420, LEFT = 70, TOP = 70, PANEL = 380, BAND = 270, GAP = 90, POINTS = 64 };

struct point {
    double x, speed, roof;
};

struct panel {
    const char *title, *across;
    struct point at[POINTS];
    int n;
    double x_min, x_max, y_max; /* x in powers of two */
    int left;
};

static void take(struct panel *p, const struct bench_row *r, double x)
{
    double roof = r->roofline_sum > 0 ? r->value / r->roofline_sum : 0;
    if (p->n < POINTS)
        p->at[p->n++] = (struct point){log2(x), r->value, roof};
}

static int by_x(const struct point *a, const struct point *b)
{
    return a->x < b->x ? -1 : a->x > b->x;
}

/* Insertion sort: the rows come nearly in order. */
static void sort(struct panel *p)
{
    for (int i = 1; i < p->n; i++)
        for (int k = i; k > 0 && by_x(&p->at[k], &p->at[k - 1]) < 0; k--) {
            struct point t = p->at[k];
            p->at[k] = p->at[k - 1];
            p->at[k - 1] = t;
        }
}

/* The next of 1, 2, 2.5, 5 times a power of ten that gives at most five steps. */
static double step_of(double top)
{
    static const double steps[] = {1, 2, 2.5, 5, 10};
    double base = pow(10, floor(log10(top / 5)));
    for (size_t i = 0; i < COUNT_OF(steps); i++)
        if (steps[i] * base * 5 >= top)
            return steps[i] * base;
    return 10 * base;
}

static void scale(struct panel *p)
{
    double top = 1e-9;
    p->x_min = p->n > 0 ? p->at[0].x : 0;
    p->x_max = p->n > 1 ? p->at[p->n - 1].x : p->x_min + 1;
    for (int i = 0; i < p->n; i++)
        top = fmax(top, fmax(p->at[i].speed, p->at[i].roof));
    double step = step_of(top);
    p->y_max = ceil(top / step) * step;
}

static double place_x(const struct panel *p, double x)
{
    return p->left + (x - p->x_min) / (p->x_max - p->x_min) * PANEL;
}

static double place_y(const struct panel *p, double y)
{
    return TOP + BAND - y / p->y_max * BAND;
}

static void draw_axes(FILE *f, const struct panel *p)
{
    double step = step_of(p->y_max);
    fprintf(f, "<text x=\"%d\" y=\"%d\" class=\"title\">%s</text>\n", p->left, TOP - 16, p->title);
    for (double y = 0; y <= p->y_max * 1.0001; y += step)
        fprintf(f, "<path d=\"M%d %.1fh%d\" class=\"grid\"/><text x=\"%d\" y=\"%.1f\" class=\"end\">%g</text>\n",
                p->left, place_y(p, y), PANEL, p->left - 8, place_y(p, y) + 4, y);
    for (int x = (int)ceil(p->x_min); x <= p->x_max; x++) {
        double n = exp2(x);
        const char *unit = n >= 1048576 ? "M" : n >= 1024 ? "K" : "";
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" class=\"mid\">%g%s</text>\n", place_x(p, x), TOP + BAND + 20,
                n >= 1048576 ? n / 1048576 : n >= 1024 ? n / 1024 : n, unit);
    }
    fprintf(f, "<text x=\"%d\" y=\"%d\" class=\"mid\">%s</text>\n", p->left + PANEL / 2, TOP + BAND + 44, p->across);
}

static void draw_line(FILE *f, const struct panel *p, bool roof)
{
    fprintf(f, "<path class=\"%s\" d=\"", roof ? "roof" : "speed");
    for (int i = 0; i < p->n; i++)
        fprintf(f, "%c%.1f %.1f", i == 0 ? 'M' : 'L', place_x(p, p->at[i].x),
                place_y(p, roof ? p->at[i].roof : p->at[i].speed));
    fprintf(f, "\"/>\n");
    for (int i = 0; i < p->n && !roof; i++)
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", place_x(p, p->at[i].x), place_y(p, p->at[i].speed));
}

static void draw_legend(FILE *f)
{
    fprintf(f, "<path class=\"speed\" d=\"M%d 24h26\"/><text x=\"%d\" y=\"28\">tokens/s, measured</text>\n",
            WIDTH - 400, WIDTH - 368);
    fprintf(f, "<path class=\"roof\" d=\"M%d 24h26\"/><text x=\"%d\" y=\"28\">what the machine allows</text>\n",
            WIDTH - 214, WIDTH - 182);
}

static void draw(FILE *f, const struct bench *b, struct panel *panels)
{
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n"
               "<style>text{font:13px sans-serif;fill:#222}.title{font-weight:bold}.end{text-anchor:end}"
               ".mid{text-anchor:middle}.small{font-size:11px;fill:#555}.grid{stroke:#ddd}"
               ".speed{fill:none;stroke:#1f5fa8;stroke-width:2}"
               ".roof{fill:none;stroke:#b5521b;stroke-width:2;stroke-dasharray:6 4}circle{fill:#1f5fa8}</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_legend(f);
    for (int i = 0; i < 2; i++) {
        struct panel *p = &panels[i];
        p->left = LEFT + i * (PANEL + GAP);
        sort(p);
        scale(p);
        draw_axes(f, p);
        draw_line(f, p, true);
        draw_line(f, p, false);
    }
    fputs("<text x=\"24\" y=\"410\" class=\"small\">", f);
    for (const char *s = b->about; *s != '\0'; s++) /* a folder's name may hold anything */
        fputs(*s == '<' ? "&lt;" : *s == '&' ? "&amp;" : (char[]){*s, '\0'}, f);
    fputs("</text>\n</svg>\n", f);
}

int bench_write_svg(const struct bench *b, const char *path, struct err *e)
{
    static struct panel panels[2];
    panels[0] = (struct panel){.title = "Decode by context, one sequence", .across = "tokens of context"};
    panels[1] = (struct panel){.title = "Decode by batch", .across = "sequences in a step"};
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        if (r->batch == 1)
            take(&panels[0], r, (double)r->context);
        if (r->batch > 0 && r->context == b->contexts[0])
            take(&panels[1], r, r->batch);
    }
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f == NULL)
        return err_set(e, HD_ENOMEM, "%s: no memory for the plot", path);
    draw(f, b, panels);
    fclose(f);
    int rc = file_write_atomic(path, text, n, e);
    free(text);
    return rc;
}
