"""Images as vLLM's own processor of a model makes them, in this process: its ids, and the tensors that go with them.

It is the processor that vLLM's front end would ask, with the model's own configuration. So the number of tokens is
vLLM's own, before anything is asked of the engine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from io import BytesIO
from typing import Any

from PIL import Image as Pillow

from ponder.compute.errors import RequestError, Unavailable
from ponder.compute.text import Image
from ponder.engines.images import Expanded
from ponder.engines.machine_faults import of_the_machine

WORDS = 16
"""Words of the first images that are asked for; most models have one for all."""
AGAIN = 5.0
"""Seconds after which a caller may try again where the machine was at fault."""
SIZES = ((64, 48), (48, 64))
"""Pixels of the images that a model is tried with."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Media:
    """What vLLM is given beside the ids of a prompt with images."""

    images: tuple[Image, ...]
    names: list[str]
    places: list[Any]
    """`PlaceholderRange`s."""
    ids: tuple[int, ...]
    """Before the images were put in."""


class VllmImages:
    """Makes of images what one model reads; fulfils `ponder.engines.images.ImageReader`."""

    def __init__(self, model_config: Any, processor: Any, most: int) -> None:
        """See `of`."""
        self._processor, self._most = processor, most
        self._made: Any = import_module("vllm.multimodal.cache").MultiModalProcessorOnlyCache(model_config)
        """What was made of images, those of the least late use given up first; named by tenant and image."""
        self._lock = threading.Lock()
        self._inputs: Any = import_module("vllm.multimodal.inputs")
        self._threads: Any = import_module("vllm.utils.torch_utils").set_default_torch_num_threads
        architecture: Any = import_module("vllm.model_executor.model_loader").get_model_architecture(model_config)[0]
        words = [str(architecture.get_placeholder_str("image", n + 1) or "") for n in range(WORDS)]
        self._words = tuple(words[:1] if len(set(words)) == 1 else words)
        self._samples = tuple(_blank(*size) for size in SIZES)

    @classmethod
    def of(cls, model_config: Any) -> VllmImages | None:
        """None for a model that reads no images, or is not to (`limit_mm_per_prompt`)."""
        if not model_config.is_multimodal_model or not model_config.supports_multimodal_inputs:
            return None
        processor: Any = import_module("vllm.multimodal").MULTIMODAL_REGISTRY.create_processor(model_config)
        most = int(processor.info.allowed_mm_limits.get("image", 0))
        return cls(model_config, processor, most) if most else None

    @property
    def most(self) -> int:
        return self._most

    @property
    def words(self) -> tuple[str, ...]:
        return self._words

    @property
    def samples(self) -> Sequence[Image]:
        return self._samples

    def expanded(self, ids: Sequence[int], images: Sequence[Image]) -> Expanded:
        """See `ImageReader`."""
        names = [_name(image) for image in images]
        made = self._processed(ids, images, names)
        places: list[Any] = list(made["mm_placeholders"]["image"])
        ranges = tuple((place.offset, place.offset + place.length) for place in places)
        return Expanded(made["prompt_token_ids"], ranges, Media(tuple(images), names, places, tuple(ids)))

    def items(self, media: Media) -> Any:
        """The tensors of images whose prompt was expanded, as vLLM's `MultiModalKwargsItems`; made again where they
        were given up. From any thread."""
        with self._lock:
            if all(self._made.is_cached(media.names)):
                kept = [self._made.get_and_update_item(None, name)[0] for name in media.names]
                return self._inputs.MultiModalKwargsItems({"image": kept})
        return self._processed(media.ids, media.images, media.names)["mm_kwargs"]

    def _processed(self, ids: Sequence[int], images: Sequence[Image], names: list[str]) -> Any:
        with self._lock, self._threads(1):
            kept = self._made.is_cached(names)
            try:
                given = [None if there else _decoded(image) for image, there in zip(images, kept, strict=True)]
                items = self._processor.info.parse_mm_data({"image": given})
                return self._processor(list(ids), items, {"image": names}, cache=self._made)
            except Exception as error:  # noqa: BLE001
                if of_the_machine(error):
                    # Its words quote what was read.
                    log.warning("the images of a request could not be read: %s", type(error).__name__)
                    raise Unavailable(
                        "the machine could not read the images of this conversation; they are not at fault: try again",
                        code="engine_unavailable",
                        retry_after=AGAIN,
                    ) from None
                # Processors raise what their code runs into: sides that are too far apart, a template without a place.
                raise RequestError(
                    f"{images[0].param}: this model's processor does not take the images of this conversation "
                    f"({type(error).__name__})",
                    param=images[0].param,
                    code="invalid_image",
                ) from None


def _name(image: Image) -> str:
    return image.digest or blake2b(image.data, digest_size=32).hexdigest()


def _decoded(image: Image) -> Any:
    """A PNG of ours as pixels."""
    return Pillow.open(BytesIO(image.data), formats=("PNG",)).convert("RGB")


def _blank(width: int, height: int) -> Image:
    file = BytesIO()
    Pillow.new("RGB", (width, height), (127, 127, 127)).save(file, "PNG")
    return Image("image/png", file.getvalue())
