"""Errors that a user meets. Each is a sentence that names the cause and the way out."""


class UserError(Exception):
    """Its text is shown unchanged: as a message on the page, as one line on the command line, with
    exit code 1."""


class UnknownArchitecture(UserError):
    """A model that transformers cannot build: only its tensors are known."""


class Unexplained(UserError):
    """A library failed for a reason that only the traceback of `__cause__` shows. It is logged."""


class Stopped(Exception):
    """The user asked a job to stop. Nothing that was computed by then is lost."""
