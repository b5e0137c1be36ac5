"""What schemathesis is told of this server beside its document: which model there is, and how a stream is read.

It is loaded by schemathesis, in the environment of that, so it imports nothing of ours.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingParameterType=false

import json
import os

import schemathesis
from jsonschema_rs import validator_for
from schemathesis.generation import GenerationMode

MODEL = "demo"
STREAMED = os.environ.get("PONDER_STREAMED") == "1"
ANSWERED = os.environ["PONDER_ANSWERED"]
"""A file for what was answered: the path as the document has it, the status and the media type."""
PATIENCE = 30
"""Seconds in the place of a time that is wanted: a part of them is too short for anything, and a 504 is right then."""


@schemathesis.hook
def before_call(context, case, kwargs):
    """A request that is valid asks for a model that there is, within a time that suffices."""
    if not STREAMED and (case.query or {}).get("alt") == "sse":
        case.query = {**case.query, "alt": "json"}
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    if "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = MODEL
        if STREAMED:
            case.query = {**(case.query or {}), "alt": "sse"}
    # A content may have no parts, as an answer has that was stopped; a question has some.
    contents = case.body.get("contents") if isinstance(case.body, dict) else None
    for content in contents or ():
        content["parts"] = content.get("parts") or [{"text": "?"}]
    for name in case.headers or {}:
        if name.lower() == "x-request-timeout":
            case.headers[name] = str(PATIENCE)
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = MODEL
        if STREAMED:
            case.body["stream"] = True
    if isinstance(case.body, dict) and isinstance(case.body.get("timeout"), int | float):
        case.body["timeout"] = PATIENCE


@schemathesis.hook
def after_call(context, case, response):
    media = response.headers.get("content-type", [""])[0].partition(";")[0]
    with open(ANSWERED, "a") as file:
        file.write(f"{case.operation.path}\t{response.status_code}\t{media}\n")


@schemathesis.check
def events_are_as_described(context, response, case):
    """Each event of a stream has the schema that the document says."""
    media = response.headers.get("content-type", [""])[0].partition(";")[0]
    if response.status_code != 200 or media != "text/event-stream":
        return
    document = case.operation.schema.raw_schema
    described = document["paths"][case.operation.path][case.operation.method]["responses"]["200"]["content"]
    wanted = validator_for({**described["text/event-stream"]["schema"], "components": document["components"]})
    lines = [line for line in response.text.split("\n") if line.startswith("data: ") and line != "data: [DONE]"]
    assert lines, "a stream without an event"
    for line in lines:
        wanted.validate(json.loads(line.removeprefix("data: ")))
