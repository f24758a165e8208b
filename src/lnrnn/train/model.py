"""The language model: characters in, the odds of the next character out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from lnrnn.engines.select import Yes
from lnrnn.stream import Stream
from lnrnn.train.settings import POLICIES, Settings, UserError
from lnrnn.train.world import World

CLIP_NORM = 1.0  # bound on the norm of all gradients together


def recurrent_layer(name: str, settings: Settings, seed: int) -> Any:
    """A recurrent layer by the name of its class, with the run's settings.

    The kernels depend on `seed` alone, so that a layer and its normalised form start from
    the same numbers.
    """
    options: dict[str, Any] = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=seed),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        "recurrent_dropout": settings.recurrent_dropout,
        "seed": seed + 2,
        "return_sequences": True,
        "return_state": True,
        "dtype": POLICIES[settings.dtype],
    }
    if not name.startswith("LayerNorm"):
        return getattr(keras.layers, name)(settings.units, **options)

    import lnrnn.keras

    if settings.variant is not None:
        options["variant"] = settings.variant
    return getattr(lnrnn.keras, name)(
        settings.units,
        zoneout=settings.zoneout,
        engine=settings.engine,
        weight_order=settings.weight_order,
        **options,
    )


def build(name: str, settings: Settings, characters: int) -> Any:
    """A compiled language model.

    Args:
        name: class of its recurrent layers.
        settings: of the run.
        characters: size of the vocabulary, V.

    Returns:
        A `keras.Model` from characters (B, T) to logits (B, T, V).

    Raises:
        UserError: a layer refuses a setting.
    """
    draws = np.random.SeedSequence(settings.seed).generate_state(3 + 2 * settings.layers) >> 2
    seeds = map(int, draws)
    random.seed(next(seeds))  # from here Keras takes the seeds of initialisers that have none
    inputs = keras.Input((None,), dtype="int32")
    uniform: Any = keras.initializers.RandomUniform(-0.05, 0.05, seed=next(seeds))
    hidden = keras.layers.Embedding(characters, settings.units, uniform)(inputs)
    for _ in range(settings.layers):
        try:
            hidden, *_ = recurrent_layer(name, settings, next(seeds))(hidden)
        except ValueError as error:
            raise UserError(str(error)) from error
        hidden = keras.layers.Dropout(settings.dropout, seed=next(seeds))(hidden)
    glorot: Any = keras.initializers.GlorotUniform(seed=next(seeds))
    logits = keras.layers.Dense(characters, kernel_initializer=glorot)(hidden)
    model = keras.Model(inputs, logits, name=name)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate, global_clipnorm=CLIP_NORM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def state_of(model: Any, world: World) -> list[np.ndarray]:
    """All that training changes: weights, states of dropout's seeds, and of the optimizer.

    Every process must ask; those that are not the first are given nothing.
    """
    found = []
    for variable in _variables(model):
        value = world.whole(variable)
        if world.first:
            found.append(np.array(keras.ops.convert_to_numpy(value)))
    return found


def set_state(model: Any, arrays: list[np.ndarray], world: World) -> None:
    """Give back what `state_of` returned in the first process, in each.

    Raises:
        UserError: the arrays are of another model.
    """
    variables = _variables(model)
    if [tuple(v.shape) for v in variables] != [a.shape for a in arrays]:
        raise UserError(
            f"The checkpoint does not fit the model {model.name} of its settings: it is damaged, "
            "or from another version of lnrnn or Keras."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(world.own(variable, array))


@contextmanager
def undone(model: Any) -> Iterator[None]:
    """A block after which a model is as it was before."""
    before = [keras.ops.copy(variable.value) for variable in _variables(model)]
    yield
    for variable, value in zip(_variables(model), before, strict=True):
        variable.assign(value)


def single_step(model: Any) -> Any:
    """The same layers as a model of one step, with the states as inputs and outputs.

    Args:
        model: of `build`.

    Returns:
        A `keras.Model` from characters (B, 1) and states (B, H) each to a list of logits
        (B, 1, V) and new states.  It shares the weights.
    """
    hidden = character = keras.Input((1,), dtype="int32")
    before, after = [], []
    for layer in model.layers[1:]:
        if isinstance(layer, keras.layers.RNN):
            states = [keras.Input((n,)) for n in keras.tree.flatten(layer.cell.state_size)]
            hidden, *new = layer(hidden, initial_state=states)
            before, after = before + states, after + new
        else:
            hidden = layer(hidden)
    return keras.Model([character, *before], [hidden, *after])


def parts(model: Any) -> tuple[np.ndarray, list[Any], np.ndarray, np.ndarray]:
    """What a model of `build` is made of, apart from dropout.

    Returns:
        The embedding (V, H) of characters, the recurrent layers, and kernel (H, V) and bias (V)
        of the logits.
    """
    embedding = next(a for a in model.layers if isinstance(a, keras.layers.Embedding))
    layers = [a for a in model.layers if isinstance(a, keras.layers.RNN)]
    head = model.layers[-1]

    def array(variable: Any) -> np.ndarray:
        return np.array(keras.ops.convert_to_numpy(variable), np.float32)

    return array(embedding.embeddings), layers, array(head.kernel), array(head.bias)


def generate(
    model: Any, vocabulary: str, prompt: str, length: int, temperature: float, seed: int
) -> Iterator[str]:
    """Text that goes on from a prompt, character by character.

    Args:
        model: of `build`.
        vocabulary: the model's characters, V of them.
        prompt: characters read before the first is drawn; if empty, the vocabulary's
            first (a new line in most texts) is read instead.
        length: characters to draw.
        temperature: divides the logits; 0 takes the likeliest character.
        seed: of the draws.

    Yields:
        One character.

    Raises:
        UserError: a character of the prompt is not in the vocabulary.
    """
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        raise UserError(
            f"The prompt has the character {unknown[0]!r}, which the training text has not: "
            "leave it out."
        )
    advance = _by_stream(model) if _streams(model) else _by_model(model)
    draw = np.random.default_rng(seed)
    *read, number = (vocabulary.index(c) for c in prompt or vocabulary[0])
    for earlier in read:
        advance(earlier)
    for _ in range(length):
        scores = advance(number).astype(np.float64)
        if temperature:
            # the largest of logits / temperature + Gumbel noise is a draw from the softmax
            scores = scores / temperature + draw.gumbel(size=scores.shape)
        number = int(scores.argmax())
        yield vocabulary[number]


def _streams(model: Any) -> bool:
    """Whether the native engine is the choice of every recurrent layer."""
    return all(
        hasattr(layer, "engine_report")
        and layer.cell.engine in ("auto", "native")
        and isinstance(layer.engine_report()["native"], Yes)
        for layer in parts(model)[1]
    )


def _by_stream(model: Any) -> Callable[[int], np.ndarray]:
    """From a character to the logits (V) of the next one, in NumPy and the native engine."""
    embedding, layers, kernel, bias = parts(model)
    stream = Stream(layers)
    return lambda number: (stream(embedding[number : number + 1]) @ kernel)[0] + bias


def _by_model(model: Any) -> Callable[[int], np.ndarray]:
    """The same by Keras."""
    step = single_step(model)
    states = [np.zeros((1, *shape.shape[1:]), np.float32) for shape in step.inputs[1:]]

    def advance(number: int) -> np.ndarray:
        logits, *states[:] = step.predict_on_batch([np.array([[number]], np.int32), *states])
        return logits[0, 0]

    return advance


def _variables(model: Any) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]
