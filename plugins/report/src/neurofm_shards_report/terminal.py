"""Pictures on the terminal: as images where it shows them (kitty, iTerm, sixel), else as characters."""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from neurofm_shards_report.pictures import describe, panels_of
from neurofm_shards_report.views import SampleView

#: From no event to many, in a character.
_SHADES, _ASCII_SHADES = " ·▪■█", " .:+#"
#: Colours of a picture in sixels; terminals have at least as many registers.
_SIXEL_COLOURS = 64
#: A terminal that does not answer within this time is taken for one without pictures.
_ANSWER_S = 0.3


def picture_protocol() -> str:
    """Return how the terminal takes pictures: ``"kitty"``, ``"iterm"``, ``"sixel"`` or nothing.

    A multiplexer (tmux, screen) inherits the variables of the terminal around it but does not pass its pictures on, so
    inside one only the answer of the multiplexer itself counts.
    """
    term = os.environ.get("TERM", "")
    if term in ("", "dumb"):
        return ""
    if not os.environ.get("TMUX") and not term.startswith(("screen", "tmux")):
        if os.environ.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode"):
            return "iterm"
    return "sixel" if "4" in _device_attributes() else ""


def _device_attributes() -> list[str]:
    """Ask the terminal what it can do (DA1, VT220); attribute 4 is sixel graphics."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY)
    except OSError:  # there is none
        return []
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSANOW)
            os.write(terminal, b"\x1b[c")
            answer = b""
            while not answer.endswith(b"c") and select.select([terminal], [], [], _ANSWER_S)[0]:
                answer += os.read(terminal, 64)
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    finally:
        os.close(terminal)
    found = re.search(rb"\x1b\[\?([\d;]+)c", answer)
    return found[1].decode().split(";")[1:] if found else []


def encoded(image: bytes, protocol: str) -> str:
    """Return a PNG as the escape sequences of a terminal."""
    if protocol == "sixel":
        return sixels(image) + "\n"
    text = base64.b64encode(image).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(image)}:{text}\a\n"
    pieces = [text[i : i + 4096] for i in range(0, len(text), 4096)]
    parts = []
    for number, piece in enumerate(pieces):
        control = "a=T,f=100," if number == 0 else ""
        parts.append(f"\x1b_G{control}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(parts) + "\n"


def sixels(image: bytes) -> str:
    """Return a PNG as sixels: for each band of six rows, each colour's dots as one line of characters."""
    picture = Image.open(io.BytesIO(image)).convert("RGB").quantize(_SIXEL_COLOURS)
    pixels = np.asarray(picture)
    palette = np.array(picture.getpalette(), np.int64).reshape(-1, 3)
    height, width = pixels.shape
    colours = [
        f"#{i};2;{';'.join(str(level) for level in (palette[i] * 100 + 127) // 255)}"
        for i in np.unique(pixels).tolist()
    ]
    bands = [_band(pixels[top : top + 6]) for top in range(0, height, 6)]
    return f'\x1bP0;1q"1;1;{width};{height}{"".join(colours)}{"-".join(bands)}\x1b\\'


def _band(rows: npt.NDArray[np.uint8]) -> str:
    bits = 1 << np.arange(len(rows))[:, None]
    lines = []
    for colour in np.unique(rows).tolist():
        dots = ((rows == colour) * bits).sum(axis=0)
        starts = np.flatnonzero(np.diff(dots, prepend=-1))
        lengths = np.diff(starts, append=len(dots))
        runs = (f"!{n}{chr(63 + dots[at])}" for at, n in zip(starts.tolist(), lengths.tolist(), strict=True))
        lines.append(f"#{colour}" + "".join(runs))
    return "$".join(lines)


def has_shades() -> bool:
    """Return whether stdout's encoding has the characters of a picture."""
    try:
        _SHADES.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def as_characters(view: SampleView, width: int, columns: Sequence[str] | None = None, *, ascii_only: bool) -> str:
    """Return the sample's two-dimensional columns as rows of characters, darker where values are larger."""
    shades = _ASCII_SHADES if ascii_only else _SHADES
    title = describe(view)
    lines = [title.replace("·", "|").encode("ascii", "replace").decode() if ascii_only else title]
    cells = max(20, min(width - 2, 120))
    chosen = {panel.column for panel in panels_of(view, columns)}
    for name, value in _drawable(view, cells):
        if name not in chosen:
            continue
        lines.append(f"{name} ({' x '.join(map(str, value.shape))})")
        lines += _rows(value, cells, shades)
    return "\n".join(lines) + "\n"


def _drawable(view: SampleView, cells: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the columns that are tables over time; spike times as counts of each unit."""
    for name, value in view.values.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or not value.size:
            continue
        if value.ndim == 2:
            yield name, value
        elif name == "spike_times" and "spike_units" in view.values:
            units, owner = np.unique(view.values["spike_units"], return_inverse=True)
            first, last, _ = view.span(name)
            edges = np.linspace(0, last - first if view.has_times else value.max(), cells + 1)
            counts = [np.histogram(value[owner == unit], edges)[0] for unit in range(len(units))]
            yield name, np.stack(counts, axis=1)


def _rows(value: np.ndarray, width: int, shades: str, most: int = 24) -> list[str]:
    """Average time into ``width`` cells and channels into ``most`` rows."""
    table = np.nan_to_num(np.asarray(value, np.float64).T)
    table = table if value.dtype.kind in "iu" else np.abs(table - np.median(table, axis=1, keepdims=True))
    table = np.stack([part.mean(axis=0) for part in np.array_split(table, min(most, len(table)))])
    cells = np.stack([part.mean(axis=1) for part in np.array_split(table, min(width, table.shape[1]), axis=1)], axis=1)
    top = float(np.quantile(cells, 0.99)) or float(cells.max()) or 1.0
    level = np.clip(np.ceil(cells / top * (len(shades) - 1)), 0, len(shades) - 1).astype(int)
    return ["|" + "".join(shades[i] for i in row) + "|" for row in level.tolist()]
