"""Metrics for people and files: a terminal table, metrics.json, and curves of a training log."""

import csv
import json
import math
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pac_keras.evaluation.boundary import DISTANCES
from pac_keras.evaluation.coco import KINDS, METRICS


def print_metrics(metrics, *, per_class=True, console=None):
    """Writes the metrics as tables of percentages to the terminal (or a rich `console`)."""
    console = console or Console()
    console.print(summary_table(metrics))
    if per_class:
        console.print(class_table(metrics))


def summary_table(metrics):
    """rich Table: one row per metric, one column per kind, in percent; "-" = no such object.

    Boundary F has no value for other kinds: its rows are there where "boundary" is.
    """
    kinds = [kind for kind in KINDS if kind in metrics]
    names = (*METRICS, *DISTANCES) if "boundary" in kinds else METRICS
    table = Table("metric, %", *kinds, title="COCO metrics")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        table.add_row(name, *(_percent(metrics[kind].get(name, -1.0)) for kind in kinds))
    return table


def class_table(metrics):
    """rich Table: AP of each class and kind, in percent; "-" = not in the ground truth."""
    kinds = [kind for kind in KINDS if kind in metrics]
    table = Table("class", *(f"{kind} AP" for kind in kinds), title="AP per class, %")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, found in metrics["per_class"].items():
        table.add_row(name, *(_percent(found[kind]) for kind in kinds))
    return table


def write_metrics(path, metrics):
    """Writes {"box": {...}, "mask": {...}, "per_class": {...}} as json, in fractions of 1.

    The file appears whole or not at all; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def plot_log(log, picture):
    """Draws a CSV training log's curves as a PNG: losses on the left, AP and F on the right.

    Args:
        log: CSV with a head line, e.g. of `keras.callbacks.CSVLogger`. Columns whose name contains
            "loss" are losses and those with "AP", "F_1px" or "F_3px" are metrics; others are left
            out. "epoch" is the x axis. Empty cells and "NA" are skipped.
        picture: path of the PNG.
    Raises:
        ValueError: the log has no line of numbers, or neither a loss nor a metric.
    """
    columns = read_log(log)
    names = [name for name, points in columns.items() if points]
    losses = [name for name in names if "loss" in name.lower()]
    marks = ("AP", *DISTANCES)
    metrics = [n for n in names if n not in losses and any(mark in n for mark in marks)]
    panels = [(losses, "loss"), (metrics, "AP, F")]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        raise ValueError(f"{log}: no column with 'loss' or 'AP' holds a number")
    _draw_panels(panels, columns, picture)


def read_log(log):
    """{column: [(epoch, value)]} of a CSV log, without the cells that hold no finite number."""
    with open(log, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    for index, row in enumerate(rows):
        epoch = _number(row.get("epoch"))
        for name, cell in row.items():
            if name == "epoch" or name is None:
                continue
            points = columns.setdefault(name, [])
            if (value := _number(cell)) is not None:
                points.append((index if epoch is None else epoch, value))
    return columns


def _draw_panels(panels, columns, picture):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (names, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        colors = {}
        for name in names:
            color = colors.setdefault(name.removeprefix("val_"), f"C{len(colors) % 10}")
            epochs, values = zip(*columns[name], strict=True)
            style = {"linestyle": "--" if name.startswith("val_") else "-", "color": color}
            axes.plot(epochs, values, label=name, marker="." if len(epochs) < 30 else "", **style)
        axes.set(xlabel="epoch", ylabel=title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=1 + len(names) // 12)
    figure.savefig(picture, dpi=110)


def _number(cell):
    """The finite number in a CSV cell, or None."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _percent(fraction):
    return "-" if fraction < 0 else f"{100 * fraction:.1f}"
