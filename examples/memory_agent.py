"""A recurrent agent that has to remember: PPO in pure JAX with `lnrnn.jax`.

    python examples/memory_agent.py              # about two minutes on two cores
    python examples/memory_agent.py --plot curves.png

At each step the agent sees one of four cards and names the card that it saw four steps before,
for a reward of one (the task RepeatPrevious of POPGym).  Episodes have different lengths, so that
they begin anywhere in a rollout: `reset` keeps them apart, and the learned initial state is
where each begins.  A GRU with layer normalisation learns beside one without, from three seeds.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lnrnn import Variant
from lnrnn.jax import apply, init, initial_state, step

CARDS, BACK, LONGEST = 4, 4, 32
ENVIRONMENTS, STEPS, UNITS = 64, 64, 64
EPOCHS, CLIP, DISCOUNT, TRACE, ENTROPY = 4, 0.2, 0.9, 0.9, 0.01
CELLS: dict[str, Any] = {
    "LN-GRU": "gru",
    "GRU": Variant(cell="gru", bias_x=True, bias_h=True),
}


class Table(NamedTuple):
    """The cards of an episode that were seen last, how many were dealt, and when it ends."""

    seen: jax.Array
    dealt: jax.Array
    length: jax.Array


def deal(key: jax.Array) -> Table:
    """A new episode."""
    card, length = jax.random.split(key)
    seen = jnp.zeros(BACK + 1, int).at[0].set(jax.random.randint(card, (), 0, CARDS))
    return Table(seen, jnp.array(1), jax.random.randint(length, (), LONGEST // 2, LONGEST))


def play(table: Table, action: jax.Array, key: jax.Array) -> tuple[Table, Any, Any]:
    """The table after an action, the reward, and whether a new episode has begun."""
    again, card = jax.random.split(key)
    reward = (table.dealt > BACK) & (action == table.seen[BACK])
    seen = jnp.roll(table.seen, 1).at[0].set(jax.random.randint(card, (), 0, CARDS))
    done = table.dealt == table.length
    moved = Table(seen, table.dealt + 1, table.length)
    table = jax.tree.map(lambda new, old: jnp.where(done, new, old), deal(again), moved)
    return table, reward.astype(jnp.float32), done


class Rollout(NamedTuple):
    """Steps of all environments, (T, B, ...)."""

    x: jax.Array
    reset: jax.Array
    action: jax.Array
    chance: jax.Array
    value: jax.Array
    reward: jax.Array


def create(key: jax.Array, variant: Any) -> dict[str, Any]:
    """The weights of an agent: a recurrent layer, then the chances of actions and a value."""
    cell, head = jax.random.split(key)
    return {
        "cell": init(cell, variant, CARDS, UNITS, learn_initial_state=True),
        "head": 0.1 * jax.random.normal(head, (UNITS, CARDS + 1)) / UNITS**0.5,
    }


def judged(agent: dict[str, Any], h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logarithms of the chances of actions (..., 4), and values (...)."""
    found = h @ agent["head"]
    return jax.nn.log_softmax(found[..., :CARDS]), found[..., CARDS]


def act(agent: dict[str, Any], variant: Any, carried: Any, key: jax.Array) -> tuple[Any, Rollout]:
    """Play on from where the last rollout ended."""

    def one(carried: Any, key: jax.Array) -> Any:
        table, reset, h = carried
        choice, dealing = jax.random.split(key)
        x = jax.nn.one_hot(table.seen[:, 0], CARDS)
        y, h = step(agent["cell"], x, h, variant=variant, reset=reset)
        chances, value = judged(agent, y)
        action = jax.random.categorical(choice, chances)
        chance = jnp.take_along_axis(chances, action[:, None], 1)[:, 0]
        table, reward, done = jax.vmap(play)(table, action, jax.random.split(dealing, len(x)))
        return (table, done, h), Rollout(x, reset, action, chance, value, reward)

    return jax.lax.scan(one, carried, jax.random.split(key, STEPS))


