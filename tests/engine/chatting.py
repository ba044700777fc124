"""A tiny model with a chat template, made here."""

from __future__ import annotations

import shutil
from pathlib import Path

# It begins with the token that tokenizers put in front of a text, and knows no system turn.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] not in ('user', 'assistant') %}"
    "{{ raise_exception('no ' + m['role'] + ' turn') }}{% endif %}"
    "<{{ m['role'] }}>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def chatting(folder: Path, target: Path, template: str = TEMPLATE) -> Path:
    """Returns a copy of a model's folder with a chat template."""
    shutil.copytree(folder, target)
    (target / "chat_template.jinja").write_text(template)
    return target
