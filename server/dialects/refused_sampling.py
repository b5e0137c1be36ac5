"""How other servers let an answer be drawn and cut, where that would change the result and is not offered here: each
refused by its name, in every one of OpenAI's dialects."""

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
