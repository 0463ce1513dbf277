"""Every error we raise on purpose.

HeraldError
├── SettingsError     a wrong, unknown or contradictory setting: exit 2
├── EmbeddedError     the embedded Kafka or warehouse cannot run here: exit 1, the text says what to do
├── Retryable         transport trouble: retried within bounds, then the process stops with its work uncommitted
└── StateError        the log and the state contradict each other: stop at once, never guess
    └── Gap           a block is missing between the state and the next block

Expected bad data is no exception: it is a counted value (`schemas.event.DropReason`).
"""


class HeraldError(Exception):
    """Anything that we raise on purpose; its text says what was wrong, where, and what was expected."""


class SettingsError(HeraldError):
    """A setting is wrong; the text has one line for each: name, value, what was expected."""


class EmbeddedError(HeraldError):
    """The embedded Kafka or warehouse cannot be started or used."""


class Retryable(HeraldError):
    """The other side is away, slow or full; the same call may succeed later."""


class StateError(HeraldError):
    """What the log says and what the state says cannot both be true."""


class Gap(StateError):
    """The next block is not the one after the state's version: something between them was lost."""
