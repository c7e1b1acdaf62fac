import numpy as np
import numpy.typing as npt

def copy_rows(
    source: memoryview, offsets: npt.NDArray[np.int64], size: int, out: npt.NDArray[np.generic], /
) -> None: ...
