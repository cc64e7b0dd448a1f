#!/bin/bash
# The packet backend against no fault, in turns: packets/s, TCP, round trips, and its CPU: packet.py says how.
set -eu
exec python3 "$(dirname "$0")/packet.py" "$@"
