# make test: every test, in two processes; make test-fast: without the slow ones; make elsewhere: the tests of numbers on
# other processors, imitated; make elsewhere-quick: two of those, for CI; make quick-benchmarks: that every benchmark runs.
# make docs: the tests of the documentation: commands, Python blocks, links.
# make sanitize: the operators' and the reader's tests against C++ built with AddressSanitizer and UndefinedBehaviorSanitizer.
# Needs GCC. The build lies apart from the installed one; the tests choose every instruction set of this processor.

PYTHON ?= python
CXX := g++
BUILD := $(CURDIR)/build/sanitize
# Python itself is not instrumented, so the runtime comes first, and libstdc++ with it: its exceptions are intercepted.
PRELOAD = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
# Fresh memory holds NaN.
ASAN := detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000
UBSAN := halt_on_error=1:print_stacktrace=1
# Not under the sanitizers: forked children, which deadlock in their runtime, and long training runs.
CHOSEN := (cpu or gather) and not fork and not workers and not test_cpu_training
TESTS = $(addprefix $(CURDIR)/,tests/ops/test_ops.py $(wildcard tests/*/test_cpu_*.py) tests/data/test_gather.py)

# Files stay together in one process, as their tests share what is costly to make.
PARALLEL := -n 2 --dist loadfile
# What computes numbers and compares them.
NUMERICS = tests/model/test_golden.py tests/model/test_model.py $(wildcard tests/*/test_cpu_*.py) \
	$(addprefix tests/ops/test_,ops.py wrong.py lag_attention.py choices.py random_masking.py)
NUMERICS_QUICK = tests/model/test_golden.py $(addprefix tests/ops/test_,wrong.py cpu_blocks.py cpu_small.py)
AVX512 := ONEDNN_MAX_CPU_ISA=AVX512_CORE
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2
SSE4 := ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ATEN_CPU_CAPABILITY=default
ONE_THREAD := OMP_NUM_THREADS=1
PROCESSORS := AVX512 AVX2 SSE4 ONE_THREAD

.PHONY: test test-fast elsewhere elsewhere-quick quick-benchmarks docs sanitize
test:
	$(PYTHON) -m pytest -q $(PARALLEL)

test-fast:
	$(PYTHON) -m pytest -q $(PARALLEL) -m "not slow"

elsewhere: $(PROCESSORS:%=elsewhere-%)

elsewhere-%:
	$($*) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS)

elsewhere-quick:
	$(AVX2) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS_QUICK)
	$(SSE4) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS_QUICK)

docs:
	$(PYTHON) -m pytest -q $(wildcard tests/package/test_documented_*.py)

quick-benchmarks:
	OMP_WAIT_POLICY=passive XMAE_FAST_QUICK=1 $(PYTHON) -m pytest -q --benchmark-only --benchmark-min-rounds=1 \
		--benchmark-max-time=0.01 --benchmark-warmup=off --benchmark-columns=median
	OMP_WAIT_POLICY=passive $(PYTHON) benchmarks/run.py --quick --compile none --suite train

sanitize:
	CXX=$(CXX) XMAE_FAST_BUILD=cpu XMAE_FAST_SANITIZE=1 \
		$(PYTHON) setup.py -q build --build-base $(BUILD) --build-lib $(BUILD)/lib
	cd $(BUILD)/lib && LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=$(UBSAN) \
		$(PYTHON) -m pytest -q -p no:cacheprovider --capture=sys --require-backend=cpu --import-mode=append \
		-c $(CURDIR)/pyproject.toml -k "$(CHOSEN)" $(TESTS)
