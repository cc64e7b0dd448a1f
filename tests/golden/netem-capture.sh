#!/bin/bash
# Captures what tc itself sends for many combinations (needs strace and iproute2, no netem in the kernel):
#   tests/golden/netem-capture.sh > tests/golden/netem.txt
# A line: delay_ns jitter_ns correlation loss limit | TCA_OPTIONS in hex
set -eu
capture() {
    unshare -rn strace -xx -s 4096 -e trace=sendmsg tc qdisc add dev lo root handle 5c1a: netem "$@" 2>&1 |
        grep -m1 RTM_NEWQDISC | sed -E 's/.*nla_type=TCA_OPTIONS\}, "([^"]*)".*/\1/; s/\\x//g'
}
# tc's netem takes microseconds at the finest.
time_of() { echo "$(($1 / 1000)).$(printf '%03d' $(($1 % 1000)))us"; }
for delay in 0 1000 100000 1000000 99999000 100000000 2500000000 270000000000; do
    for jitter in 0 5000 10000000; do
        [ "$jitter" -le "$delay" ] || continue
        for correlation in 0 25 33.3; do
            [ "$correlation" = 0 ] || [ "$jitter" != 0 ] || continue
            for loss in 0 0.1 1 50 100; do
                args=(limit 12345)
                [ "$delay" = 0 ] || args+=(delay "$(time_of $delay)")
                [ "$jitter" = 0 ] || args+=("$(time_of $jitter)")
                [ "$correlation" = 0 ] || args+=("$correlation%")
                [ "$loss" = 0 ] || args+=(loss "$loss%")
                echo "$delay $jitter $correlation $loss 12345 | $(capture "${args[@]}")"
            done
        done
    done
done
