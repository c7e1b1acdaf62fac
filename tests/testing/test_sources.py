"""Each check of the source suite fails on a source that is broken in just that way."""

import sys
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import register_source
from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Inspection, SampleSequence, Source
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.recordings import EventStream, IntervalStream, IrregularStream, Recording, RegularStream
from neurofm_shards.testing import SourceConformance
from neurofm_shards.types import ColumnSpec, SourcePlan

sys.path.insert(0, str(Path(__file__).parent))
from running_suites import checks, failing


class Rows(SampleSequence):
    """One sample per line of numbers."""

    def __init__(self, path):
        try:
            lines = Path(path).read_text().split("\n")
            self.values = np.array([list(map(float, line.split())) for line in lines if line]).reshape(-1, 3)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        self.path = path

    def plan(self):
        columns = (ColumnSpec("x", "<f8", self.values.shape[1:]),)
        return SourcePlan(len(self.values), columns, file_fingerprint([self.path]))

    def sample(self, i):
        return {"x": self.values[i]}, {"line": i}


class RowSource(Source):
    opens = Rows

    def open(self, paths):
        return self.opens(paths[0])


class Suite(SourceConformance):
    name = "rows"

    def make_input(self, folder):
        np.savetxt(folder / "a.rows", np.arange(60.0).reshape(20, 3))
        return [folder / "a.rows"]


def source_of(opens):
    return type("BrokenSource", (RowSource,), {"opens": opens, "__reduce__": lambda _: (RowSource, ())})


class CannotTravel(RowSource):
    def __init__(self):
        self.rule = lambda row: row


class KnowsItsFolder(Rows):
    def plan(self):
        return SourcePlan(20, super().plan().columns, self.path)


class ForgetsTheContent(Rows):
    def plan(self):
        return SourcePlan(20, super().plan().columns, "always")


class HasNone(Rows):
    def plan(self):
        return SourcePlan(20, super().plan().columns, "")


class LetsErrorsThrough(Rows):
    def __init__(self, path):
        self.values, self.path = np.loadtxt(path, ndmin=2), path


class StumblesOverTheEnd(Rows):
    def __init__(self, path):
        super().__init__(path) if Path(path).stat().st_size else 1 / 0


class SaysNothing(RowSource):
    def inspect(self, paths):
        return Inspection("", {})


class SaysArrays(RowSource):
    def inspect(self, paths):
        return Inspection("rows", {"what": object()})


class PlansMore(Rows):
    def plan(self):
        plan = super().plan()
        return SourcePlan(21, plan.columns, plan.fingerprint)

    def sample(self, i):
        return super().sample(min(i, 19))

    def read(self, start, stop):
        return super().read(start, min(stop, 20))


class PlansAnotherType(Rows):
    def plan(self):
        return SourcePlan(20, (ColumnSpec("x", "<f4", (3,)),), super().plan().fingerprint)


class PlansAnotherShape(Rows):
    def plan(self):
        return SourcePlan(20, (ColumnSpec("x", "<f8", (4,)),), super().plan().fingerprint)


class PlansAnotherColumn(Rows):
    def plan(self):
        return SourcePlan(20, (ColumnSpec("y", "<f8", (3,)),), super().plan().fingerprint)


class SaysWhatJsonCannot(Rows):
    def sample(self, i):
        return {"x": self.values[i]}, {"line": {i}}


class NumbersAfresh(Rows):
    """Metadata that count from where reading started."""

    def read(self, start, stop):
        block = super().read(start, stop)
        for number, said in enumerate(block.metadata):
            said["line"] = number
        return block


class GoesOn(Rows):
    """A cursor that forgets to go back."""

    at = 0

    def read(self, start, stop):
        first, self.at = self.at, self.at + stop - start
        return super().read(first % 10, first % 10 + stop - start) if start else super().read(start, stop)


