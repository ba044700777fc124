"""What the page says while a job runs, and after something failed."""

from __future__ import annotations

from .templates import render


def status_html(
    text: str,
    *,
    share: float | None = None,
    left: str = "",
    running: bool = False,
) -> str:
    """Returns one line of fixed height, with a progress bar while a job is `running`.

    `share` is the part of the job that is done, from 0 to 1, or None where it is not known.
    `left` is the remaining time in words.
    """
    return render("status.html", text=text, share=share, left=left, running=running)


def error_html(text: str) -> str:
    """Returns an alert. It has its own line, so that a job's progress does not replace it."""
    # Half a surrogate pair, as a file's name can hold, would break the connection to the browser.
    return render("error.html", text=text.encode(errors="replace").decode())
