"""The page is whole, loads nothing, escapes what files say, and says the numbers of the data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import neurofm_shards
from neurofm_shards import ShardDataset, convert_inputs, create_shards_from_arrays
from neurofm_shards.errors import InputNotFoundError
from neurofm_shards.loading.subsets import save_splits
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import SampleSequence, Source
from neurofm_shards.plugins.registry import register_source, registry
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular
from neurofm_shards.types import ColumnSpec, SourcePlan
from neurofm_shards_report import page, report
from neurofm_shards_report.facts import DatasetFacts
from neurofm_shards_report.recording import _stream, _trace

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Checks that elements close in order, and keeps ids, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        self.tags.append((tag, said))
        self.ids += [said["id"]] if "id" in said else []
        self.addresses += [said[name] for name in ("src", "href", "xlink:href") if name in said]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def text(shards, tmp_path_factory):
    return report(shards, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_it_is_well_formed_and_loads_nothing(text):
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"url\((?!#|&quot;#)", text)
    assert len(set(page.ids)) == len(page.ids)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_every_picture_has_a_text(text):
    pictures = [said for tag, said in Page(text).tags if tag == "svg"]
    assert len(pictures) > 15
    assert all(said.get("role") == "img" and said.get("aria-label") for said in pictures)


def test_it_says_the_numbers_of_the_data(text):
    said = " ".join("".join(Page(text).text).split())
    for words in (
        "20 samples, 3 shards.",
        "2 sessions of 1 subject",
        "No window of one split overlaps in time",
        "mean over 20 windows",
    ):
        assert words in said


def test_it_is_the_same_for_the_same_data(text, shards, tmp_path):
    assert report(shards, tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_names_from_files_are_escaped(tmp_path):
    metadata = [{"session_id": "<script>alert(1)</script>&'\"", "split": "<b>"}] * 6
    create_shards_from_arrays(tmp_path / "shards", {"spikes": np.ones((6, 5, 3))}, metadata=metadata)
    page = Page(report(tmp_path / "shards", tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"script", "b"}.isdisjoint(tag for tag, _ in page.tags)


def test_numbers_stand_behind_every_picture(text):
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) > 15
    assert all("<table>" in figure for figure in figures)


def test_arrays_without_sessions_and_times_have_a_report(tmp_path):
    create_shards_from_arrays(tmp_path / "shards", {"image": np.ones((6, 8, 40), "u1"), "label": np.arange(6)})
    text = report(tmp_path / "shards", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no timeline" in text
    assert Page(text).open == []
    assert "<dt>sessions</dt>" not in text


def test_nothing_is_said_of_sessions_that_the_samples_do_not_name(tmp_path):
    metadata = [{"split": ("train", "test")[i % 2]} for i in range(6)]
    create_shards_from_arrays(tmp_path / "shards", {"image": np.ones((6, 8, 4, 3), "u1")}, metadata=metadata)
    text = report(tmp_path / "shards", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "more than one split" not in text
    assert "What splits share" not in text
    assert not re.search(r"<th[^>]*>sessions</th>", text)


def test_pages_stay_small(shards, tmp_path, monkeypatch):
    whole = report(shards, tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr(page, "MAX_BYTES", 200_000)
    text = report(shards, tmp_path / "small.html").read_text(encoding="utf-8")
    assert len(text) < 0.8 * whole
    assert "Further samples are not drawn, so that the page stays below 5 MB." in text
    (drawn,) = re.findall(r"<p>(\d+) samples?, some of every split", text)
    rows = [int(row) for row in re.findall(r"<figcaption>Sample (\d+)", text)]
    assert 0 < int(drawn) == len(rows) < 12
    assert rows == sorted(rows)
    assert min(rows) < 5
    assert max(rows) > 9
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    assert "<figcaption>Sample " not in report(shards, tmp_path / "none.html").read_text(encoding="utf-8")


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(InputNotFoundError, match="nothing.here does not exist"):
        report(tmp_path / "nothing.here", tmp_path / "report.html")


def test_the_commands_write_files_and_say_so_as_json(shards, tmp_path):
    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "neurofm_shards", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(run("report", shards, "-o", tmp_path / "r.html", "--json"))
    assert found == {"report": str(tmp_path / "r.html"), "bytes": (tmp_path / "r.html").stat().st_size}
    found = json.loads(run("show", shards, "3", "sample_000000005", "-o", tmp_path / "s.png", "--json"))
    assert [(tmp_path / f"s_{i}.png").read_bytes()[:4] for i in (1, 2)] == [b"\x89PNG"] * 2
    assert [entry["sample"] for entry in found] == ["3", "sample_000000005"]
    assert "spikes (50 x 6)" in run("show", shards, "-1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "DIR", "99"], "99"),
        (["show", "DIR", "nobody"], "nobody"),
        (["show", "DIR", "0", "-o", "x.txt"], "ends in .png, .svg, .pdf"),
        (["show", "DIR", "0", "-o", "x.png", "--columns", "spkes"], "no column 'spkes'"),
        (["report", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(words, said, shards, tmp_path):
    named = [str(shards) if word == "DIR" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", *named], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_listing_plugins_imports_no_matplotlib():
    code = "import sys, neurofm_shards_report.plugin; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_core_runs_the_command_of_whoever_provides_it(shards, tmp_path):
    path = neurofm_shards.report(shards, tmp_path / "core.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_damaged_data_set_has_a_report_that_says_what_is_damaged(shards, tmp_path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    with (copied / "shard_000001.tar").open("r+b") as file:
        file.truncate(20_000)
    text = report(copied, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "The data set is damaged" in text
    assert "shard_000001.tar" in text
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "What the manifest lists" in text
    assert "<dt>samples</dt><dd>20</dd>" in text


def test_changed_bytes_are_an_alarm_above_what_is_drawn(shards, tmp_path):
    assert "All 3 shards match their checksums." in report(shards, tmp_path / "whole.html").read_text(encoding="utf-8")
    copied = shutil.copytree(shards, tmp_path / "shards")
    with tarfile.open(copied / "shard_000001.tar") as tar:
        fields = [member.offset_data + 500 for member in tar if member.name.endswith(".lfp.pyd")]
    place = next(place for place in fields if place > 8192)  # opening looks at the first, middle and last 4 KiB
    with (copied / "shard_000001.tar").open("r+b") as file:
        file.seek(place)
        file.write(b"changed")
    text = report(copied, tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"The data set is damaged: \d errors?; what is drawn below may be wrong.", text)
    assert "its bytes differ from what was written (checksum)" in text
    assert "match their checksums" not in text


def test_saved_splits_come_before_those_of_the_metadata(shards, tmp_path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    save_splits(copied, {"fit": np.arange(0, 12), "hold": np.arange(15, 20)})
    facts = DatasetFacts(copied)
    assert facts.splits_of.counts() == {"fit": 12, "hold": 5, "(no split)": 3}
    text = report(copied, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "split hold" in text
    assert "split test" not in text


def test_the_axis_of_a_single_trace_says_its_values():
    stream = regular("lfp", np.full((500, 1), 1300.0), 100.0, unit="V")
    figure, caption, behind = _trace(stream)
    assert set(figure.axes[0].lines[0].get_ydata().tolist()) == {1300.0}
    assert caption == "lfp: all 500 values, in V."
    assert behind.rows == [["lfp", "0", "V", "1,300", "1,300", "1,300", "100%"]]


def test_events_without_a_time_are_not_drawn():
    assert _stream(events("ttl", {"on": [np.nan, np.nan]}, modality="events")) == []
    ((figure, caption, behind),) = _stream(events("ttl", {"on": [1.0, np.nan, 3.0]}, modality="events"))
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1.0, 3.0]
    assert caption == "ttl: all 2 events."
    assert behind.rows == [["on", "2", "1", "3"]]


def test_an_input_of_samples_is_drawn(tmp_path):
    register_source(SourceEntry(name="lines", summary="counts", factory=Lines, suffixes=(".lines",)))
    try:
        (tmp_path / "a.lines").write_text("1 2 3")
        text = report(tmp_path / "a.lines", tmp_path / "report.html").read_text(encoding="utf-8")
    finally:
        registry().sources.unregister("lines")
    assert "Sample 2 of 3." in text
    assert Page(text).open == []


class Lines(Source):
    """One sample for each number in a file."""

    def open(self, paths):
        return Numbers(Path(paths[0]).read_text().split())


class Numbers(SampleSequence):
    def __init__(self, numbers):
        self.numbers = numbers

    def plan(self):
        return SourcePlan(len(self.numbers), (ColumnSpec("x", "<f8", (5,)),), "fingerprint")

    def sample(self, i):
        return {"x": np.full(5, float(self.numbers[i]))}, {}


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["0", "1"])
def test_a_browser_opens_it_without_a_complaint(scheme, text, tmp_path):
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", f"--blink-settings=preferredColorScheme={scheme}",
            "--dump-dom", f"file://{tmp_path / 'report.html'}",
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert "<main>" in done.stdout


class Walks(Source):
    def open(self, paths):
        walk = np.random.default_rng(1).normal(size=(3033, 2)).cumsum(axis=0)
        return InMemoryRecording([regular("walk", walk, 100.0, modality="behavior")], fingerprint="walk")


def test_stored_recordings_are_reported_as_the_windows_that_loaders_cut(tmp_path):
    register_source(SourceEntry(name="walks", summary="made up", factory=Walks, suffixes=(".walk",)))
    try:
        (tmp_path / "a.walk").write_text("")
        convert_inputs([tmp_path / "a.walk"], tmp_path / "stored", {"layout": "recordings"})
        convert_inputs([tmp_path / "a.walk"], tmp_path / "windows")
    finally:
        registry().sources.unregister("walks")
    text = report(tmp_path / "stored", tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(ShardDataset(tmp_path / "stored")) == 1
    windows = len(ShardDataset(tmp_path / "stored", windows={}))
    assert f"{windows:,} samples, 1 shard." in text
    assert "shows the windows that loaders cut" in text
    assert "of 0 subjects" not in text
    facts, converted = DatasetFacts(tmp_path / "stored"), DatasetFacts(tmp_path / "windows")
    assert facts.sessions == converted.sessions, "extents, recorded and left out time, drops, units, bins"
    assert facts.sessions[0].summary.left_out_s
    assert facts.sessions[0].summary.recorded_s == pytest.approx(30.33, abs=0.011)
    assert (facts.drops(), facts.valid_windows()) == (converted.drops(), converted.valid_windows())
    assert facts.problems() == converted.problems()


def test_that_large_shards_were_not_checked_is_said(shards, tmp_path, monkeypatch):
    assert "match their checksums" in report(shards, tmp_path / "page.html").read_text(encoding="utf-8")
    for module in ("damage", "reports"):
        monkeypatch.setattr(f"neurofm_shards_report.{module}.MAX_CHECKED_BYTES", 10)
    text = report(shards, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "match their checksums" not in text
    assert "not compared with their checksums, being larger than 10 B" in text
