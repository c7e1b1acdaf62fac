import numpy as np
import numpy.typing as npt

def moments(values: npt.NDArray[np.generic], rows: int, out: npt.NDArray[np.float64], /) -> None: ...
