"""What commands print suits the terminal: its width, its characters, whether it has colours, moves, or is none."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards._console import fitted_rows

PLUGIN = """

import numpy as np
from neurofm_shards import hookimpl
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular

class Made(Source):
    def open(self, paths):
        times = np.sort(np.random.default_rng(0).uniform(0, 20, 400))
        return InMemoryRecording(
            [events("units", {"1": times, "2": times + 0.01}), regular("processing/µ/a_long_name_of_a_series/lfp",
             np.zeros((20000, 2)), 1000.0, unit="µV")],
            session_id="a-session-with-a-long-name-2026-11-28", subject_id="a-subject-with-a-long-name",
            source_file="a.made", fingerprint="a",
        )

@hookimpl
def neurofm_register_sources():
    return SourceEntry(name="made", summary="a recording " * 12, factory=Made, suffixes=(".made",))
"""
COMMANDS = {
    "inspect": ("inspect", "a.made"),
    "info": ("info", "shards"),
    "plugins list": ("plugins", "list"),
    "convert": ("convert", "-i", "a.made", "-o", "out", "--overwrite", "--shard-size", "5"),
}
COLOUR = re.compile(r"\x1b\[[\d;]*\b(?:3\d|4\d|9\d)(?:;[\d;]*)?m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminals")
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "a.made").write_text("")
    subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "convert", "-i", "a.made", "-o", "shards", "--plugin", "plugin.py"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def _become(folder, words, columns, variables):
    os.chdir(folder)
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "neurofm_shards", *words, "--plugin", "plugin.py"]
    os.execve(sys.executable, command, {**kept, "TERM": "xterm-256color", **variables})  # noqa: S606  (no shell)


def on_a_terminal(folder, words, *, columns=80, **variables):
    """Return what a command writes to a terminal of this kind."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            _become(folder, words, columns, variables)
        finally:
            os._exit(99)
    pieces = []
    while True:
        try:
            pieces.append(os.read(terminal, 1 << 16))
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, b"".join(pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_colour_where_none_is_wanted(folder, command):
    assert not COLOUR.search(on_a_terminal(folder, COMMANDS[command], NO_COLOR="1").decode())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dumb_terminal_gets_plain_lines(folder, command):
    said = on_a_terminal(folder, COMMANDS[command], TERM="dumb")
    assert b"\x1b" not in said
    assert b"\r" not in said.replace(b"\r\n", b"")
    if command == "convert":
        assert re.search(rb"1 input, \d+ samples, \d+ shards", said)


@pytest.mark.parametrize("command", COMMANDS)
def test_ascii_only_terminals_get_ascii(folder, command):
    said = on_a_terminal(folder, COMMANDS[command], PYTHONIOENCODING="ascii:replace", PYTHONUTF8="0", LC_ALL="C")
    assert said.isascii()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", ["inspect", "info", "plugins list"])
def test_no_line_is_longer_than_the_terminal_is_wide(folder, command, columns):
    said = on_a_terminal(folder, COMMANDS[command], columns=columns, NO_COLOR="1").decode()
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said).splitlines()
    assert len(lines) > 5
    assert not [line for line in lines if len(line) > columns]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_neither_colours_nor_bars(folder, command):
    done = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", *COMMANDS[command], "--plugin", "plugin.py"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "-i", "a.made", "--dry-run"),
        ("plan", "shards", "--world-size", "2"),
        ("shuffle-report", "shards"),
        ("status", "parts"),
        ("plugins", "show", "gz"),
    ],
    ids=lambda words: words[0],
)
def test_tables_have_no_boxes_and_fit(folder, words):
    if words[0] == "status" and not (folder / "parts").exists():
        planned = ("convert", "-i", "a.made", "-o", "parts", "--plan-only", "--parts", "2", "--shard-size", "5")
        on_a_terminal(folder, planned)
    said = on_a_terminal(folder, words, NO_COLOR="1").decode()
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said).splitlines()
    assert len(lines) > 3
    assert not [line for line in lines if re.search("[\u2502\u2503\u250c\u250f]", line) or len(line) > 80]


def test_a_bar_is_drawn_before_what_takes_long_is_imported(folder):
    said = on_a_terminal(folder, COMMANDS["convert"], columns=200, PYTHONPROFILEIMPORTTIME="1").decode()
    assert said.index("opening inputs") < said.index("neurofm_shards.convert.session")


def test_a_bar_says_what_is_done_before_the_first_input_is_open(folder):
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", on_a_terminal(folder, COMMANDS["convert"], columns=120).decode())
    places = [said.index(text) for text in ("opening inputs", "writing shards", "samples/s")]
    assert places == sorted(places)
    assert re.match(r"\s*opening inputs \S+ 0/", said)


def test_names_break_at_slashes_and_notes_stand_below_where_they_do_not_fit():
    rows = [(("processing/behaviour/a_long_name_of_a_series", "1 x 3"), "a note of five words")]
    assert fitted_rows(("stream", "size", ""), [((*cells, ""), note) for cells, note in rows], 34) == [
        "stream                       size",
        "processing/behaviour/a_      1 x 3",
        "  long_name_of_a_series",
        "    a note of five words",
    ]
    assert fitted_rows(("stream", "size"), rows, 120)[1].endswith("series  1 x 3  a note of five words")


def test_a_misspelt_key_of_a_job_or_column_is_answered_with_the_closest(folder):
    (folder / "job.toml").write_text("[windows]\nbin_size = 5\n")
    create_shards_from_arrays(folder / "plain", {"spikes": np.zeros((3, 2), "u1")})
    for words, meant in (
        (
            ("convert", "-i", "a.made", "-o", "never", "--config", "job.toml"),
            "windows.bin_size: no such option (did you mean 'bin_size_ms'?)",
        ),
        (("drop", "plain", "--where", "smple_id == 'x'"), "'smple_id' (did you mean 'sample_id'?)"),
        (("confert",), "did you mean 'convert'?"),
        (("plan", "plain", "--shuffle", "globl"), "'globl' is no choice (did you mean 'global'?); there are: none,"),
        (("plugins", "lst"), "'lst' is no choice (did you mean 'list'?); there are: list, show, new"),
        (("plugins", "new", "codex", "mine"), "'codex' is no choice (did you mean 'codec'?)"),
        (("validate", "plain", "--jsn"), "did you mean '--json'?"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "neurofm_shards", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode in (2, 3)
        assert meant in done.stderr
