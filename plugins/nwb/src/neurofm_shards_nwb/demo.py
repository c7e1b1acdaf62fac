"""A made-up reaching session as a real NWB file: something to convert before one has data of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from os import PathLike, fspath
from typing import Any

import numpy as np

from neurofm_shards.errors import ConfigError
from neurofm_shards_nwb.reaching import DIRECTIONS, Session, simulate

_START = datetime(2026, 1, 1, 9, 0, tzinfo=timezone.utc)
_DESCRIPTION = "SYNTHETIC: centre-out reaches, with Poisson units that are tuned to the velocity of the hand"


def write_demo_session(
    path: str | PathLike[str], *, seconds: float = 600.0, seed: int = 0, units: int = 40, channels: int = 8
) -> None:
    """Write a realistic session of centre-out reaching as an NWB file.

    It holds tuned units, an LFP whose rhythm stops during movement, position and velocity of the hand, and trials;
    everything is a function of the arguments.

    Parameters
    ----------
    path : path
        The file to write; replaced when it exists.
    seconds : float
        Length of the session, at least 10 s.
    seed : int
        Seed of the random numbers.
    units, channels : int
        Number of units, and of LFP channels.

    Raises
    ------
    ConfigError
        The session is too short for a trial.
    """
    if seconds < 10:
        raise ConfigError(f"seconds={seconds:g}: a session of reaches needs at least 10 seconds")
    from pynwb import NWBHDF5IO  # noqa: PLC0415  (only when a file is written)

    session = simulate(seconds, np.random.default_rng(seed), units=units, channels=channels)
    nwbfile = _new_file(seed)
    region = _add_electrodes(nwbfile, channels)
    _add_units(nwbfile, session)
    _add_lfp(nwbfile, session, region)
    _add_hand(nwbfile, session)
    _add_trials(nwbfile, session)
    with NWBHDF5IO(fspath(path), mode="w") as io:
        io.write(nwbfile)


def _new_file(seed: int) -> Any:
    from pynwb import NWBFile  # noqa: PLC0415
    from pynwb.file import Subject  # noqa: PLC0415

    return NWBFile(
        session_description=_DESCRIPTION,
        identifier=f"neurofm-demo-{seed}",
        session_start_time=_START,
        session_id=f"demo-{seed}",
        subject=Subject(subject_id="demo-subject", species="Macaca mulatta", sex="U", age="P6Y"),
    )


def _add_electrodes(nwbfile: Any, channels: int) -> Any:
    device = nwbfile.create_device(name="array")
    group = nwbfile.create_electrode_group(name="M1", description="array", location="M1", device=device)
    for _ in range(channels):
        nwbfile.add_electrode(group=group, location="M1")
    return nwbfile.create_electrode_table_region(list(range(channels)), "all electrodes")


def _add_units(nwbfile: Any, session: Session) -> None:
    nwbfile.add_unit_column("quality", "how well the unit is isolated")
    nwbfile.add_unit_column("preferred_direction", "direction of the hand with the highest rate, in degrees")
    electrodes = len(nwbfile.electrodes)
    for number, (times, preferred) in enumerate(zip(session.spike_times, session.preferred, strict=True)):
        nwbfile.add_unit(
            spike_times=times,
            electrodes=[number % electrodes],
            quality="good" if number % 5 else "fair",
            preferred_direction=float(np.degrees(preferred)),
        )


def _add_lfp(nwbfile: Any, session: Session, region: Any) -> None:
    from pynwb.ecephys import LFP, ElectricalSeries  # noqa: PLC0415

    series = ElectricalSeries(
        name="lfp",
        description="rhythm at 20 Hz that stops during movement, on pink noise",
        data=session.lfp,
        electrodes=region,
        starting_time=0.0,
        rate=session.lfp_rate,
        conversion=session.lfp_volts,
    )
    module = nwbfile.create_processing_module("ecephys", "processed extracellular recordings")
    container = LFP()
    module.add(container)
    container.add_electrical_series(series)


def _add_hand(nwbfile: Any, session: Session) -> None:
    from pynwb.behavior import BehavioralTimeSeries, Position, SpatialSeries  # noqa: PLC0415

    def series(name: str, values: Any, unit: str) -> Any:
        return SpatialSeries(
            name=name,
            description="x and y of the hand",
            data=values,
            reference_frame="centre of the screen",
            unit=unit,
            starting_time=0.0,
            rate=session.hand_rate,
        )

    module = nwbfile.create_processing_module("behavior", "movement of the hand")
    module.add(Position(spatial_series=series("hand_position", session.position, "cm")))
    module.add(BehavioralTimeSeries(time_series=series("hand_velocity", session.velocity, "cm/s"), name="Velocity"))


def _add_trials(nwbfile: Any, session: Session) -> None:
    columns: Mapping[str, str] = {
        "target": f"number of the target, 0 to {DIRECTIONS - 1}",
        "go_cue_time": "when the target lit up",
        "outcome": "hit or miss",
    }
    for name, description in columns.items():
        nwbfile.add_trial_column(name, description)
    for trial in session.trials:
        nwbfile.add_trial(
            start_time=trial.start,
            stop_time=trial.stop,
            target=trial.target,
            go_cue_time=trial.go,
            outcome="hit" if trial.hit else "miss",
        )
