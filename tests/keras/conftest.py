"""What every test of the Keras front end starts from: quiet logs, one seed, one dtype."""

from __future__ import annotations

import os

# before any framework is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# XLA compiles each eager call of a loop anew: quickly rather than well.  Two devices on one
# machine are for the tests of data parallelism.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_force_host_platform_device_count=2",
)

from collections.abc import Iterator

import keras
import pytest
from keras_cases import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf

    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    """The same seed, and no name, session or policy of another test."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(20160721)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Allow float64, which JAX computes in float32 unless asked."""
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        yield
        jax.config.update("jax_enable_x64", False)
    else:
        yield
