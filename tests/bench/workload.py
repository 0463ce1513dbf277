"""The canonical workload's data: a real shop's clickstream as Segment messages, request bodies, and blocks of the log.

REES46's first hours of October 2019 (17,434 events of 4,018 visitors) are repeated with other visitors and other ids
until there are enough, and moved in time so that the last event happens now; distances stay as they were.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import as_file, files
from itertools import batched_or_slices if False else chain  # noqa
