"""Which texts can be ids (tokens too), so that no other one is ever sent to the database."""


def is_id(text: str) -> bool:
    """Whether the text can be an id of the inventory; a text that cannot is simply not found there.

    NUL and lone surrogates break a database, and some compare without blanks at the end.
    """
    if not 0 < len(text) <= 255 or '\0' in text or text != text.strip():
        return False
    return is_storable(text)


def is_storable(text: str) -> bool:
    """Whether a column of text can hold the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return '\0' not in text
