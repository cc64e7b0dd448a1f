# Squall. `make demo` shows it at work, `make check` tests it; both install what they need first (deps.sh says what).
#   make                                  build/squall, build/squalld, build/shop
#   make install DESTDIR= PREFIX=/usr/local
#   make check | check-all | check-vm     the tests: all; all and the long ones; those that need a kernel with netem
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

PKGS := libuv jansson libmicrohttpd libcurl yaml-0.1 libseccomp libnl-3.0 libnl-route-3.0 libbpf libcap-ng
# Recursive on purpose: asked only when a recipe needs it, so that `make deps` works before pkg-config is there.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
LLHTTP_SYSTEM := $(wildcard /usr/include/llhttp.h)
LLHTTP_DIR := /usr/share/llhttp
LLHTTP_OBJ := $(if $(LLHTTP_SYSTEM),,$(addprefix $(BUILD)/llhttp/,llhttp.o api.o http.o))
LLHTTP_INC := $(if $(LLHTTP_SYSTEM),,-isystem /usr/share/include/llhttp -isystem /usr/include/llhttp)

WARN := -Wall -Wextra -Wshadow -Wformat=2 -Wvla -Wundef -Wconversion -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes \
        -Wswitch-enum -Wnull-dereference $(if $(WERROR),-Werror)
OPT ?= -O2 -g
HARDEN := -fPIE -fstack-protector-strong $(if $(SANITIZE),,-D_FORTIFY_SOURCE=2)
SAN := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
CFLAGS = -std=gnu11 -D_GNU_SOURCE $(OPT) $(WARN) $(HARDEN) $(SAN) -MMD -MP $(PKG_CFLAGS) $(LLHTTP_INC) $(EXTRA_CFLAGS)
LDFLAGS = -pie -Wl,-z,relro,-z,now $(SAN)
LIBS_D := -lmicrohttpd -luv -ljansson -lseccomp -lbpf -lnl-route-3 -lnl-3 -lcap-ng -lpthread -lm $(if $(LLHTTP_SYSTEM),-lllhttp)
LIBS_C := -lcurl -lyaml -luv -ljansson -lpthread -lm $(if $(LLHTTP_SYSTEM),-lllhttp)

# Rooms. Each sees only the headers of the rooms it may use.
CORE := $(wildcard injector/core/*.c)
FAULTS := $(filter-out injector/faults/kinds.c,$(wildcard injector/faults/*.c))
INJ := $(wildcard injector/*.c injector/faults/*.c injector/net/*.c injector/intercept/[!_]*.c injector/proxy/*.c)
INJ := $(filter-out %.bpf.c,$(INJ))
CTL := $(wildcard controller/*.c controller/*/*.c)
SHOP := $(wildcard scenarios/shop/*.c)
BPF := $(wildcard injector/intercept/*.bpf.c)
SKEL := $(BPF:injector/intercept/%.bpf.c=$(BUILD)/bpf/%.skel.h)

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
$(BUILD)/bpf/%.bpf.o: injector/intercept/%.bpf.c $(wildcard injector/proxy/wire.h injector/intercept/*.h)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -target bpf -O2 -g -Wall -Iinclude -Iinjector -I/usr/include/$(shell uname -m)-linux-gnu -c -o $@ $<
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

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all
