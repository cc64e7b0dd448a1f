/* What is in the mappings of a network fault (injector/net/impair.h). */
#include "squall/preset.h"

/* The defaults are tc's (iproute2 tc/q_netem.c): 0 stands for "1 - the first". */
const struct sq_param sq_impair_state_params[] = {
    {"p13", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL, "from received to lost in a burst"},
    {"p31", SQ_P_PERCENT, 0, NULL, NULL, "from lost in a burst to received (left out: 100% - p13)"},
    {"p32", SQ_P_PERCENT, 0, "0%", NULL, "from lost in a burst to received within the burst"},
    {"p23", SQ_P_PERCENT, 0, "100%", NULL, "from received within a burst to lost"},
    {"p14", SQ_P_PERCENT, 0, "0%", NULL, "from received to lost alone"},
    SQ_PARAM_END,
};

const struct sq_param sq_impair_gemodel_params[] = {
    {"p", SQ_P_PERCENT, SQ_REQUIRED, NULL, NULL, "from the good state to the bad"},
    {"r", SQ_P_PERCENT, 0, NULL, NULL, "from the bad state to the good (left out: 100% - p)"},
    {"1-h", SQ_P_PERCENT, 0, "100%", NULL, "loss in the bad state"},
    {"1-k", SQ_P_PERCENT, 0, "0%", NULL, "loss in the good state"},
    SQ_PARAM_END,
};

const struct sq_param sq_impair_slot_params[] = {
    {"min", SQ_P_DURATION, 0, NULL, NULL, "the shortest time between two slots"},
    {"max", SQ_P_DURATION, 0, NULL, NULL, "the longest (left out: as min)"},
    {"distribution", SQ_P_STRING, 0, NULL, NULL, "of the time between slots, as of the jitter"},
    {"delay", SQ_P_DURATION, 0, NULL, NULL, "with distribution: its middle"},
    {"jitter", SQ_P_DURATION, 0, NULL, NULL, "with distribution: its deviation"},
    {"packets", SQ_P_INT, 0, "0", NULL, "at most so many in a slot; 0: no limit"},
    {"bytes", SQ_P_INT, 0, "0", NULL, "at most so many in a slot; 0: no limit"},
    SQ_PARAM_END,
};
