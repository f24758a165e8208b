"""The Flax NNX front end: cells for `nnx.RNN`, and modules that run whole sequences."""

from lnrnn.nnx.cells import LayerNormGRUCell as LayerNormGRUCell
from lnrnn.nnx.cells import LayerNormLSTMCell as LayerNormLSTMCell
from lnrnn.nnx.cells import LayerNormSimpleCell as LayerNormSimpleCell
from lnrnn.nnx.dreamer import DreamerBlockGRU as DreamerBlockGRU
from lnrnn.nnx.layers import LayerNormGRU as LayerNormGRU
from lnrnn.nnx.layers import LayerNormLSTM as LayerNormLSTM
from lnrnn.nnx.layers import LayerNormSimpleRNN as LayerNormSimpleRNN
from lnrnn.nnx.normalize import Normalized as Normalized
from lnrnn.nnx.normalize import layer_normalize as layer_normalize
from lnrnn.nnx.recurrent import Options as Options
