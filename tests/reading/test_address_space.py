"""Bytes of shards by address: mapped or read, by threads and forked children, until the data set is closed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.errors import ClosedError, ConfigError
from neurofm_shards.reading import address_space as space
from neurofm_shards.reading.collection import ShardCollection


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


def start_closing(data, closing):
    """Start a thread that closes a data set, and wait until it has marked it as closed."""
    closing.start()
    deadline = time.monotonic() + 300
    while not data._space._closed and time.monotonic() < deadline:
        time.sleep(0.001)


def close_in_child(data):
    with data._space.reading():
        closing = threading.Thread(target=data.close)
        start_closing(data, closing)
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
        start_closing(data, closing)
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
