// Google's client for Node, unmodified, against a server: what it was given is printed as JSON.
// node google_genai.mjs URL KEY, with the package's folder as NODE_PATH, which only `require` looks at.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, key] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const { GoogleGenAI, Type, ApiError } = await import(pathToFileURL(require.resolve("@google/genai")).href);

const client = (apiKey) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl: url } });
const ai = client(key);
const contents = "What is 3 + 4?";
const asked = { model: "demo", contents, config: { seed: 1 } };

async function text(stream) {
  let said = "";
  for await (const piece of stream) said += piece.text ?? "";
  return said;
}

const whole = await ai.models.generateContent(asked);
const streamed = await text(await ai.models.generateContentStream(asked));
const unthought = await ai.models.generateContent({ ...asked, config: { thinkingConfig: { thinkingBudget: 0 } } });
const counted = await ai.models.countTokens({ model: "demo", contents });

const number = { type: Type.INTEGER };
const add = { name: "add", parameters: { type: Type.OBJECT, properties: { a: number, b: number } } };
const config = { tools: [{ functionDeclarations: [add] }], thinkingConfig: { thinkingBudget: 100 } };
const first = await ai.models.generateContent({ model: "demo", contents, config });
const call = first.functionCalls[0];
const said = first.candidates[0].content;
const result = { functionResponse: { id: call.id, name: call.name, response: { output: "seven" } } };
const history = [{ role: "user", parts: [{ text: contents }] }, said, { role: "user", parts: [result] }];
const second = await ai.models.generateContent({ model: "demo", contents: history, config });

const chat = ai.chats.create({ model: "demo" });
const turns = [(await chat.sendMessage({ message: contents })).text];
turns.push(await text(await chat.sendMessageStream({ message: contents })));

const models = [];
for await (const model of await ai.models.list()) models.push(model.name);

const errors = [];
const wrong = structuredClone(history);
for (const part of wrong[1].parts) {
  if (part.thoughtSignature) part.thoughtSignature = "A" + part.thoughtSignature.slice(1, -1) + "A";
}
for (const [who, what] of [
  [ai, { ...asked, model: "nobody" }],
  [client("pk-nobody"), asked],
  [ai, { ...asked, config: { topP: 7 } }],
  [ai, { model: "demo", contents: wrong, config }],
]) {
  try {
    await who.models.generateContent(what);
    errors.push("none");
  } catch (error) {
    errors.push(error instanceof ApiError ? error.status : String(error));
  }
}

console.log(
  JSON.stringify({
    whole: whole.text,
    streamed,
    usage: whole.usageMetadata,
    unthought: unthought.usageMetadata,
    tokens: counted.totalTokens,
    call,
    signed: said.parts.some((part) => part.thoughtSignature),
    answer: second.text,
    chat: turns,
    models,
    errors,
  }),
);
