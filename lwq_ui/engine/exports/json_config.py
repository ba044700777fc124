"""The config as JSON, schema lwq/1."""

from __future__ import annotations

from ...core.config import Config, format_config
from .base import ConfigExport


class JsonConfig(ConfigExport):
    name = "json"
    title = "Config (JSON)"
    reader = "This program quantizes the same way from it, on any machine"

    def text(self, config: Config) -> str:
        return format_config(config)