def advantages(rollout: Rollout, last: jax.Array, done: jax.Array) -> jax.Array:
    """Generalised advantage estimates (T, B); `last` is the value of what follows."""
    ends = jnp.concatenate([rollout.reset[1:], done[None]])

    def back(carried: Any, now: Any) -> Any:
        found, after = carried
        reward, value, ended = now
        kept = DISCOUNT * ~ended
        found = reward + kept * after - value + TRACE * kept * found
        return (found, value), found

    start = (jnp.zeros_like(last), last)
    return jax.lax.scan(back, start, (rollout.reward, rollout.value, ends), reverse=True)[1]


def loss(
    agent: dict[str, Any], variant: Any, rollout: Rollout, h: jax.Array, gain: jax.Array
) -> jax.Array:
    """PPO's, with the whole sequence of states run by the fused engine."""
    y, _ = apply(agent["cell"], rollout.x, h, variant=variant, reset=rollout.reset, time_major=True)
    chances, value = judged(agent, y)
    chance = jnp.take_along_axis(chances, rollout.action[..., None], -1)[..., 0]
    ratio = jnp.exp(chance - rollout.chance)
    even = (gain - gain.mean()) / (gain.std() + 1e-6)
    held = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    entropy = -(jnp.exp(chances) * chances).sum(-1)
    error = (value - rollout.value - gain) ** 2
    return (-jnp.minimum(ratio * even, held * even) + 0.5 * error - ENTROPY * entropy).mean()


def train(variant: Any, seed: int, updates: int) -> np.ndarray:
    """Train an agent; the mean reward of each update where one could be had."""
    key, own, dealing = jax.random.split(jax.random.key(seed), 3)
    agent = create(own, variant)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-3))
    table = jax.vmap(deal)(jax.random.split(dealing, ENVIRONMENTS))
    h = initial_state(agent["cell"], ENVIRONMENTS, variant=variant)
    carried = (table, jnp.ones(ENVIRONMENTS, bool), h)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(agent: Any, state: Any, carried: Any, key: jax.Array) -> Any:
        after, rollout = act(agent, variant, carried, key)
        table, done, h = after
        x = jax.nn.one_hot(table.seen[:, 0], CARDS)
        last = judged(agent, step(agent["cell"], x, h, variant=variant, reset=done)[0])[1]
        gain = advantages(rollout, last, done)

        def learn(carried: Any, _: Any) -> Any:
            agent, state = carried
            slopes = jax.grad(loss)(agent, variant, rollout, before, gain)
            moves, state = optimizer.update(slopes, state)
            return (optax.apply_updates(agent, moves), state), None

        before = carried[2]
        (agent, state), _ = jax.lax.scan(learn, (agent, state), None, EPOCHS)
        return agent, state, after, rollout.reward.mean()

    state, rewards = optimizer.init(agent), []
    for now in jax.random.split(key, updates):
        agent, state, carried, reward = update(agent, state, carried, now)
        rewards.append(reward)
    best = 1 - BACK * 2 / (LONGEST * 1.5 - 1)  # no card can be named in the first steps
    return np.array(rewards) / best


def draw(curves: dict[str, np.ndarray], path: str) -> None:
    """Reward over the steps that were played: the mean of seeds, and each of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for color, (name, found) in zip(("C0", "C1"), curves.items(), strict=True):
        played = np.arange(1, found.shape[1] + 1) * ENVIRONMENTS * STEPS / 1e6
        axes.plot(played, found.T, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(played, found.mean(0), color=color, label=name)
    axes.axhline(1 / CARDS, color="0.6", linestyle=":", label="chance")
    axes.set(
        xlabel="million steps played", ylabel="cards named right", ylim=(0, 1.05),
        title=f"The card of {BACK} steps before, {len(next(iter(curves.values())))} seeds",
    )  # fmt: skip
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train agents of both cells, and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", help="a PNG of the curves (needs matplotlib)")
    options = parser.parse_args()
    curves = {}
    for name, variant in CELLS.items():
        found = [train(variant, seed, options.updates) for seed in range(options.seeds)]
        curves[name] = np.array(found)
        late = curves[name][:, -max(1, options.updates // 10) :].mean(1)
        shown = ", ".join(f"{share:.3f}" for share in late)
        print(f"{name}: cards named right at the end {late.mean():.3f} ({shown})")
    if options.plot:
        draw(curves, options.plot)


if __name__ == "__main__":
    main()
