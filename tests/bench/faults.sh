#!/bin/bash
# Time from command to fault active and back, from halt to everything gone, and resident memory: faults.py says how.
set -eu
exec python3 "$(dirname "$0")/faults.py" "$@"
