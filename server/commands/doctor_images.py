"""What the doctor says of a model with eyes: whether it is given images here, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ponder.compute.errors import PonderError
from ponder.engines.images import ImageReader
from ponder.engines.launch import EngineOptions, arguments, settle_environment
from ponder.engines.vllm_images import VllmImages
from ponder.server.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Eyes:
    """What was found out of a model's reading of images."""

    reader: ImageReader | None = None
    wrong: str = ""
    mend: str = ""


def eyes(folder: str, config: Mapping[str, Any], settings: ModelSettings) -> Eyes | None:
    """None for a model whose `config.json` has no part for images. Nothing is loaded but its processor."""
    if not any("vision" in name or "image" in name for name in config):
        return None
    if find_spec("vllm") is None:
        return Eyes(wrong="has a part for images, which vLLM would say more of; it is not installed")
    settle_environment()
    try:
        args: Any = import_module("vllm.engine.arg_utils").AsyncEngineArgs
        given = arguments(folder, EngineOptions(**settings.engine.options))
        reader = VllmImages.of(args(**given).create_model_config())
    except PonderError as error:
        return Eyes(wrong=f"is given no images: {error.message}")
    except Exception as error:  # noqa: BLE001 (vLLM and transformers raise a dozen kinds)
        return Eyes(
            wrong=f"has a part for images, and vLLM cannot load its processor ({type(error).__name__})",
            mend="most such models want torchvision, built for the installed torch: on a CPU\n"
            "pip install --no-deps torchvision --index-url https://download.pytorch.org/whl/cpu",
        )
    return Eyes(reader) if reader is not None else Eyes(wrong="is given no images: limit_mm_per_prompt forbids it")


def how_it_sees(found: Eyes, most: int) -> tuple[bool | None, str, str]:
    """Whether it is given images, in a line, and what mends it; `most` of a prompt, 0: none."""
    if most:
        return True, f"reads images, at most {most} in a prompt", ""
    if found.wrong:
        return None, found.wrong, found.mend
    return (
        None,
        "reads images, but its chat template shows it none: requests with images are refused",
        ("a chat_template.jinja in its folder that writes the word for an image"),
    )
