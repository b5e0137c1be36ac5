"""Questions and what is right, read from files: in our own form, or as GSM8K, MATH-500 and HumanEval are published."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from ponder.compute.answers.phrases import asks_for_a_number
from ponder.verifiers.code import Code

COMPLETE = "Complete this Python function. Answer with one Python code block that holds the whole function.\n\n"
"""What is put before a function of HumanEval, which asks nothing by itself."""
GSM8K_ANSWER = "####"
"""What stands before the answer of GSM8K, behind its solution."""


class WrongQuestions(ValueError):
    """A file that holds no questions; the message names the line and the field."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A question that is answered by what is the same as `answer`, as votes compare."""

    answer: str
    numeric: bool
    """The question asks for a number (`final_answer`)."""


@dataclass(frozen=True, slots=True)
class Program:
    """A question that is answered by a program which passes a test."""

    entry_point: str
    """The function that is asked for."""
    prompt: str
    """Its head and what stands before it."""
    test: str
    """Statements, which call the function by its name."""

    @property
    def before(self) -> str:
        """What the prompt defines before the function: imports and other functions."""
        found = re.search(_defines(self.entry_point), self.prompt)
        return self.prompt[: found.start()] if found else ""

    def defined_in(self, program: str) -> bool:
        """The program has the whole function, and not its body alone."""
        return re.search(_defines(self.entry_point), program) is not None


def _defines(name: str) -> str:
    return rf"(?m)^(?:async[ ]+)?def[ ]+{re.escape(name)}\b"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what is right."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    """A conversation as OpenAI writes one."""
    right: Expected | Program

    @property
    def text(self) -> str:
        """The last turn, for people."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)

    @property
    def answer(self) -> str:
        """What is right, for people."""
        return self.right.answer if isinstance(self.right, Expected) else self.right.test


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a file."""

    form: str
    all: tuple[Question, ...]
    digest: str
    """Of the file's bytes, unpacked, as sha256: whether it is the same file."""

    def first(self, most: int | None) -> Questions:
        """The first so many of them."""
        return Questions(self.form, self.all[:most], self.digest)


