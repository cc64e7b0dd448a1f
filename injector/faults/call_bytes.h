/* What the faults on the bytes of an edge have in common in their schemas. */
#ifndef SQUALL_FAULTS_CALL_BYTES_H
#define SQUALL_FAULTS_CALL_BYTES_H

#include "squall/spec.h"

#define SQ_PARAM_STREAM                                                                                                \
    {                                                                                                                  \
        "stream", SQ_P_ENUM, 0, "downstream", "downstream|upstream",                                                   \
            "downstream: bytes to the caller; upstream: from it"                                                       \
    }

/* Of those that act on datagrams, too. */
#define SQ_PARAM_STREAM_DGRAM                                                                                          \
    {                                                                                                                  \
        "stream", SQ_P_ENUM, 0, "downstream", "downstream|upstream|both",                                              \
            "downstream: to the caller; upstream: from it; both: datagrams (protocol: udp or dns) either way"          \
    }

#endif
