"""Opening, naming, identifying, copying and closing a data set."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.errors import (
    ClosedError,
    ConfigError,
    FormatError,
    InputNotFoundError,
    NoShardsError,
    SampleNotFoundError,
    StateError,
)
from neurofm_shards.reading import address_space as space
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.dataset_writer import WebDatasetWriter


@pytest.fixture
def values():
    return np.random.default_rng(4).standard_normal((25, 30, 4))


@pytest.fixture
def ours(tmp_path, values):
    return write(tmp_path / "ours", values)


def write(folder, values, **options):
    with WebDatasetWriter(folder, shard_size=10, **options) as writer:
        for i, value in enumerate(values):
            writer.write_sample({"x": value}, metadata={"row": i})
    return folder


@pytest.fixture(params=["mmap", "pread"])
def io(request):
    return request.param


def test_a_folder_says_what_it_holds(ours, values):
    with ShardCollection.open(ours) as data:
        assert len(data) == data.num_samples == 25
        assert data.shard_names == ["shard_000000.tar", "shard_000001.tar", "shard_000002.tar"]
        assert data.shard_sizes.tolist() == [10, 10, 5]
        assert data.starts.tolist() == [0, 10, 20, 25]
        assert list(data.columns) == ["x"]
        assert (data.columns["x"].dtype, data.columns["x"].shape) == ("<f8", (30, 4))
        assert data.manifest.total_samples == 25


def test_nothing_of_a_shard_is_read_before_it_is_touched(ours):
    data = ShardCollection.open(ours)
    (ours / "shard_000002.tar").write_bytes(b"garbage")
    data.gather([0, 19])
    with pytest.raises(FormatError, match=r"shard_000002.tar"):
        data.gather([0, 20])
    data.close()


def test_keys_are_found_both_ways(ours, tmp_path, foreign):
    with ShardCollection.open(ours) as data:
        assert data.keys([24, 0]) == ["sample_000000025", "sample_000000001"]
        assert data.shard_keys(2)[-1] == "sample_000000025"
        assert [data.find(key) for key in data.keys(range(25))] == list(range(25))
        for absent in ("sample_000000026", "sample_000000000", "sample_1", "x", ""):
            with pytest.raises(SampleNotFoundError, match="keys look like 'sample_000000001'"):
                data.find(absent)
    names = ["b7", "a3", "zebra", "a1", "b2"]
    for shard, part in enumerate((names[:2], names[2:])):
        samples = [(key, {"x.npy": foreign.npy(np.zeros(2))}) for key in part]
        foreign.write_tar(tmp_path / "foreign" / f"shard_{shard:06d}.tar", samples)
    with ShardCollection.open(tmp_path / "foreign") as data:
        assert [data.find(key) for key in names] == [0, 1, 2, 3, 4]


def test_metadata_comes_row_by_row_and_as_a_table(ours):
    with ShardCollection.open(ours) as data:
        found = data.metadata([24, 3, 3])
        assert [entry["row"] for entry in found] == [24, 3, 3]
        assert data.metadata([]) == []
        assert data.metadata_table().values("row").tolist() == list(range(25))


def test_there_are_no_shards(tmp_path):
    with pytest.raises(InputNotFoundError, match="no folder .*nowhere"):
        ShardCollection.open(tmp_path / "nowhere")
    with pytest.raises(NoShardsError, match=r"No shards found in .* matching shard_\*\.tar\*"):
        ShardCollection.open(tmp_path)
    (tmp_path / "shard_000000.tar.tmp").write_bytes(b"")
    (tmp_path / ".shard_000000.tar.part").write_bytes(b"")
    with pytest.raises(NoShardsError):
        ShardCollection.open(tmp_path)


def test_the_manifest_alone_counts(ours, values, foreign):
    foreign.write_tar(ours / "shard_000009.tar", [("stray", {"x.npy": foreign.npy(values[0])})])
    with ShardCollection.open(ours) as data:
        assert data.num_samples == 25
    with ShardCollection.open(ours, "shard_00000[12].tar") as data:
        assert data.shard_names == ["shard_000001.tar", "shard_000002.tar"]
        np.testing.assert_array_equal(data.gather([0])["x"][0], values[10])
    with pytest.raises(NoShardsError, match=r"matching nothing\*"):
        ShardCollection.open(ours, "nothing*")
    (ours / "shard_000001.tar").unlink()
    with pytest.raises(FormatError, match="lists shards that are not there: shard_000001.tar"):
        ShardCollection.open(ours)


def test_an_unfinished_conversion_is_not_a_data_set(ours):
    (ours / "dataset_metadata.json").unlink()
    (ours / ".neurofm" / "journal").mkdir(exist_ok=True)
    with pytest.raises(FormatError, match="unfinished conversion.*--resume"):
        ShardCollection.open(ours)


def test_one_shard_is_a_data_set_too(ours, values):
    with ShardCollection.open(ours / "shard_000002.tar") as data:
        np.testing.assert_array_equal(data.gather(np.arange(5))["x"], values[20:])


def test_a_pattern_finds_shards_of_any_name(tmp_path, foreign, values):
    for name in ("train-1.tar", "train-0.tar", "test-0.tar"):
        foreign.write_tar(tmp_path / name, [(name[:-4], {"x.npy": foreign.npy(values[0])})])
    with ShardCollection.open(tmp_path, "train-*.tar") as data:
        assert data.keys([0, 1]) == ["train-0", "train-1"]


def test_a_shard_of_another_data_set_is_refused(ours, tmp_path, values):
    other = write(tmp_path / "other", values + 1)
    (ours / "shard_000001.tar").write_bytes((other / "shard_000001.tar").read_bytes())
    with ShardCollection.open(ours) as data, pytest.raises(FormatError, match=r"shard_000001.tar: not the shard that"):
        data.gather([10])


def test_a_truncated_shard_is_an_error_not_a_crash(ours, io):
    path = ours / "shard_000000.tar"
    with ShardCollection.open(ours, io=io) as data:
        data.keys([0])  # its index was read, and was right then
        os.truncate(path, 4096)
        with pytest.raises(FormatError, match=r"shard_000000.tar: 4096 bytes, but its index says"):
            data.gather([1])


def test_the_fingerprint_is_of_the_content_alone(ours, tmp_path, values):
    copy = tmp_path / "elsewhere"
    ours_data = ShardCollection.open(ours)
    same, other = write(copy, values), write(tmp_path / "other", values * 2)
    grown = write(tmp_path / "grown", values[:20])
    with ShardCollection.open(same) as a, ShardCollection.open(other) as b, ShardCollection.open(grown) as c:
        assert ours_data.fingerprint == a.fingerprint != b.fingerprint
        assert c.fingerprint == ours_data.prefix_fingerprint(2) != ours_data.fingerprint
    (copy / "dataset_metadata.json").unlink()
    with ShardCollection.open(copy) as foreign_now:
        assert foreign_now.fingerprint == ours_data.fingerprint
    ours_data.close()


def test_a_copy_in_another_process_reads_the_same(ours, values, io):
    with ShardCollection.open(ours, io=io, verify=True) as data:
        copy = pickle.loads(pickle.dumps(data))
        np.testing.assert_array_equal(copy.gather([3, 22])["x"], values[[3, 22]])
        copy.close()
        np.testing.assert_array_equal(data.gather([3])["x"], values[[3]])


def test_a_copy_sees_the_shards_there_were_and_refuses_changed_ones(ours, tmp_path, values):
    data = ShardCollection.open(ours)
    text = pickle.dumps(data)
    data.close()
    manifest = ours / "dataset_metadata.json"
    before = manifest.read_bytes()
    whole = json.loads(before)
    shorter = whole | {"shards": whole["shards"][:2], "total_shards": 2, "total_samples": 20}
    manifest.write_text(json.dumps(shorter))
    with ShardCollection.open(ours) as first_two:
        text_of_two = pickle.dumps(first_two)
    with pytest.raises(StateError, match="changed since it was opened"):
        pickle.loads(text)
    manifest.write_bytes(before)  # as if a third shard had been appended
    copy = pickle.loads(text_of_two)
    assert copy.num_samples == 20
    copy.close()


def test_forked_children_read_while_threads_of_the_parent_do(ours, values, io):
    with ShardCollection.open(ours, io=io) as data:
        stop = threading.Event()

        def read():
            while not stop.is_set():
                data.gather(np.arange(25))

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        context = multiprocessing.get_context("fork")
        children = []
        for _ in range(4):
            child = context.Process(target=check_in_child, args=(data, values))
            child.start()
            children.append(child)
        for child in children:
            child.join(300)
        stop.set()
        for thread in threads:
            thread.join()
        assert [child.exitcode for child in children] == [0] * 4


def check_in_child(data, values):
    ok = np.array_equal(data.gather(np.arange(24, -1, -1))["x"], values[::-1])
    data.close()
    os._exit(0 if ok else 1)


def test_a_forked_child_does_not_wait_for_readers_that_only_its_parent_has(ours, io):
    with ShardCollection.open(ours, io=io) as data, data._space.reading():
        child = multiprocessing.get_context("fork").Process(target=close_in_child, args=(data,))
        child.start()
        child.join(300)
        found = child.exitcode
        child.kill()
        assert found == 0


def close_in_child(data):
    with data._space.reading():
        closing = threading.Thread(target=data.close)
        closing.start()
        closing.join(0.1)
        waits_for_its_own = closing.is_alive()
    closing.join(300)
    os._exit(0 if waits_for_its_own and not closing.is_alive() else 1)


def test_closing_waits_for_readers_and_is_final(ours, io, values):
    data = ShardCollection.open(ours, io=io)
    kept = data.gather([2])["x"]
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                seen.append(np.array_equal(data.gather(np.arange(25))["x"], values))
            except ClosedError:
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(seen) < 5:
        pass
    data.close()
    data.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert all(seen)
    np.testing.assert_array_equal(kept, values[[2]])
    for read in (lambda: data.gather([0]), lambda: data.metadata([0]), lambda: data.payload(0, "x")):
        with pytest.raises(ClosedError, match=r"ours is closed; open it again"):
            read()


def test_closing_waits_until_the_last_reader_is_done(ours, io):
    data = ShardCollection.open(ours, io=io)
    closing = threading.Thread(target=data.close)
    with data._space.reading():
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
    closing.join(300)
    assert not closing.is_alive()


def test_a_closed_data_set_holds_neither_files_nor_maps(ours, io):
    data = ShardCollection.open(ours, io=io)
    data.gather(np.arange(25))
    data.close()
    assert f"{ours}/shard_" not in Path("/proc/self/maps").read_text()
    assert str(ours) not in " ".join(str(fd.resolve()) for fd in Path("/proc/self/fd").iterdir())


def test_opening_again_and_again_leaks_neither_files_nor_maps(ours, io):
    def held():
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), maps.count("ours/shard_"), resource_bytes()

    def resource_bytes():
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    for turn in range(60):
        data = ShardCollection.open(ours, io=io)
        data.gather(np.arange(25))
        data.metadata([0])
        if turn % 2:
            data.close()
        del data
        if turn == 10:
            before = held()
    after = held()
    assert after[0] == before[0]
    assert after[1] == before[1] == 0
    assert after[2] - before[2] < 8 << 20


def test_too_many_shards_for_the_system_are_read_with_plain_reads(ours, values, monkeypatch):
    monkeypatch.setattr("neurofm_shards.reading.address_space.most_maps", lambda: 2)
    with ShardCollection.open(ours) as data:
        np.testing.assert_array_equal(data.gather(np.arange(25))["x"], values)
        assert f"{ours}/shard_" not in Path("/proc/self/maps").read_text()


def test_no_addresses_to_be_had_means_plain_reads_unless_maps_were_asked_for(ours, values, monkeypatch):
    def refuse(size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(space, "AddressRange", refuse)
    with ShardCollection.open(ours) as data:
        np.testing.assert_array_equal(data.gather([7, 21])["x"], values[[7, 21]])
    with pytest.raises(ConfigError, match="cannot reserve addresses.*io='pread'"):
        ShardCollection.open(ours, io="mmap")
    with pytest.raises(ConfigError, match="choose 'auto', 'mmap' or 'pread'"):
        ShardCollection.open(ours, io="carrier pigeon")


def compressed(folder, compression, count=48):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (count, 50_000)).astype("i4")  # 200 KB each: about five to a frame
    with WebDatasetWriter(folder, shard_size=24, compression=compression) as writer:
        for value in values:
            writer.write_sample({"x": value})
    return values


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_each_frame_is_decoded_once_in_order_and_in_windows(tmp_path, io):
    values = compressed(tmp_path / "d", "gz")
    frames = sum(-(-path.stat().st_size // 1) > 0 for path in (tmp_path / "d").glob("*.tar.gz"))
    assert frames == 2
    rng = np.random.default_rng(1)
    windows = np.concatenate([rng.permutation(np.arange(low, low + 12)) for low in range(0, 48, 12)])
    for order in (np.arange(48), windows):
        with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=6 << 20) as data:
            total = sum(len(data.index(shard).frames) for shard in range(2))
            for rows in order.reshape(-1, 4):
                np.testing.assert_array_equal(data.gather(rows)["x"], values[rows])
            assert data.frames_decoded == total > 6


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_decoded_frames_stay_within_the_budget(tmp_path, io):
    values = compressed(tmp_path / "d", "gz")
    with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=3 << 20) as data:
        frames = data._space.frames
        for rows in np.random.default_rng(2).permutation(48).reshape(-1, 2):
            np.testing.assert_array_equal(data.gather(rows)["x"], values[rows])
            assert frames.held <= (3 << 20) + (4 << 20)
        total = sum(len(data.index(shard).frames) for shard in range(2))
        assert data.frames_decoded > total, "some had to be decoded again"
        data.grow_cache(1 << 30)
        decoded = data.frames_decoded
        for _ in range(3):
            data.gather(np.arange(48))
        assert data.frames_decoded <= decoded + total
        assert pickle.loads(pickle.dumps(data))._space.frames.budget == 1 << 30


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_frames_are_not_dropped_while_another_thread_reads_them(tmp_path, io):
    values = compressed(tmp_path / "d", "gz")
    wrong = []
    with ShardCollection.open(tmp_path / "d", io=io, cache_bytes=1) as data:

        def read(seed):
            batches = np.random.default_rng(seed).integers(0, 48, (25, 6))
            wrong.extend(rows for rows in batches if not np.array_equal(data.gather(rows)["x"], values[rows]))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_damaged_frame_is_named_and_the_others_still_read(tmp_path):
    values = compressed(tmp_path / "d", "gz")
    path = tmp_path / "d" / "shard_000001.tar.gz"
    with ShardCollection.open(tmp_path / "d") as data:
        table = data.index(1).frames
        raw = bytearray(path.read_bytes())
        start = int(table.file_offsets[2])
        raw[start : start + 2000] = os.urandom(2000)
        path.write_bytes(raw)
        for _ in range(2):
            with pytest.raises(FormatError, match=r"shard_000001.tar.gz.*frame 2"):
                data.gather(np.arange(24, 48))
        np.testing.assert_array_equal(data.gather([0, 24])["x"], values[[0, 24]])


def test_a_million_samples_open_in_little_time_and_memory(tmp_path):
    folder = write_many(tmp_path / "big")
    code = """
