"""Builds and launches the page."""

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from lwq_ui.core.errors import UserError
from lwq_ui.core.settings import Settings
from lwq_ui.ui.page import Page
from lwq_ui.ui.server import Server
from lwq_ui.ui.theme import CSS, THEME


def launch(settings: Settings, **options: object) -> tuple[gr.Blocks, Server]:
    """`options` are those of gradio's launch. The first result knows the address and closes."""
    server = Server(settings)
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
    options = {"inbrowser": not args.no_browser, "share": args.share}
    try:
        launch(settings, server_port=args.port, **options)
    except OSError:
        if args.port is None:
            raise
        print(f"Port {args.port} is taken; looking for another one.")
        launch(settings, **options)


if __name__ == "__main__":
    main()
