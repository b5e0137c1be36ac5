"""What fields of chat completions and of responses want of one another, in both alike."""

from __future__ import annotations

from collections.abc import Mapping

from ponder.compute.errors import RequestError


def together(*, stream: bool | None, stream_options: object, metadata: Mapping[str, str] | None) -> None:
    """Raises `RequestError`."""
    if stream_options is not None and not stream:
        raise RequestError("stream_options wants stream: true", param="stream_options", code="invalid_value")
    if metadata and any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise RequestError(
            "metadata holds keys of at most 64 and values of at most 512 characters",
            param="metadata",
            code="invalid_value",
        )
