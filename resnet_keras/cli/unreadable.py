"""Images that a command cannot read: each is named at once, the others are done, and the exit code is 2 at the end."""

import sys

from resnet_keras.errors import UsageError


class UnreadableImages:
    """Those of one command.

    Attributes:
        rows: image and error of each.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def add(self, image: object, error: object) -> None:
        """Name an image and what is wrong with it, on standard error."""
        self.rows.append({"image": str(image), "error": str(error)})
        print(f"resnet-keras: {error}", file=sys.stderr, flush=True)

    def end(self, count: int, done: str, rest: str) -> None:
        """Raise `UsageError` where there were any.

        Args:
            count: of all images.
            done: what could not be done with them: "explained".
            rest: what became of the others.
        """
        if self.rows:
            raise UsageError(f"{len(self.rows)} of {count} images could not be {done}; {rest}")
