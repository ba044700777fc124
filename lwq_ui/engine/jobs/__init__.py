"""What a user can ask for, as plain functions of a `Run`.

Each reports its progress and checks for a stop at least once per layer or batch. Each raises
UserError or Stopped. The command line calls them directly; the page runs them in a worker thread.
`examples/layerwise.py` shows them one after the other.
"""

from .banks import bank_of
from .evaluating import Evaluated, Measurement, Partial, evaluate
from .forecasting import Forecast, forecast
from .loading import Looked, describe, load, load_for, look
from .scoring import score, zd_alone
from .writing import Truth, generate, quantize, truth

__all__ = [
    "Evaluated",
    "Forecast",
    "Looked",
    "Measurement",
    "Partial",
    "Truth",
    "bank_of",
    "describe",
    "evaluate",
    "forecast",
    "generate",
    "load",
    "load_for",
    "look",
    "quantize",
    "score",
    "truth",
    "zd_alone",
]
