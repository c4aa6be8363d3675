// What applications do with openai-node: `node openai_node.cjs TASK…`, answers as one JSON object.
// The environment gives OPENAI_BASE_URL and OPENAI_API_KEY, which the SDK reads itself, and the models to ask.

"use strict";

const OpenAI = require("openai").OpenAI;

const { MODEL: model, EMBEDDING_MODEL: embedding } = process.env;
const call = JSON.parse(process.env.CALL);
const ask = { model, messages: [{ role: "user", content: "What is the weather?" }], temperature: 0, seed: 7 };
const client = new OpenAI({ maxRetries: 0 });

const usageOf = (usage) => (usage ? { input: usage.prompt_tokens, output: usage.completion_tokens } : null);

const tasks = {
  async unary() {
    const answer = await client.chat.completions.create({ ...ask, max_tokens: 12 });
    const [choice] = answer.choices;
    return { text: choice.message.content, finish: choice.finish_reason, usage: usageOf(answer.usage) };
  },

  async stream(more = {}) {
    const seen = { text: "", finish: null, usage: null, chunks: 0 };
    for await (const chunk of await client.chat.completions.create({ ...ask, max_tokens: 12, stream: true, ...more })) {
      seen.chunks += 1;
      seen.usage = usageOf(chunk.usage) ?? seen.usage;
      for (const choice of chunk.choices) {
        seen.text += choice.delta.content ?? "";
        seen.finish = choice.finish_reason ?? seen.finish;
      }
    }
    return seen;
  },

  stream_with_usage: () => tasks.stream({ stream_options: { include_usage: true } }),

  async tools() {
    const answer = await client.chat.completions.create({ ...ask, ...call });
    const called = answer.choices[0].message.tool_calls[0].function;
    return { name: called.name, arguments: JSON.parse(called.arguments) };
  },

  // The first of the calls, put together from its pieces by their index.
  async tools_streamed() {
    let [name, text] = ["", ""];
    for await (const chunk of await client.chat.completions.create({ ...ask, ...call, stream: true })) {
      for (const called of chunk.choices[0]?.delta.tool_calls ?? []) {
        if (called.index !== 0) continue;
        name += called.function.name ?? "";
        text += called.function.arguments ?? "";
      }
    }
    return { name, arguments: JSON.parse(text) };
  },

  async embeddings() {
    const answer = await client.embeddings.create({ model: embedding, input: ["one", "two"] });
    return { count: answer.data.length, size: answer.data[0].embedding.length, input: answer.usage.prompt_tokens };
  },

  async responses() {
    const answer = await client.responses.create({ model, input: "Hello", max_output_tokens: 8 });
    const usage = { input: answer.usage.input_tokens, output: answer.usage.output_tokens };
    return { text: answer.output_text, usage };
  },

  async responses_streamed() {
    const kinds = [];
    for await (const event of await client.responses.create({ model, input: "Hello", max_output_tokens: 8, stream: true })) {
      kinds.push(event.type);
    }
    return { first: kinds[0], last: kinds.at(-1) };
  },

  // What becomes of one chat for each of FAULTS: {name: {"fault": for the simulator, "stream": bool}}.
  async faults() {
    const told = {};
    for (const [name, asked] of Object.entries(JSON.parse(process.env.FAULTS))) told[name] = await fault(asked);
    return told;
  },
};

const fault = async ({ fault, stream }) => {
  let chunks = 0;
  try {
    const answer = await client.chat.completions.create({ ...ask, stream }, { headers: { "x-sim-fault": fault } });
    if (stream) for await (const _ of answer) chunks += 1;
  } catch (error) {
    // What is not an APIError is what a client was not written to catch.
    return { ...described(error), chunks };
  }
  return { kind: null, chunks };
};

const described = (error) => ({
  kind: error.constructor.name,
  status: error.status ?? null,
  message: error.message,
  type: error.type ?? null,
  code: error.code ?? null,
  retry_after: error.headers?.get?.("retry-after") ?? null,
});

(async () => {
  const answers = {};
  for (const task of process.argv.slice(2)) answers[task] = await tasks[task]();
  console.log(JSON.stringify(answers));
})();
