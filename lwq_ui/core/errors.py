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


def first_line(error: BaseException) -> str:
    """Returns what an error says, as a part of a sentence: one line without a full stop, of at most
    300 characters. That is the error's class where it says nothing."""
    return shortened(str(error)) or type(error).__name__


def reason(error: BaseException) -> str:
    """Returns the cause of an error as `first_line` does. The system's own words, such as 'No space
    left on device', come without the error's number and the file's name."""
    return shortened(str(getattr(error, "strerror", None) or "")) or first_line(error)


def shortened(text: str) -> str:
    line = "".join(text.strip().splitlines()[:1]).rstrip(" .:!")
    return line if len(line) <= 300 else line[:297] + "..."
