import numpy as np
import numpy.typing as npt

def count_events(
    trains: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.generic], npt.NDArray[np.int32] | None]],
    windows: npt.NDArray[np.int64],
    bin_ticks: int,
    most: int,
    out: npt.NDArray[np.generic],
    /,
) -> None: ...
