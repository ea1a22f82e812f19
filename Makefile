# Every target makes the .venv it needs. Variables: PYTHON (>= 3.11), CONSTRAINTS (a pip constraints
# file), TORCH and TORCHVISION (versions in the place of those that it names), ARGS (passed on to the
# command, as in: make run ARGS="--data fashion-mnist --download").
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
TORCH ?=
TORCHVISION ?=
ARGS ?=

VENV := .venv
DOCS := .venv-docs
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := $(if $(TORCH),build/torch-$(TORCH)/constraints.txt,$(CONSTRAINTS))
INSTALL := $(PIP) install --quiet --constraint $(PINS)
CPP := $(wildcard csrc/*.cpp csrc/common/*.h csrc/cpu/*.h csrc/cpu/*.inl csrc/cpu/*.cpp csrc/cuda/*.cu csrc/cuda/*.cuh csrc/cuda/*.cpp)
TEST_CPP := tests/lanes_check.cpp $(wildcard tests/cuda_on_cpu/*.cpp tests/cuda_on_cpu/*.h)
PYTHON_CODE := fishermask_fast tests setup.py build_backend.py $(wildcard benchmarks docs/hooks.py)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: run test lint format docs check-docs bench bench-gpu cuda-on-cpu planted-bugs kernel-report check-digits \
    check-faults check-tools check-models check-common model-costs wheel wheels check-torch \
    check-sanitizers \
    release-check clean

# Threads that spin while they wait cost many times the work itself where another program wants the
# cores.
run test: export OMP_WAIT_POLICY ?= passive

run: $(VENV)/.loop
	$(BIN)/fishermask-fast run $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(TEST_CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(CPP) $(TEST_CPP)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS)/.installed
	$(DOCS)/bin/python -m mkdocs build --strict --quiet

# Every page in a browser: nothing wider than its window, no requests elsewhere, formulas typeset.
# ARGS="--pictures FOLDER" keeps pictures of five pages. Needs a Chromium.
check-docs: docs
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(CONSTRAINTS) playwright
	$(DOCS)/bin/python tests/check_docs.py $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

# Where a card is there is often no network: this builds in place, with the torch of $(PYTHON).
bench-gpu:
	$(PYTHON) benchmarks/card.py $(ARGS)

# The CUDA kernels on the CPU: their tests alone, and that these catch bugs planted in the kernels.
cuda-on-cpu: $(VENV)/.dev
	$(BIN)/python -m pytest tests/cuda_on_cpu $(ARGS)

planted-bugs: $(VENV)/.dev
	$(BIN)/python tests/cuda_on_cpu/planted_bugs.py $(ARGS)

# Registers and spills of the CUDA kernels; needs nvcc and a torch with CUDA, and no card.
kernel-report: $(VENV)/.dev
	$(BIN)/python benchmarks/kernel_report.py $(ARGS)

# Picks against arithmetic of 60 digits, many times over: some ten minutes on two cores.
check-digits: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m sweep tests/engine $(ARGS)

# Every listed classifier with nothing set, each in a process of its own (an hour or more on one
# core; regnet_y_128gf takes 12 GiB): ARGS="--most 60" leaves out those of more than 60 million
# parameters. model-costs: what gradients cost for forty of them. ARGS=--page puts a table into docs/.
check-models: $(VENV)/.dev
	$(INSTALL) timm peft
	$(BIN)/python tests/check_models.py $(ARGS)

# The eleven networks that most people bring, three of them under limits of memory too.
check-common: $(VENV)/.dev
	$(BIN)/python tests/check_common.py $(ARGS)

model-costs: $(VENV)/.dev
	$(INSTALL) timm
	$(BIN)/python benchmarks/model_costs.py $(ARGS)

# The wheels of this Python, with compiled ops and without, built and checked in clean environments:
# dist/ is what a release uploads. wheels: those of every Python, in manylinux containers.
wheel:
	$(PYTHON) tests/wheels.py $(ARGS)

wheels:
	$(PYTHON) -m venv build/cibuildwheel
	build/cibuildwheel/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) cibuildwheel
	build/cibuildwheel/bin/python -m cibuildwheel --output-dir dist $(ARGS)

# The wheels, installed and used under several versions of torch; ARGS are of the use alone.
check-torch:
	$(PYTHON) tests/wheels.py
	$(PYTHON) tests/check_torch.py $(ARGS)

# _C under the address and undefined-behaviour sanitizers: the tests of the ops and many random views.
check-sanitizers: $(VENV)/.dev
	$(BIN)/python tests/check_sanitizers.py $(ARGS)

# Each kind of work killed at 50 random moments, full disks, files removed: nothing lost, same bytes.
check-faults: $(VENV)/.dev
	$(BIN)/python tests/check_faults.py $(ARGS)

# With the real tools, on loopback: picks into Label Studio and labels back, its pages in a browser
# (ARGS="-k images"; PICTURES=FOLDER keeps pictures of them), and checkpoints, folders and data sets
# as other packages write and read them. Needs a Chromium.
check-tools: export LABEL_STUDIO := build/label-studio
check-tools: export OMP_NUM_THREADS := 1
check-tools: $(VENV)/.dev build/label-studio/.installed
	$(INSTALL) timm
	$(BIN)/python -m pytest -m tools tests/tools tests/labeling $(ARGS)

# Version, changelog, citation and TAG, where one is given, speak of one release. The tag stays in
# the environment: neither make nor the shell reads it.
release-check:
	@$(PYTHON) tests/check_release.py $${TAG:+"$$TAG"}

clean:
	rm -rf $(VENV) $(DOCS) build dist site *.egg-info fishermask_fast/*.so .pytest_cache .mypy_cache .ruff_cache

# Where no card tells which architecture to build the CUDA ops for, one will do to see that they
# compile.
ARCHITECTURES = $${TORCH_CUDA_ARCH_LIST:-$$($(BIN)/python -c \
    'import torch; print("" if torch.cuda.is_available() else "9.0")')}

# Without TORCHVISION pip takes the one that fits TORCH.
build/torch-$(TORCH)/constraints.txt: $(CONSTRAINTS)
	mkdir -p $(@D)
	sed -e 's/^torch==.*/torch==$(TORCH)/' \
	    -e 's/^torchvision==.*/torchvision$(if $(TORCHVISION),==$(TORCHVISION))/' $< > $@

# torch comes first, so that the package is compiled against the torch that it will run with.
$(VENV)/.torch$(TORCH): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed; $(PYTHON) is {sys.version}")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(INSTALL) setuptools ninja pybind11 torch
	rm -f $(VENV)/.torch*
	touch $@

$(VENV)/.loop $(VENV)/.dev: $(VENV)/.%: $(VENV)/.torch$(TORCH) pyproject.toml setup.py $(CPP)
	TORCH_CUDA_ARCH_LIST="$(ARCHITECTURES)" $(INSTALL) --no-build-isolation --editable '.[$*]'
	touch $@

# Label Studio asks for other versions of what it shares with us: its own alone are constrained.
build/label-studio/.installed: $(CONSTRAINTS)
	$(PYTHON) -m venv build/label-studio
	grep -E '^(label-studio|playwright)\b' $(CONSTRAINTS) > build/label-studio/constraints.txt || true
	build/label-studio/bin/python -m pip --disable-pip-version-check install --quiet \
	    --constraint build/label-studio/constraints.txt label-studio playwright
	touch $@

# The pages are made from sources and Markdown alone: neither torch nor a compiler.
$(DOCS)/.installed: $(CONSTRAINTS)
	$(PYTHON) -m venv $(DOCS) || { $(PYTHON) -m venv --clear --without-pip $(DOCS) && \
	    $(PYTHON) -m pip --python $(DOCS)/bin/python install --quiet pip; }
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(CONSTRAINTS) \
	    mkdocs-material 'mkdocstrings[python]' cyclopts ruff
	touch $@
