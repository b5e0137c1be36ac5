// Anthropic's client: a message that may think for 256 tokens, and what it cost.
import Anthropic from "@anthropic-ai/sdk";

const url = process.env.PONDER_URL ?? "http://127.0.0.1:8000";
const client = new Anthropic({ baseURL: url, apiKey: process.env.PONDER_API_KEY ?? "none" });

const message = await client.messages.create({
  model: "demo",
  max_tokens: 1000,
  thinking: { type: "enabled", budget_tokens: 256 },
  messages: [{ role: "user", content: "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?" }],
});
console.log(message.content.filter((block) => block.type === "text").map((block) => block.text).join(""));
console.log(message.usage.output_tokens_details.thinking_tokens, "hidden tokens");
console.log(message.ponder.cost_usd, "USD");