import resource, sys, time
import numpy as np
from neurofm_shards.reading.collection import ShardCollection
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
data = ShardCollection.open(sys.argv[1])
first = data.gather(np.random.default_rng(0).integers(0, data.num_samples, 32))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(data.num_samples, time.process_time() - start, grown)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    count, seconds, grown_kib = done.stdout.split()
    assert int(count) == 1_000_000
    assert int(grown_kib) < 150 << 10
    assert float(seconds) < 20  # of processor time; 0.2 s on an idle machine


def write_many(folder):
    """One thousand shards of a thousand tiny samples: one is written, the others are links to it."""
    with WebDatasetWriter(folder, shard_size=1000) as writer:
        for _ in range(1000):
            writer.write_sample({"x": np.zeros(4, "f4")})
    path = folder / "dataset_metadata.json"
    manifest = json.loads(path.read_text())
    first, names = manifest["shards"][0], [f"shard_{i:06d}.tar" for i in range(1000)]
    manifest["shards"] = [first | {"shard_name": name, "shard_idx": i} for i, name in enumerate(names)]
    manifest |= {"total_samples": 1_000_000, "total_shards": 1000}
    path.write_text(json.dumps(manifest))
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    return folder


def test_threads_that_look_at_a_shard_together_see_finished_sizes(tmp_path):
    """Found by a loader with four threads: sizes were noted in two steps, and a third thread read in between."""
    with WebDatasetWriter(tmp_path / "shards", shard_size=20) as writer:
        for i in range(100):
            writer.write_sample({"x": np.full((i % 7 + 1, 3), float(i))})

    def read(collection, start):
        found = collection.gather(np.arange(start, start + 10), ["x"])["x"]
        return all(len(found[j]) == (start + j) % 7 + 1 and (found[j] == start + j).all() for j in range(10))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(10):
            with ShardCollection.open(tmp_path / "shards") as collection, ThreadPoolExecutor(8) as pool:
                assert all(pool.map(lambda start: read(collection, start), [0, 20, 40, 60, 80] * 8))
    finally:
        sys.setswitchinterval(interval)
