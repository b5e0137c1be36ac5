// Google's client: content that may take 256 tokens of thought, and what it cost.
import { GoogleGenAI } from "@google/genai";

const url = process.env.PONDER_URL ?? "http://127.0.0.1:8000";
const ai = new GoogleGenAI({ apiKey: process.env.PONDER_API_KEY ?? "none", httpOptions: { baseUrl: url } });

const answer = await ai.models.generateContent({
  model: "demo",
  contents: "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?",
  config: { thinkingConfig: { thinkingBudget: 256 } },
});
console.log(answer.text);
console.log(answer.usageMetadata.thoughtsTokenCount, "hidden tokens");
