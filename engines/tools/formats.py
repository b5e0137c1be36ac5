"""The formats of tool calls, one row for each: how it is written, and by what in a model's own files it is known.

They follow what the families' chat templates teach their models; `docs/models.md` says which model has which. To add
one is to add a row: the forms, JSON, header and JSON, elements, Python, have the mechanisms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ponder.engines.tools.elements import Elements
from ponder.engines.tools.form import Form
from ponder.engines.tools.headed import HeadedCalls
from ponder.engines.tools.json_calls import JsonCalls
from ponder.engines.tools.nested import NestedCalls
from ponder.engines.tools.pythonic import BracedCalls, PythonCalls


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write calls, and how to know a model that does."""

    name: str
    form: Form
    shown: tuple[tuple[str, ...], ...] = ()
    """Its chat template shows it: all texts of one of these groups are in it."""
    tokens: tuple[str, ...] = ()
    """The tokenizer has one of these tokens, where the template shows no format."""
    names: tuple[str, ...] = ()
    """The model's name or type has one of these words, in lower case, where nothing else tells."""
    numbered: bool = False
    """The ids of its calls are `functions.NAME:N`, counted through the conversation."""
    tuned: bool = False
    """Other families are tuned from it and keep its template: where the name says another, the name counts."""
    lead: tuple[str, ...] = ()
    """Words of habit that a model writes before its calls, and that are none of the answer."""


_DSML = "｜DSML｜"


def _dsml(block: str, space: str = "") -> Elements:
    """DeepSeek's elements; they say themselves which values are strings."""
    begin, end = f"<{_DSML}{space}", f"</{_DSML}{space}"
    return Elements(
        around=(f"{begin}{block}>", f"{end}{block}>"),
        call=(f'{begin}invoke name="{{name}}">\n', f"{end}invoke>"),
        name=rf'{begin}invoke\s+name="(?P<name>[^"]+)"\s*>',
        argument=(f'{begin}parameter name="{{key}}" string="{{text}}">', f"{end}parameter>\n"),
        key=rf'{begin}parameter\s+name="(?P<key>[^"]+)"(?:\s+string="(?P<text>[a-z]*)")?\s*>',
        begins=f"{begin}parameter",
        closes=f"{end}parameter>",
        inner="\n",
        joined="\n",
        bare=((f"{begin}invoke", f"{end}invoke>"),),
        said=True,
    )


def _qwen(open: str, close: str) -> Elements:
    return Elements(
        around=(open, close),
        call=("<function={name}>\n", "</function>"),
        name=r"<function=\s*(?P<name>[^>\s]+)\s*>",
        argument=("<parameter={key}>\n", "\n</parameter>\n"),
        key=r"<parameter=\s*(?P<key>[^>]+?)\s*>",
        begins="<parameter=",
        closes="</parameter>",
        pad="\n",
        inner="\n",
        several=False,
        between="\n",
        bare=(("<function=", "</function>"),),
    )


def _invoke(open: str, close: str, prefix: str = "", joined: str = "\n", behind: str = "\n") -> Elements:
    """`<invoke name="..."><parameter name="...">...</parameter></invoke>`, with a prefix to each name or none."""
    return Elements(
        around=(open, close),
        call=(f'<{prefix}invoke name="{{name}}">{behind}', f"</{prefix}invoke>"),
        name=rf"<{prefix}invoke\s+name=[\"']?(?P<name>[^>\"'\s]+)[\"']?\s*>",
        argument=(f'<{prefix}parameter name="{{key}}">', f"</{prefix}parameter>{behind}"),
        key=rf"<{prefix}parameter\s+name=[\"']?(?P<key>[^>\"']+)[\"']?\s*>",
        begins=f"<{prefix}parameter",
        closes=f"</{prefix}parameter>",
        inner="\n",
        joined=joined,
    )


