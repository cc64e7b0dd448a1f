#!/bin/bash
# Who may include whom (ARCHITECTURE.md, Rooms). The compiler's include paths keep most of it; this keeps the rest.
set -u
bad=0
# forbid WHAT PATTERN FILES...: no file may include what matches
forbid() {
    local what=$1 pattern=$2
    shift 2
    local hits
    hits=$(grep -nE "^#include [\"<]($pattern)" "$@" 2>/dev/null)
    [ -z "$hits" ] || { echo "layers: $what"; echo "$hits"; bad=1; }
}
shopt -s nullglob
forbid "core includes only squall/ and the system" 'uv\.h|netlink|yaml\.h|curl|seccomp\.h|bpf/' injector/core/*.[ch] include/squall/*.h
forbid "verify and report never touch the network or the loop" 'uv\.h|curl|sys/socket\.h|netdb\.h|run/|probe/|yaml\.h' \
    controller/verify/*.[ch] controller/report/*.[ch]
forbid "only scenario/yaml.c uses libyaml" 'yaml\.h' $(find injector controller -name '*.[ch]' ! -path controller/scenario/yaml.c)
forbid "scenario knows nothing of running" 'uv\.h|curl|run/|probe/|report/' controller/scenario/*.[ch]
forbid "commands are on top" 'commands/' controller/{run,probe,verify,report,scenario,store}/*.[ch]
forbid "the proxy knows nothing of the engine" 'engine\.h|api\.h|keeper\.h|faults/' injector/proxy/*.[ch]
[ $bad -eq 0 ]
