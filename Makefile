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
TESTS = $(CURDIR)/tests/test_ops.py $(wildcard $(CURDIR)/tests/test_cpu_*.py) $(CURDIR)/tests/data/test_gather.py

.PHONY: sanitize
sanitize:
	CXX=$(CXX) XMAE_FAST_BUILD=cpu XMAE_FAST_SANITIZE=1 \
		$(PYTHON) setup.py -q build --build-base $(BUILD) --build-lib $(BUILD)/lib
	cd $(BUILD)/lib && LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=$(UBSAN) \
		$(PYTHON) -m pytest -q -p no:cacheprovider --capture=sys --require-backend=cpu --import-mode=append \
		-c $(CURDIR)/pyproject.toml -k "$(CHOSEN)" $(TESTS)
