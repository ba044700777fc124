"""Measured results: curves as a Plotly figure, in sentences and as CSV.

Nothing is drawn or said of splits that were not measured. Lines end at gaps, errors are those of
differences on the same items, and a share that is kept is a range.
"""

from .data import NO_ORDERS, ChartData, ModelResults, Orders
from .figure import results_figure

__all__ = ["NO_ORDERS", "ChartData", "ModelResults", "Orders", "results_figure"]
