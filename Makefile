# make sanitize: the operators' tests against C++ operators built with AddressSanitizer and UndefinedBehaviorSanitizer.
# Needs GCC. The build lies apart from the installed one; the tests choose every instruction set that this processor has.

PYTHON ?= python
CXX := g++
BUILD := $(CURDIR)/build/sanitize
# Python itself is not instrumented, so the runtime comes first, and libstdc++ with it: its exceptions are intercepted.
PRELOAD = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
# Fresh memory holds NaN.
ASAN := detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000

.PHONY: sanitize
sanitize:
	CXX=$(CXX) XMAE_FAST_BUILD=cpu XMAE_FAST_SANITIZE=1 $(PYTHON) setup.py -q build --build-base $(BUILD) --build-lib $(BUILD)/lib
	cd $(BUILD)/lib && LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		$(PYTHON) -m pytest -q -p no:cacheprovider --capture=sys --require-backend=cpu --import-mode=append -c $(CURDIR)/pyproject.toml \
		-k cpu $(CURDIR)/tests/test_ops.py $(wildcard $(CURDIR)/tests/test_cpu_*.py)
