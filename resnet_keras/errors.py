"""The one error that is the user's to mend."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """The user's words or files are wrong.

    The message is one line: what is wrong, which field or file, how to mend it. The command line prints it and exits
    with code 2; in Python it is a `ValueError`.
    """


def unknown(what: str, given: object, known: Iterable[object], hint: str = "") -> UsageError:
    """The error for a word that is not in a list: names the nearest words, or all of them where they are few."""
    words = [str(word) for word in known]
    near = difflib.get_close_matches(str(given), words, n=5, cutoff=0.5)
    choices = words if len(words) <= 12 else near
    tail = f"; {'choose from' if choices is words else 'did you mean'} {', '.join(choices)}" if choices else ""
    return UsageError(f"unknown {what} {str(given)!r}{tail}{f' ({hint})' if hint else ''}")
