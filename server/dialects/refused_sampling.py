"""What other servers and OpenAI's own have that would change the result and is not offered here, each refused by its
name: how an answer is drawn and cut, in every one of OpenAI's dialects; and what belongs to a conversation, in those
that have one."""

from __future__ import annotations

INSTEAD = {
    "guided_decoding_backend": "the server's operator chooses it",
    "repetition_penalty": "use presence_penalty or frequency_penalty",
    "length_penalty": "it belongs to a search that this server does not have",
    "use_beam_search": "name a strategy instead, as GET /v1/strategies lists them",
    "min_tokens": "an answer ends where the model ends it",
    "stop_token_ids": "use stop, with texts",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
    "prompt_logprobs": "there are no log-probabilities of a prompt; logprobs has those of the answer",
}
"""By their names, what to use instead."""
OFF = {
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "prompt_logprobs": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
"""Values of such fields at which they change nothing."""
TALK_INSTEAD = {
    **INSTEAD,
    "functions": "use tools instead",
    "function_call": "use tool_choice instead",
    "audio": "answers are text",
    "best_of": "use the strategy best_of_n",
    "chat_template": "the template is the model's",
    "echo": "an answer is what comes behind the prompt",
    "prediction": "it is not offered",
    "web_search_options": "this server fetches nothing",
}
"""The same for a conversation."""
TALK_OFF = {
    **OFF,
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "continue_final_message": (False,),
    "echo": (False,),
}
"""And values at which those change nothing."""
