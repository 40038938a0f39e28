# `make demo` and `make test` are enough to begin with; both install missing dependencies and can be
# run again at any time.
.PHONY: help demo test check-deep check-threads check-memory check-peers check-embedding check-python build lint dependencies clean

help:
	@echo "make demo    train a dictionary on a real model's activations, publish, serve, encode, swap"
	@echo "             (ACTIVATIONS=PATH HARVEST_TOKENS=N TOKENS=N OUT=FOLDER change its input and output)"
	@echo "make test    run every test"
	@echo "make check-deep"
	@echo "             encode ten million tokens and compare each with the plain encoder, in minutes"
	@echo "             (GRANULE_SEED=N replays); swap dictionaries for an hour under load"
	@echo "             (GRANULE_STORM_SECONDS=N); then fuzz each reader of files and messages for"
	@echo "             ten minutes (GRANULE_FUZZ_SECONDS=N)"
	@echo "make check-threads"
	@echo "             run the tests of kernels, threads and server under the thread sanitizer"
	@echo "make check-memory"
	@echo "             run all but MemoryTests under the address sanitizer"
	@echo "make check-embedding"
	@echo "             build a program outside the tree that embeds the libraries, and run it"
	@echo "make check-peers"
	@echo "             check that SAELens and sparsify load granule's exports and compute the same codes"
	@echo "             (GRANULE_PYTHON=PATH names a Python that has them; otherwise they are installed)"
	@echo "make check-python"
	@echo "             check the lint, the types and the arithmetic of the Python code"
	@echo "make build   build .build/release/granule and granule-bench"
	@echo "make lint    check the format of the sources, the warnings of the C files, and the scripts"
	@echo "make clean   remove what was built"

dependencies:
	@scripts/install-dependencies

build: dependencies
	@echo "Building (about two minutes the first time) …"
	swift build -c release --product granule
	swift build -c release --product granule-bench

demo: build
	@python3 -m pip --version >/dev/null 2>&1 || scripts/install-dependencies python3-pip
	@scripts/demo

test: dependencies
	@scripts/test

check-deep: dependencies
	GRANULE_DEEP=1 swift test -c release --filter DeepTests
	GRANULE_DEEP=1 GRANULE_STORM_SECONDS=$${GRANULE_STORM_SECONDS:-3600} \
	  swift test -c release --filter SwapStormTests
	scripts/fuzz

check-threads: dependencies
	scripts/check-threads

check-memory: dependencies
	scripts/check-memory

check-embedding: dependencies
	scripts/check-embedding

check-peers: build
	scripts/check-peers

check-python:
	scripts/check-python

lint: dependencies
	swift format lint --strict --recursive Package.swift Sources serve training Tests
	clang -fsyntax-only -Wall -Wextra -Werror -I Sources/Foundations/CKernels/include \
	  Sources/Foundations/CKernels/*.c Tests/ThreadSanitizer/*.c
	@for script in scripts/* proto/generate .ci/run; do bash -n $$script || exit 1; done

clean:
	rm -rf .build
