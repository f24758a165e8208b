"""The language model: characters in, the odds of the next character out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from lnrnn.train.settings import Settings, UserError

CLIP_NORM = 1.0  # bound on the norm of all gradients together


def recurrent_layer(name: str, settings: Settings, *, seed: int, stateful: bool) -> Any:
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
        "stateful": stateful,
    }
    if not name.startswith("LayerNorm"):
        return getattr(keras.layers, name)(settings.units, **options)

    import lnrnn.keras

    if settings.variant is not None:
        options["variant"] = settings.variant
    return getattr(lnrnn.keras, name)(
        settings.units, zoneout=settings.zoneout, engine=settings.engine, **options
    )


def build(name: str, settings: Settings, characters: int, *, stateful: bool = False) -> Any:
    """A compiled language model.

    Args:
        name: class of its recurrent layers.
        settings: of the run.
        characters: size of the vocabulary, V.
        stateful: for generation: one character of one text (1, 1) a call, the states kept
            from call to call; else windows (B, T).

    Returns:
        A `keras.Model` from characters (B, T) to logits (B, T, V).

    Raises:
        UserError: a layer refuses a setting.
    """
    draws = np.random.SeedSequence(settings.seed).generate_state(3 + 2 * settings.layers) >> 2
    seeds = map(int, draws)
    random.seed(next(seeds))  # from here Keras takes the seeds of initialisers that have none
    shape: dict[str, Any] = {"batch_shape": (1, 1)} if stateful else {"shape": (settings.length,)}
    inputs = keras.Input(dtype="int32", **shape)
    uniform: Any = keras.initializers.RandomUniform(-0.05, 0.05, seed=next(seeds))
    hidden = keras.layers.Embedding(characters, settings.units, uniform)(inputs)
    for _ in range(settings.layers):
        try:
            layer = recurrent_layer(name, settings, seed=next(seeds), stateful=stateful)
            hidden = layer(hidden)
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


def state_of(model: Any) -> list[np.ndarray]:
    """All that training changes: weights, states of dropout's seeds, and of the optimizer."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in _variables(model)]


def set_state(model: Any, arrays: list[np.ndarray]) -> None:
    """Give back what `state_of` returned.

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
        variable.assign(array)


def stateful_copy(model: Any, settings: Settings) -> Any:
    """The model for generation: with batch and length 1, its states kept from call to call."""
    characters = model.output_shape[-1]
    copy = build(model.name, settings, characters, stateful=True)
    for variable, trained in zip(copy.trainable_variables, model.trainable_variables, strict=True):
        variable.assign(trained)
    return copy


def generate(
    model: Any, vocabulary: str, prompt: str, length: int, temperature: float, seed: int
) -> Iterator[str]:
    """Text that goes on from a prompt, character by character.

    Args:
        model: a stateful model of `build`.
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
    draw = np.random.default_rng(seed)
    for character in (prompt or vocabulary[0])[:-1]:
        model.predict_on_batch(np.array([[vocabulary.index(character)]], np.int32))
    number = vocabulary.index((prompt or vocabulary[0])[-1])
    for _ in range(length):
        logits = model.predict_on_batch(np.array([[number]], np.int32))[0, 0].astype(np.float64)
        if temperature:
            # the largest of logits / temperature + Gumbel noise is a draw from the softmax
            logits = logits / temperature + draw.gumbel(size=logits.shape)
        number = int(logits.argmax())
        yield vocabulary[number]


def _variables(model: Any) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]
