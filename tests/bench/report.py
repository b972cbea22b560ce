"""What was measured, as a table for people and as JSON for programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import grpc
from rich.table import Table

from bench.line import Line
from bench.scale import Scale
from millrace_database.embedded import MAJOR_VERSION


def table(measured: Mapping[str, Sequence[Line]]) -> Table:
    shown = Table("figure", "median", "spread", "unit", "ratio", "spread", "of", "goal", "met")
    for column in (1, 2, 4, 5):
        shown.columns[column].justify = "right"
    for lines in measured.values():
        shown.add_section()
        for line in lines:
            shown.add_row(*_cells(line))
    return shown


def as_json(measured: Mapping[str, Sequence[Line]], scale: Scale) -> str:
    document: Mapping[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "postgres": MAJOR_VERSION,
            "python": platform.python_version(),
            "grpc": grpc.__version__,
        },
        "scale": asdict(scale),
        "figures": {name: [line.as_json() for line in lines] for name, lines in measured.items()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _cells(line: Line) -> Sequence[str]:
    ratio, ratios = line.ratio, line.ratios
    return (
        line.name,
        _number(line.value),
        f"{_number(min(line.values))} to {_number(max(line.values))}" if len(line.values) > 1 else "",
        line.unit,
        "" if ratio is None else f"{ratio:.2f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "",
        line.of,
        line.goal.text(line.unit) if line.goal else "",
        {None: "", True: "yes", False: "NO"}[line.is_met],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
