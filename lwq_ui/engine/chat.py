"""Texts as turns of a conversation, as the chat template of the model's tokenizer writes them.

A plain text has no turns of its own, so that it is the user's turn as a whole. The beginning of the
answer follows it. AutoRound makes calibration text of plain documents in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..core.errors import UserError, first_line

if TYPE_CHECKING:
    from .models.loading import LoadedModel


def has_template(loaded: LoadedModel) -> bool:
    """Returns whether the tokenizer has a chat template, and knows which one where it has more."""
    template = getattr(loaded.tokenizer, "chat_template", None)
    return "default" in template if isinstance(template, dict) else bool(template)


def check_template(loaded: LoadedModel) -> None:
    """Raises UserError where the tokenizer has no chat template."""
    if not has_template(loaded):
        raise UserError(
            f"The tokenizer of '{loaded.info.model_id}' has no chat template. Choose a model that "
            "was trained to chat, or work without the chat template."
        )


def user_turn(loaded: LoadedModel, text: str, most: int | None = None) -> list[int]:
    """Returns the tokens of a text as the user's turn, with the beginning of the answer.

    A turn of more than `most` tokens loses the end of its text, and nothing of the template. Raises
    UserError where there is no template, where it fails, or where it takes all tokens alone.
    """
    check_template(loaded)
    tokenizer = loaded.tokenizer
    with rendering(loaded):
        turn = rendered(loaded, text)
        if most is None or len(turn) <= most:
            return turn
        content = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        while (excess := len(turn) - most) > 0:
            if excess >= len(content):
                raise UserError(
                    f"The chat template of '{loaded.info.model_id}' leaves no room for a text in "
                    f"{most:,} tokens. Allow more tokens, or work without the chat template."
                )
            content = content[:-excess]
            # The last token may hold a part of a character only.
            turn = rendered(loaded, tokenizer.decode(content).rstrip("\ufffd"))
    return turn


def rendered(loaded: LoadedModel, text: str) -> list[int]:
    """Returns the tokens of a conversation that waits for its first answer."""
    ids: list[int] = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},  # it would warn of texts that are cut afterwards
    )
    return ids


@contextmanager
def rendering(loaded: LoadedModel) -> Iterator[None]:
    """Raises UserError for what a chat template raises inside: it is a program of its authors."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        raise UserError(
            f"The chat template of '{loaded.info.model_id}' fails ({type(e).__name__}: "
            f"{first_line(e)}). Work without it, or choose another model."
        ) from e
