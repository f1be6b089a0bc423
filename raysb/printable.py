"""Text from data as a terminal may show it: names, labels and ids are not ours to trust.

A file name or a class may hold the bytes that clear a screen, change its colours, retitle the
window, or turn the reading direction; an error message quotes it.
"""


def printable(text: str, *, keep: str = "") -> str:
    r"""Text with everything that is not plainly visible written out, as `\x1b` or `\n`.

    These are control characters, among them line breaks; marks that turn the reading direction or
    take no room; and halves of characters, as names of files have them that are not UTF-8.

    Args:
        text: Anything.
        keep: Characters that stay as they are, `"\n"` in a message of several lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()
