#!/bin/bash
# 100 faults of 1,000 addresses each on one interface, applied and taken back: filters.py says how.
set -eu
exec python3 "$(dirname "$0")/filters.py" "$@"
