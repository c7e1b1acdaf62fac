"""Makes up a session of centre-out reaching and writes it: movement, spikes tuned to it, a rhythm that it stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import ConfigError

Floats = npt.NDArray[np.float64]

DIRECTIONS = 8
HAND_RATE = 200.0
LFP_RATE = 500.0
LFP_VOLTS = 2.5e-7
_REACH_CM = 10.0
#: Spikes come this long before the movement they are tuned to.
_LEAD_S = 0.08
_RHYTHM_HZ = 20.0


@dataclass(frozen=True)
class Trial:
    """One reach, out to a target and back; times in seconds."""

    start: float
    go: float
    out: float
    back: float
    stop: float
    target: int
    hit: bool


@dataclass(frozen=True)
class Session:
    """What was simulated.

    Attributes
    ----------
    trials : list of Trial
    position, velocity : numpy.ndarray of float64, shape (time, 2)
        The hand, in cm and cm/s, at ``hand_rate``.
    spike_times : list of numpy.ndarray of float64
        Ascending seconds, per unit.
    preferred : numpy.ndarray of float64, shape (units,)
        Preferred directions in radians.
    lfp : numpy.ndarray of int16, shape (time, channels)
        Times ``lfp_volts`` is volts; at ``lfp_rate``.
    """

    trials: list[Trial]
    position: Floats
    velocity: Floats
    spike_times: list[Floats]
    preferred: Floats
    lfp: npt.NDArray[np.int16]
    hand_rate: float = HAND_RATE
    lfp_rate: float = LFP_RATE
    lfp_volts: float = LFP_VOLTS


def simulate(seconds: float, random: np.random.Generator, *, units: int, channels: int) -> Session:
    """Simulate a session of this length."""
    trials = _trials(seconds, random)
    position = _hand(seconds, trials, random)
    velocity = np.gradient(position, 1 / HAND_RATE, axis=0)
    preferred = random.uniform(0, 2 * np.pi, units)
    spikes = [_spikes(velocity, direction, random) for direction in preferred]
    return Session(trials, position, velocity, spikes, preferred, _lfp(seconds, velocity, channels, random))


def _trials(seconds: float, random: np.random.Generator) -> list[Trial]:
    trials: list[Trial] = []
    start = 0.5
    while start + 3.5 < seconds:
        go = start + random.uniform(0.3, 0.6)
        out = go + random.uniform(0.2, 0.35)
        back = out + random.uniform(0.8, 1.0)
        stop = back + 0.7
        trials.append(Trial(start, go, out, back, stop, int(random.integers(DIRECTIONS)), bool(random.random() < 0.9)))
        start = stop + random.uniform(0.1, 0.4)
    return trials


def _hand(seconds: float, trials: list[Trial], random: np.random.Generator) -> Floats:
    """Return positions: minimum-jerk reaches (Flash and Hogan 1985) on a slow drift."""
    times = np.arange(round(seconds * HAND_RATE)) / HAND_RATE
    position = _smooth(random.standard_normal((len(times), 2)), 0.25) * 0.8
    for trial in trials:
        angle = 2 * np.pi * trial.target / DIRECTIONS
        rows = slice(int(trial.out * HAND_RATE), min(len(times), int(trial.stop * HAND_RATE) + 1))
        path = _minimum_jerk((times[rows] - trial.out) / 0.5) - _minimum_jerk((times[rows] - trial.back) / 0.6)
        position[rows] += _REACH_CM * path[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return position


def _minimum_jerk(phase: Floats) -> Floats:
    s = np.clip(phase, 0.0, 1.0)
    return np.asarray(s**3 * (10 - 15 * s + 6 * s**2))


def _smooth(noise: Floats, width_s: float) -> Floats:
    """Return Gaussian-filtered noise of unit variance."""
    frequencies = np.fft.rfftfreq(len(noise), 1 / HAND_RATE)
    kernel = np.exp(-2 * (np.pi * frequencies * width_s) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(noise, axis=0) * kernel[:, None], len(noise), axis=0)
    return np.asarray(smooth / smooth.std(axis=0))


def _spikes(velocity: Floats, direction: float, random: np.random.Generator) -> Floats:
    """Return Poisson spike times; the rate follows the cosine of the angle to the preferred direction and the speed."""
    lead = round(_LEAD_S * HAND_RATE)
    ahead = np.concatenate([velocity[lead:], np.repeat(velocity[-1:], lead, axis=0)])
    drive = ahead @ np.array([np.cos(direction), np.sin(direction)]) / 20.0
    speed = np.hypot(*ahead.T) / 20.0
    base, gain = random.uniform(4.0, 12.0), random.uniform(0.7, 1.2)
    rate = np.minimum(base * np.exp(gain * drive + 0.1 * speed), 120.0)
    counts = random.poisson(rate / HAND_RATE)
    bins = np.repeat(np.arange(len(counts)), counts)
    return np.sort((bins + random.random(len(bins))) / HAND_RATE)


def _lfp(seconds: float, velocity: Floats, channels: int, random: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return a rhythm that movement stops, with a phase that travels over the channels, on noise; in counts."""
    count = round(seconds * LFP_RATE)
    times = np.arange(count) / LFP_RATE
    speed = np.interp(times, np.arange(len(velocity)) / HAND_RATE, np.hypot(*velocity.T))
    amplitude = 60e-6 / (1 + (speed / 8.0) ** 2)
    lfp = np.empty((count, channels), dtype=np.int16)
    for channel in range(channels):
        rhythm = amplitude * np.sin(2 * np.pi * (_RHYTHM_HZ * times + 0.05 * channel))
        lfp[:, channel] = np.rint((rhythm + 20e-6 * _pink(count, random)) / LFP_VOLTS)
    return lfp


def _pink(count: int, random: np.random.Generator) -> Floats:
    spectrum = np.fft.rfft(random.standard_normal(count))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0)), count)
    return np.asarray(noise / noise.std())


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
