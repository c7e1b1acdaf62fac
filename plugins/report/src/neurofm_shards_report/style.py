"""How all figures look: colours that follow the page's theme, sizes, and figures as SVG or PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

#: Stand in for the page's colours until a figure becomes SVG: text, and what steps back.
INK, FAINT = "#101214", "#a0a4a8"
#: Size of the smallest text in a figure, in points: legible where a phone shows the figure at three quarters.
SMALL = 8
#: Of images and rasters, whose pixels do not follow the theme: stands out on white and on black.
SPIKES = "#2f7fc1"
#: Where trials start and stop.
TRIAL = "#d55e00"
#: Okabe and Ito (2008), "Color Universal Design": distinct for all kinds of colour vision, on white and on black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7fd1")
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 9),
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "neurofm-shards",
    "figure.constrained_layout.use": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """Use the style of this module inside the block, whatever the user's matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _RC.items():
            mpl.rcParams[name] = value
        yield


def colour(number: int) -> str:
    """Return the colour of category ``number``."""
    return PALETTE[number % len(PALETTE)]


def from_nothing(base: str) -> LinearSegmentedColormap:
    """Return a colour map from transparent to a colour, which works on any background."""
    return LinearSegmentedColormap.from_list(f"to {base}", [mpl.colors.to_rgba(base, 0.0), mpl.colors.to_rgba(base)])


def bare(axes: Axes) -> None:
    """Take frame and ticks off axes."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as SVG to be placed inside a page.

    Colours of text and axes become ``currentColor``. Ids become the name and a number: figures of one page share none,
    and the same figure gives the same text (matplotlib makes some of the addresses of objects).

    Parameters
    ----------
    figure : Figure
        The figure.
    name : str
        Letters, digits and hyphens; unique in the page.
    description : str
        Text for those who do not see it.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    number = {known: f"{name}-{i}" for i, known in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text)))}
    text = re.sub(r'(\bid="|href="#|url\(#)([^")]+)', lambda found: found[1] + number[found[2]], text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    said = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Return a figure as PNG on white."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi, transparent=False, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
