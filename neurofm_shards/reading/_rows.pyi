import numpy as np
import numpy.typing as npt

def copy_rows(
    source: memoryview, offsets: npt.NDArray[np.int64], size: int, out: npt.NDArray[np.generic], /
) -> None: ...
def copy_numbered_rows(
    source: memoryview,
    table: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    size: int,
    out: npt.NDArray[np.generic],
    /,
) -> bool: ...
