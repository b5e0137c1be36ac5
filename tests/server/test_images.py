"""Images at the door: what is let in, what becomes of it on its way to a model, and what is refused in which words."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Pillow

from ponder.compute.errors import RequestError
from ponder.compute.images import normaliser
from ponder.compute.text import Image, Message
from ponder.server.bounds import text_size
from ponder.server.dialects.images import image_of_base64, image_of_url
from ponder.server.images import checked
from ponder.server.settings import Limits, Settings
from ponder.testing import Chain, ScriptedEngine
from ponder.testing.scripted import CARD
from tests.server.serving import answered, ask, asked, chat, door, refused, scripted

SEES = replace(CARD, modalities=frozenset({"text", "image"}))


def drawn(size: tuple[int, int] = (8, 6), mode: str = "RGB", colour: Any = (200, 30, 30), **how: Any) -> bytes:
    """The file of an image of one colour."""
    file = BytesIO()
    Pillow.new(mode, size, colour).save(file, **{"format": "PNG", **how})
    return file.getvalue()


PNG = drawn()


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(data: bytes = PNG, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data, kind), "detail": "high"}}


def asks(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    return [{"role": role, "content": content}]


def sees(seen: list[Message] | None = None, *chains: Chain) -> ScriptedEngine:
    """A model that reads images, and keeps what it was asked."""

    def script(prompt: Any, *_: Any) -> Any:
        if seen is not None:
            seen.extend(prompt.messages)
        return chains[0] if chains else Chain("a thought", "It is red.")

    return ScriptedEngine(script, card=SEES)


def made_of(data: bytes, limits: Limits | None = None, tenant: str = "a") -> Image:
    """What a model is given of a file."""
    message = Message("user", "", images=((0, Image("image/png", data, param="here")),))
    (made,) = asyncio.run(checked((message,), limits or Limits(), tenant))
    return made.images[0][1]


def pixels(image: Image) -> Any:
    opened = Pillow.open(BytesIO(image.data))
    assert (opened.format, opened.mode, opened.info) == ("PNG", "RGB", {})
    return opened


def test_text_and_images_reach_the_model_in_their_order() -> None:
    seen: list[Message] = []
    blue = drawn(colour=(0, 0, 255))
    answered(door(sees(seen)), messages=asks("a ", part(), " b ", part(blue), part()), thinking_budget=0)
    pieces = seen[0].pieces
    assert [piece if isinstance(piece, str) else pixels(piece).getpixel((0, 0)) for piece in pieces] == [
        "a ",
        (200, 30, 30),
        " b ",
        (0, 0, 255),
        (200, 30, 30),
    ]
    assert seen[0].content == "a  b "


def test_the_responses_api_takes_the_same_images() -> None:
    seen: list[Message] = []
    shown = {"type": "input_image", "image_url": url(PNG), "detail": "auto"}
    items = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "a "}, shown, {"type": "input_text", "text": " b"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [shown]},
    ]
    app = door(sees(seen))
    response = ask(app, url="/v1/responses", json={"model": "demo", "input": items})
    assert response.status_code == 200, response.text
    assert [len(message.images) for message in seen[:3]] == [1, 0, 1]
    assert seen[0].content == "a  b"
    for broken, place in (({"image_url": "https://a.example/b.png"}, "image_url"), ({"file_id": "f"}, "image_url")):
        item = {"role": "user", "content": [{"type": "input_image", **broken}]}
        told = ask(app, url="/v1/responses", json={"model": "demo", "input": [item]})
        refused(told, code="unsupported_content_part", param=f"input.0.content.0.{place}")


def test_anthropics_messages_take_the_same_images() -> None:
    seen: list[Message] = []
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
    shown = {"type": "image", "source": source}
    call: dict[str, Any] = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, shown, shown, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}, shown]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [shown]}]},
    ]
    body: dict[str, Any] = {"model": "demo", "max_tokens": 64, "messages": turns}
    app, headers = door(sees(seen)), {"anthropic-version": "2023-06-01"}
    response = ask(app, url="/v1/messages", json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert [len(message.images) for message in seen[:3]] == [3, 0, 1]
    assert seen[0].content == "ab\nc\nd"
    assert [at for at, _ in seen[0].images] == [1, 1, 6]
    for broken, place in (
        ({"type": "url", "url": "https://a.example/b.png"}, "url"),
        ({"type": "base64", "media_type": "image/png", "data": "@"}, "data"),
    ):
        turns = [{"role": "user", "content": [{"type": "image", "source": broken}]}]
        told = ask(app, url="/v1/messages", json=body | {"messages": turns}, headers=headers)
        assert told.status_code == 400
        assert f"messages.0.content.0.source.{place}" in told.json()["error"]["message"]


def test_gemini_takes_the_same_images() -> None:
    seen: list[Message] = []
    data = base64.b64encode(PNG).decode()
    shown: dict[str, Any] = {"inlineData": {"mimeType": "image/png", "data": data}}
    told: dict[str, Any] = {"name": "look", "response": {"output": "Here: "}, "parts": [shown]}
    contents: list[Any] = [
        {"role": "user", "parts": [{"text": "a "}, {"inline_data": {"mime_type": "image/png", "data": data}}, shown]},
        {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": told}, {"text": "b"}]},
    ]
    response = ask(door(sees(seen)), url="/v1beta/models/demo:generateContent", json={"contents": contents})
    assert response.status_code == 200, response.text
    assert [(message.content, [at for at, _ in message.images]) for message in seen[:4]] == [
        ("a ", [2, 2]),
        ("", []),
        ("Here: ", [6]),
        ("b", []),
    ]
    assert pixels(seen[0].images[0][1]).getpixel((0, 0)) == (200, 30, 30)


def test_gemini_calls_no_tokens_of_images_those_of_text() -> None:
    """Nobody counts them apart, so nothing is said of what they are."""
    shown = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}
    for parts, told in (([{"text": "a"}], True), ([{"text": "a"}, shown], False)):
        body = {"contents": [{"parts": parts}]}
        answer = ask(door(sees([])), url="/v1beta/models/demo:generateContent", json=body).json()["usageMetadata"]
        streamed = ask(door(sees([])), url="/v1beta/models/demo:streamGenerateContent", json=body).json()
        count = ask(door(sees([])), url="/v1beta/models/demo:countTokens", json=body).json()
        for one in (answer, streamed[-1]["usageMetadata"], count):
            details = one.get("promptTokensDetails", [])
            assert [(part["modality"], part["tokenCount"]) for part in details] == (
                [("TEXT", answer["promptTokenCount"])] if told else []
            )


def test_a_model_that_reads_text_refuses_images_by_name() -> None:
    engine = scripted()
    told = refused(chat(door(engine), messages=asks("a", part())), code="unsupported_content_part")
    assert "text only" in told
    assert engine.calls == 0


def test_the_list_of_models_says_what_each_reads() -> None:
    for engine, kinds in ((sees(), ["text", "image"]), (scripted(), ["text"])):
        listed = asyncio.run(asked(door(engine), "GET", "/v1/models")).json()["data"]
        assert {tuple(one["input_modalities"]) for one in listed} == {tuple(kinds)}


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ("http://10.0.0.1/x.png", "unsupported_content_part", "image_url.url"),
        ("HTTPS://10.0.0.1/x.png", "unsupported_content_part", "image_url.url"),
        ("file:///etc/passwd", "invalid_image_url", "image_url.url"),
        ("/etc/passwd", "invalid_image_url", "image_url.url"),
        ("data:image/png,abc", "invalid_image_url", "image_url.url"),
        ("data:image/png;base64,@@@", "invalid_base64_image", "image_url.url"),
        ("data:image/png;base64,", "empty_image_file", "image_url.url"),
        ("data:image/svg+xml;base64,aGk=", "unsupported_image_media_type", "image_url.url"),
        (url(b"no image"), "invalid_image_format", "image_url.url"),
        (5, "invalid_type", "image_url.url"),
    ],
)
def test_what_is_no_image_is_refused_and_not_repeated(given: Any, code: str, field: str) -> None:
    engine = sees()
    body = asks("a", {"type": "image_url", "image_url": {"url": given}})
    told = refused(chat(door(engine), messages=body), code=code, param=f"messages.0.content.1.{field}")
    assert "10.0.0.1" not in told
    assert "passwd" not in told
    assert engine.calls == 0


@pytest.mark.parametrize("kind", ["input_audio", "file", "input_file", "video_url", "document"])
def test_sound_files_and_films_are_refused_by_name(kind: str) -> None:
    body = asks("a", {"type": kind, kind: {"data": "aGk=", "format": "wav"}})
    told = refused(chat(door(sees()), messages=body), code="unsupported_content_part")
    assert any(word in told for word in ("sound", "files", "films"))


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_show_images(role: str) -> None:
    body = [*asks(part(), role=role), {"role": "user", "content": "What?"}]
    refused(chat(door(sees()), messages=body), code="unsupported_content_part")


def test_a_request_has_so_many_images_of_so_many_bytes() -> None:
    few = Settings(limits=Limits(images=2, image_bytes=2048))
    app = door(sees(), few)
    answered(app, messages=asks("a", part(), part()))
    refused(chat(app, messages=asks("a", part(), part(), part())), code="too_many", param=None)
    noise = drawn((40, 40))[:-12] + b"\0" * 2048
    refused(chat(app, messages=asks("a", part(noise))), code="image_file_too_large")


# -- what becomes of a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_format_comes_out_as_plain_pixels(kind: str) -> None:
    red, green, blue = pixels(made_of(drawn(format=kind))).getpixel((3, 3))
    assert red > 190
    assert max(green, blue) < 45


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("I;16", 25700, (100, 100, 100)),
    ],
)
def test_modes_become_what_they_show(mode: str, colour: Any, shown: tuple[int, int, int]) -> None:
    assert pixels(made_of(drawn(mode=mode, colour=colour))).getpixel((1, 1)) == shown


def test_an_image_in_inks_is_read() -> None:
    assert pixels(made_of(drawn(mode="CMYK", colour=(0, 0, 0, 0), format="JPEG"))).getpixel((1, 1)) == (255, 255, 255)


def test_an_image_is_upright_and_nothing_of_its_metadata_is_left() -> None:
    """vLLM takes what stands in a field of EXIF for the identity of an image."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    exif[0xA420] = "0" * 32
    made = made_of(drawn((8, 6), format="JPEG", exif=exif, comment=b"mine"))
    assert pixels(made).size == (6, 8)
    assert not pixels(made).getexif()


