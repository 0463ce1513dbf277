"""Learning quality and cost beside Vowpal Wabbit and MABWiser (see __main__.py)."""

import os
import sys
from pathlib import Path

for _library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_library, "1")  # before numpy loads: with more, small matrices cost CPU and gain no time

_BESIDE = Path(sys.prefix) / "bench"
if _BESIDE.is_dir() and str(_BESIDE) not in sys.path:
    sys.path.append(str(_BESIDE))  # what only benches compare with; behind everything that Herald itself uses
