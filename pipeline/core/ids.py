"""Which ids name somebody. What names nobody (null, undefined, guest, zeros) would make one giant visitor of many."""

ID_BYTES_MAX = 128
USELESS_IDS = frozenset(
    {"null", "undefined", "none", "nan", "guest", "anonymous", "unknown", "false", "true", "[object object]"}
)
RESERVED = "~"  # begins the state's keys of decisions without a visitor (profile_stage.ANONYMOUS)
_LONGER_THAN_USELESS = 16
_NO_USELESS_STARTS = frozenset("123456789bcdehijklmopqrsvwxyzBCDEHIJKLMOPQRSVWXYZ")


def usable_id(value: object) -> str:
    """Return an id as text, or "" where it names nobody: empty, null, undefined, guest, only zeros, > 128 bytes;
    and where it begins like a key of ours.

    >>> usable_id(42), usable_id(" ann "), usable_id("Undefined"), usable_id("00000000-0000-0000-0000-000000000000")
    ('42', 'ann', '', '')
    """
    if value is None:
        return ""
    if type(value) is str and 0 < len(value) <= ID_BYTES_MAX and value.isascii() and value[-1] > " ":
        # the quick way, for nearly every id: neither blanks around, nor zeros only, nor a useless word
        first = value[0]
        is_plain = first in _NO_USELESS_STARTS or ("0" < first < RESERVED and len(value) >= _LONGER_THAN_USELESS)
        if is_plain and "\0" not in value:
            return value
    text = value.strip() if isinstance(value, str) else str(value)
    if len(text) > ID_BYTES_MAX or not text.strip("0-") or text.lower() in USELESS_IDS or text[0] == RESERVED:
        return ""
    if not text.isascii() and len(text.encode("utf-8", "replace")) > ID_BYTES_MAX:
        return ""
    return text.replace("\0", "\ufffd")
