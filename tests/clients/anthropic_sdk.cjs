// What Anthropic's client for Node hears from a server, as one JSON object: node anthropic_sdk.cjs URL KEY
const Anthropic = require("@anthropic-ai/sdk");

const [url, key] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const asked = { model: "demo", max_tokens: 1000, messages: [{ role: "user", content: "What is 3 + 4?" }] };
const thinking = { type: "enabled", budget_tokens: 100 };
const tools = [
  { name: "add", input_schema: { type: "object", properties: { a: { type: "integer" }, b: { type: "integer" } } } },
];

async function wrong(more, by = client) {
  try {
    await by.messages.create({ ...asked, ...more });
    return null;
  } catch (error) {
    const { status, requestID } = error;
    return { kind: error.constructor.name, status, type: error.type, id: requestID };
  }
}

async function main() {
  const told = {};
  told.whole = await client.messages.create(asked);
  told.thought = await client.messages.create({ ...asked, thinking });
  const stream = client.messages.stream({ ...asked, thinking });
  told.kinds = [];
  stream.on("streamEvent", (event) => told.kinds.push(event.type));
  told.texts = [];
  stream.on("text", (text) => told.texts.push(text));
  told.streamed = await stream.finalMessage();

  const calling = { ...asked, thinking, tools };
  told.call = await client.messages.stream(calling).finalMessage();
  const use = told.call.content.find((block) => block.type === "tool_use");
  const turn = { role: "assistant", content: told.call.content };
  const result = { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "7" }] };
  const messages = [...asked.messages, turn, result];
  told.answer = await client.messages.create({ ...calling, messages });

  const { max_tokens, ...counted } = asked;
  told.count = await client.messages.countTokens(counted);
  told.models = [];
  for await (const model of client.models.list({ limit: 3 })) told.models.push(model.id);
  told.model = await client.models.retrieve("demo:direct");

  const altered = [{ ...told.call.content[0], signature: "AAAA" + told.call.content[0].signature.slice(4) }];
  told.errors = {
    range: await wrong({ temperature: 3 }),
    model: await wrong({ model: "none" }),
    signature: await wrong({ messages: [...asked.messages, { role: "assistant", content: altered }, result] }),
    key: await wrong({}, new Anthropic({ baseURL: url, apiKey: "pk-nobody", maxRetries: 0 })),
  };
  console.log(JSON.stringify(told));
}

main();
