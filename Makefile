# Every target makes .venv by itself when it is missing. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow test-guides test-interop test-backends test-serving-versions test-cluster test-growth mutations attack coverage check dist bench bench-quick docs docs-figures clean

demo: $(INSTALLED)
	$(BIN)/resnet-keras demo

# glibc would return memory and take it again, page by page: after a training in the process, half the time.
MEMORY := MALLOC_TOP_PAD_=67108864
# A file of tests to one process, so that what a file shares is made once, and a thread to a process: more would wait for
# one another on two cores. The third process computes while the others wait for a server or a stopwatch. The files begin
# in the order of tests/shared.py, which has the longest first, and not by their numbers of tests.
PYTEST := $(MEMORY) TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

test: $(INSTALLED)
	$(PYTEST)

test-slow: $(INSTALLED)
	$(MEMORY) $(BIN)/python -m pytest -m slow --timeout 7200 $(PYTEST_FLAGS)

test-guides: $(INSTALLED) .venv/docs/.installed
	$(BIN)/python -m pytest -m guides -n 2 --dist worksteal $(PYTEST_FLAGS)

# As root, with iproute2: hosts in namespaces of this machine; build/cluster has the tables. Ten minutes each on two cores.
test-cluster: $(INSTALLED)
	$(BIN)/python -m pytest -m cluster tests/cluster $(PYTEST_FLAGS)

test-growth: $(INSTALLED)
	$(BIN)/python -m pytest -m growth tests/cluster $(PYTEST_FLAGS)

# Faults put into the code one by one, each of which a test must find.
mutations: $(INSTALLED)
	$(BIN)/python tests/mutations/run.py

# Twenty minutes, on loopback; prints what was asked and what went wrong.
attack: $(INSTALLED)
	$(BIN)/python tests/attack/run.py

coverage: $(INSTALLED)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-interop: .venv/.interop
	$(BIN)/python -m pytest -m interop --timeout 7200

test-backends: .venv/backends/.installed
	.venv/backends/bin/python -m pytest -m backends --timeout 7200 $(PYTEST_FLAGS)

# TensorFlow Serving has TensorFlow's numbers; the newest is that of serving/options.py's IMAGE.
SERVERS := 2.19.1 2.20.0
test-serving-versions: $(INSTALLED) $(SERVERS:%=.venv/serving-%/.installed)
	$(BIN)/python -m pytest -m serving_versions --timeout 7200 $(PYTEST_FLAGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/pyright

# The wheel and the sdist, checked, in dist/. The wheel's files alone, away from the checkout, then train, export and serve.
dist: $(INSTALLED) .venv/dist/.installed
	rm -rf dist build/lib build/wheel
	.venv/dist/bin/python -m build --outdir dist .
	.venv/dist/bin/python -m twine check --strict dist/*
	.venv/dist/bin/check-wheel-contents dist/*.whl
	.venv/dist/bin/python -m pip install --quiet --no-deps --target build/wheel dist/*.whl
	cd build && PYTHONPATH=wheel ../$(BIN)/python -m resnet_keras demo --quiet
	ls -l dist

# Beside other libraries, for up to 40 minutes on two cores; BENCH="train infer" for some of its sections.
BENCH_OUTPUT := docs/results
bench: .venv/bench/.installed
	.venv/bench/bin/python -m benchmarks.suite $(if $(BENCH),--sections $(BENCH)) --output $(BENCH_OUTPUT)

# Some minutes, without peers; fails where something is slower than docs/results/benchmarks.json says, if there is one.
QUICK := --quick --output build/benchmarks $(addprefix --against ,$(wildcard docs/results/benchmarks.json))
bench-quick: $(INSTALLED)
	test -d build/models/cifar10-jpeg || $(BIN)/resnet-keras export cifar10-jpeg --output build/models/cifar10-jpeg
	failed=0; \
	for what in train infer input "serve --model-base-path build/models/cifar10-jpeg"; do \
		$(BIN)/resnet-keras benchmark $$what $(QUICK) || failed=$$?; \
	done; exit $$failed

# The documentation site in build/site; `python3 -m http.server --directory build/site` shows it.
docs: $(INSTALLED) .venv/docs/.installed
	$(BIN)/python -m resnet_keras.cli.reference build/reference
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict

# The figures of docs/residual-learning.md, but for its 1,202 layers: a quarter of an hour on two cores; a second call resumes the first.
FIGURES := build/figures
docs-figures: $(INSTALLED)
	$(BIN)/resnet-keras degradation --depths 20 32 44 --epochs 10 --run-dir $(FIGURES)/degradation
	for name in gradients responses lesions shortcuts preactivation norm-placement; do \
		$(BIN)/resnet-keras experiment $$name --run-dir $(FIGURES)/$$name || exit; \
	done
	cp $(FIGURES)/*/*.png docs/images

clean:
	rm -rf .venv

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# What torchvision, timm and keras-hub ask for beside these (CUDA, tensorflow-text) the networks do not need.
.venv/.interop: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0 transformers
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision timm keras-hub
	touch $@

.venv/backends/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv/backends
	.venv/backends/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]" jax torch
	touch $@

# TensorFlow alone, which chooses a numpy and a protobuf of its time.
.venv/serving-%/.installed:
	$(PYTHON) -m venv .venv/serving-$*
	.venv/serving-$*/bin/python -m pip install --quiet tensorflow==$*
	touch $@

.venv/dist/.installed: constraints.txt
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install --quiet --constraint constraints.txt build twine check-wheel-contents
	touch $@

# An environment without TensorFlow: the reference is read from the sources. Ruff breaks its long signatures.
.venv/docs/.installed: constraints.txt
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/python -m pip install --quiet --constraint constraints.txt mkdocs-material "mkdocstrings[python]" ruff
	touch $@

# The peers of bench. One that cannot be installed is left out there; torchvision's networks need none of its CUDA.
.venv/bench/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv/bench
	.venv/bench/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	for peer in "--editable .[onnx]" torch==2.13.0 jax "openvino nncf" "--no-deps torchvision"; do \
		.venv/bench/bin/python -m pip install --quiet --constraint constraints.txt $$peer || echo "without $$peer"; \
	done
	touch $@
