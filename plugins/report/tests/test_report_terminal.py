"""Terminals get pictures where they say that they show them, else characters."""

from __future__ import annotations

import io
import os
import pty
import re
import threading

import numpy as np
import pytest
from PIL import Image

from neurofm_shards_report import terminal
from neurofm_shards_report.facts import DatasetFacts
from neurofm_shards_report.show import view_of
from neurofm_shards_report.terminal import as_characters, encoded, picture_protocol, sixels
from neurofm_shards_report.views import SampleView


def test_terminals_without_pictures_get_characters(shards):
    view = view_of(DatasetFacts(shards), "2")
    text = as_characters(view, 60, ascii_only=True)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 110
    assert "behavior (50 x 2)" in text


def test_the_parts_of_a_title_are_told_apart_without_a_question_mark():
    view = SampleView({"x": np.ones((2, 2))}, {"session_id": "a", "sample_id": "b"})
    assert as_characters(view, 60, ascii_only=True).splitlines()[0] == "a  |  b"


def test_spike_times_are_a_raster_of_characters():
    times = {"window_start_s": 5.0, "window_stop_s": 6.0}
    values = {"spike_times": np.array([0.0, 0.99, 0.5], "f4"), "spike_units": np.array([4, 4, 9])}
    lines = as_characters(SampleView(values, times), 42, ascii_only=True).splitlines()
    first, second = (line.strip("|") for line in lines[-2:])
    assert (first[0], first[-1], first.strip("#").strip()) == ("#", "#", "")
    assert [place for place, shade in enumerate(second) if shade != " "] == [20]


def test_kitty_takes_pieces_of_4096_characters():
    kitty = encoded(b"x" * 9000, "kitty")
    assert kitty.count("\x1b_G") == 3
    assert kitty.startswith("\x1b_Ga=T,f=100,m=1;")
    assert kitty.rstrip().rpartition("\x1b_G")[2].startswith("m=0;")


def decoded(text):
    """Return the picture that sixels stand for, in percent, as the manual of the VT340 describes them."""
    width, height = map(int, re.search(r'"1;1;(\d+);(\d+)', text).groups())
    colours = {int(i): list(map(int, level.split(";"))) for i, level in re.findall(r"#(\d+);2;(\d+;\d+;\d+)", text)}
    body = text[re.search(r"(#\d+;2;[\d;]+)+", text).end() : -2]
    shown = np.full((height, width, 3), -1)
    for band, lines in enumerate(body.split("-")):
        for line in lines.split("$"):
            number, dots = re.match(r"#(\d+)(.*)", line).groups()
            column = 0
            for count, dot in re.findall(r"!(\d+)([?-~])", dots):
                rows = [6 * band + bit for bit in range(6) if (ord(dot) - 63) >> bit & 1]
                shown[rows, column : column + int(count)] = colours[int(number)]
                column += int(count)
            assert column == width
    return shown


def test_sixels_are_the_picture():
    rng = np.random.default_rng(1)
    pixels = rng.choice([0, 51, 204, 255], (20, 31, 1)).astype(np.uint8).repeat(3, axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(decoded(sixels(file.getvalue())), np.rint(pixels / 2.55).astype(int))
    assert encoded(file.getvalue(), "sixel").startswith("\x1bP")


@pytest.fixture
def answering(monkeypatch):
    """Give a function that puts a terminal in place which answers a question for its attributes."""
    opened = []

    def put(answer, **variables):
        ours, theirs = pty.openpty()
        opened.extend((ours, theirs))
        monkeypatch.setattr(terminal.os, "ctermid", lambda: os.ttyname(theirs))
        for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "TMUX", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

        def answer_once():
            os.read(ours, 16)
            os.write(ours, answer)

        if answer:
            threading.Thread(target=answer_once, daemon=True).start()
        return picture_protocol()

    yield put
    for descriptor in opened:
        os.close(descriptor)


def test_a_terminal_is_asked_for_sixels(answering, monkeypatch):
    monkeypatch.setattr(terminal, "_ANSWER_S", 60)
    assert answering(b"\x1b[?62;4;22c", TERM="xterm-256color") == "sixel"
    assert answering(b"\x1b[?64;1;22c", TERM="xterm-256color") == ""


def test_variables_tell_of_other_pictures_but_not_inside_a_multiplexer(answering, monkeypatch):
    monkeypatch.setattr(terminal, "_ANSWER_S", 60)
    assert answering(b"", TERM="xterm-kitty") == "kitty"
    assert answering(b"", TERM="xterm-256color", TERM_PROGRAM="WezTerm") == "iterm"
    assert answering(b"\x1b[?1;2c", TERM="tmux-256color", KITTY_WINDOW_ID="1", TMUX="x") == ""
    assert answering(b"", TERM="dumb", KITTY_WINDOW_ID="1") == ""
