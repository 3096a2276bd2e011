"""Pictures and tables of a run: functions that return a figure or a table, which a notebook then shows."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pandas
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from tc3lib.files import replacing
from tc3lib.prompts import RECIPE, description
from tc3lib.settings import PromptSettings

TRAIN_COLOUR, EVAL_COLOUR, MUTED = "#4C78A8", "#E45756", "#9AA5B1"


def plot_loss(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return the curves of train and held-out loss (nats a token) over the steps.

    Args:
        history: Rows with `step` and `loss` or `eval_loss`, such as a trainer's `log_history`; other rows are skipped.
    """
    figure, axes = _figure("optimiser step", "loss (nats a token)")
    train = [(row["step"], row["loss"]) for row in history if "loss" in row]
    held_out = [(row["step"], row["eval_loss"]) for row in history if "eval_loss" in row]
    if train:
        steps, losses = zip(*train, strict=True)
        mean = pandas.Series(losses, dtype=float).rolling(10, min_periods=1).mean()
        axes.plot(steps, losses, color=TRAIN_COLOUR, alpha=0.3, linewidth=1)
        axes.plot(steps, mean, color=TRAIN_COLOUR, label="train (mean of the last 10 logged)")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=EVAL_COLOUR, marker="o", markersize=4, label="held out")
    if train or held_out:
        axes.legend(frameon=False)
    axes.set_ylim(bottom=0)
    return figure


def live_loss(path: Path) -> Callable[..., None]:
    """Return a function `draw(history, keep=...)` that shows the growing loss curves in a notebook.

    `history` is that of `plot_loss`; with `keep=True` the picture is also written to `path`, outside a notebook too.
    """
    shown: list[Any] = []

    def draw(history: Sequence[Mapping[str, float]], *, keep: bool) -> None:
        ipython = sys.modules.get("IPython")  # a script may run without it
        live = ipython is not None and ipython.get_ipython() is not None
        if not (live or keep):
            return
        figure = plot_loss(history)
        if keep:
            with replacing(path) as file:
                figure.savefig(file, dpi=150, format="png")
        if shown:
            shown[0].update(figure)
        elif live:
            shown.append(ipython.display.display(figure, display_id=True))

    return draw


def plot_lengths(rows: Sequence[Mapping[str, str]], template: PromptSettings = RECIPE) -> Figure:
    """Return histograms of the lengths of titles and contents, in characters on a log scale."""
    figure, axes = _figure("characters", "rows")
    titles, contents = zip(*((len(row["input_text"]), len(description(row, template))) for row in rows), strict=True)
    for lengths, label, colour in ((titles, "title", MUTED), (contents, "content", TRAIN_COLOUR)):
        axes.hist(lengths, bins=numpy.geomspace(1, max(lengths) + 1, 60), label=label, color=colour, alpha=0.8)
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return figure


def plot_tokens(lengths: Sequence[int], max_seq_length: int) -> Figure:
    """Return a histogram of the rows' lengths in tokens, with percentiles and the share over `max_seq_length`."""
    figure, axes = _figure("tokens a row", "rows")
    if not lengths:
        axes.set_title("no tokenizer at hand")
        return figure
    axes.hist(lengths, bins=numpy.geomspace(min(lengths), max(lengths) + 1, 60), color=TRAIN_COLOUR, alpha=0.8)
    axes.set_xscale("log")
    marks = {share: numpy.percentile(lengths, share) for share in (5, 50, 95, 99)}
    for value in marks.values():
        axes.axvline(value, color=MUTED, linewidth=1)
    axes.axvline(max_seq_length, color=EVAL_COLOUR, label=f"max_seq_length = {max_seq_length:,}")
    axes.legend(frameon=False)
    longer = sum(length > max_seq_length for length in lengths) / len(lengths)
    values = ", ".join(f"{share} %: {value:,.0f}" for share, value in marks.items())
    axes.set_title(f"{values}, longest: {max(lengths):,} tokens; {longer:.2%} are too long", fontsize=10)
    return figure


def plot_comparison(report: Mapping[str, Any]) -> Figure:
    """Return bars of the main metrics before and after training, from the result of `comparison.compare`."""
    names = ("loss", "rougeL", "chrf", "eos_rate")
    titles = {"loss": "loss", "rougeL": "ROUGE-L", "chrf": "chrF", "eos_rate": "ended by itself"}
    figure, subplots = _subplots(9, 2.8, 1, len(names))
    for name, axes in zip(names, subplots, strict=True):
        parts = report["metrics"][name]["parts"]
        for place, (when, colour) in enumerate((("before", MUTED), ("after", TRAIN_COLOUR))):
            values = [found[when] or 0.0 for found in parts.values()]
            bars = axes.bar(
                [at + (place - 0.5) * 0.4 for at in range(len(parts))], values, 0.38, color=colour, label=when
            )
            axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
        axes.set_xticks(range(len(parts)), [{"eval": "held out", "train": "trained on"}[part] for part in parts])
        axes.set_title(titles[name], fontsize=10)
        axes.set_yticks([])
        axes.margins(y=0.15)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(*subplots[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=8)
    return figure


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int = 300, none: str = "") -> Styler | None:
    """Return some columns as a table of escaped, left-aligned text, cut after `width` characters.

    Without rows, print the sentence `none` instead, if there is one.
    """
    if none and not rows:
        print(none)
        return None

    def cut(value: Any) -> str:
        text = "" if value is None else str(value)
        return text if len(text) <= width else f"{text[: width - 1]}…"

    frame = pandas.DataFrame([[cut(row[column]) for column in columns] for row in rows], columns=columns)
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top; white-space: normal"}]
    return frame.style.format(escape="html").set_table_styles(left).hide(axis="index")


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure, axes = _subplots(8, 4)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _subplots(width: float, height: float, *shape: int) -> tuple[Figure, Any]:
    """Return a figure and its axes. pyplot lets notebooks show it; closing it keeps them from showing it twice."""
    figure, axes = pyplot.subplots(*shape, figsize=(width, height), layout="constrained")
    pyplot.close(figure)
    return figure, axes
