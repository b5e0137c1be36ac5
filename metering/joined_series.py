"""The series of several servers as one text for Prometheus, for where one address answers for all of them."""

from __future__ import annotations

from collections.abc import Mapping


def joined(texts: Mapping[str, bytes], label: str) -> bytes:
    """The series of servers, by name, in Prometheus' text format: each with its server's name as `label`, and all of
    one metric together, as the format wants it."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for name, text in texts.items():
        mark, metric = f'{label}="{name}"'.encode(), b""
        for line in text.split(b"\n"):
            if line.startswith(b"# HELP "):
                metric = line.split(b" ", 3)[2]
                heads.setdefault(metric, [line])
            elif line.startswith(b"#"):
                if len(heads.setdefault(metric, [])) < 2:
                    heads[metric].append(line)
            elif line:
                heads.setdefault(metric, [])
                samples.setdefault(metric, []).append(_marked(line, mark))
    lines = [line for metric, head in heads.items() for line in (*head, *samples.get(metric, ()))]
    return b"\n".join(lines) + b"\n" if lines else b""


def _marked(line: bytes, mark: bytes) -> bytes:
    """A sample with a label more."""
    name, brace, rest = line.partition(b"{")
    if not brace or b" " in name:
        name, _, value = line.partition(b" ")
        return name + b"{" + mark + b"} " + value
    return name + b"{" + mark + (b"" if rest.startswith(b"}") else b",") + rest