def _glm(line: str, close: str = "", *, prefix: str = "", around: tuple[str, str] = ("", "")) -> Elements:
    """`<tool_call>NAME<arg_key>...</arg_key><arg_value>...</arg_value></tool_call>`, one part to a line or not."""
    begin, end = f"<{prefix}", f"</{prefix}"
    b, e = re.escape(begin), re.escape(end)
    call_open, call_close = f"{begin}tool_call>", f"{end}tool_call>"
    whole = around if around[0] else (call_open, call_close)
    return Elements(
        around=whole,
        call=(
            f"{call_open if around[0] else ''}{{name}}{close}{line}",
            call_close if around[0] else "",
        ),
        name=(rf"{re.escape(call_open)}\s*" if around[0] else "")
        + r"(?P<name>[^\s<]+)"
        + (rf"(?:{close})?" if close else ""),
        argument=(f"{begin}arg_key>{{key}}{end}arg_key>{line}{begin}arg_value>", f"{end}arg_value>{line}"),
        key=rf"{b}arg_key>(?P<key>.*?){e}arg_key>\s*(?:{b}arg_type>.*?{e}arg_type>\s*)?{b}arg_value>",
        begins=f"{begin}arg_key>",
        closes=f"{end}arg_value>",
        inner=line if around[0] else "",
        several=bool(around[0]),
        joined=line,
        between=line,
        bare=((call_open, call_close),) if around[0] else (),
    )


def _deepseek(head: str, begin: str, finish: str, joined: str) -> HeadedCalls:
    return HeadedCalls(
        opens=("<｜tool▁call▁begin｜>",),
        head=head,
        close="<｜tool▁call▁end｜>",
        begin=f"<｜tool▁call▁begin｜>{begin}",
        finish=f"{finish}<｜tool▁call▁end｜>",
        around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        between=joined,
    )


_HARMONY = HeadedCalls(
    opens=(
        "<|start|>assistant to=functions.",
        "<|start|>assistant<|channel|>commentary to=functions.",
        "<|start|>assistant<|channel|>analysis to=functions.",
        "<|channel|>commentary to=functions.",
        "<|channel|>analysis to=functions.",
        " to=functions.",
    ),
    head=r"(?P<name>[\w.-]+)\s*(?:<\|channel\|>\s*(?:commentary|analysis)\s*)?(?:(?:<\|constrain\|>)?\s*\w+\s*)?<\|message\|>",
    close="",
    begin="<|start|>assistant to=functions.{name}<|channel|>commentary json<|message|>",
    finish="<|call|>",
    heading=r"(<\|channel\|>(commentary|analysis))? ?(<\|constrain\|>)?json<\|message\|>",
    certain=(
        "<|start|>assistant to=functions.",
        "<|start|>assistant<|channel|>commentary to=functions.",
        "<|start|>assistant<|channel|>analysis to=functions.",
        "<|channel|>commentary to=functions.",
        "<|channel|>analysis to=functions.",
    ),
    ends_turn=True,
    tails=("<|call|>",),
)

_MISTRAL_HEAD = r"(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?"


