"""Fields of other servers and of OpenAI's own that chat completions do not offer here, each refused by its name."""

from __future__ import annotations

from ponder.server.dialects.refused_sampling import INSTEAD, OFF
from ponder.server.dialects.slips import Refused

_INSTEAD = {
    "functions": "use tools instead",
    "function_call": "use tool_choice instead",
    "audio": "answers are text",
    "guided_choice": "use response_format with a schema that has an enum",
    "guided_regex": "use response_format with a schema that has a pattern",
    "guided_grammar": "use response_format with a JSON schema",
    "structured_outputs": "of it only json is read; use response_format",
    "best_of": "use the strategy best_of_n",
    "echo": "an answer is what comes behind the prompt",
    "prompt": "use messages",
    "chat_template": "the template is the model's",
    "documents": "put them into messages",
    "tokens": "use messages",
    "web_search_options": "this server fetches nothing",
    "prediction": "it is not offered",
    "moderation": "this server judges no content",
}
"""What would change the result and is not offered, and what to use instead."""
_OFF = {
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "echo": (False,),
    "best_of": (1,),
}
"""Values of such fields at which they change nothing."""
REFUSED = Refused(INSTEAD | _INSTEAD, OFF | _OFF)
