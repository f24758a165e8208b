"""The JAX front end: functions of weights, inputs and states, for `jit`, `grad`, `vmap`, `scan`."""

from lnrnn.jax.dreamer import dreamer_block_gru as dreamer_block_gru
from lnrnn.jax.dreamer import dreamer_block_gru_init as dreamer_block_gru_init
from lnrnn.jax.dreamer import dreamer_block_gru_step as dreamer_block_gru_step
from lnrnn.jax.functions import Options as Options
from lnrnn.jax.functions import apply as apply
from lnrnn.jax.functions import init as init
from lnrnn.jax.functions import initial_state as initial_state
from lnrnn.jax.functions import step as step
from lnrnn.jax.stacks import apply_stack as apply_stack
from lnrnn.jax.stacks import init_stack as init_stack
from lnrnn.jax.stacks import step_stack as step_stack
