"""The Keras front end: layers and cells that replace Keras's own by one line.

Runs on Keras 3 with TensorFlow, JAX or PyTorch.
"""

from lnrnn.keras.addons import AddonsLSTMCell as AddonsLSTMCell
from lnrnn.keras.addons import AddonsSimpleRNNCell as AddonsSimpleRNNCell
from lnrnn.keras.bidirectional import Bidirectional as Bidirectional
from lnrnn.keras.cells import LayerNormGRUCell as LayerNormGRUCell
from lnrnn.keras.cells import LayerNormLSTMCell as LayerNormLSTMCell
from lnrnn.keras.cells import LayerNormSimpleRNNCell as LayerNormSimpleRNNCell
from lnrnn.keras.dreamer import DreamerBlockGRU as DreamerBlockGRU
from lnrnn.keras.dreamer import DreamerBlockGRUCell as DreamerBlockGRUCell
from lnrnn.keras.layers import LayerNormGRU as LayerNormGRU
from lnrnn.keras.layers import LayerNormLSTM as LayerNormLSTM
from lnrnn.keras.layers import LayerNormSimpleRNN as LayerNormSimpleRNN
from lnrnn.keras.normalize import Normalized as Normalized
from lnrnn.keras.normalize import layer_normalize as layer_normalize
