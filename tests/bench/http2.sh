#!/bin/bash
# HTTP/2 through the proxy, idle and with faults armed, against a direct connection: http2.py says how.
set -eu
exec python3 "$(dirname "$0")/http2.py" "$@"
