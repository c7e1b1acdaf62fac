"""Plans, journals and commits very many shards of made-up inputs, and measures what one driver costs per shard.

python tests/reliability/many_shards.py --inputs 10000 --shards 10
"""

from __future__ import annotations

import argparse
import pickle
import resource
import tempfile
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import numpy as np

from neurofm_shards.convert.commit import converted_manifest
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import Answer, dispatcher
from neurofm_shards.convert.identity import identity
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import Expected, InputSpec
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.parts import Part
from neurofm_shards.convert.planning import combine, plan_conversion
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.convert.shard_run import job_spec
from neurofm_shards.convert.stored_plan import read_plan, store_plan
from neurofm_shards.convert.work import run_task
from neurofm_shards.format.manifest import read_manifest, write_manifest
from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.interfaces import PluginConfig
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import ColumnSpec, SourcePlan
from neurofm_shards.writing.journal import Journal, JournalHeader, read_journal

SAMPLES = 100
_CODEC = {"codec": "pyd", "codec_version": 1, "extension": "pyd"}


def memory_mb():
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


@contextmanager
def measured(what, shards):
    start, before = time.process_time(), memory_mb()
    yield
    seconds, after = time.process_time() - start, memory_mb()
    print(
        f"{what:<28} {seconds:7.2f} s {1000 * seconds / shards * 1000:8.1f} ms per 1,000 shards, "
        f"{after - before:+8.1f} MB, {(after - before) / shards * 1000:+6.2f} MB per 1,000",
        flush=True,
    )


def made_up(i, shards, config):
    columns = (ColumnSpec("spikes", "|u1", (100, 96)), ColumnSpec("unit_ids", "<i4", (96,), table="units"))
    name = f"/data/sub-{i % 50:02d}/ses-{i:05d}.npz"
    source = Input((name,), "npz", "{}", None, (name,))
    plan = SourcePlan(
        shards * SAMPLES,
        columns,
        f"xxh3:{i:032x}",
        metadata={"session_id": f"ses-{i:05d}", "subject_id": f"sub-{i % 50:02d}", "duration_s": 3600.0},
        drops={"too short": 3},
        tables={"units": [{"id": f"{i}/{u}", "group": "probe0", "depth_um": 20.0 * u} for u in range(8)]},
    )
    spec = InputSpec(source, config.windows, config.session_template)
    return InputPlan(spec, plan, Expected(plan.fingerprint, ((10**9 + i, 10**18 + i),)), f"ses-{i:05d}", True)


def line(task):
    name = f"shard_{task.shard_idx:06d}.tar"
    return {
        "shard_idx": task.shard_idx,
        "shard": {
            "shard_name": name,
            "shard_idx": task.shard_idx,
            "num_samples": SAMPLES,
            "shard_bytes": 1_100_000,
            "tar_bytes": 1_100_000,
            "checksum": f"{task.shard_idx:032x}",
            "samples": [],
        },
        "columns": [
            {"name": "spikes", "dtype": "|u1", "shape": [100, 96], **_CODEC},
            {"name": "unit_ids", "dtype": "<i4", "shape": [96], "table": "units", **_CODEC},
        ],
        "statistics": [],
        "drops": [],
        "failures": [],
        "host": "node17",
        "seconds": 1.5,
        "at": 1.7e9 + task.shard_idx,
    }


def plan_to_manifest(inputs, shards, parts):
    total = inputs * shards
    config = ConversionConfig.of({"shard_size": SAMPLES, "format": "npz"})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sidecars = folder / ".neurofm"
        sidecars.mkdir()
        with measured("plan", total):
            plan = combine([made_up(i, shards, config) for i in range(inputs)], config)
        assert plan.total_shards == total
        with measured("store the plan", total):
            store_plan(sidecars, plan, parts)
        header = JournalHeader("convert", identity(plan), total, durable=False)
        with measured("read the plan in a part", total):
            part = Part(parts // 2, parts).of(read_plan(folder, sidecars, facts=False))
        assert part.total_shards == len(Part(parts // 2, parts).share(total))
        with measured("journal", total):
            journal = Journal(sidecars, header, None)
            for task in plan.tasks():
                journal.record([line(task)])
            journal.close()
        with measured("read the journal", total):
            lines = read_journal(sidecars).shards
        with measured("make the manifest", total):
            manifest = converted_manifest(plan, lines)
        with measured("write the manifest", total):
            write_manifest(folder, manifest, durable=False)
        with measured("read the manifest", total):
            assert read_manifest(folder).total_shards == total
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


class SimulatedConfig(PluginConfig):
    kind: Literal["simulated"] = "simulated"
    workers: int = 1


class SimulatedWorkers(Executor):
    """Finish shards that were written beforehand, as fast as the driver hands them out, in a thread of their own."""

    def __init__(self, prepared):
        self.prepared = prepared
        self.calls = SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def submit(self, fn, /, context, payload):
        future = Future()
        self.calls.put((future, fn, context, payload))
        return future

    def work(self):
        while True:
            future, fn, context, payload = self.calls.get()
            function, arguments = pickle.loads(payload)
            if function is run_task:
                spec, task = arguments
                result = self.prepared[task.shard_idx]
                (Path(spec.folder).parents[2] / "prepared" / result.staged).rename(Path(spec.folder) / result.staged)
                future.set_result(pickle.dumps(Answer(result, "node17", 1.5)))
            else:
                future.set_result(fn(context, payload))


def driver(shards, workers, durable):
    """Processor time of the driver's thread per shard, from the first that is handed out to the last in place."""
    config = ConversionConfig.of({"shard_size": 1, "durable": durable})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez(folder / "s.npz", x=np.zeros((shards, 4)))
        with dispatcher("serial", 1) as made:
            plan = plan_conversion([folder / "s.npz"], config, made)
        spec = job_spec(config, plan.columns, folder / "prepared", None)
        (folder / "prepared").mkdir()
        prepared = {task.shard_idx: run_task(spec, task) for task in plan.tasks()}
        registry().executors.register(
            ExecutorEntry(
                name="simulated",
                summary="simulated",
                factory=lambda _: SimulatedWorkers(prepared),
                config=SimulatedConfig,
            )
        )
        times = []
        convert_inputs(
            [folder / "s.npz"],
            folder / "out",
            config,
            workers=workers,
            executor="simulated",
            observer=lambda _: times.append(time.thread_time()),
        )
        registry().executors.unregister("simulated")
    cost = 1000 * (times[-2] - times[-1 - shards]) / (shards - 1)
    print(f"driver, {workers} workers, {'durable' if durable else 'not durable'}: {cost:.2f} ms per shard", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=10, help="of each input")
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--driver", type=int, default=2000, help="shards that one driver hands out")
    args = parser.parse_args()
    plan_to_manifest(args.inputs, args.shards, args.parts)
    for workers in (1, 16, 256):
        for durable in (False, True):
            driver(args.driver, workers, durable)


if __name__ == "__main__":
    main()
