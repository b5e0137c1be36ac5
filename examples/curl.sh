#!/bin/sh
# curl: the whole answer as JSON. `usage` counts its hidden tokens, `thinking` says what it cost.
curl --silent --show-error --fail-with-body "${PONDER_URL:-http://127.0.0.1:8000}/v1/chat/completions" \
  --header "Authorization: Bearer ${PONDER_API_KEY:-none}" \
  --header "Content-Type: application/json" \
  --data '{
    "model": "demo",
    "messages": [{"role": "user", "content": "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"}],
    "thinking_budget": 256
  }'
