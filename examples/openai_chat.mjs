// OpenAI's client, chat completions: an answer that may think for 256 tokens, and what it cost.
import OpenAI from "openai";

const url = process.env.PONDER_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.PONDER_API_KEY ?? "none" });

const completion = await client.chat.completions.create({
  model: "demo",
  messages: [{ role: "user", content: "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?" }],
  thinking_budget: 256,
});
console.log(completion.choices[0].message.content);
console.log(completion.usage.completion_tokens_details.reasoning_tokens, "hidden tokens");
console.log(completion.thinking.cost_usd, "USD");
