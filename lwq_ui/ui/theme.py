"""How the page looks beside its style sheet."""

from __future__ import annotations

import gradio as gr

from .components.base import read_asset

CSS = read_asset("page.css")
# 6.31 ships the SemiBold file of this font without Latin letters: naming 400 and 700 alone makes
# the browser take Bold for 600. The default subdued grey has a contrast of 2.6:1 on white.
THEME = gr.themes.Default(
    primary_hue="orange",
    neutral_hue="slate",
    spacing_size="sm",
    radius_size="md",
    font=[
        gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)),
        "system-ui",
        "sans-serif",
    ],
).set(
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)