def read(path: Path) -> Questions:
    """The questions of a file, one JSON object a line, also packed by gzip (`.gz`). The first says in what form all
    are. Raises `WrongQuestions`."""
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise WrongQuestions(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise WrongQuestions(f"{path} is no text in UTF-8 (byte {error.start})") from error
    questions: dict[str, Question] = {}
    lines: dict[str, int] = {}
    form = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = _object(line, where)
        form = form or _form(fields, where)
        question = FORMS[form].question(_Fields(fields, where), str(number))
        if question.id in questions:
            raise WrongQuestions(f'{where}: the id "{question.id}" is that of line {lines[question.id]}, too')
        questions[question.id], lines[question.id] = question, number
    if not questions:
        raise WrongQuestions(f"{path} has no questions: one JSON object a line")
    return Questions(form, tuple(questions.values()), hashlib.sha256(data).hexdigest())


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise WrongQuestions(f"{where} is no JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise WrongQuestions(f"{where} is no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        # A number of more digits than Python reads.
        raise WrongQuestions(f"{where} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise WrongQuestions(f"{where} is no JSON object")
    return cast("dict[str, Any]", found)


def _form(fields: Mapping[str, Any], where: str) -> str:
    for name, form in FORMS.items():
        if form.is_one(fields):
            return name
    raise WrongQuestions(
        f'{where}: a question has the fields "question" (or "messages") and "answer", one of GSM8K the same, one of '
        'MATH-500 "problem" and "answer", one of HumanEval "task_id", "prompt", "entry_point" and "test"; this one has '
        + (", ".join(f'"{name}"' for name in sorted(fields)[:12]) or "none")
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of one line."""

    all: Mapping[str, Any]
    where: str

    def wrong(self, name: str, what: str) -> WrongQuestions:
        return WrongQuestions(f'{self.where}, field "{name}": {what}')

    def text(self, name: str) -> str:
        """A field that is a text and says something."""
        value = self.all.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "is missing" if value is None else "is no text that says something")
        return value

    def id(self, name: str, line: str) -> str:
        """A text or a number; the number of the line where there is none."""
        value = self.all.get(name)
        if value is None:
            return line
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise self.wrong(name, "is neither a text nor a whole number")
        return str(value)

    def answer(self) -> str:
        """A text, or a number."""
        value = self.all.get("answer")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return json.dumps(value)
        return self.text("answer").strip()

    def messages(self) -> tuple[Mapping[str, Any], ...]:
        """A conversation that ends with something to be answered."""
        value = self.all["messages"]
        turns = cast("list[object]", value) if isinstance(value, list) else []
        if not turns:
            raise self.wrong("messages", "is no list of messages")
        for place, turn in enumerate(turns):
            known = cast("dict[str, Any]", turn) if isinstance(turn, dict) else {}
            if not isinstance(known.get("role"), str) or not isinstance(known.get("content"), str | list):
                raise self.wrong(f"messages.{place}", 'is no object with "role" and "content"')
        return tuple(cast("list[dict[str, Any]]", turns))


@dataclass(frozen=True, slots=True)
class _Form:
    is_one: Callable[[Mapping[str, Any]], bool]
    question: Callable[[_Fields, str], Question]


def _asked(text: str) -> tuple[Mapping[str, Any], ...]:
    return ({"role": "user", "content": text},)


def _numeric(messages: Sequence[Mapping[str, Any]]) -> bool:
    """As a run finds it out of the same question (`Run.numeric`)."""
    asked = next((m["content"] for m in reversed(messages) if m.get("role") == "user"), "")
    return isinstance(asked, str) and asks_for_a_number(asked)


def _own(fields: _Fields, line: str) -> Question:
    if "messages" in fields.all and "question" in fields.all:
        raise fields.wrong("messages", 'stands beside "question": one of the two')
    messages = fields.messages() if "messages" in fields.all else _asked(fields.text("question"))
    return Question(fields.id("id", line), messages, Expected(fields.answer(), _numeric(messages)))


def _gsm8k(fields: _Fields, line: str) -> Question:
    question, (_, mark, answer) = fields.text("question"), fields.text("answer").rpartition(GSM8K_ANSWER)
    if not mark or not answer.strip():
        raise fields.wrong("answer", f'has no "{GSM8K_ANSWER}" with a number behind it, as the lines before it have')
    return Question(fields.id("id", line), _asked(question), Expected(answer.strip(), True))


def _math500(fields: _Fields, line: str) -> Question:
    messages = _asked(fields.text("problem"))
    return Question(fields.id("unique_id", line), messages, Expected(fields.answer(), _numeric(messages)))


def _humaneval(fields: _Fields, line: str) -> Question:
    name, prompt = fields.text("entry_point"), fields.text("prompt")
    if not name.isidentifier():
        raise fields.wrong("entry_point", "is no name of a function")
    test = f"{fields.text('test')}\n\ncheck({name})\n"
    try:
        Code(tests=(test,))
    except ValidationError as error:
        raise fields.wrong("test", error.errors()[0]["msg"]) from None
    messages = _asked(f"{COMPLETE}```python\n{prompt}```")
    return Question(fields.id("task_id", line), messages, Program(name, prompt, test))


FORMS = {
    "HumanEval": _Form(lambda fields: {"prompt", "entry_point", "test"} <= fields.keys(), _humaneval),
    "MATH-500": _Form(lambda fields: {"problem", "answer"} <= fields.keys(), _math500),
    "GSM8K": _Form(lambda fields: "question" in fields and f"\n{GSM8K_ANSWER} " in f"\n{fields.get('answer')}", _gsm8k),
    "question and answer": _Form(
        lambda fields: "answer" in fields and bool({"question", "messages"} & fields.keys()), _own
    ),
}
"""What the first line of a file is, the first that fits."""
