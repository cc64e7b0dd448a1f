#include "probe/window.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "squall/json.h"

#define SUB_BITS 6
#define SUB (1 << SUB_BITS)

/* Plain relaxed accesses: one writer, and a reader that asks only about seconds which have passed. */
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

struct sq_window_ring {
    unsigned seconds;
    struct sq_window_slot slot[];
};

struct sq_window_ring *sq_window_new(unsigned seconds)
{
    /* One more than asked for: the second that is being written. */
    struct sq_window_ring *w = calloc(1, sizeof *w + (seconds + 2) * sizeof w->slot[0]);

    if (!w)
        return NULL;
    w->seconds = seconds + 2;
    for (unsigned i = 0; i < w->seconds; i++)
        w->slot[i].sec = -1;
    return w;
}

void sq_window_free(struct sq_window_ring *w)
{
    free(w);
}

static unsigned cell_of(int64_t v)
{
    unsigned shift, cell;

    if (v < SUB)
        return v < 0 ? 0 : (unsigned)v;
    shift = 63u - (unsigned)__builtin_clzll((unsigned long long)v) - SUB_BITS;
    cell = (shift << SUB_BITS) + (unsigned)((uint64_t)v >> shift);
    return cell < SQ_WINDOW_CELLS ? cell : SQ_WINDOW_CELLS - 1;
}

static int64_t high_of(unsigned cell)
{
    unsigned shift = cell < 2 * SUB ? 0 : (cell >> SUB_BITS) - 1;

    return ((int64_t)(cell - (shift << SUB_BITS) + 1) << shift) - 1;
}

static struct sq_window_slot *slot_of(struct sq_window_ring *w, int64_t sec)
{
    struct sq_window_slot *s = &w->slot[(uint64_t)sec % w->seconds];

    if (s->sec != sec) {
        STORE(s->sec, -1);
        memset(s->cell, 0, sizeof s->cell);
        STORE(s->n, 0);
        STORE(s->bad, 0);
        STORE(s->max, 0);
        __atomic_store_n(&s->sec, sec, __ATOMIC_RELEASE);
    }
    return s;
}

void sq_window_add(struct sq_window_ring *w, int64_t sec, int64_t latency, bool bad)
{
    struct sq_window_slot *s = slot_of(w, sec);
    uint32_t *cell = &s->cell[cell_of(latency)];

    STORE(s->n, s->n + 1);
    if (bad)
        STORE(s->bad, s->bad + 1);
    if (latency > s->max)
        STORE(s->max, latency);
    STORE(*cell, *cell + 1);
}

void sq_window_sum(const struct sq_window_ring *w, int64_t from, int64_t to, struct sq_window_slot *sum)
{
    for (int64_t sec = from < 0 ? 0 : from; sec < to; sec++) {
        const struct sq_window_slot *s = &w->slot[(uint64_t)sec % w->seconds];
        int64_t max;

        if (__atomic_load_n(&s->sec, __ATOMIC_ACQUIRE) != sec)
            continue;
        sum->bad += LOAD(s->bad);
        max = LOAD(s->max);
        sum->max = max > sum->max ? max : sum->max;
        for (unsigned i = 0; i < SQ_WINDOW_CELLS; i++) {
            uint32_t n = LOAD(s->cell[i]);

            sum->cell[i] += n;
            sum->n += n;
        }
    }
}

json_t *sq_window_slot_json(const struct sq_window_slot *s)
{
    json_t *cells = json_array();

    for (unsigned i = 0; cells && i < SQ_WINDOW_CELLS; i++)
        if (s->cell[i] > 0) {
            (void)json_array_append_new(cells, json_integer(i));
            (void)json_array_append_new(cells, json_integer(s->cell[i]));
        }
    return json_pack("{s:I,s:I,s:I,s:o}", "n", (json_int_t)s->n, "bad", (json_int_t)s->bad, "max", (json_int_t)s->max,
                     "c", cells);
}

void sq_window_put(struct sq_window_ring *w, int64_t sec, const json_t *slot)
{
    const json_t *cells = json_object_get(slot, "c");
    int64_t bad = sq_json_int_or(slot, "bad", 0), max = sq_json_int_or(slot, "max", 0);
    struct sq_window_slot *s;

    if (sec < 0)
        return;
    s = slot_of(w, sec);
    for (size_t i = 0; i + 1 < json_array_size(cells); i += 2) {
        int64_t cell = json_integer_value(json_array_get(cells, i)),
                n = json_integer_value(json_array_get(cells, i + 1));

        if (cell < 0 || cell >= SQ_WINDOW_CELLS || n < 0 || n > UINT32_MAX - s->cell[cell])
            continue;
        s->cell[cell] += (uint32_t)n;
        s->n += (uint64_t)n;
    }
    s->bad += bad > 0 ? (uint64_t)bad : 0;
    s->max = max > s->max ? max : s->max;
}

int64_t sq_window_percentile(const struct sq_window_slot *sum, double p)
{
    uint64_t want = (uint64_t)ceil(p / 100 * (double)sum->n), seen = 0;

    if (sum->n == 0)
        return 0;
    for (unsigned i = 0; i < SQ_WINDOW_CELLS; i++) {
        seen += sum->cell[i];
        if (seen >= want && seen > 0)
            return high_of(i) < sum->max ? high_of(i) : sum->max;
    }
    return sum->max;
}
