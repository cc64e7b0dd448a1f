#include "looking.h"

#include "engine.h"
#include "squall/clock.h"

#define SHARE 5 /* one part in so many of the loop's time */

bool sq_looking_begin(struct sq_looking *l, int64_t every)
{
    l->begun = sq_mono_ns();
    if (!l->due)
        l->due = l->begun + every;
    return l->begun >= l->due;
}

void sq_looking_end(struct sq_engine *eng, struct sq_looking *l, int64_t every)
{
    int64_t *all = sq_engine_looking(eng), now = sq_mono_ns();

    *all += now - l->begun - l->took;
    l->took = now - l->begun;
    /* While each of them waits for SHARE times what one round of all takes, a round takes no more than its share. */
    l->due = now + (every > SHARE * *all ? every : SHARE * *all);
    sq_engine_beat(eng);
}

void sq_looking_over(struct sq_engine *eng, struct sq_looking *l)
{
    *sq_engine_looking(eng) -= l->took;
    *l = (struct sq_looking){0};
}
