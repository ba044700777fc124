"""Builds and launches the page."""

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from lwq_ui.core.built_in import ON_DEMO, Opening
from lwq_ui.core.errors import UserError
from lwq_ui.core.settings import Settings
from lwq_ui.ui.page import Page
from lwq_ui.ui.server import Server
from lwq_ui.ui.starting import choose_opening
from lwq_ui.ui.theme import CSS, THEME


def launch(
    settings: Settings, opening: Opening = ON_DEMO, **options: object
) -> tuple[gr.Blocks, Server]:
    """Serves the page, which opens on the demo model unless another one is given.

    `options` are those of gradio's launch. The first result knows the address and closes.
    """
    server = Server(settings, opening)
    demo = Page(server).demo
    demo.launch(theme=THEME, css=CSS, footer_links=[], ssr_mode=False, **options)
    return demo, server


def main() -> None:
    parser = argparse.ArgumentParser(description="LWQ Explorer")
    parser.add_argument("--port", type=int, help="7860, or the next free one, by default")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--share", action="store_true", help="a public address through Gradio")
    parser.add_argument("--tasks", metavar="FOLDER", help="your own lm-eval task files")
    args = parser.parse_args()
    try:
        settings = Settings.from_environment(args.tasks)
    except UserError as e:
        parser.exit(1, f"{e}\n")
    opening = choose_opening(settings)
    options = {"inbrowser": not args.no_browser, "share": args.share}
    try:
        launch(settings, opening, server_port=args.port, **options)
    except OSError:
        if args.port is None:
            raise
        print(f"Port {args.port} is taken; looking for another one.")
        launch(settings, opening, **options)


if __name__ == "__main__":
    main()
