"""What every benchmark prints: one aligned table, or with `--json FILE` the same as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`; a benchmark adds its own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - for standard output")
    return parser


def report(
    title: str, rows: Sequence[Mapping[str, Any]], json_file: str | None = None, **more: Any
) -> None:
    """Prints the table (to standard error where standard output is for JSON). The first row's keys
    are the columns; numbers are aligned on the right. `more` goes into the JSON."""
    columns = list(rows[0])
    table = [columns] + [[text(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    right = [any(isinstance(r.get(c), int | float) for r in rows) for c in columns]
    out = sys.stderr if json_file == "-" else sys.stdout
    print(title, file=out)
    for line in table:
        cells = zip(line, widths, right, strict=True)
        print("  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in cells).rstrip(), file=out)
    if json_file:
        content = json.dumps({"benchmark": title, "rows": rows, **more}, indent=2) + "\n"
        sys.stdout.write(content) if json_file == "-" else Path(json_file).write_text(content)


def text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