def test_a_large_image_is_made_smaller_and_keeps_its_shape() -> None:
    width, height = pixels(made_of(drawn((400, 100)), Limits(image_read_pixels=10_000))).size
    assert width * height <= 10_000
    assert width == pytest.approx(4 * height, abs=2)


def test_the_same_image_has_a_name_for_each_tenant() -> None:
    again = made_of(drawn(compress_level=9, optimize=True))
    assert made_of(PNG).digest == again.digest
    assert made_of(PNG).digest != made_of(PNG, tenant="b").digest
    assert made_of(PNG).digest != made_of(drawn(colour=(0, 0, 0))).digest


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _animated(kind: str) -> bytes:
    file = BytesIO()
    frames = [Pillow.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


BROKEN: Sequence[tuple[str, Callable[[], bytes], str]] = [
    ("a bomb", lambda: _claims(50_000, 50_000), "image_too_large"),
    ("more than numbers hold", lambda: _claims(2**31 - 1, 2**31 - 1), "image_too_large"),
    ("nothing behind its head", lambda: _claims(500, 500), "image_parse_error"),
    ("cut in the middle", lambda: drawn((300, 300), format="JPEG", quality=99)[:-400], "image_parse_error"),
    ("a film of GIF's", lambda: _animated("GIF"), "invalid_image"),
    ("a film of WebP's", lambda: _animated("WEBP"), "invalid_image"),
    ("a film of PNG's", lambda: _animated("PNG"), "invalid_image"),
    ("of another format", lambda: drawn(format="BMP"), "invalid_image_format"),
    ("a TIFF", lambda: drawn(format="TIFF"), "invalid_image_format"),
    ("PostScript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "invalid_image_format"),
    ("one byte", lambda: b"\x89", "invalid_image_format"),
]


@pytest.mark.parametrize(("make", "code"), [(make, code) for _, make, code in BROKEN], ids=[one[0] for one in BROKEN])
def test_what_no_model_is_to_be_given_is_refused(make: Callable[[], bytes], code: str) -> None:
    with pytest.raises(RequestError) as caught:
        made_of(make())
    assert caught.value.code == code
    assert caught.value.param == "here"
    assert caught.value.message.startswith("here ")


def test_an_image_that_cannot_be_written_is_not_called_broken(tmp_path: Path) -> None:
    (given := tmp_path / "given").write_bytes(PNG)
    with pytest.raises(FileNotFoundError):
        normaliser()(str(given), json.dumps([1 << 20, 1 << 20, str(tmp_path / "nowhere" / "made")]))


def test_an_image_with_a_preview_in_its_file_is_no_film() -> None:
    file = BytesIO()
    Pillow.new("RGB", (8, 8)).save(file, "MPO", save_all=True, append_images=[Pillow.new("RGB", (4, 4))])
    assert pixels(made_of(file.getvalue())).size == (8, 8)


def test_bytes_on_their_way_to_a_worker_hold_the_loop_no_longer_than_they_are_many() -> None:
    async def spent(n: int) -> float:
        """Seconds of processor time of the loop's thread."""
        message = Message("user", "", images=((0, Image("image/png", random.Random(n).randbytes(n))),))
        began = time.thread_time()
        with pytest.raises(RequestError):
            await checked((message,), Limits(), "a")
        return time.thread_time() - began

    async def least(n: int) -> float:
        return min([await spent(n) for _ in range(3)])

    async def sizes() -> list[float]:
        return [await least(Limits().image_bytes // part) for part in (4, 2, 1)]

    one, two, four = asyncio.run(sizes())
    assert four <= 0.02 or four <= 9 * one or (two <= 3 * one and four <= 3 * two)


# -- bytes and text ---------------------------------------------------------------------------------------------------


def test_base64_is_read_as_others_write_it() -> None:
    text = base64.b64encode(PNG).decode()
    ways = (text, text.rstrip("="), base64.urlsafe_b64encode(PNG).decode(), base64.encodebytes(PNG).decode())
    for way in ways:
        assert image_of_base64("image/PNG", way, "p").data == PNG
        assert image_of_url(f"data:image/png;charset=x;base64,{way}", "p").data == PNG
    assert image_of_base64("image/jpg", text, "p").media_type == "image/jpeg"


def test_what_is_escaped_counts_as_what_it_stands_for() -> None:
    app = door(scripted(), Settings(limits=Limits(body_bytes=4096)))
    for text, fits in (("\u4f60" * 1200, True), ("\u4f60" * 1500, False), ("a" * 3500, True), ("a" * 5000, False)):
        for ascii_only in (True, False):
            response = _sent(app, text, ascii_only)
            assert response.status_code == (200 if fits else 413), (text[:1], ascii_only, response.text)


def _sent(app: Any, text: str, ascii_only: bool) -> httpx.Response:
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": text}]}, ensure_ascii=ascii_only)
    return ask(app, content=body.encode(), headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "text",
    ["plain", "\u4f60\u597d", "\u00e9", "\U0001f600", 'a"\\u4f60\\\\', "\x01\n", "\u4f60\\", "\u07ff\u0800\uffff"],
)
def test_the_size_of_a_text_does_not_depend_on_its_escapes(text: str) -> None:
    plain = json.dumps([text], ensure_ascii=False).encode()
    controls = sum(5 for char in text if char == "\x01")
    assert text_size(json.dumps([text]).encode()) == text_size(plain) == len(plain) - controls