#: Fault to (factory, what the entry says differently, checks that fail for it).
SAMPLES = {
    "unknown suffix": (RowSource, {"suffixes": (".txt",)}, {"test_its_files_are_recognised"}),
    "cannot be pickled": (CannotTravel, {}, {"test_it_can_be_pickled"}),
    "fingerprint of the folder": (source_of(KnowsItsFolder), {}, {"test_the_fingerprint_is_that_of_the_content"}),
    "fingerprint of nothing": (source_of(ForgetsTheContent), {}, {"test_other_content_has_another_fingerprint"}),
    "no fingerprint": (source_of(HasNone), {}, {"test_the_fingerprint_is_that_of_the_content"}),
    "errors of others": (source_of(LetsErrorsThrough), {}, {"test_a_missing_file_is_a_clear_error"}),
    "silent inspection": (SaysNothing, {}, {"test_inspect_says_something"}),
    "inspection of objects": (SaysArrays, {}, {"test_inspect_says_something"}),
    "more than there is": (source_of(PlansMore), {}, {"test_samples_are_what_was_planned"}),
    "another type": (source_of(PlansAnotherType), {}, {"test_samples_are_what_was_planned"}),
    "another shape": (source_of(PlansAnotherShape), {}, {"test_samples_are_what_was_planned"}),
    "another column": (source_of(PlansAnotherColumn), {}, {"test_samples_are_what_was_planned"}),
    "metadata beyond JSON": (source_of(SaysWhatJsonCannot), {}, {"test_samples_are_what_was_planned"}),
    "numbers within the range": (source_of(NumbersAfresh), {}, {"test_any_range_gives_the_same_samples"}),
    "no end": (source_of(StumblesOverTheEnd), {}, {"test_truncated_files_are_clear_errors"}),
    "cursor": (source_of(GoesOn), {}, {"test_any_range_gives_the_same_samples"}),
}


class Session(Recording):
    """Spikes, a regular and an irregular series, trials; each fault changes one of them."""

    def __init__(self, path, fault=""):
        if not Path(path).exists():
            raise SourceError(f"{path} does not exist")
        self.fault = fault
        self.session_id = "" if fault == "no session" else "session"
        self.subject_id, self.source_file = "M1", "a.rows"
        self.facts, self.problems = {}, ()
        self.fingerprint = file_fingerprint([path])

    @property
    def streams(self):
        times, owner = np.arange(6.0), np.array([0, 1, 0, 1, 0, 1])
        if self.fault == "times":
            times = times.astype(np.float32)
        if self.fault == "lengths":
            owner = owner[:-1]
        if self.fault == "owner":
            owner = owner + 1
        owners = ("7", "7") if self.fault == "owners" else ("7", "9")
        length = 9 if self.fault == "shape" else 10
        stamps = np.arange(9.0 if self.fault == "stamps" else 10.0)
        dtype = "<f4" if self.fault == "dtype" else "<f8"
        start, stop = np.arange(3.0), np.arange(1.0, 3.0 if self.fault == "intervals" else 4.0)
        columns = {"target": [1, 2] if self.fault == "column" else [1, 2, 3]}
        kind = "spiking" if self.fault == "modality" else "spikes"
        other = "units" if self.fault == "paths" else "lfp"
        return [
            EventStream(path="units", modality=kind, read=lambda: (times, owner), owners=owners),
            RegularStream(
                path=other, modality="lfp", shape=(10, 2), dtype=dtype, rate=2.0, t0=0.0,
                read=lambda start, stop: np.zeros((length, 2))[start:stop] if length == 10 else np.zeros((4, 2)),
            ),
            IrregularStream(
                path="hand", modality="behavior", shape=(10, 2), dtype="<f8",
                read=lambda start, stop: np.zeros((10, 2))[start:stop], timestamps=lambda: stamps,
            ),
            IntervalStream(path="trials", modality="trials", start=start, stop=stop, columns=columns),
        ]  # fmt: skip

    def close(self):
        """Nothing is open."""


RECORDINGS = (
    "no session", "times", "lengths", "owner", "owners", "shape", "stamps", "dtype", "intervals", "column", "paths",
    "modality",
)  # fmt: skip


class SessionSource(Source):
    fault = ""

    def open(self, paths):
        return Session(paths[0], self.fault)


def register(factory, **changed):
    facts = {"name": "rows", "summary": "rows", "suffixes": (".rows",), **changed}
    register_source(SourceEntry(factory=factory, **facts))


@pytest.mark.parametrize("factory", [RowSource, SessionSource])
def test_a_sound_source_passes(factory, tmp_path):
    register(factory)
    assert failing(Suite, tmp_path) == set()


@pytest.mark.parametrize("fault", SAMPLES)
def test_a_broken_source_of_samples_fails_the_check_of_its_fault(fault, tmp_path):
    factory, changed, expected = SAMPLES[fault]
    register(factory, **changed)
    assert expected <= failing(Suite, tmp_path)


@pytest.mark.parametrize("fault", RECORDINGS)
def test_a_broken_recording_fails_the_check_of_streams(fault, tmp_path):
    register(type("Broken", (SessionSource,), {"fault": fault}))
    assert "test_streams_are_as_described" in failing(Suite, tmp_path)


def test_a_suite_that_makes_no_input_says_what_to_write(tmp_path):
    with pytest.raises(AssertionError, match="implement make_input"):
        SourceConformance().make_input(tmp_path)


def test_every_check_is_known_to_fail():
    known = set.union(*(expected for _, _, expected in SAMPLES.values())) | {"test_streams_are_as_described"}
    assert known == set(checks(SourceConformance))
