# Squall. `make demo` shows it at work, `make check` tests it; both install what they need first (deps.sh says what).
#   make                                  build/squall, build/squalld, build/shop
#   make install DESTDIR= PREFIX=/usr/local
#   make check | check-all | check-vm     the tests: all; all and the long ones; those that need a kernel with netem
#   make check-mutants                    the kill matrix: the verifier against a shop broken in one way at a time
#   make SANITIZE=address,undefined check
#   make bench | fuzz | lint | format | compile_commands.json
# Variables: WERROR=1 (CI), V=1 (show commands), FUZZ_SECONDS, DEMO_ARGS, BROKEN.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:

SANITIZE ?=
comma := ,
BUILD ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))
PREFIX ?= /usr/local
DESTDIR ?=
CC = gcc
CLANG ?= clang
BPFTOOL ?= $(shell command -v bpftool || echo /usr/sbin/bpftool)
Q = $(if $(V),,@)

PKGS := libuv jansson libmicrohttpd libcurl yaml-0.1 libseccomp libnl-3.0 libnl-route-3.0 libbpf libcap-ng libpcre2-8 libnftables zlib openssl libnghttp2
# Recursive on purpose: asked only when a recipe needs it, so that `make deps` works before pkg-config is there.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
LLHTTP_SYSTEM := $(wildcard /usr/include/llhttp.h)
LLHTTP_DIR := /usr/share/llhttp
LLHTTP_OBJ := $(if $(LLHTTP_SYSTEM),,$(addprefix $(BUILD)/llhttp/,llhttp.o api.o http.o))
LLHTTP_INC := $(if $(LLHTTP_SYSTEM),,-isystem /usr/share/include/llhttp -isystem /usr/include/llhttp)

WARN := -Wall -Wextra -Wshadow -Wformat=2 -Wvla -Wundef -Wconversion -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes \
        -Wswitch-enum -Wnull-dereference -Wno-missing-field-initializers $(if $(WERROR),-Werror)
OPT ?= -O2 -g
HARDEN := -fPIE -fstack-protector-strong $(if $(SANITIZE),,-D_FORTIFY_SOURCE=2)
SAN := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
CFLAGS = -std=gnu11 -D_GNU_SOURCE $(OPT) $(WARN) $(HARDEN) $(SAN) -MMD -MP $(PKG_CFLAGS) $(LLHTTP_INC) $(EXTRA_CFLAGS)
LDFLAGS = -pie -Wl,-z,relro,-z,now $(SAN)
LIBS_D := -lmicrohttpd -luv -ljansson -lseccomp -lbpf -lnl-route-3 -lnl-3 -lcap-ng -lpcre2-8 -lnftables -lnghttp2 -lz -lpthread -lm $(if $(LLHTTP_SYSTEM),-lllhttp)
LIBS_C := -lcurl -lssl -lcrypto -lnghttp2 -lz -lyaml -luv -ljansson -lpcre2-8 -lpthread -lm $(if $(LLHTTP_SYSTEM),-lllhttp)

# Rooms. Each sees only the headers of the rooms it may use.
CORE := $(wildcard injector/core/*.c)
FAULTS := $(filter-out injector/faults/kinds.c,$(wildcard injector/faults/*.c))
INJ := $(wildcard injector/*.c injector/faults/*.c injector/net/*.c injector/packet/*.c injector/intercept/[!_]*.c injector/proxy/*.c)
INJ := $(filter-out %.bpf.c,$(INJ))
CTL := $(wildcard controller/*.c controller/*/*.c)
SHOP := $(wildcard scenarios/shop/*.c)
BPF := $(wildcard injector/*/*.bpf.c)
SKEL := $(patsubst %.bpf.c,$(BUILD)/bpf/%.skel.h,$(notdir $(BPF)))

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
CORE_OBJ := $(call obj,$(CORE)) $(patsubst injector/faults/%.c,$(BUILD)/spec/%.o,$(FAULTS))
INJ_OBJ := $(call obj,$(INJ))
CTL_OBJ := $(call obj,$(CTL))
SHOP_OBJ := $(call obj,$(SHOP))

all: $(BUILD)/squall $(BUILD)/squalld $(BUILD)/shop

