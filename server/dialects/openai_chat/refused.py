"""Fields of other servers and of OpenAI's own that chat completions do not offer here, each refused by its name."""

from __future__ import annotations

from ponder.server.dialects.refused_sampling import TALK_INSTEAD, TALK_OFF
from ponder.server.dialects.slips import Refused

_INSTEAD = {
    "guided_choice": "use response_format with a schema that has an enum",
    "guided_regex": "use response_format with a schema that has a pattern",
    "guided_grammar": "use response_format with a JSON schema",
    "structured_outputs": "of it only json is read; use response_format",
    "prompt": "use messages",
    "documents": "put them into messages",
    "tokens": "use messages",
    "moderation": "this server judges no content",
}
"""What would change the result and is not offered, and what to use instead."""
REFUSED = Refused(TALK_INSTEAD | _INSTEAD, TALK_OFF)
