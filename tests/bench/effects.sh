#!/bin/bash
# What faults do to packets, by netem and by the packet backend, side by side: effects.py says how.
set -eu
exec python3 "$(dirname "$0")/effects.py" "$@"
