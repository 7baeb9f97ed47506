"""The error by which a worker refuses an object, with the class that the ledger counts it under."""


class Refusal(Exception):
    """An object, or a wish, that this Blender cannot serve.

    `kind` is no_mesh, degenerate, too_large, outside, unreadable, or device (nobody's object).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
