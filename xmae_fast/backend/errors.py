"""The error of a choice that cannot be served here."""


class BackendError(RuntimeError):
    """An implementation was asked for that cannot run here; the message says why."""
