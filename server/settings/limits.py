"""Bounds on what comes in."""

from __future__ import annotations

from pydantic import Field

from ponder.server.settings.table import Table


class Limits(Table):
    """Bounds on what one request may bring, so that no request can tie up the server."""

    body_bytes: int = Field(
        default=1 << 20,
        ge=1024,
        le=1 << 28,
        description="Size of a request's body, escapes (\\u4f60) counted as what they stand for, images not.",
    )
    body_timeout: float = Field(default=30, gt=0, le=3600, description="Seconds for a body to arrive.")
    header_bytes: int = Field(default=32768, ge=1024, le=1 << 20, description="Size of a request's line and headers.")
    header_timeout: float = Field(default=10, gt=0, le=3600, description="Seconds for the headers to arrive.")
    send_timeout: float = Field(
        default=30, gt=0, le=3600, description="Seconds a reader may let us wait before it is dropped."
    )
    connections: int = Field(default=2048, ge=1, le=1 << 20, description="Open connections; more are answered 503.")
    connections_per_address: int = Field(
        default=1024, ge=1, le=1 << 20, description="Those of one address (of IPv6, one /64); a proxy is one address."
    )
    idle_timeout: float = Field(
        default=75,
        gt=0,
        le=86400,
        description="Seconds an idle connection is kept: longer than what is in front of the server keeps its own.",
    )
    json_depth: int = Field(default=64, ge=4, le=500, description="Nesting of a body's brackets.")
    json_values: int = Field(
        default=1 << 15, ge=256, le=1 << 24, description="Values in a body: texts, numbers, lists, objects."
    )
    schema_depth: int = Field(default=32, ge=1, le=200, description="Nesting of a JSON schema for tools or answers.")
    messages: int = Field(default=1024, ge=1, le=1 << 16, description="Messages of a conversation.")
    images: int = Field(default=16, ge=0, le=1024, description="Images of a request, for models that read them.")
    image_bytes: int = Field(
        default=1 << 23, ge=1024, le=1 << 28, description="Size of all images of a request together, as files."
    )
    image_pixels: int = Field(
        default=1 << 25, ge=1024, le=1 << 28, description="Pixels of an image; one of more is refused undecoded."
    )
    image_read_pixels: int = Field(
        default=1 << 21, ge=1024, le=1 << 26, description="Pixels a model reads; an image of more is made smaller."
    )
    n: int = Field(default=64, ge=1, le=1024, description="Choices of one request.")
    samples: int = Field(default=256, ge=1, le=4096, description="Chains one choice's strategy may ask for.")
    stop: int = Field(default=4, ge=0, le=64, description="Stop strings.")
    stop_chars: int = Field(default=256, ge=1, le=4096, description="Characters of a stop string.")
    tools: int = Field(default=128, ge=0, le=1024, description="Tools offered.")
    metadata: int = Field(default=16, ge=0, le=64, description="Entries of metadata.")
    logit_bias: int = Field(default=1024, ge=0, le=1 << 16, description="Entries of logit_bias.")
    logprobs: int = Field(
        default=20, ge=0, le=20, description="top_logprobs of one token; the engine gives 20 at most."
    )

    def wire_bytes(self, images: bool) -> int:
        """Bytes of a body on the wire at most: what is escaped takes up to three times what it stands for, and images
        are written in base64 where a model here reads them."""
        return ESCAPED * self.body_bytes + (self.image_bytes * 4 // 3 + self.images * 256 if images else 0)


ESCAPED = 3
"""Bytes of an escape for each that it stands for, where it stands for text: `\\u00e9` are six for two."""