$(BUILD)/injector/core/%.o: injector/core/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Iinclude -c -o $@ $<
$(BUILD)/spec/%.o: injector/faults/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -DSQ_SPEC_ONLY -Iinclude -Iinjector -c -o $@ $<
$(BUILD)/injector/%.o: injector/%.c $(SKEL)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Iinclude -Iinjector -isystem $(BUILD)/bpf -c -o $@ $<
$(BUILD)/controller/%.o: controller/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Iinclude -Icontroller -c -o $@ $<
$(BUILD)/scenarios/%.o: scenarios/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Iinclude -c -o $@ $<
$(BUILD)/tests/%.o: tests/%.c $(SKEL)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -Iinclude -Iinjector -Icontroller -Itests -isystem $(BUILD)/bpf -c -o $@ $<
$(BUILD)/llhttp/%.o: $(LLHTTP_DIR)/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g -fPIE $(SAN) -w $(LLHTTP_INC) -c -o $@ $<
vpath %.bpf.c injector/intercept injector/net injector/packet
$(BUILD)/bpf/%.bpf.o: %.bpf.c $(wildcard injector/proxy/wire.h injector/intercept/*.h injector/net/*.h injector/packet/*.h)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -target bpf -mcpu=v3 -ffreestanding -O2 -g -Wall -Iinclude -Iinjector -I/usr/include/$(shell uname -m)-linux-gnu -c -o $@ $<
$(BUILD)/bpf/%.skel.h: $(BUILD)/bpf/%.bpf.o
	$(Q)$(BPFTOOL) gen skeleton $< name $* > $@

$(BUILD)/libsquall.a: $(CORE_OBJ)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(BUILD)/libinjector.a: $(filter-out %/injector/main.o,$(INJ_OBJ)) $(LLHTTP_OBJ)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(BUILD)/libcontroller.a: $(filter-out %/controller/main.o,$(CTL_OBJ)) $(LLHTTP_OBJ)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(BUILD)/squalld: $(BUILD)/injector/main.o $(BUILD)/libinjector.a $(BUILD)/libsquall.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_D)
$(BUILD)/squall: $(BUILD)/controller/main.o $(BUILD)/libcontroller.a $(BUILD)/libsquall.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_C)
$(BUILD)/shop: $(SHOP_OBJ) $(LLHTTP_OBJ) $(BUILD)/libsquall.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -luv -ljansson -lpthread -lm $(if $(LLHTTP_SYSTEM),-lllhttp)

# Tests: tests/unit/test_*.c (cmocka, one binary a module), tests/live/* (scripts), tests/bench/*.c, tests/fuzz/fuzz_*.c
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))
TOOLS := $(patsubst tests/live/%.c,$(BUILD)/tests/live/%,$(wildcard tests/live/*.c))
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(wildcard tests/bench/*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
TEST_LIBS := $(BUILD)/libinjector.a $(BUILD)/libcontroller.a $(BUILD)/libsquall.a
$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(TEST_LIBS)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(LIBS_D) $(LIBS_C)
$(BUILD)/tests/live/%: $(BUILD)/tests/live/%.o $(TEST_LIBS)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_D) $(LIBS_C)
$(BUILD)/tests/bench/%: $(BUILD)/tests/bench/%.o $(TEST_LIBS)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS_D) $(LIBS_C)
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(TEST_LIBS)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS_D) $(LIBS_C)
$(addprefix $(BUILD)/tests/fuzz/,fuzz_evidence fuzz_slo): LDFLAGS += -Wl,--wrap=free


# --- what people type -------------------------------------------------------------------------------------------------
LIVE := $(sort $(wildcard tests/live/[0-9]*.sh tests/live/[0-9]*.py))
# They take the longest: left to check-all, whose sanitizers run all that is live.
SLOW := $(patsubst %,tests/live/%.py,21-network-effects 23-packet-bulk 23-packet-moments 23-packet-others \
    24-partition-death 26-network-spared 30-proxy-synhold 32-edge-bytes 35-http2-calls 43-netns-deaths 43-nft-deaths \
    44-attach-run 47-inject-all 47-metrics 48-dns-caches 48-dns-runtimes 81-probe-load 83-probe-hosts)
VM := $(sort $(wildcard tests/vm/[0-9]*.py))
LONG := $(sort $(wildcard tests/long/*.sh tests/long/*.py))
export SQUALL_BUILD = $(abspath $(BUILD))
SAN_ENV := ASAN_OPTIONS=abort_on_error=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# Live tests mostly wait: two at a time. What measures (unit tests of the probe, benchmarks) is alone.
RUN := $(if $(SANITIZE),$(SAN_ENV)) tests/run

deps:
	@./deps.sh build
demo:
	@./deps.sh demo
	@$(MAKE) --no-print-directory -q all >/dev/null 2>&1 || echo "building (the first time takes a few minutes)"
	@$(MAKE) --no-print-directory -s all
	@$(BUILD)/squall run scenarios/demo.yaml --var broken=$(or $(BROKEN),none) $(DEMO_ARGS)
	@$(MAKE) --no-print-directory demo-network
# In a network namespace of its own, so that no packet of this machine's is touched.
demo-network:
	@if unshare --net true 2>/dev/null; then \
	    unshare --net sh -c 'ip link set lo up && exec "$$@"' demo $(BUILD)/squall run scenarios/demo-network.yaml \
	        --var broken=$(or $(BROKEN),none) $(DEMO_ARGS); \
	else echo "the demo's second half, a bad network, needs root: sudo make demo"; fi

check:
	@./deps.sh check
	@$(MAKE) --no-print-directory run-check
run-check: all $(UNIT) $(TOOLS)
	@tests/layers.sh
	@rc=0; $(RUN) -t $(if $(SANITIZE),400,200) $(UNIT) || rc=1; \
	$(if $(LIVE),$(RUN) -j 2 -t $(if $(SANITIZE),600,240) $(if $(SANITIZE),$(LIVE),$(filter-out $(SLOW),$(LIVE))) || rc=1;) exit $$rc
check-unit: $(UNIT)
	@$(RUN) $(UNIT)
# The long ones: the whole suite under the sanitizers, storms, the demo over and over, breakers that others wrote, the
# kill matrix, a kernel with netem, the fuzzers for a while (from a seed that is the commit's: what fails, fails again).
# One that fails does not hide what the next would say.
check-all:
	@./deps.sh all
	@FUZZ_SEED=$$((0x0$$(git rev-parse HEAD 2>/dev/null | cut -c1-7))) \
	    $(MAKE) --no-print-directory -k -j1 FUZZ_SECONDS=15 run-sanitized run-long run-mutants run-vm fuzz
run-sanitized:
	@$(MAKE) --no-print-directory SANITIZE=address,undefined run-check
# What people see, and what looks at the whole host, are alone; the others mostly wait, and run two at a time.
ALONE := tests/long/10-demo.py tests/long/20-storm.py
run-long: all $(TOOLS)
	@rc=0; tests/run -t 1500 $(ALONE) || rc=1; \
	tests/run -j 2 -t 1500 $(filter-out $(ALONE),$(LONG)) || rc=1; exit $$rc
# MATRIX=MATRIX.md writes the table, too.
check-mutants:
	@./deps.sh check
	@$(MAKE) --no-print-directory run-mutants
run-mutants: all
	@tests/mutants/run.py
check-vm:
	@./deps.sh check
	@$(MAKE) --no-print-directory run-vm
run-vm: all $(BUILD)/tests/unit/test_netem
	@tests/run -t 600 $(VM)

bench: all $(BENCHES)
	@./deps.sh all
	@for b in $(BENCHES) $(sort $(wildcard tests/bench/*.sh)); do echo "== $$b"; $$b || exit 1; done

FUZZ_SECONDS ?= 60
fuzz:
	@./deps.sh all
	@$(MAKE) --no-print-directory BUILD=build/fuzz CC=$(CLANG) SANITIZE=fuzzer-no-link,address,undefined WERROR= run-fuzz
run-fuzz: $(FUZZERS)
	@rc=0; for f in $(FUZZERS); do tests/fuzz/run $$f $(FUZZ_SECONDS) || rc=1; done; exit $$rc

lint:
	@./deps.sh all
	@cppcheck --quiet --enable=warning,portability --inline-suppr --error-exitcode=1 --suppress=missingIncludeSystem \
	    --include=tests/lint/cppcheck.h $(addprefix -i ,$(BPF)) -Iinclude -Iinjector -Icontroller \
	    injector controller scenarios
	@$(MAKE) --no-print-directory compile_commands.json
	@clang-tidy --quiet -p . $(filter-out %.bpf.c,$(CORE) $(INJ) $(CTL) $(SHOP))
SOURCES = $(shell git ls-files '*.c' '*.h')
format:
	@clang-format -i $(SOURCES)
check-format:
	@clang-format --dry-run -Werror $(SOURCES)
compile_commands.json: Makefile
	@$(MAKE) --no-print-directory -Bn V=1 all | python3 tests/compile_commands.py > $@

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/doc/squall/scenarios
	install -m 755 $(BUILD)/squall $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(BUILD)/squalld $(DESTDIR)$(PREFIX)/sbin/
	for n in 1 5 8; do for m in controller/man/*.$$n; do [ ! -e $$m ] || \
	    install -m 644 $$m $(DESTDIR)$(PREFIX)/share/man/man$$n/; done; done
	$(BUILD)/squall completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/squall
	install -m 644 scenarios/*.yaml $(DESTDIR)$(PREFIX)/share/doc/squall/scenarios/
	install -m 644 README.md ARCHITECTURE.md API.md EVIDENCE.md SCENARIO.md MATRIX.md LICENSE $(DESTDIR)$(PREFIX)/share/doc/squall/
clean:
	rm -rf build compile_commands.json

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all deps demo demo-network check run-check check-unit check-all run-sanitized run-long check-mutants run-mutants check-vm \
    run-vm bench fuzz run-fuzz lint format check-format install clean
.DEFAULT_GOAL := all
