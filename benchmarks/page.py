"""Milliseconds that the server computes for one event of the page, without a browser.

    python -m benchmarks.page [--repeats 7] [--against FOLDER] [--json FILE]

The page shows the demo model with the results that ship with it. An event is what a user does; its
time includes every handler that follows it. Gradio's own work is not in it. The first run of each
event is not counted.

With `--against FOLDER`, another checkout of this project is measured the same way, in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.report import arguments, report

USER = SimpleNamespace(session_hash="benchmark")
# name -> the component's elem_id, its event, and whether only what follows the event counts
EVENTS = {
    "pin a layer": ("bar", "pin", False),
    "another order": ("ordering", "input", False),
    "other levels": ("levels", "input", False),
    "another quantizer": ("quantizer", "input", False),
    "a click on a point": ("chart", "select", False),
    "refresh after a job": ("evaluate", "click", True),
}
CHANGED = {"other levels": "8,4", "another quantizer": "quanto-hqq"}  # what the control says then


def build_page(cache: str) -> tuple[Any, Any]:
    """Returns the page, which serves nobody, and what all browsers share."""
    import gradio as gr

    import app

    gr.Blocks.launch = lambda *arguments, **options: None
    return app.launch(app.Settings(cache=Path(cache)))


def find_handlers(demo: Any, component: str, event: str) -> Iterator[Any]:
    """Yields the handlers of an event, then those that follow them."""
    named = {block._id: getattr(block, "elem_id", None) for block in demo.blocks.values()}
    waiting = [
        fn
        for fn in demo.fns.values()
        if any((named.get(i), e) == (component, event) for i, e in fn.targets)
    ]
    while waiting:
        fn = waiting.pop(0)
        if fn.fn:  # others are JavaScript alone
            yield fn
        waiting += [after for after in demo.fns.values() if after.trigger_after == fn._id]


def opened(demo: Any, server: Any) -> dict[Any, Any]:
    """Returns the value of every component once a browser has opened the page."""
    values = {block: getattr(block, "value", None) for block in demo.blocks.values()}
    (state,) = [c for c in values if type(values[c]).__name__ == "Session"]
    session = values[state]
    values[state] = server.with_model(session, session.info, session.scores)
    named = {getattr(c, "elem_id", None): c for c in values}
    table = json.loads(named["bar"].props["table"])
    split = [table["high"] if i in table["raised"][:7] else b for i, b in enumerate(table["base"])]
    values[named["chart"]] = {"split": split, "quantizer": "quanto"}
    values[named["metric"]] = "perplexity/perplexity"
    return values


def print_times(repeats: int) -> None:
    """Prints the wall and CPU milliseconds of every event as JSON, one pair for each run."""
    with tempfile.TemporaryDirectory() as cache:
        demo, server = build_page(cache)
        values = opened(demo, server)
        times = {}
        for name, (component, event, follows) in EVENTS.items():
            handlers = list(find_handlers(demo, component, event))[1 if follows else 0 :]
            changed = dict(values)
            if name in CHANGED:
                (control,) = [c for c in values if getattr(c, "elem_id", None) == component]
                changed[control] = CHANGED[name]
            times[name] = [run(handlers, changed) for _ in range(repeats + 1)][1:]
    print(json.dumps(times))


def run(handlers: list[Any], values: dict[Any, Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for fn in handlers:
        given = {c: values.get(c) for c in fn.inputs}
        fn.fn(given, USER) if fn.inputs_as_dict else fn.fn(*given.values())
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def measure(checkout: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Measures a checkout in a process of its own, with this file."""
    command = [sys.executable, __file__, "--measure", "--repeats", str(repeats)]
    environment = {**os.environ, "PYTHONPATH": checkout}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--against", metavar="FOLDER", help="another checkout of the project")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return print_times(options.repeats)
    checkouts = {"here": os.getcwd(), **({"there": options.against} if options.against else {})}
    times = {name: measure(path, options.repeats) for name, path in checkouts.items()}
    rows = []
    for event in EVENTS:
        row: dict[str, Any] = {"event": event}
        for name, runs in times.items():
            wall, cpu = (statistics.median(t) for t in zip(*runs[event], strict=True))
            row |= {f"{name}: wall ms": wall, "CPU ms" if name == "here" else "CPU ms there": cpu}
        rows.append(row)
    report(f"page: milliseconds of an event, median of {options.repeats}", rows, options.json)


if __name__ == "__main__":
    main()
