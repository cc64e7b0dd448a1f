#!/bin/bash
# The probe against wrk and h2load, in turns, and the stall test: probe.py says how.
set -eu
exec python3 "$(dirname "$0")/probe.py" "$@"
