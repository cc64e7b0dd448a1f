#!/bin/bash
# What judging an hour of evidence costs: see verify.py.
exec python3 "$(dirname "$0")/verify.py" "$@"
