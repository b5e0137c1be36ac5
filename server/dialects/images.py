"""Images in requests, as every dialect has them: base64 text or a data URL becomes an `Image`.

Nothing is decoded but the base64: what the bytes hold is looked at in the worker pool (`ponder.server.images`). How
many bytes there may be is bounded by the body and by `ponder.server.bounds`. Nothing is ever fetched.
"""

from __future__ import annotations

import binascii
import re

from ponder.compute.errors import RequestError
from ponder.compute.text import Image, Images
from ponder.server.validation import mistyped

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""What may be sent; `image/jpg` is known as a name of JPEG."""
OTHER_MEDIA = {
    "input_audio": "sound",
    "audio": "sound",
    "audio_url": "sound",
    "file": "files",
    "input_file": "files",
    "document": "files",
    "video": "films",
    "video_url": "films",
    "input_video": "films",
}
"""Parts of messages that no model here is given, by the words that APIs have for them."""
_DATA = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_SPACES = str.maketrans("-_", "+/", " \t\r\n")
"""Line breaks that some encoders put in go; the alphabet of URLs is base64, too."""


def image_of_url(url: object, param: str) -> Image:
    """An image from a data URL; `param` is the field that has it. Raises `RequestError`."""
    if not isinstance(url, str):
        raise mistyped(param, "a string")
    found = _DATA.match(url)
    if found is None:
        fetched = url[:6].lower().startswith(("http:", "https:", "gs:", "s3:"))
        raise RequestError(
            f"{param} is {'an address' if fetched else 'no data URL'}, and this server fetches nothing: to a model "
            "that reads images send the image itself, as data:image/png;base64,...",
            param=param,
            code="unsupported_content_part" if fetched else "invalid_image_url",
        )
    if not found[2].lower().endswith(";base64"):
        raise RequestError(
            f"{param} is a data URL without base64: send data:image/png;base64,...",
            param=param,
            code="invalid_image_url",
        )
    return image_of_base64(found[1], url[found.end() :], param)


def image_of_base64(media_type: object, text: object, param: str) -> Image:
    """An image from base64 text, as Anthropic and Gemini have it beside its media type; `param` is the field that has
    the text. Raises `RequestError`."""
    kind = media_type.strip().lower() if isinstance(media_type, str) else ""
    kind = "image/jpeg" if kind == "image/jpg" else kind
    if kind not in MEDIA_TYPES:
        raise RequestError(
            f"{param} is no image of a type that is read here; those are {', '.join(MEDIA_TYPES)}",
            param=param,
            code="unsupported_image_media_type",
        )
    if not isinstance(text, str):
        raise mistyped(param, "a string of base64")
    try:
        plain = text.translate(_SPACES).encode("ascii").rstrip(b"=")
        data = binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise RequestError(f"{param} is not base64", param=param, code="invalid_base64_image") from None
    if not data:
        raise RequestError(f"{param} is an empty image", param=param, code="empty_image_file")
    return Image(kind, data, param=param)


def other_media(kind: object, param: str) -> RequestError | None:
    """What to say of a part of a message that is sound, a file or a film; None: it is none of these."""
    named = OTHER_MEDIA.get(kind) if isinstance(kind, str) else None
    if named is None:
        return None
    return RequestError(
        f"{param} is of a kind that is not read here: models are given texts and images, and no {named}. Leave the "
        "part out, or send what it holds as text",
        param=param,
        code="unsupported_content_part",
    )


def not_of_users(images: Images) -> RequestError:
    """What to say of images in a message of somebody who shows none: the system, the model itself."""
    param = images[0][1].param
    return RequestError(
        f"{param}: images stand in messages of a user or in what a tool returned",
        param=param,
        code="unsupported_content_part",
    )
