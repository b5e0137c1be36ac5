"""Fields of other servers and of OpenAI's own that chat completions do not offer here, each refused by its name."""

from __future__ import annotations

from ponder.server.dialects.slips import Refused

_INSTEAD = {
    "functions": "use tools instead",
    "function_call": "use tool_choice instead",
    "audio": "answers are text",
    "guided_choice": "use response_format with a schema that has an enum",
    "guided_regex": "use response_format with a schema that has a pattern",
    "guided_grammar": "use response_format with a JSON schema",
    "guided_decoding_backend": "the server's operator chooses it",
    "structured_outputs": "of it only json is read; use response_format",
    "repetition_penalty": "use presence_penalty or frequency_penalty",
    "length_penalty": "it belongs to a search that this server does not have",
    "use_beam_search": "name a strategy instead, as GET /v1/strategies lists them",
    "best_of": "use the strategy best_of_n",
    "min_tokens": "an answer ends where the model ends it",
    "stop_token_ids": "use stop, with texts",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
    "prompt_logprobs": "there are no log-probabilities of a prompt; logprobs has those of the answer",
    "echo": "an answer is what comes behind the prompt",
    "prompt": "use messages",
    "chat_template": "the template is the model's",
    "documents": "put them into messages",
    "tokens": "use messages",
    "web_search_options": "this server fetches nothing",
    "prediction": "it is not offered",
}
"""What would change the result and is not offered, and what to use instead."""
_OFF = {
    "ignore_eos": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "echo": (False,),
    "use_beam_search": (False,),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "best_of": (1,),
    "prompt_logprobs": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
"""Values of such fields at which they change nothing."""
REFUSED = Refused(_INSTEAD, _OFF)
