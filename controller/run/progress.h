/* What a person sees while a run goes on. On a terminal: a few lines redrawn in place, at most 5 times a second, and
 * what happened scrolling by above them. Elsewhere: one line per event, nothing else. */
#ifndef CONTROLLER_RUN_PROGRESS_H
#define CONTROLLER_RUN_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "run/live.h"
#include "squall/err.h"

struct sq_progress;

struct sq_progress_opts {
    FILE *to;
    bool quiet; /* nothing at all but errors */
    bool plain; /* no colour (also by NO_COLOR) */
    bool lines; /* one line per event even on a terminal */
};

struct sq_progress *sq_progress_new(const struct sq_progress_opts *o);
void sq_progress_free(struct sq_progress *p); /* leaves the cursor on a fresh line; NULL is fine */

enum sq_tone { SQ_TONE_PLAIN, SQ_TONE_DIM, SQ_TONE_GOOD, SQ_TONE_FAULT, SQ_TONE_BAD };
/* Something happened, t seconds into the run (< 0: not in it). One line, without a newline. */
void sq_progress_event(struct sq_progress *p, enum sq_tone tone, double t, const char *fmt, ...) SQ_PRINTF(4, 5);

#define SQ_PROGRESS_EDGES 6
#define SQ_PROGRESS_SPARK 40

struct sq_progress_view {
    const char *name;                            /* of the scenario */
    const char *stage;                           /* "steady state", "slow: Payments answers 2 s late", "recovery" */
    bool fault;                                  /* a fault is on now */
    unsigned step, steps;                        /* 1 of 5; 0: not in a step */
    int64_t elapsed_ns, stage_ns, stage_left_ns; /* of the stage: its length and what is left; 0: not known */
    bool load;                                   /* the rest is valid */
    double rate, error_percent;
    int64_t p50, p99;                /* ns */
    uint64_t late;                   /* by the probe's own fault */
    double spark[SQ_PROGRESS_SPARK]; /* p99 of the last seconds in ms, oldest first; < 0: none */
    bool spark_fault[SQ_PROGRESS_SPARK];
    unsigned spark_n;
    struct {
        const char *edge;
        enum sq_live_state state;
        double rate; /* calls per second */
    } edges[SQ_PROGRESS_EDGES];
    unsigned n_edges;
};
/* Redraw, if this is a terminal and enough time has passed since the last time. */
void sq_progress_draw(struct sq_progress *p, const struct sq_progress_view *v, int64_t now_ns);

#endif
