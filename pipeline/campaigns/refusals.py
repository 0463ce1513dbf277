"""Why a change of the store is refused: one closed list, for REST, the command line and the tests."""

from collections.abc import Sequence
from enum import StrEnum

from pipeline.errors import HeraldError


class Reason(StrEnum):
    """One word for each way in which a change can be wrong."""

    UNKNOWN = "unknown"
    """There is no such object."""
    UNKNOWN_VERSION = "unknown_version"
    EXISTS = "exists"
    """It was to be created, and is there already."""
    STALE = "stale"
    """Somebody else has changed it meanwhile."""
    UNKNOWN_PARENT = "unknown_parent"
    UNKNOWN_PLACEMENT = "unknown_placement"
    UNKNOWN_POLICY = "unknown_policy"
    MEMBERS = "members"
    """A group of placements that cannot be chosen among."""
    AUDIENCE = "audience"
    """The expression does not parse."""
    STEP = "step"
    """Its status cannot go there from where it is."""
    ENDED = "ended"
    """It, or its parent, has ended, which is for ever."""
    FIXED = "fixed"
    """A field that cannot change once the object was published."""
    SHARE = "share"
    """A layer has not as many visitors left as an experiment wants."""
    INVALID = "invalid"
    """An id that is none of ours, or a version of long ago, which is not allowed any more."""
    TOO_LARGE = "too_large"


class Refused(HeraldError):
    """A change is refused, and nothing of it is stored.

    reason: why, for programs. detail: what was wrong, in a sentence. errors: (place in the body, what was expected).
    """

    def __init__(self, reason: Reason, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.errors = reason, detail, tuple(errors)
