PYTHON ?= python
CXX := g++
BUILD := $(CURDIR)/build/sanitize
# Python itself is not instrumented, so the runtime comes first, and libstdc++ with it: its exceptions are intercepted.
PRELOAD = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
# Fresh memory holds NaN.
ASAN := detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000
UBSAN := halt_on_error=1:print_stacktrace=1
# Not under the sanitizers: forked children, which deadlock in their runtime, long training runs, and vec.h, which its
# test compiles by itself.
CHOSEN := (cpu or gather) and not fork and not workers and not test_cpu_training and not test_cpu_vec
TESTS = $(addprefix $(CURDIR)/,tests/ops/test_ops.py $(wildcard tests/*/test_cpu_*.py) tests/data/test_gather.py)

# Files stay together in one process, as their tests share what is costly to make.
PARALLEL := -n 2 --dist loadfile
# What computes numbers and compares them.
NUMERICS = $(addprefix tests/model/test_,golden.py model.py bfloat16.py) $(wildcard tests/*/test_cpu_*.py) \
	$(addprefix tests/ops/test_,ops.py wrong.py lag_attention.py choices.py random_masking.py)
NUMERICS_QUICK = tests/model/test_golden.py $(addprefix tests/ops/test_,wrong.py cpu_blocks.py cpu_small.py)
# What a new release of a dependency may break.
NEWEST = $(NUMERICS) $(addprefix tests/,signals data recordings preparation simulation embedding evaluation export) tests/ops/test_triton_interpreted.py
# Inductor's cache does not know of these settings: it would give one processor's code to another.
AVX512 := TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 ONEDNN_MAX_CPU_ISA=AVX512_CORE
AVX2 := TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2
SSE4 := TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ATEN_CPU_CAPABILITY=default
ONE_THREAD := OMP_NUM_THREADS=1
PROCESSORS := AVX512 AVX2 SSE4 ONE_THREAD

# The generic tests name their operator and are chosen by that name; tests/ops/test_<op>.py and the files listed for each
# operator are run whole. The interpreter's tests are left to `make interpret`, what nvcc builds and CUDA's host tests to `make proofs`.
OPS := $(notdir $(patsubst %/cases.py,%,$(wildcard xmae_fast/ops/*/cases.py)))
WHOLE_random_masking := tests/ops/test_cpu_small.py
WHOLE_token_gather := tests/ops/test_cpu_small.py
WHOLE_conv_stem := tests/ops/test_cpu_bfloat16.py tests/ops/test_cpu_bfloat16_wrong.py tests/ops/test_cpu_split.py tests/ops/test_cpu_bf16_training_stem.py tests/ops/test_cpu_tiles.py tests/model/test_constant_signals.py
WHOLE_patch_embed := tests/ops/test_cpu_bfloat16.py tests/ops/test_cpu_bfloat16_wrong.py tests/ops/test_cpu_split.py \
	tests/ops/test_cpu_bf16_training_blocks.py tests/ops/test_cpu_small.py
WHOLE_lag_attention := tests/ops/test_cpu_bfloat16.py tests/ops/test_cpu_bfloat16_wrong.py tests/ops/test_cpu_split.py \
	tests/ops/test_cpu_bf16_training_blocks.py tests/ops/test_cpu_blocks.py tests/ops/test_cpu_blocks_dropout.py
WHOLE_feed_forward := tests/ops/test_cpu_bfloat16.py tests/ops/test_cpu_bfloat16_wrong.py tests/ops/test_cpu_split.py \
	tests/ops/test_cpu_bf16_training_blocks.py tests/ops/test_cpu_blocks.py tests/ops/test_cpu_blocks_dropout.py
WHOLE_waveform_loss := tests/ops/test_cpu_small.py
GENERIC := $(addprefix tests/ops/test_,ops.py wrong.py choices.py)
EMPTY :=
FILES_OF = $(sort $(wildcard tests/ops/test_$(OP).py) $(WHOLE_$(OP)))
CHOSEN_OF = $(OP)$(subst $(EMPTY) $(EMPTY),,$(patsubst %.py,$(EMPTY)_or_%,$(notdir $(FILES_OF))))

CXX_FILES = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help build lint style format types test test-fast op interpret proofs docs site elsewhere \
	elsewhere-quick quick-benchmarks bench sanitize known-op wheels wheels-check wheel-cuda newest

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

build: ## compile the C++ extensions, in place (XMAE_FAST_BUILD=cuda: those for a GPU too)
	XMAE_FAST_BUILD=$${XMAE_FAST_BUILD:-cpu} $(PYTHON) setup.py -q build_ext --inplace

wheels: ## a wheel in dist/ for each Python (PYTHONS="python3.11 python3.12"; default: those found)
	$(PYTHON) -m csrc.wheels $(if $(PYTHONS),--pythons $(PYTHONS))

wheels-check: ## wheels, audited and tested beside the oldest, this and the newest torch, without a compiler
	PYTHON=$(PYTHON) PYTHONS="$(PYTHONS)" .ci/wheels

wheel-cuda: ## a wheel with the CUDA C++ kernels too, in dist/ (needs nvcc, no GPU; not yet run on a GPU)
	$(PYTHON) -m csrc.wheels --cuda --pythons $(if $(PYTHONS),$(PYTHONS),$(PYTHON))

newest: ## the tests of numbers and recordings, as .ci/newest runs them beside the newest releases
	$(PYTHON) -m pytest -q $(PARALLEL) $(NEWEST)

lint: style types ## style and types, with the tools of .ci/tools.txt

style: ## ruff's rules and format, clang-format
	ruff check .
	ruff format --check .
	$(if $(wildcard .clang-format),clang-format --dry-run --Werror $(CXX_FILES))

format: ## write what `style` asks for
	ruff check --fix .
	ruff format .
	$(if $(wildcard .clang-format),clang-format -i $(CXX_FILES))

types: ## pyright, as pyproject.toml says
	pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

test: ## every test, in two processes
	$(PYTHON) -m pytest -q $(PARALLEL)

test-fast: ## without the slow ones
	$(PYTHON) -m pytest -q $(PARALLEL) -m "not slow"

op: known-op build ## OP=lag_attention: compile what changed, then that operator's tests
	$(PYTHON) -m pytest -q -k "$(subst _or_, or ,$(CHOSEN_OF))" $(sort $(GENERIC) $(FILES_OF))

interpret: $(if $(OP),known-op) ## Triton's kernels in its interpreter (OP=lag_attention: of one operator)
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q tests/ops/interpreted$(if $(OP),/test_$(OP).py)

proofs: ## without a GPU: resources, offsets and launches of Triton's kernels; CUDA's on the host and, with nvcc, compiled
	$(PYTHON) -m pytest -q $(PARALLEL) tests/ops/test_triton_compiled.py tests/ops/cuda

docs: ## what the pages say: commands, examples, links
	$(PYTHON) -m pytest -q $(wildcard tests/package/test_documented_*.py)

# Without --quiet, which would hide warnings from --strict too.
site: ## the documentation as a site, in build/site (pip install -e ".[docs,train,eval]"; RUN_NOTEBOOKS=false is quicker)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

elsewhere: $(PROCESSORS:%=elsewhere-%) ## the tests of numbers on other processors, imitated

elsewhere-%:
	$($*) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS)

elsewhere-quick: ## two of those, for CI
	$(AVX2) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS_QUICK)
	$(SSE4) $(PYTHON) -m pytest -q $(PARALLEL) $(NUMERICS_QUICK)

bench: ## measure this machine (ARGUMENTS="--suite ops --quick", "--base main"; minutes)
	$(PYTHON) benchmarks/run.py $(ARGUMENTS)

quick-benchmarks: ## that every benchmark runs
	OMP_WAIT_POLICY=passive XMAE_FAST_QUICK=1 $(PYTHON) -m pytest -q --benchmark-only --benchmark-min-rounds=1 \
		--benchmark-max-time=0.01 --benchmark-warmup=off --benchmark-columns=median
	OMP_WAIT_POLICY=passive $(PYTHON) benchmarks/run.py --quick --compile none --suite train

# Needs GCC. The build lies apart from the installed one; the tests choose every instruction set of this processor.
sanitize: ## tests of the operators and the reader, built with AddressSanitizer and UndefinedBehaviorSanitizer
	CXX=$(CXX) XMAE_FAST_BUILD=cpu XMAE_FAST_SANITIZE=1 \
		$(PYTHON) setup.py -q build --build-base $(BUILD) --build-lib $(BUILD)/lib
	cd $(BUILD)/lib && LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=$(UBSAN) \
		$(PYTHON) -m pytest -q -p no:cacheprovider --capture=sys --require-backend=cpu --import-mode=append \
		-c $(CURDIR)/pyproject.toml -k "$(CHOSEN)" $(TESTS)

known-op:
	@case " $(OPS) " in *" $(OP) "*) ;; *) echo "OP: expected one of $(OPS), got '$(OP)'" >&2; exit 2;; esac
