"""What somebody else chose, for a person to read: nothing in it moves a cursor, breaks a line, reorders or hides text.

Escaped is all that has no glyph: control characters, those that set the direction of text, zero-width and invisible
ones, line and paragraph separators, surrogates, unassigned and private characters. What remains can be printed in any
encoding that can write it.
"""


def printable(text: str) -> str:
    """The text with every such character as ``\\x1b``, ``\\u202e`` or ``\\U000e0001``; most come back as they are."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