def _mistral(begin: str) -> HeadedCalls:
    return HeadedCalls(opens=("[TOOL_CALLS]",), head=_MISTRAL_HEAD, close="", begin=begin)


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "harmony",
            _HARMONY,
            shown=(("<|channel|>", "<|message|>", "functions."),),
            tokens=("<|channel|>",),
            names=("gpt-oss", "gpt_oss"),
        ),
        Format("dsml_v41", _dsml("calls", " "), shown=((f"{_DSML} invoke",), (_DSML, " calls>", " invoke"))),
        Format("dsml_v4", _dsml("tool_calls"), shown=((_DSML, "tool_calls>"),)),
        Format("dsml", _dsml("function_calls"), shown=((_DSML,),), tokens=(_DSML,), names=("deepseek-v3.2",)),
        Format(
            "deepseek_v3",
            _deepseek(
                r"\w*\s*<｜tool▁sep｜>(?P<name>[^\s<`]+)\s*```(?:json)?",
                "function<｜tool▁sep｜>{name}\n```json\n",
                "\n```",
                "\n",
            ),
            shown=(("<｜tool▁call▁begin｜>", "```json"),),
            tokens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
            names=("deepseek-r1", "deepseek-v3-"),
        ),
        Format(
            "deepseek_v31",
            _deepseek(r"(?P<name>[^\s<]+)\s*<｜tool▁sep｜>", "{name}<｜tool▁sep｜>", "", ""),
            shown=(("<｜tool▁call▁begin｜>",),),
            names=("deepseek-v3.1",),
        ),
        Format(
            "kimi_k2",
            HeadedCalls(
                opens=("<|tool_call_begin|>",),
                head=r"(?:functions\.)?(?P<name>[^\s:<]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>",
                close="<|tool_call_end|>",
                begin="<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>",
                finish="<|tool_call_end|>",
                around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
            ),
            shown=(("<|tool_call_argument_begin|>",),),
            tokens=("<|tool_call_argument_begin|>", "<|tool_calls_section_begin|>"),
            names=("kimi-k2", "kimi_k2"),
            numbered=True,
        ),
        Format(
            "minimax_m2",
            _invoke("<minimax:tool_call>", "</minimax:tool_call>", joined="\n", behind="\n"),
            shown=(("<minimax:tool_call>",),),
            tokens=("<minimax:tool_call>",),
            names=("minimax-m2",),
        ),
        Format(
            "minimax_m3",
            NestedCalls("]<]minimax[>["),
            shown=(("]<]minimax[>[",),),
            tokens=("]<]minimax[>[",),
            names=("minimax-m3", "minimax_m3"),
        ),
        Format(
            "kimi_k3",
            Elements(
                around=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
                call=('<|open|>call tool="{name}" index="{n}"<|sep|>', "<|close|>call<|sep|>"),
                name=r'<\|open\|>\s*call\s+tool="(?P<name>[^"]+)"[^<]*<\|sep\|>',
                argument=('<|open|>argument key="{key}" type="{kind}"<|sep|>', "<|close|>argument<|sep|>"),
                key=r'<\|open\|>\s*argument\s+key="(?P<key>[^"]*)"(?:\s+type="(?P<text>[a-z]*)")?\s*<\|sep\|>',
                begins="<|open|>argument",
                closes="<|close|>argument<|sep|>",
                said=True,
            ),
            shown=(('call tool="', "<|open|>"),),
            names=("kimi-k3", "kimi_k3"),
            lead=("<|close|>response<|sep|>",),
        ),
        Format(
            "plamo3",
            HeadedCalls(
                opens=("<|plamo:begin_tool_request:plamo|>",),
                head=r"<\|plamo:begin_tool_name:plamo\|>(?P<name>[^<\s]+)<\|plamo:end_tool_name:plamo\|>\s*"
                r"<\|plamo:begin_tool_arguments:plamo\|>(?:<\|plamo:constrain\|>json<\|plamo:msg\|>)?",
                close="<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>",
                begin="<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>{name}"
                "<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|><|plamo:constrain|>json<|plamo:msg|>",
                finish="<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>",
                around=("<|plamo:begin_tool_requests:plamo|>", "<|plamo:end_tool_requests:plamo|>"),
            ),
            shown=(("plamo:begin_tool_request",),),
            names=("plamo-3", "plamo3"),
        ),
        Format(
            "inkling",
            JsonCalls(
                "<|content_invoke_tool_json|>",
                "<|end_message|>",
                arguments="args",
                between="<|message_model|>",
                tails=("<|message_model|>",),
            ),
            shown=(("<|content_invoke_tool_json|>",),),
            tokens=("<|content_invoke_tool_json|>",),
            names=("inkling",),
            lead=("<|end_message|><|message_model|>", "<|message_model|>", "<|end_message|>"),
        ),
        Format(
            "cohere",
            JsonCalls(
                "<|START_ACTION|>",
                "<|END_ACTION|>",
                listed=True,
                arguments="parameters",
                named="tool_name",
                first="tool_call_id",
            ),
            shown=(("<|START_ACTION|>",),),
            tokens=("<|START_ACTION|>",),
            names=("command-a", "command-r7b", "c4ai-command"),
        ),
        Format(
            "xlam",
            JsonCalls(listed=True, also=(("<tool_call>", "</tool_call>"),), tails=(";",)),
            names=("xlam",),
        ),
        Format(
            "seed_oss",
            _qwen("<seed:tool_call>", "</seed:tool_call>"),
            shown=(("<seed:tool_call>",),),
            tokens=("<seed:tool_call>",),
            names=("seed-oss", "seed_oss"),
        ),
        Format(
            "qwen3_coder",
            _qwen("<tool_call>", "</tool_call>"),
            shown=(("<function=", "<parameter="),),
            names=("qwen3-coder", "qwen3.5", "qwen3_5", "qwen3.6", "step-3.5", "nemotron-3", "mimo"),
        ),
        Format(
            "k2_horizon",
            _glm("", prefix="ifm|", around=("<ifm|tool_calls>", "</ifm|tool_calls>")),
            shown=(("<ifm|tool_call>",), ("ifm|tool_call",)),
            tokens=("<ifm|tool_call>",),
        ),
        Format(
            "hunyuan_v3",
            _glm("\n", "<tool_sep>", around=("<tool_calls>", "</tool_calls>")),
            shown=(("<arg_key>", "<tool_sep>"),),
            tokens=("<tool_sep>",),
        ),
        Format(
            "hunyuan_v4", _glm("", around=("<tool_calls>", "</tool_calls>")), shown=(("<arg_key>", "<tool_calls>"),)
        ),
        Format(
            "glm47",
            _glm(""),
            shown=(("</arg_key><arg_value>",),),
            names=("glm-4.7", "glm-5", "glm_moe_dsa"),
        ),
        Format(
            "glm45",
            _glm("\n"),
            shown=(("<arg_key>", "<tool_call>"),),
            tokens=("<arg_key>",),
            names=("glm-4.5", "glm-4.6", "glm4_moe", "ling-3"),
        ),
        Format(
            "minicpm5",
            Elements(
                around=("", ""),
                call=('<function name="{name}">', "</function>"),
                name=r"<function\s*name=[\"'](?P<name>[^\"']+)[\"'][^>]*>",
                argument=('<param name="{key}">', "</param>"),
                key=r"<param\s*name=[\"'](?P<key>[^\"']+)[\"']\s*>",
                begins="<param",
                closes="</param>",
                joined="\n",
                several=False,
                between="\n",
                bare=(("<function name=", "</function>"), ("<tool_call>", "</tool_call>")),
            ),
            shown=(('<function name="', '<param name="'),),
            names=("minicpm5",),
        ),
        Format(
            "step3",
            Elements(
                around=("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
                call=(
                    '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{name}">',
                    "</steptml:invoke><｜tool_call_end｜>",
                ),
                name=r'<｜tool_call_begin｜>\s*function\s*<｜tool_sep｜>\s*<steptml:invoke name="(?P<name>[^"]+)">',
                argument=('<steptml:parameter name="{key}">', "</steptml:parameter>"),
                key=r'<steptml:parameter name="(?P<key>[^"]+)">',
                begins="<steptml:parameter",
                closes="</steptml:parameter>",
            ),
            shown=(("steptml:invoke",),),
            tokens=("<｜tool_calls_begin｜>",),
            names=("step3",),
        ),
        Format(
            "dots",
            _invoke("<dots_function_call>", "</dots_function_call>"),
            shown=(("<dots_function_call>",),),
            tokens=("<dots_function_call>",),
        ),
        Format(
            "atem",
            _invoke("<atem:function_calls>", "</atem:function_calls>", "atem:"),
            shown=(("<atem:invoke",),),
            tokens=("<atem:function_calls>",),
        ),
        Format(
            "mistral_call_id",
            _mistral("[TOOL_CALLS]{name}[CALL_ID]00000000{n}[ARGS]"),
            shown=(("[TOOL_CALLS]", "[CALL_ID]"),),
        ),
        Format(
            "mistral",
            _mistral("[TOOL_CALLS]{name}[ARGS]"),
            shown=(("[TOOL_CALLS]", "[ARGS]"),),
            tokens=("[ARGS]",),
        ),
        Format(
            "mistral_list",
            JsonCalls("[TOOL_CALLS]", listed=True, extra="id"),
            shown=(("[TOOL_CALLS]",),),
            tokens=("[TOOL_CALLS]",),
        ),
        Format(
            "nemotron",
            # Some are tuned from Llama 3 and write its calls, too.
            JsonCalls("<TOOLCALL>", "</TOOLCALL>", listed=True, bare=True),
            shown=(("<TOOLCALL>",),),
            tokens=("<TOOLCALL>",),
            names=("nemotron",),
        ),
        Format(
            "phi4_mini",
            JsonCalls("functools", listed=True, tight=True),
            shown=(("functools[",),),
            names=("phi-4-mini",),
        ),
        Format(
            "lfm2",
            PythonCalls("<|tool_call_start|>", "<|tool_call_end|>"),
            shown=(("<|tool_call_start|>",),),
            tokens=("<|tool_call_start|>",),
            names=("lfm2",),
        ),
        Format(
            "olmo3",
            PythonCalls("<function_calls>", "</function_calls>", inner="\n", listed=False),
            shown=(("<function_calls>",),),
            names=("olmo-3", "olmo3"),
        ),
        Format(
            "gemma4",
            BracedCalls("<|tool_call>", "<tool_call|>", '<|"|>'),
            shown=(("<|tool_call>",),),
            tokens=("<|tool_call>",),
            names=("gemma-4", "gemma4"),
        ),
        Format(
            "functiongemma",
            BracedCalls("<start_function_call>", "<end_function_call>", "<escape>"),
            shown=(("<start_function_call>",),),
            tokens=("<start_function_call>",),
        ),
        Format(
            "apertus",
            JsonCalls("<|tools_prefix|>", "<|tools_suffix|>", listed=True, keyed=True),
            shown=(("<|tools_prefix|>",),),
            tokens=("<|tools_prefix|>",),
        ),
        Format(
            "internlm2",
            JsonCalls("<|action_start|><|plugin|>", "<|action_end|>", inner="\n", arguments="parameters"),
            shown=(("<|action_start|>", "<|plugin|>"),),
            tokens=("<|plugin|>",),
            names=("internlm2",),
        ),
        Format(
            "minimax_m1",
            JsonCalls("<tool_calls>", "</tool_calls>", inner="\n", joined="\n"),
            shown=(('<tool_calls>\\n{"name"',), ("<tool_calls>", "<beginning_of_sentence>")),
            names=("minimax-m1", "minimax_m1"),
        ),
        Format(
            "hunyuan",
            JsonCalls("<tool_calls>", "</tool_calls>", listed=True),
            tokens=("<|extra_4|>",),
            names=("hunyuan",),
            lead=("助手：",),
        ),
        Format(
            "jamba",
            JsonCalls("<tool_calls>", "</tool_calls>", listed=True),
            shown=(("<tool_calls>",),),
            names=("jamba",),
        ),
        Format(
            "longcat",
            JsonCalls("<longcat_tool_call>", "</longcat_tool_call>", inner="\n"),
            shown=(("<longcat_tool_call>",),),
            tokens=("<longcat_tool_call>",),
        ),
        Format(
            "gigachat3",
            JsonCalls("<|function_call|>", also=(("function call<|role_sep|>\n", ""),)),
            shown=(("<|function_call|>",), ("function call<|role_sep|>",)),
            tokens=("<|function_call|>",),
        ),
        Format(
            "granite_20b_fc",
            JsonCalls("<function_call>", between=""),
            shown=(("<function_call>",),),
        ),
        Format("exaone4", JsonCalls("<tool_call>", "</tool_call>"), shown=(('<tool_call>{\\"name\\"',),)),
        Format(
            "hermes",
            JsonCalls("<tool_call>", "</tool_call>", inner="\n"),
            shown=(("<tool_call>", "arguments"), ("<tool_call>", "json")),
            names=("hermes", "qwen2.5", "qwen3", "qwq"),
        ),
        Format(
            "granite3",
            JsonCalls("<|tool_call|>", listed=True, also=(("<tool_call>", "</tool_call>"),)),
            shown=(("<|tool_call|>",),),
            tokens=("<|tool_call|>",),
            names=("granite-3",),
        ),
        Format(
            "llama3_json",
            JsonCalls(
                arguments="parameters",
                # The last two are written by models that were tuned from Llama 3 and kept its template.
                also=(("<|python_tag|>", ""), ("<TOOLCALL>", "</TOOLCALL>"), ("<tool_call>", "</tool_call>")),
                between="; ",
                either="<|python_tag|>",
                tails=(";",),
            ),
            shown=(("ipython", '"parameters"'), ("<|python_tag|>",)),
            tokens=("<|python_tag|>",),
            names=("llama-3", "llama3"),
            tuned=True,
        ),
        Format(
            "pythonic",
            PythonCalls(also=(("<|python_start|>", "<|python_end|>"),)),
            shown=(("<|python_start|>",),),
            tokens=("<|python_start|>",),
            names=("llama-4", "llama4"),
        ),
        Format(
            "tool_code",
            PythonCalls("```tool_code", "```", inner="\n", listed=False),
            shown=(("```tool_code",),),
            tokens=("<start_of_turn>",),
            names=("gemma-3", "gemma3"),
        ),
    )
}
