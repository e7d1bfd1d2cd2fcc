"""What all figures share: a canvas without global state, colours of classes, how axes look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from satseg_ray.classes import RGB, ClassTable
from satseg_ray.products import fresh_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Color: TypeAlias = tuple[float, float, float]

INK, PALE, WARN, BLUE = "#222222", "#d9d9d9", "#d62728", "#1f77b4"
DPI = 110
_LIGHTEST = 0.72
_PALETTE = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99"),
    *("#bbcc33", "#77aadd", "#ffaabb", "#997700", "#004488", "#99ddff", "#882255", "#5d5d5d"),
)


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of so many inches, drawn by Agg and known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG that holds nothing but its pixels, complete or not at all."""
    with fresh_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def told_apart(table: ClassTable) -> ClassTable:
    """Return the classes with colours that differ: their own, or a palette's if two share one."""
    if len({item.color.lower() for item in table}) == len(table):
        return table
    return ClassTable(
        tuple(
            replace(item, color=_PALETTE[index % len(_PALETTE)]) for index, item in enumerate(table)
        )
    )


def line_colors(table: ClassTable) -> list[Color]:
    """Return a colour for each class that is dark enough for a line on white."""
    return [_darkened(item.rgb) for item in told_apart(table)]


def plain(axes: Axes, title: str = "", **labels: str) -> None:
    """Give axes a title, labels (``xlabel``, ``ylabel``), a pale grid and no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set(**labels)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#aaaaaa")
    axes.tick_params(colors="#444444", labelsize=9)


def short(name: str, most: int = 22) -> str:
    """Return a name that is at most so many characters long.

    >>> short("a very long name of a class", 12)
    'a very long…'
    """
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def counted(count: float) -> str:
    """Return a count as a person says it.

    >>> [counted(n) for n in (0, 999, 1234, 56_789, 1_234_567, 12_345_678_901)]
    ['0', '999', '1.2k', '57k', '1.2M', '12G']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return (
                f"{count / size:.1f}{unit}" if count < 9.95 * size else f"{count / size:.0f}{unit}"
            )
    return f"{count:.0f}"


def _darkened(rgb: RGB) -> Color:
    light = np.asarray(rgb) / 255
    shade = float(light @ (0.299, 0.587, 0.114))
    red, green, blue = light * min(1.0, _LIGHTEST / max(shade, 1e-6))
    return float(red), float(green), float(blue)
