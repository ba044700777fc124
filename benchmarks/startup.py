"""Seconds from the start of a process to the first page it serves.

    python -m benchmarks.startup [--repeats 7] [--json FILE]

ours         `python app.py --no-browser`, with an empty cache.
bare Gradio  a `gr.Blocks` with one Markdown: what any Gradio page takes.
with torch   that bare page after `import torch`: what we avoid by importing torch later.

They start in turns. The page is asked for every 10 ms over http.client: an HTTP library's own
import would slow down the start that is measured.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import arguments, report

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import sys
import gradio as gr
with gr.Blocks() as page:
    gr.Markdown("Hello")
page.launch(server_port=int(sys.argv[1]), quiet=True)
"""
POLL = 0.01
LONGEST = 120.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def cpu_seconds() -> float:
    """Of all processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def start(command: list[str]) -> tuple[float, float]:
    """Wall seconds to the first 200, and CPU seconds of the process until it is ended there."""
    port = free_port()
    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as log:
        environment = {
            **os.environ,
            "LWQ_CACHE_DIR": cache,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "PYTHONPATH": str(ROOT),
        }
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command, str(port)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while not answers(port):
                if process.poll() is not None or time.perf_counter() - began > LONGEST:
                    log.seek(0)
                    raise SystemExit(f"{command} did not start:\n{log.read().decode()}")
                time.sleep(POLL)
            seconds = time.perf_counter() - began
        finally:
            process.kill()
            process.wait()
    return seconds, cpu_seconds() - before


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    pages = {
        "ours": ["app.py", "--no-browser", "--port"],
        "bare Gradio": ["-c", BARE],
        "with torch": ["-c", "import torch\n" + BARE],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pages}
    for command in pages.values():  # files into memory, bytecode onto disk
        start(command)
    for _ in range(options.repeats):
        for name, command in pages.items():
            found[name].append(start(command))
    bare = [statistics.median(times) for times in zip(*found["bare Gradio"], strict=True)]
    rows = []
    for name, times in found.items():
        wall, cpu = (statistics.median(t) for t in zip(*times, strict=True))
        rows.append(
            {
                "page": name,
                "wall s": wall,
                "fastest": min(w for w, _ in times),
                "slowest": max(w for w, _ in times),
                "wall ratio": wall / bare[0],
                "CPU s": cpu,
                "CPU ratio": cpu / bare[1],
            }
        )
    report(f"startup: seconds to the first 200, {options.repeats} starts", rows, options.json)


if __name__ == "__main__":
    main()
