# rust-kata: the targets for building, testing and installing; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# auto: the tuned guest kernel if it is built, else Debian's; debian or tuned: that one; a path: your own kernel.
KERNEL ?= auto
# How many end-to-end tests run at a time: each has a containerd and virtual machines of its own.
TEST_THREADS ?= 1
# The set of tests that need KVM: smoke takes minutes, all takes more than an hour if KVM is emulated.
SUITE ?= smoke

DIST := target/dist
SHARE := $(DIST)/share/rust-kata
# The demo's tree: unoptimised, so that the first build is quick. The other tree is the one to use and install.
DEMO := target/demo
TAR = target/rust-kata-$(shell sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)-x86_64.tar.gz
BINARIES := containerd-shim-rust-kata-v2 rust-kata rust-kata-vmm

TARGET := x86_64-unknown-linux-gnu
AGENT := target/agent/$(TARGET)/agent/rust-kata-agent
# The agent is PID 1 of an otherwise empty guest: static, with libseccomp (.cargo/config.toml).
# It has a target directory of its own, since its flags differ from those of the host's binaries.
AGENT_ENV := CARGO_TARGET_DIR=target/agent RUSTFLAGS='-C target-feature=+crt-static'

# place FROM TO MODE: copies if the contents differ, by a rename, which works for a running binary, too.
define place
place() { cmp -s "$$1" "$$2" || { install -D -m "$$3" "$$1" "$$2.new" && mv "$$2.new" "$$2"; }; }
endef

.DEFAULT_GOAL := build

## make                same as make build
## make setup          install the packages for building, running and testing that are missing (Debian, root)
.PHONY: setup
setup:
	@guest/setup build run test

## make build          build everything in target/dist; with target/dist/bin in its PATH containerd finds the runtime
.PHONY: build
build: host guest

.PHONY: setup-build
setup-build:
	@guest/setup build

.PHONY: host
host: setup-build
	@$(CARGO) build --release -p rust-kata-shim -p rust-kata-hypervisor --bins
	@$(place); for name in $(BINARIES); do place target/release/$$name $(DIST)/bin/$$name 755; done
	@$(place); place runtime/config.toml $(SHARE)/config.toml 644
	@rm -rf $(DIST)/share/man/man1.new
	@$(DIST)/bin/rust-kata man $(DIST)/share/man/man1.new
	@rm -rf $(DIST)/share/man/man1 && mv $(DIST)/share/man/man1.new $(DIST)/share/man/man1

## make man            build, with the man pages in target/dist/share/man/man1
.PHONY: man
man: host

## make guest          build only the guest: agent, kernel and initrd (KERNEL=auto|debian|tuned)
.PHONY: guest
guest: agent
	@$(MAKE) initrd

.PHONY: agent
agent: setup-build
	@$(AGENT_ENV) $(CARGO) build --profile agent --target $(TARGET) -p rust-kata-agent

## make initrd         make kernel and initrd with the present agent (AGENT=path for another)
.PHONY: initrd
initrd:
	@$(place); kernel=$$(guest/kernel '$(KERNEL)'); \
	mkdir -p $(SHARE); \
	guest/make-initrd $(AGENT) "$$kernel" $(SHARE)/initrd.img; \
	place "$$kernel/vmlinux" $(SHARE)/vmlinux 644

## make kernel         build the tuned guest kernel once, and keep it in ~/.cache/rust-kata (RUST_KATA_CACHE)
.PHONY: kernel
kernel: setup-build
	@guest/tuned-kernel

## make demo           build a minimal, unoptimised tree in target/demo, run a container with it and show the output
.PHONY: demo
demo:
	@guest/step packages 'what building and running need, from the distribution' guest/setup build run
	@guest/step programs 'compiling the shim and the device server' $(CARGO) build $(DEMO_HOST)
	@guest/step agent 'compiling the guest'"'"'s PID 1, static' $(CARGO) rustc $(DEMO_AGENT)
	@guest/step guest 'kernel ($(KERNEL)) and initrd' $(MAKE) demo-tree
	@guest/step container 'running one in a virtual machine' guest/demo $(DEMO)

# Without the command line, and so without registries and TLS.
DEMO_HOST := --no-default-features -p rust-kata-shim --bin containerd-shim-rust-kata-v2 -p rust-kata-hypervisor --bin rust-kata-vmm
# Only the program itself is linked as static, so that it shares its dependencies with the others.
DEMO_AGENT := -p rust-kata-agent --bin rust-kata-agent -- -C target-feature=+crt-static

.PHONY: demo-tree
demo-tree:
	@$(place); for name in containerd-shim-rust-kata-v2 rust-kata-vmm; do place target/debug/$$name $(DEMO)/bin/$$name 755; done
	@$(place); place runtime/config.toml $(DEMO)/share/rust-kata/config.toml 644
	@strip -o $(DEMO)/rust-kata-agent target/debug/rust-kata-agent
	@$(MAKE) initrd SHARE=$(DEMO)/share/rust-kata AGENT=$(DEMO)/rust-kata-agent

