"""What a worker of the pool does with an image that a caller sent: decodes it, and writes it anew as a PNG.

A few bytes may claim gigabytes of pixels, and decoders of image formats have been broken by files made for it. So it is
done in a process that can be killed. What comes out has one form, whatever went in: eight bits of red, green and blue
for each pixel, upright, on white where it was transparent, no larger than a model reads, and nothing beside the pixels.
A model is given that alone; metadata that engines take for the identity of an image does not reach them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""The decoders that are tried; others are not known to be safe, or read by nobody's clients."""
ANIMATED = ("PNG", "WEBP", "GIF")
"""Formats whose files may be films. A JPEG with a second image has a preview or a depth map in it."""
SHADES = 256
"""Of 16 bits, for each of 8."""


def normaliser() -> Callable[[str, str], dict[str, Any]]:
    """What makes a file anew: `first` is its path, `second` JSON, [most pixels, pixels read,
    path of the PNG].

    It returns `{"size": [width, height]}` of the PNG, in pixels, or `{"refused": [words, code]}`. Words begin with what
    is wrong and name no file.
    """
    image: Any = import_module("PIL.Image")
    # The size is looked at here, before anything is decoded.
    image.MAX_IMAGE_PIXELS = None
    upright: Any = import_module("PIL.ImageOps").exif_transpose
    broken: Any = import_module("PIL").UnidentifiedImageError

    def normalise(first: str, second: str) -> dict[str, Any]:
        most, read, path = json.loads(second)
        try:
            with image.open(first, formats=FORMATS) as given:
                if (refused := _unfit(given, most)) is not None:
                    return refused
                given.load()
                made = plain(upright(given), image)
        except broken:
            return _refused(f"is none of {', '.join(FORMATS)}, or is broken", "invalid_image_format")
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 (decoders raise OSError, SyntaxError, ValueError, struct.error and more)
            return _refused("is broken: it cannot be decoded to its end", "image_parse_error")
        return {"size": _written(made, read, path, image)}

    return normalise


def _unfit(given: Any, most: int) -> dict[str, Any] | None:
    """Why an image is refused before anything of it is decoded."""
    width, height = given.size
    if width * height > most:
        return _refused(f"has {width} x {height} pixels, more than the {most} allowed", "image_too_large")
    if given.format in ANIMATED and getattr(given, "n_frames", 1) > 1:
        return _refused("is animated: send one frame of it", "invalid_image")
    return None


def _written(made: Any, read: int, path: str, image: Any) -> list[int]:
    """Writes an image as a PNG of so many pixels at most; its size."""
    width, height = made.size
    if width * height > read:
        scale = (read / (width * height)) ** 0.5
        made = made.resize(
            (max(1, int(width * scale)), max(1, int(height * scale))), image.Resampling.LANCZOS, reducing_gap=3.0
        )
    # An image of its own, so that nothing of the file's is written but pixels.
    bare = image.new("RGB", made.size)
    bare.paste(made)
    with Path(path).open("r+b") as file:
        bare.save(file, "PNG", compress_level=1)
        file.truncate()
    return list(bare.size)


def plain(given: Any, image: Any) -> Any:
    """An image of any mode of Pillow's as RGB, on white where it is transparent."""
    if given.mode.startswith("I"):
        # Sixteen bits of grey: Pillow would make everything white that is not nearly black.
        given = given.convert("I").point([shade // SHADES for shade in range(1 << 16)], "L")
    if given.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in given.info:
        over = given.convert("RGBA")
        under = image.new("RGBA", over.size, (255, 255, 255, 255))
        under.alpha_composite(over)
        given = under
    return given if given.mode == "RGB" else given.convert("RGB")


def _refused(words: str, code: str) -> dict[str, Any]:
    return {"refused": [words, code]}
