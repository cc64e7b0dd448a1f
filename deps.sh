#!/bin/bash
# Installs what is missing from the distribution (Debian, Ubuntu), says what, and does nothing when all is there.
#   ./deps.sh build | demo | check | all [--dry-run]
# Uses sudo when not root; where there is no sudo it names the packages and stops.
set -u

# package, then how to see that it is there: cmd NAME, pc PKG-CONFIG-NAME, or file PATH
build='
gcc                   cmd gcc
libc6-dev             file /usr/include/stdlib.h
pkg-config            cmd pkg-config
clang                 cmd clang
bpftool               cmd bpftool
libuv1-dev            pc libuv
libjansson-dev        pc jansson
libmicrohttpd-dev     pc libmicrohttpd
libcurl4-openssl-dev  pc libcurl
libyaml-dev           pc yaml-0.1
libseccomp-dev        pc libseccomp
libnl-3-dev           pc libnl-3.0
libnl-route-3-dev     pc libnl-route-3.0
libbpf-dev            pc libbpf
libcap-ng-dev         pc libcap-ng
libpcre2-dev          pc libpcre2-8
libnftables-dev       pc libnftables
zlib1g-dev            pc zlib
libssl-dev            pc openssl
libnghttp2-dev        pc libnghttp2
node-llhttp           file /usr/share/llhttp/llhttp.c
'
demo="$build"'
iproute2              cmd ip
'
check="$demo"'
libcmocka-dev         pc cmocka
python3               cmd python3
curl                  cmd curl
procps                cmd ps
nftables              cmd nft
dnsmasq-base          cmd dnsmasq
nginx-light           cmd nginx
openssl               cmd openssl
redis-server          cmd redis-server
postgresql            file /usr/share/postgresql-common/pg_wrapper
python3-grpcio        file /usr/lib/python3/dist-packages/grpc/__init__.py
nodejs                cmd node
nghttp2-client        cmd h2load
nghttp2-server        cmd nghttpd
strace                cmd strace
user-mode-linux       cmd linux.uml
'
all="$check"'
openssh-server        cmd sshd
openssh-client        cmd ssh
npm                   cmd npm
prometheus            cmd prometheus
prometheus-alertmanager cmd prometheus-alertmanager
wrk                   cmd wrk
musl-tools            cmd musl-gcc
nscd                  cmd nscd
clang-format          cmd clang-format
clang-tidy            cmd clang-tidy
cppcheck              cmd cppcheck
libclang-rt-14-dev    file /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-x86_64.a
chromium              cmd chromium
haproxy               cmd haproxy
libnginx-mod-stream   file /usr/lib/nginx/modules/ngx_stream_module.so
default-jdk-headless  cmd javac
golang-go             cmd go
python3-circuitbreaker file /usr/lib/python3/dist-packages/circuitbreaker.py
'

PATH=$PATH:/usr/sbin:/sbin
case "${1:-}" in
build) want=$build ;;
demo) want=$demo ;;
check) want=$check ;;
all) want=$all ;;
*)
    echo "usage: $0 build|demo|check|all [--dry-run]" >&2
    exit 2
    ;;
esac

missing=()
while read -r package how what; do
    [ -n "$package" ] || continue
    case "$how" in
    cmd) command -v "$what" >/dev/null ;;
    pc) pkg-config --exists "$what" 2>/dev/null ;;
    file) [ -e "$what" ] ;;
    esac || missing+=("$package")
done <<<"$want"
# Newer distributions have llhttp as a library.
[ ! -e /usr/include/llhttp.h ] || missing=("${missing[@]/node-llhttp/}")
read -ra missing <<<"${missing[*]:-}"

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "${2:-}" = --dry-run ]; then
    echo "${missing[*]}"
    exit 0
fi
command -v apt-get >/dev/null || {
    echo "deps: this system has no apt-get; please install the equivalents of: ${missing[*]}" >&2
    exit 5
}
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "deps: not root, and there is no sudo; please have these installed: ${missing[*]}" >&2
        exit 5
    }
    as_root=(sudo)
fi
echo "deps: installing from the distribution: ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null || {
    echo "deps: the distribution could not install them (see above)" >&2
    exit 5
}
# Debian starts the daemons of what it installs; the tests start their own, and this machine wanted none.
[ -d /run/systemd/system ] || exit 0
for package in "${missing[@]}"; do
    case "$package" in
    nginx-light) unit=nginx ;;
    openssh-server) unit=ssh ;;
    haproxy | nscd | postgresql | prometheus | prometheus-alertmanager | redis-server) unit=$package ;;
    *) continue ;;
    esac
    "${as_root[@]}" systemctl disable --now --quiet "$unit" &&
        echo "deps: the service $unit came with its package and is switched off (systemctl enable --now $unit)"
done
exit 0