## make test           build, then run all tests, including the end-to-end ones; list the ignored ones with the reason
.PHONY: test
test: build
	@guest/setup test
	@tests/support/ignored $(MAKE) test-all

.PHONY: test-all
test-all:
	@$(MAKE) test-scripts
	@$(CARGO) test --workspace --exclude rust-kata-tests
	@RUST_KATA_DIST=$(CURDIR)/$(DIST) $(CARGO) test -p rust-kata-tests --no-fail-fast -- --test-threads=$(TEST_THREADS)
	@$(MAKE) test-kvm SUITE=smoke

## make test-scripts   run every script as on a machine without a cache, and with each program that it uses failing
.PHONY: test-scripts
test-scripts:
	@tests/scripts/test

## make test-kvm       build, then run the tests that need KVM, in an emulated machine with KVM (SUITE=smoke|all)
.PHONY: test-kvm
test-kvm: build
	@tests/kvm-host/selftest
	@RUST_KATA_DIST=$(CURDIR)/$(DIST) tests/kvm-host/test $(SUITE)

## make test-compat    build, then start pods with the previous build (tests/compat/BASE) and end them with this one
.PHONY: test-compat
test-compat: build
	@base=$$(tests/compat/base); [ -z "$$base" ] || \
		RUST_KATA_BASE_DIST=$$base RUST_KATA_DIST=$(CURDIR)/$(DIST) \
		$(CARGO) test -p rust-kata-tests --test compat -- --ignored --test-threads=1

## make test-hosts     test with containerd, Docker and QEMU of other distributions (HOST=debian12|debian13|sid, all)
HOST ?= debian12 debian13 sid
.PHONY: test-hosts
test-hosts:
	@guest/setup hosts
	@for host in $(HOST); do tests/hosts/run $$host; done

## make test-hosts-kvm build, then run these tests with rust-kata-vmm in an emulated machine with KVM (HOST, as above)
.PHONY: test-hosts-kvm
test-hosts-kvm: build
	@guest/setup hosts kvm-host
	@for host in $(HOST); do tests/hosts/run --kvm $$host; done

## make bench          build, then measure costs as ratios to references of the same run
.PHONY: bench
bench: build
	@guest/setup bench
	@RUST_KATA_DIST=$(CURDIR)/$(DIST) $(CARGO) run --release -p rust-kata-tests --bin rust-kata-bench

## make fuzz           run the fuzz targets (TARGET=name, SECONDS=60 each, JOBS=n at a time); tests/fuzz/README.md
.PHONY: fuzz
fuzz: setup-build
	@tests/fuzz/run --seconds $(or $(SECONDS),60) --jobs $(or $(JOBS),$(shell nproc)) \
		$(if $(filter command,$(origin TARGET)),$(TARGET))

## make bench-kvm      build, then measure rust-kata-vmm on KVM in the emulated machine, with time counted in instructions
.PHONY: bench-kvm
bench-kvm: build
	@RUST_KATA_DIST=$(CURDIR)/$(DIST) tests/kvm-host/bench

## make mutants        measure how many small faults the unit tests catch (CRATE=name, FILES=globs, SAMPLE=100, SEED=1)
.PHONY: mutants
mutants: setup-build
	@CRATE='$(CRATE)' FILES='$(FILES)' SAMPLE='$(SAMPLE)' SEED='$(SEED)' tests/mutants/run

## make lint           check formatting, clippy, layout and rustdoc
.PHONY: lint
lint: setup-build
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) clippy -p rust-kata-hypervisor --features fuzzing -- -D warnings
	@$(CARGO) clippy -p rust-kata-shim --no-default-features -- -D warnings
	@tests/lint/structure
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items

## make fmt            format the code
.PHONY: fmt
fmt:
	@$(CARGO) fmt --all

## make install        copy target/dist to $(DESTDIR)$(PREFIX) (default: /usr/local)
.PHONY: install
install:
	@[ -e $(SHARE)/initrd.img ] || $(MAKE) build
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/rust-kata
	@install -m 755 $(DIST)/bin/* $(DESTDIR)$(PREFIX)/bin
	@install -m 644 $(SHARE)/* $(DESTDIR)$(PREFIX)/share/rust-kata
	@[ -d $(DIST)/share/man/man1 ] || $(MAKE) man
	@install -d $(DESTDIR)$(PREFIX)/share/man/man1
	@install -m 644 $(DIST)/share/man/man1/* $(DESTDIR)$(PREFIX)/share/man/man1

## make dist           build, then pack target/dist into a tar for any x86-64 distribution with glibc 2.36 or later
.PHONY: dist
dist: build
	@guest/dist $(DIST) $(TAR)

## make test-dist      make dist, then test its tar in a root file system without apt and a compiler
.PHONY: test-dist
test-dist: dist
	@guest/setup run
	@KERNEL='$(KERNEL)' tests/dist/test $(TAR)

## make clean          remove everything that was built (the kernels' cache stays)
.PHONY: clean
clean:
	@$(CARGO) clean

## make help           show this list
.PHONY: help
help:
	@sed -n 's/^## //p' Makefile
