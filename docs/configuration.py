"""Writes docs/configuration.md from the configuration classes: `make docs`."""

from collections.abc import Sequence
from pathlib import Path

from services.asr.config import AsrConfig
from services.common.config import EnvConfig, rows
from services.dialogue.config import DialogueConfig
from services.gateway.config import GatewayConfig
from services.inference_worker.config import WorkerConfig
from services.local.config import LocalConfig
from services.tts.config import TtsConfig

PATH = Path(__file__).with_suffix(".md")
HEAD = """# Configuration

Every service reads its settings from the environment when it starts and refuses bad values by
name. This page is generated from the configuration classes (`make docs`).
"""
SECTIONS: Sequence[tuple[str, type[EnvConfig]]] = (
    ("The whole suite on one machine (`make run`)", LocalConfig),
    ("Gateway", GatewayConfig),
    ("Inference worker", WorkerConfig),
    ("Dialogue", DialogueConfig),
    ("Text to speech", TtsConfig),
    ("Speech to text", AsrConfig),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, config in SECTIONS:
        parts.append(f"## {title}\n\n| variable | default | meaning |\n|---|---|---|")
        for name, default, text in rows(config):
            shown = f"`{default}`" if default else ""
            parts.append(f"| `{name}` | {shown} | {text.replace('|', chr(92) + '|')} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PATH.write_text(page())
