#!/bin/bash
# The proxy (as Toxiproxy's API drives it) against HAProxy in TCP mode, nginx's stream module and a direct connection: proxy.py says how.
set -eu
exec python3 "$(dirname "$0")/proxy.py" "$@"
