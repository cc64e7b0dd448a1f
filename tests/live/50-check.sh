#!/bin/bash
# squall check, explain, completion, help and plan --offline as a person meets them: exit codes, streams, what a pipe gets.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${SQUALL_BUILD:-build}
squall=$(realpath "$build")/squall
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
unset NO_COLOR
fails=0
# expect NAME EXIT-CODE COMMAND...: runs it, keeps its streams in $tmp/out and $tmp/err
expect() {
    local name=$1 want=$2 got
    shift 2
    timeout 20 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    got=$?
    [ $got -eq "$want" ] && return 0
    echo "FAIL $name: exit $got, not $want"
    head -5 "$tmp/out" "$tmp/err"
    fails=$((fails + 1))
}
# has FILE TEXT: the stream of the last command has it
has() {
    grep -qF -- "$2" "$tmp/$1" && return 0
    echo "FAIL no \"$2\" in $1 of the last command:"
    head -5 "$tmp/$1"
    fails=$((fails + 1))
}
empty() {
    [ ! -s "$tmp/$1" ] && return 0
    echo "FAIL $1 of the last command is not empty:"
    head -5 "$tmp/$1"
    fails=$((fails + 1))
}
good=tests/golden/scenario/good.yaml
bad=tests/golden/scenario/key-misspelt-with.yaml
warn=tests/golden/scenario/decide-small-sample.yaml

