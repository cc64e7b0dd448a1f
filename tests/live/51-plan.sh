#!/bin/bash
# squall plan with an injector: it finds the processes that a run would hit, touches none, and leaves nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${SQUALL_BUILD:-build}
squall=$(realpath "$build")/squall
tmp=$(mktemp -d) || exit 1
export SQUALL_RUN_DIR=$tmp/run
mkdir "$SQUALL_RUN_DIR"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$tmp"' EXIT
# A name that no other process has.
tag=3141$$
for _ in 1 2 3; do
    sleep $tag &
    pids+=($!)
done
fails=0
fail() {
    echo "FAIL $1"
    cat "$tmp/out" "$tmp/err"
    fails=$((fails + 1))
}
plan() { # EXIT-CODE SCENARIO-STEPS [OPTIONS...]
    local want=$1 steps=$2 got
    shift 2
    printf 'apiVersion: squall/v1\nkind: Scenario\nmetadata: {name: t}\nspec:\n  services: {nap: {select: {pattern: "^sleep %s$"}}}\n  steps: [%s]\n  verify: [{check: clean}]\n' \
        "$tag" "$steps" >"$tmp/s.yaml"
    timeout 40 "$squall" plan "$@" "$tmp/s.yaml" >"$tmp/out" 2>"$tmp/err" </dev/null
    got=$?
    [ $got -eq "$want" ] || fail "exit $got, not $want: $steps"
}
plan 0 '{id: a, uses: process/kill, target: {service: nap, count: all}, duration: 1s}'
for pid in "${pids[@]}"; do
    grep -q -- "-> pid $pid sleep $tag" "$tmp/out" || fail "pid $pid is not in the plan"
done
plan 0 '{id: a, uses: process/pause, target: {service: nap, count: 30%}, duration: 1s}' --json
python3 - "$tmp/out" "${pids[@]}" <<'PY' || fail "the JSON plan"
import json, sys
p = json.load(open(sys.argv[1]))
hit = p["timeline"][0]["hit"]
assert sorted(h["pid"] for h in hit) == sorted(map(int, sys.argv[2:])), hit
assert sum(h["chosen"] for h in hit) == 1, hit
assert [n["name"] for n in p["needs"]] == ["process/pause"] and p["needs"][0]["ok"], p["needs"]
PY
# How an edge's calls are taken is the edge's own, where it is attached by seccomp.
if [ "$(id -u)" = 0 ] && [ "$(uname -m)" = x86_64 ]; then
    printf 'apiVersion: squall/v1\nkind: Scenario\nmetadata: {name: t}\nspec:\n  services: {nap: {select: {pid: %s}}}\n  edges: {nap->x: {from: nap, to: ["127.0.0.1:9"], attach: seccomp}}\n  steps: [{id: a, uses: call/error, target: {edge: nap->x}, with: {errno: EIO}, duration: 1s}]\n  verify: [{check: clean}]\n' \
        "${pids[0]}" >"$tmp/s.yaml"
    timeout 40 "$squall" plan --json "$tmp/s.yaml" >"$tmp/out" 2>"$tmp/err" </dev/null || fail "attach: seccomp"
    python3 - "$tmp/out" <<'PY' || fail "what attach: seccomp needs"
import json, sys
needs = {n["name"]: n for n in json.load(open(sys.argv[1]))["needs"]}
assert needs["call/error"]["how"] == "seccomp, attached" and needs["attach"]["ok"], needs
PY
fi
# A host name of an edge is looked up, and a port that somebody has already is told of.
python3 -c 'import socket, time
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); time.sleep(60)' >"$tmp/port" &
pids+=($!)
for _ in $(seq 100); do [ -s "$tmp/port" ] && break; sleep 0.1; done
port=$(cat "$tmp/port")
printf 'apiVersion: squall/v1\nkind: Scenario\nmetadata: {name: t}\nspec:\n  services: {app: {command: [sleep, "9"], port: %s}}\n  edges: {app->x: {from: app, to: ["localhost:9"]}}\n  steps: [{id: a, uses: call/error, target: {edge: app->x}, with: {errno: ECONNREFUSED}, duration: 1s}]\n  verify: [{check: clean}]\n' \
    "$port" >"$tmp/s.yaml"
timeout 40 "$squall" plan "$tmp/s.yaml" >"$tmp/out" 2>"$tmp/err" </dev/null
[ $? -eq 5 ] || fail "a port that is taken: the exit code"
grep -q "something else has port $port" "$tmp/out" || fail "a port that is taken is not told of"
grep -q "localhost is .*127.0.0.1.* now" "$tmp/out" || fail "what a name means is not in the plan"
plan 2 '{id: a, uses: process/kill, target: {pattern: "^no such process anywhere$"}, duration: 1s}'
grep -q "step a: " "$tmp/out" || fail "what is not there is not named"
plan 5 '{id: a, uses: process/kill, target: {service: nap}, duration: 1s}' --injector "$tmp/none.sock"
for pid in "${pids[@]}"; do
    [ "$(awk '/^State:/ {print $2}' "/proc/$pid/status" 2>/dev/null)" = S ] || fail "process $pid was touched"
done
for _ in $(seq 50); do
    [ -z "$(ls -A "$SQUALL_RUN_DIR")" ] && break
    sleep 0.1
done
[ -z "$(ls -A "$SQUALL_RUN_DIR")" ] || { ls -AR "$SQUALL_RUN_DIR"; fail "something is left in the run directory"; }
[ $fails -eq 0 ] && echo "all right"
[ $fails -eq 0 ]
