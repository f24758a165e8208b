"""A layer-normalised LSTM in Darts's `BlockRNNModel`, beside its own LSTM.

    pip install '.[examples-series]'
    python examples/darts_forecasts.py           # about a minute on two cores

Two series that come with statsmodels: ten figures of the economy of the United States by quarter
(macrodata), of which the next four quarters are forecast, and the yearly number of sunspots, one
feature, of which the next six years are.  Of one feature a norm of the input projection hears
little more than its sign; the third module norms the sum of both projections in its place.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any, ClassVar

import numpy as np
import statsmodels.api as sm  # pyright: ignore[reportMissingImports]
from darts import TimeSeries  # pyright: ignore[reportMissingImports]
from darts.metrics import rmse  # pyright: ignore[reportMissingImports]
from darts.models import BlockRNNModel  # pyright: ignore[reportMissingImports]
from darts.models.forecasting.block_rnn_model import (  # pyright: ignore[reportMissingImports]
    CustomBlockRNNModule,
)
from darts.models.forecasting.pl_forecasting_module import (  # pyright: ignore[reportMissingImports]
    io_processor,
)
from darts.utils.data.torch_datasets.utils import (  # pyright: ignore[reportMissingImports]
    PLModuleInput,
    PLModuleOutput,
)
from torch import nn

from lnrnn import Variant, dialects
from lnrnn.torch import LayerNormLSTM

LEVELS = ["realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1"]
RATES = ["tbilrate", "unemp", "infl"]


class LayerNormBlock(CustomBlockRNNModule):
    """The outputs of the last steps, one for each step to forecast, through a linear layer."""

    variant: ClassVar[Variant | None] = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rnn = LayerNormLSTM(
            self.input_size,
            self.hidden_dim,
            self.num_layers,
            batch_first=True,
            dropout=self.dropout,
            variant=self.variant,
        )
        self.head = nn.Linear(self.hidden_dim, self.target_size * self.nr_params)

    @io_processor
    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        outputs, _ = self.rnn(x_in.concatenate_past_features())
        found = self.head(outputs[:, -self.output_chunk_length :])
        return PLModuleOutput(prediction=found.unflatten(-1, (self.target_size, self.nr_params)))


class SumNormedBlock(LayerNormBlock):
    """Norms of the sum of both projections, where the scale of the input counts.

    The variant, and not its name, so that it starts from our initial values.
    """

    variant = dialects.get("magenta_lnlstm").variant


MODULES = {
    "Darts's LSTM": "LSTM",
    "LayerNormLSTM": LayerNormBlock,
    "norms of the sum": SumNormedBlock,
}


def standardised(values: np.ndarray, start: int) -> TimeSeries:
    """Mean zero and variance one over what comes before the step where forecasts start."""
    known = values[:start]
    return TimeSeries.from_values(((values - known.mean(0)) / known.std(0)).astype(np.float32))


def economy(start: int) -> TimeSeries:
    """Growth of levels and change of rates, (202, 10)."""
    table = sm.datasets.macrodata.load_pandas().data
    levels, rates = np.log(table[LEVELS].to_numpy()), table[RATES].to_numpy()
    return standardised(np.diff(np.hstack([levels, rates]), axis=0), start)


def sunspots(start: int) -> TimeSeries:
    """The number of each year, (309, 1)."""
    values = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
    return standardised(values[:, None], start)


def error(module: Any, series: TimeSeries, start: int, steps: int, epochs: int, seed: int) -> float:
    """The root mean square error of all forecasts from a step on, after training before it."""
    model = BlockRNNModel(
        input_chunk_length=24,
        output_chunk_length=steps,
        model=module,
        hidden_dim=32,
        n_epochs=epochs,
        batch_size=32,
        optimizer_kwargs={"lr": 3e-3},
        random_state=seed,
        pl_trainer_kwargs={
            "accelerator": "cpu",
            "gradient_clip_val": 1.0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    model.fit(series[:start])
    return model.backtest(
        series, start=start, forecast_horizon=steps, retrain=False, metric=rmse, verbose=False
    )


def main() -> None:
    """Train on both series and print the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils.data")  # of loaders
    for title, read, start, steps in (
        ("economy, 10 features", economy, 140, 4),
        ("sunspots, 1 feature", sunspots, 220, 6),
    ):
        series = read(start)
        print(title)
        for name, module in MODULES.items():
            found = [
                error(module, series, start, steps, given.epochs, seed)
                for seed in range(given.seeds)
            ]
            shown = " ".join(f"{e:.3f}" for e in found)
            print(f"  {name:<18} mean error {np.mean(found):.3f} of seeds {shown}", flush=True)


if __name__ == "__main__":
    main()
