"""Errors that a user meets: one sentence that names the cause and the way out."""


class UserError(Exception):
    """Shown as it is: on the page as a message, on the command line as one line and exit code 1."""


class UnknownArchitecture(UserError):
    """A model that transformers cannot build: only its tensors are known."""


class Unexplained(UserError):
    """A library failed for a reason that only the traceback of `__cause__` shows: to be logged."""


class Stopped(Exception):
    """The user asked a job to stop. Nothing that was already computed is lost."""
