"""Pictures: figures that are written whole, one look for all of them, and images in a grid.

matplotlib draws, by its file backend; it is imported when the first figure is. What is drawn comes
as plain values, so that masks, selection and loop can all draw here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fishermask_fast.files import check_replaceable, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SHOWN = 96
# Okabe and Ito's palette and five of Tol's, told apart with any colour vision; markers and dashes
# do it in grey.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#000000",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
    "#DDCC77",
    "#AA4499",
)
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", "h", ">", "p")
GREY = "0.62"
FORMATS = ("png", "svg")


def check_picture(path: Path) -> None:
    """Raise where ``figure_to`` could not write, as something else than a file is there.

    Raises:
        ValueError: It is.
    """
    for file in _files(path):
        check_replaceable(file)


def _files(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.{ending}") for ending in FORMATS]


@contextmanager
def figure_to(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written to ``path`` with the endings .png and .svg, each whole or not."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_picture(path)
    # Letters stay letters, a class named $5 is no formula, and the same figure gives the same file.
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "fishermask_fast",
            "text.parse_math": False,
        }
    ):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for ending, file in zip(FORMATS, _files(path), strict=True):
            picture = io.BytesIO()
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(picture, format=ending, dpi=150, metadata=metadata)
            replace_file(file, picture.getvalue())


def plain(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def look(number: int) -> dict[str, str]:
    """Colour, marker and dashes of the strategy of that number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": STYLES[number % len(STYLES)],
    }


def curve(values: Sequence[float], axes: Axes | None, *, x: str, y: str) -> Axes:
    """A line through values at 0, 1, 2, ... on some axes, new ones if None."""
    axes = axes_or_new(axes)
    axes.plot(range(len(values)), values, color=COLOURS[0], marker="." if len(values) < 64 else "")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    plain(axes)
    return axes


def shares(rows: Sequence[tuple[str, int, int]], axes: Axes | None, *, x: str) -> Axes:
    """A bar for each (name, part, whole), as long as part / whole, with part written beside."""
    axes = axes_or_new(axes, (6.4, max(2.0, 0.22 * len(rows) + 0.8)))
    lengths = [100 * part / max(whole, 1) for _, part, whole in rows]
    bars = axes.barh([name for name, _, _ in rows], lengths, color=COLOURS[0])
    axes.bar_label(bars, [f"{part:,}" for _, part, _ in rows], fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel(x)
    plain(axes)
    return axes


def axes_or_new(axes: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """The axes, or those of a new figure that a notebook shows."""
    if axes is not None:
        return axes
    from matplotlib import pyplot

    new: Axes = pyplot.subplots(figsize=size, layout="constrained")[1]
    return new


def image_grid(images: Sequence[Tensor], captions: Sequence[str], title: str, path: Path) -> None:
    """Images (3 or 1, height, width) in rows, each over its caption; the first 96 of them."""
    shown = list(images)[:MOST_SHOWN]
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    with figure_to(path, (1.5 * columns, 1.72 * rows + 0.5)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False)
        for number, axes in enumerate(panels.flat):
            axes.axis("off")
            if number < len(shown):
                axes.imshow(**pixels_of(shown[number]))
                axes.set_title(captions[number], fontsize=7, pad=3)
        figure.suptitle(title, fontsize=10)


def pixels_of(image: Tensor) -> dict[str, object]:
    """Arguments of ``imshow`` for an image (3 or 1, height, width), uint8 or from 0 to 1."""
    scaled = (image * 255).round() if image.is_floating_point() else image
    pixels = scaled.to(torch.uint8).permute(1, 2, 0)
    if pixels.shape[2] == 1:
        return {"X": pixels[:, :, 0].numpy(), "cmap": "gray", "vmin": 0, "vmax": 255}
    return {"X": pixels.numpy()}