# What is shipped is right.
for f in scenarios/*.yaml scenarios/slo/*.yaml; do
    expect "shipped $f" 0 "$squall" check "$f"
done
sed -n '/^```yaml$/,/^```$/p' SCENARIO.md | sed '/^```$/q' | grep -v '^```' >"$tmp/reference.yaml"
expect "the example of SCENARIO.md" 0 "$squall" check "$tmp/reference.yaml"
sed -n '/^## SLO files/,/^## What/p' SCENARIO.md | sed -n '/^```yaml$/,/^```$/p' | grep -v '^```' >"$tmp/slos.yaml"
expect "the SLO file of SCENARIO.md" 0 "$squall" check --strict "$tmp/slos.yaml"
"$squall" explain scenario | sed -n '/^apiVersion/,$p' >"$tmp/explained.yaml"
expect "the example of explain" 0 "$squall" check --strict "$tmp/explained.yaml"

# SLO files, by what is in them
expect "an SLO file as JSON" 0 "$squall" check --json tests/golden/slo/openslo.yaml
has out '"source": "prometheus"'
empty err
expect "a bad SLO file" 2 "$squall" check tests/golden/slo/short-errors.yaml
has err "tests/golden/slo/short-errors.yaml:15:10: objective typo: unknown key \"traget\""
empty out
expect "one that is passed over" 0 "$squall" check tests/golden/slo/openslo-passed-over.yaml
has err "SLO ratio-slices is passed over"
expect "strict" 2 "$squall" check --strict tests/golden/slo/openslo-passed-over.yaml
expect "--approve alone" 2 "$squall" run $good --approve ana
has err "--approve and --reason go together"

# check
expect good 0 "$squall" check $good
has out "$good: ok"
empty err
expect quiet 0 "$squall" check -q $good
empty out
expect bad 2 "$squall" check $bad
has err "$bad:18:71: step slow: call/latency: unknown key \"dealy\""
has err "  hint: did you mean \"delay\"?"
empty out
expect "one of several is bad" 2 "$squall" check $good $bad $good
has out "$good: ok"
expect warning 0 "$squall" check $warn
has err "warning:"
expect strict 2 "$squall" check --strict $warn
expect json 0 "$squall" check --json $good
python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert d["spec"]["steps"][0]["with"]["delay"] == 2000000000' "$tmp/out" || fails=$((fails + 1))
expect "a variable" 0 "$squall" check --var rate=1/s <(sed 's,100/s,"${rate}",' $good)
expect "an unknown variable" 2 "$squall" check --var rte=1/s $good
has err "the scenario has no such variable"
expect "no variable" 2 "$squall" check --var rate $good
expect missing 2 "$squall" check "$tmp/none.yaml"
has err "No such file"
expect directory 2 "$squall" check "$tmp"
head -c 100000000 /dev/zero >"$tmp/zero.yaml"
expect "100 MB" 2 "$squall" check "$tmp/zero.yaml"
has err "1 MiB"
head -c 500000 /dev/urandom >"$tmp/junk.yaml"
expect junk 2 "$squall" check "$tmp/junk.yaml"
expect endless 2 "$squall" check /dev/zero
for opens in '[' '{a: ' '- ' '? '; do
    yes -- "$opens" | tr -d '\n' | head -c 900000 >"$tmp/bomb.yaml"
    expect "bomb $opens" 2 "$squall" check "$tmp/bomb.yaml"
done
expect "colour only on terminals" 2 "$squall" check $bad
grep -q $'\033' "$tmp/err" && { echo "FAIL colour in a file"; fails=$((fails + 1)); }
TERM=xterm script -qec "$squall check $bad" /dev/null </dev/null >"$tmp/out" 2>&1
grep -q $'\033' "$tmp/out" || { echo "FAIL no colour on a terminal"; fails=$((fails + 1)); }
NO_COLOR=1 script -qec "$squall check $bad" /dev/null </dev/null >"$tmp/out" 2>&1
grep -q $'\033' "$tmp/out" && { echo "FAIL colour in spite of NO_COLOR"; fails=$((fails + 1)); }
expect "a full disk" 5 bash -c "\"$squall\" check --json $good >/dev/full"

# the frame
expect "no verb" 2 "$squall"
expect help 0 "$squall" --help
has out "verbs:"
for verb in $(sed -n 's/^COMMAND(\(.*\))$/\1/p' controller/commands/commands.def); do
    expect "help $verb" 0 "$squall" help "$verb"
    cp "$tmp/out" "$tmp/help"
    expect "$verb --help" 0 "$squall" "$verb" --help
    cmp -s "$tmp/out" "$tmp/help" || { echo "FAIL help $verb and $verb --help differ"; fails=$((fails + 1)); }
done
expect version 0 "$squall" --version
expect "a misspelt verb" 2 "$squall" chekc
has err 'did you mean "squall check"?'
expect "a misspelt option" 2 "$squall" check --srict $good
has err "did you mean --strict?"
expect "an option without its value" 2 "$squall" check $good --var
expect "no argument" 2 "$squall" check
expect "one argument too many" 2 "$squall" completion bash bash
has err "one argument too many"
expect "options behind arguments" 0 "$squall" check $good --quiet
empty out
expect "an argument that looks like an option" 2 "$squall" check -- --quiet
has err "No such file"

# explain
expect explain 0 "$squall" explain
for name in $("$squall" explain --names); do
    expect "explain $name" 0 "$squall" explain "$name"
done
for key in attach existing except first every after match silent_for names services edges open_for; do
    expect "explain the key $key" 0 "$squall" explain "$key"
done
expect "explain nothing" 2 "$squall" explain circuit_braker
has err 'did you mean "circuit_breaker"?'

# plan, without an injector
expect plan 2 "$squall" plan --offline $good # its programs are not there
has out 'there is no program "web"'
has out "call/latency"
free=$(PYTHONPATH=tests python3 -c 'from squall import port_is_free
print(next(p for p in range(20080, 30000, 3) if all(port_is_free(p + i) for i in range(3))))')
sed "s/command: \[web/command: [sleep/; s/command: \[app/command: [sleep/; s/8080/$free/; s/8090/$((free + 2))/" $good >"$tmp/plan.yaml"
expect "a plan that works" 0 "$squall" plan --offline "$tmp/plan.yaml"
expect "a plan as JSON" 0 "$squall" plan --offline --json "$tmp/plan.yaml"
python3 - "$tmp/out" "$free" <<'PY' || fails=$((fails + 1))
import json, sys
p, port = json.load(open(sys.argv[1])), int(sys.argv[2])
assert [(s["what"], s["at"] // 10**9, s["for"] // 10**9) for s in p["timeline"]] == [
    ("steady_state", 0, 5), ("fault", 5, 40), ("settle", 45, 10), ("wait", 55, 5), ("fault", 60, 10), ("settle", 70, 10)]
assert [s["command"][1:] for s in p["services"] if s["service"] == "web"] == [[str(port)], [str(port + 1)]]
assert p["total"] == 80 * 10**9 and p["faults"] == ["call/latency", "process/kill"] and p["problems"] == []
PY

# completion: what bash would offer
offers() { # WORDS... : the completions of the last word
    squall_path=$squall bash --norc -c '
        source <("$squall_path" completion bash)
        COMP_WORDS=("$squall_path" "$@"); COMP_CWORD=$#; COMPREPLY=()
        _squall 2>/dev/null; printf "%s\n" "${COMPREPLY[@]}"' offers "$@"
}
same() { # WANT GOT
    [ "$1" = "$2" ] && return 0
    echo "FAIL completion: \"$2\", not \"$1\""
    fails=$((fails + 1))
}
same check "$(offers che)"
same --strict "$(offers check --st)"
same --approve "$(offers run --app)"
same compare "$(offers comp | grep -v completion)"
same baseline "$(offers base)"
same probe "$(offers pro)"
same --min-runs "$(offers compare --min)"
same --threshold "$(offers probe --thres)"
same performance_budget "$(offers explain performance_)"
same circuit_breaker "$(offers explain circ)"
same bash "$(offers completion b)"
same scenarios/network-partition.yaml "$(offers check scenarios/network-p)"
same "" "$(offers check --var x)"

[ $fails -eq 0 ] && echo "all right"
[ $fails -eq 0 ]
