// Vercel's AI SDK over chat completions: an answer that may think for 256 tokens, and what it cost.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const url = process.env.PONDER_URL ?? "http://127.0.0.1:8000";
const ponder = createOpenAICompatible({
  name: "ponder",
  baseURL: `${url}/v1`,
  apiKey: process.env.PONDER_API_KEY ?? "none",
});

const result = await generateText({
  model: ponder("demo"),
  prompt: "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?",
  providerOptions: { ponder: { thinking_budget: 256 } },
  include: { responseBody: true },
});
console.log(result.text);
console.log(result.usage.outputTokenDetails.reasoningTokens, "hidden tokens");
console.log(result.response.body.thinking.cost_usd, "USD");
