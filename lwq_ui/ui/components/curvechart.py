"""The chart of measured curves: a figure of charts/, drawn by Plotly in the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import is_level
from .base import AssetComponent, read_asset


def plotly_path() -> Path:
    """Returns the plotly.js that comes with the Python package, which is not imported for it."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("plotly")
    return Path(spec.submodule_search_locations[0], "package_data", "plotly.min.js").resolve()


def as_json(figure: Mapping[str, Any]) -> str:
    """Returns the component's `figure`. It is a string, because Gradio clones dict props several
    times."""
    return json.dumps(figure, separators=(",", ":"), allow_nan=False)


class CurveChart(AssetComponent):
    """A chart that is set with `gr.update(figure=as_json(results_figure(...)))`, or with "" for
    nothing yet.

    Its value is the split that was clicked and what packed it, {"split": [...], "quantizer": name};
    the name is UNQUANTIZED for the unquantized model. Its event is `.select`. The slider's position
    comes from heatmap.js, in the browser.
    """

    asset = "curvechart"

    def __init__(self, **options: Any) -> None:
        plotly = plotly_path()
        gr.set_static_paths(plotly)
        script = read_asset("curvechart.js").replace("__PLOTLY__", plotly.as_posix())
        super().__init__(js_on_load=script, **options)

    def preprocess(self, payload: Any) -> Any:
        """Returns {"split": [level of each layer], "quantizer": name}, None before the first click.
        Raises gr.Error for what no click sends."""
        if payload is None:
            return None
        point = payload if isinstance(payload, dict) else {}
        split, quantizer = point.get("split"), point.get("quantizer")
        readable = isinstance(split, list) and all(map(is_level, split))
        if not (readable and isinstance(quantizer, str)):
            raise gr.Error("The page sent a split that cannot be read. Reload it.")
        return {"split": split, "quantizer": quantizer}

    def postprocess(self, value: Any) -> Any:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": '{"split": [level, ...], "quantizer": name}'}
