"""The PyTorch front end: modules that replace `torch.nn.LSTM`, `GRU` and `RNN` by one line."""

from lnrnn.torch.cells import LayerNormGRUCell as LayerNormGRUCell
from lnrnn.torch.cells import LayerNormLSTMCell as LayerNormLSTMCell
from lnrnn.torch.cells import LayerNormRNNCell as LayerNormRNNCell
from lnrnn.torch.dreamer import DreamerBlockGRU as DreamerBlockGRU
from lnrnn.torch.export import export_step as export_step
from lnrnn.torch.layers import LayerNormGRU as LayerNormGRU
from lnrnn.torch.layers import LayerNormLSTM as LayerNormLSTM
from lnrnn.torch.layers import LayerNormRNN as LayerNormRNN
from lnrnn.torch.normalize import Normalized as Normalized
from lnrnn.torch.normalize import layer_normalize as layer_normalize
from lnrnn.torch.recurrent import Options as Options
