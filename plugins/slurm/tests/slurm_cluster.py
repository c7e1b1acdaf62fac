"""A Slurm of Debian's packages on this machine, without an installation: controller and two nodes, as root.

The packages are downloaded with ``apt-get download`` and unpacked into a folder, which ``NEUROFM_SHARDS_SLURM`` names
(one of the system's temporary folder unless told), so that they are fetched once.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PACKAGES = (
    "slurmd",
    "slurmctld",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "munge",
    "libmunge2",
    "libhwloc15",
)
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd-%n.log
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=5
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def unpacked():
    """Return the folder of the unpacked packages; None where they cannot be had."""
    folder = Path(os.environ.get("NEUROFM_SHARDS_SLURM", Path(tempfile.gettempdir()) / "neurofm-shards-slurm"))
    if (folder / "usr/sbin/slurmctld-wlm").exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None or os.geteuid() != 0:
        return None
    with tempfile.TemporaryDirectory() as debs:
        got = subprocess.run(["apt-get", "download", *PACKAGES], cwd=debs, capture_output=True, check=False)
        if got.returncode:
            subprocess.run(["apt-get", "update"], capture_output=True, check=False)
            got = subprocess.run(["apt-get", "download", *PACKAGES], cwd=debs, capture_output=True, check=False)
        if got.returncode:
            return None
        for deb in Path(debs).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)
    for name in ("slurmctld", "slurmd", "slurmstepd"):
        (folder / f"usr/sbin/{name}").unlink(missing_ok=True)
    return folder


class Cluster:
    """A controller and two nodes; a context manager."""

    def __init__(self, packages, run):
        self.run = Path(run)
        libraries = packages / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        self.sbin = packages / "usr/sbin"
        self.environment = {
            "PATH": f"{packages / 'usr/bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{libraries}{os.pathsep}{libraries / 'slurm-wlm'}",
            "SLURM_CONF": str(self.run / "slurm.conf"),
        }
        ports = free_ports(3)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            run=self.run,
            plugins=libraries / "slurm-wlm",
            port=ports[0],
            first=ports[1],
            second=ports[1] + 1,
        )
        for folder in ("state", "spool/n1", "spool/n2"):
            (self.run / folder).mkdir(parents=True)
        (self.run / "slurm.conf").write_text(text)

    def __enter__(self):
        self.daemon("slurmctld-wlm", "-c")
        for node in ("n1", "n2"):
            self.daemon("slurmd-wlm", "-N", node, "-d", self.sbin / "slurmstepd-wlm")
        self.wait_for(lambda: self.call("sinfo", "-h", "-o", "%T").strip() == "idle", "the nodes do not come up")
        return self

    def __exit__(self, *_):
        for pid in self.run.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()], check=False)
        end = time.monotonic() + 300
        while list(self.run.glob("*.pid")) and time.monotonic() < end:
            time.sleep(0.1)

    def daemon(self, name, *words):
        subprocess.run([str(self.sbin / name), *map(str, words)], env={**os.environ, **self.environment}, check=True)

    def call(self, *words, cwd=None, check=True):
        """Run a command of Slurm; return what it prints."""
        done = subprocess.run(
            [str(word) for word in words],
            env={**os.environ, **self.environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def requeue(self, job):
        """Requeue a job, without the two minutes that Slurm waits before it starts it again."""
        self.call("scontrol", "requeue", job)
        self.wait_for(lambda: any("PENDING" in line for line in self.queue(job)), f"job {job} is not requeued")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    def has_ended(self, job):
        """Return whether a job, or all of an array, has ended for good; an empty queue may be a busy controller."""
        done = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:  # forgotten long ago, or the controller is too busy to say
            return "Invalid job id" in done.stderr
        return set(re.findall(r"JobState=(\w+)", done.stdout)) <= ENDED

    def queue(self, job=None):
        """Return the states of the jobs that wait or run."""
        return self.call("squeue", "-h", "-r", "-o", "%i %T", *([f"--jobs={job}"] if job else []), check=False).split(
            "\n"
        )[:-1]

    @staticmethod
    def wait_for(test, what, seconds=180):
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, what
            time.sleep(0.2)


def free_ports(count):
    """Return neighbouring ports that nobody listens on."""
    for first in range(23000, 60000, 17):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", first))
            except OSError:
                continue
        return [first + i for i in range(count)]
    raise AssertionError("no port is free")
