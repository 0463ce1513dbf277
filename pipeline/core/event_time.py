"""The many ways in which clients write a moment."""

from datetime import UTC, datetime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS_UNTIL = 100_000_000_000  # a smaller number is unix time in s (until the year 5138), a larger one in ms


def time_ms(stated: object) -> int | None:
    """Return ms since 1970 UTC of an ISO 8601 text or a unix time in s or ms; None for what is neither.

    A time without zone is UTC: the log must not depend on where it is read. Digits alone are always a unix time: in
    ISO's basic format "1711111111111" would be a day of the year 1711.

    >>> time_ms("2024-01-01T02:00:00+02:00"), time_ms("2024-01-01"), time_ms(1704067200), time_ms("1704067200000")
    (1704067200000, 1704067200000, 1704067200000, 1704067200000)
    """
    if isinstance(stated, str):
        if not stated.replace(".", "", 1).isdecimal():
            return _iso_ms(stated)
        stated = float(stated) if "." in stated or len(stated) > 20 else int(stated)
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not 0 < stated < 1000 * SECONDS_UNTIL:
        return None
    return round(stated * 1000) if stated < SECONDS_UNTIL else int(stated)


def _iso_ms(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip())
        elapsed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    except (ValueError, OverflowError):
        return None
    return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000
