"""Which ids name somebody. What names nobody (null, undefined, guest, zeros) would make one giant visitor of many."""

ID_BYTES_MAX = 128
USELESS_IDS = frozenset(
    {"null", "undefined", "none", "nan", "guest", "anonymous", "unknown", "false", "true", "[object object]"}
)
_SURELY_USABLE_FROM = 16  # longer than every useless one


def usable_id(value: object) -> str:
    """Return an id as text, or "" where it names nobody: empty, null, undefined, guest, only zeros, > 128 bytes.

    >>> usable_id(42), usable_id(" ann "), usable_id("Undefined"), usable_id("00000000-0000-0000-0000-000000000000")
    ('42', 'ann', '', '')
    """
    if value is None:
        return ""
    if type(value) is str and _SURELY_USABLE_FROM <= len(value) <= ID_BYTES_MAX and value.isascii():
        is_clean = value[0] > "0" and value[-1] > " " and "\0" not in value  # no blanks around, not only zeros
        if is_clean:
            return value
    text = value.strip() if isinstance(value, str) else str(value)
    if len(text) > ID_BYTES_MAX or not text.strip("0-") or text.lower() in USELESS_IDS:
        return ""
    if not text.isascii() and len(text.encode("utf-8", "replace")) > ID_BYTES_MAX:
        return ""
    return text.replace("\0", "\ufffd")
