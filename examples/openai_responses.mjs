// OpenAI's client, Responses: an answer as it is written, four chains that vote within 256 tokens, and what it cost.
import OpenAI from "openai";

const url = process.env.PONDER_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.PONDER_API_KEY ?? "none" });

const stream = client.responses.stream({
  model: "demo",
  input: "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?",
  store: false,
  thinking_budget: 256,
  strategy: { name: "majority_vote", n: 4 },
});
stream.on("response.output_text.delta", (event) => process.stdout.write(event.delta));
const response = await stream.finalResponse();

console.log();
console.log(response.usage.output_tokens_details.reasoning_tokens, "hidden tokens");
console.log(response.thinking.cost_usd, "USD");
