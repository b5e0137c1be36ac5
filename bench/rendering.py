"""What a prompt costs before the model reads it: rendering and tokenising conversations, in CPU milliseconds.

python bench/rendering.py
    git worktree add /tmp/before HEAD~1 && python bench/rendering.py --against /tmp/before

The tokenizer is the bundled model's. With `--against` another commit renders the same conversations, each commit in a
process of its own, and both take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from bench import machine

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for t in tools or [] %}{{ '<|im_start|>system\n' if loop.first }}{{ t | tojson }}\n"
    "{{ '<|im_end|>\n' if loop.last }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARAGRAPH = (
    "The train leaves at 9.40 and takes 2 hours; it is 120 miles to the coast. What did she pay for the 3 tickets?\n"
    "def price(tickets):\n    return sum(t['cost'] for t in tickets)  # <b> in euros\n\n"
)
KINDS = ("a short question", "a long document", "many turns", "tools")


def conversations() -> dict[str, Any]:
    """By the names of `KINDS`: prompts, the long ones of about 30 thousand tokens."""
    from ponder.compute.text import Message, Prompt, Tool, ToolCall  # of the checkout that is measured

    schema = json.dumps({"type": "object", "properties": {f"field{n}": {"type": "string"} for n in range(12)}})
    tools = tuple(Tool(f"tool{n}", "What it does. " * 8, schema) for n in range(12))
    turns: list[Message] = []
    calls: list[Message] = []
    for n in range(80):
        turns += [Message("user", PARAGRAPH * 2), Message("assistant", PARAGRAPH)]
        call = ToolCall(f"call{n}", f"tool{n % 12}", json.dumps({"field1": PARAGRAPH}))
        calls += [
            Message("user", PARAGRAPH),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", PARAGRAPH, tool_call_id=call.id),
        ]
    made = (
        Prompt((Message("user", "What is 12 + 7?"),)),
        Prompt((Message("user", PARAGRAPH * 240),)),
        Prompt((*turns, Message("user", "Go on."))),
        Prompt(tuple(calls), tools),
    )
    return dict(zip(KINDS, made, strict=True))


def measure() -> None:
    """The process of one checkout: for each line read, one of `KINDS` and a number of times, it writes a line with the
    milliseconds one takes and the tokens it has."""
    from transformers import AutoTokenizer

    from ponder.compute.text import Prompt
    from ponder.engines.profiles import Profile
    from ponder.engines.prompts import Prompts

    tokenizer = cast(Any, AutoTokenizer).from_pretrained(str(machine.ROOT / "models" / "demo"))
    tokenizer.chat_template = TEMPLATE
    prompts = Prompts(tokenizer, Profile(tools="hermes"))
    asked = conversations()
    print("ready", flush=True)
    for line in sys.stdin:
        kind, times = json.loads(line)
        tokens = 0
        begun = time.process_time()
        for _ in range(times):
            # What was made of a prompt goes with it.
            fresh = Prompt(asked[kind].messages, asked[kind].tools)
            tokens = len(prompts.render(fresh, thinking=True).ids)
        print(json.dumps([(time.process_time() - begun) * 1000 / times, tokens]), flush=True)


@contextmanager
def process(checkout: Path) -> Generator[subprocess.Popen[str]]:
    """A process with the code of a checkout, ready."""
    env = os.environ | {"PYTHONPATH": f"{checkout}", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
    with subprocess.Popen(
        command, env=env, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise SystemExit(f"{checkout}: its prompts cannot be measured")
        yield child
        child.stdin.close()


def ask(child: subprocess.Popen[str], kind: str, times: int) -> tuple[float, int]:
    """Milliseconds of one conversation, and its tokens."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps([kind, times]) + "\n")
    child.stdin.flush()
    ms, tokens = json.loads(child.stdout.readline())
    return ms, tokens


def compare(children: Sequence[subprocess.Popen[str]], kind: str, rounds: int) -> dict[str, Any]:
    """One kind of conversation, ours first."""
    times = 200 if kind == KINDS[0] else 3
    figures: list[list[float]] = [[] for _ in children]
    tokens = 0
    for child in children:
        ask(child, kind, times)
    for number in range(rounds):
        order = range(len(children)) if number % 2 == 0 else reversed(range(len(children)))
        for at in order:
            ms, tokens = ask(children[at], kind, times)
            figures[at].append(ms)
    entry: dict[str, Any] = {
        "conversation": kind,
        "tokens": tokens,
        "ms": [round(statistics.median(each), 3) for each in figures],
    }
    if len(children) > 1:
        ratios = [ours / theirs for ours, theirs in zip(*figures, strict=True)]
        entry |= {"ratio": round(statistics.median(ratios), 3), "ratio_interval": machine.interval(ratios)}
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="DIR", help="the same of this checkout, beside it")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", help="keep the result in this file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    checkouts = [machine.ROOT, *([machine.checkout(options.against)] if options.against else [])]
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        children = [stack.enter_context(process(checkout)) for checkout in checkouts]
        for kind in KINDS:
            entry = compare(children, kind, options.rounds)
            results.append(entry)
            times = " against ".join(f"{ms:.2f} ms" for ms in entry["ms"])
            ratio = f", ratio {entry['ratio']:.3f} {entry['ratio_interval']}" if "ratio" in entry else ""
            print(f"{kind:18}{entry['tokens']:7} tokens  {times}{ratio}", flush=True)
    commits = [machine.commit(checkout) for checkout in checkouts]
    machine.keep({**head, "rounds": options.rounds, "commits": commits, "results": results}, options.json)


if __name__ == "__main__":
    main()
