// What both generations of the TypeScript SDK do in the same way. An adapter gives what differs:
//   client, transport, version          the connected parts
//   question(method, answer)            registers an answer to a server's request
//   logs(record)                        registers for log messages
//   list(method)                        fetches all pages of a list
//   perform(operation, progress)        calls a tool, reads a resource or gets a prompt
//   protocolVersion(), enableLogs()

import { createRequire } from "node:module";
import { join } from "node:path";

import { main, parseArguments, toolsDirectory } from "./command_line.mjs";

/** `require` as the packages of one tool group see it. */
export function packagesOf(group) {
  return createRequire(join(toolsDirectory(), group, "package.json"));
}

export const CLIENT_CAPABILITIES = {
  none: {},
  full: { sampling: {}, elicitation: { form: {}, url: {} }, roots: {} },
};

/** The answer to one property of a form: its default, or a value of its type that never changes. */
function fixedValue(schema) {
  if (schema.default !== undefined) return schema.default;
  const variants = schema.oneOf ?? schema.anyOf;
  if (variants) return variants[0].const;
  if (schema.enum) return schema.enum[0];
  switch (schema.type) {
    case "array":
      return [fixedValue(schema.items ?? {})];
    case "boolean":
      return true;
    case "integer":
    case "number":
      return 1;
    default:
      return "text";
  }
}

const ANSWERS = {
  "sampling/createMessage": () => ({
    role: "assistant",
    content: { type: "text", text: "sampled" },
    model: "test-model",
    stopReason: "endTurn",
  }),
  "elicitation/create": (params) => {
    if (params.mode === "url") return { action: "accept" };
    const properties = Object.entries(params.requestedSchema?.properties ?? {});
    return { action: "accept", content: Object.fromEntries(properties.map(([name, schema]) => [name, fixedValue(schema)])) };
  },
  "roots/list": () => ({ roots: [{ uri: "file:///srv/roots/one", name: "one" }] }),
};

function withoutMeta(params) {
  const { _meta, ...rest } = params ?? {};
  return rest;
}

export async function drive(defaultMode, modes, connect) {
  const options = parseArguments(defaultMode, modes);
  await main(options, async () => {
    const logs = [];
    const questions = [];
    const adapter = await connect(options, (adapter) => {
      if (options.capabilities !== "full") return;
      for (const [method, answer] of Object.entries(ANSWERS)) {
        adapter.question(method, async (request) => {
          const params = withoutMeta(request.params);
          questions.push({ method, params });
          return answer(params);
        });
      }
      adapter.logs((params) => logs.push(withoutMeta(params)));
    });
    const { client } = adapter;
    const capabilities = client.getServerCapabilities() ?? {};
    if (options.capabilities === "full" && capabilities.logging) await adapter.enableLogs();
    const document = {
      client: adapter.name,
      protocol_version: adapter.protocolVersion(),
      server_info: client.getServerVersion() ?? null,
      capabilities,
      instructions: client.getInstructions() ?? null,
      tools: capabilities.tools ? await adapter.list("tools") : [],
      resources: capabilities.resources ? await adapter.list("resources") : [],
      templates: capabilities.resources ? await adapter.list("templates") : [],
      prompts: capabilities.prompts ? await adapter.list("prompts") : [],
      results: [],
      logs,
      questions,
    };
    for (const operation of options.operations) {
      const entry = { ...operation, progress: [] };
      try {
        entry.result = await adapter.perform(operation, (progress) => entry.progress.push(withoutMeta(progress)));
      } catch (error) {
        if (error.code === undefined) throw error;
        entry.error = { code: error.code, message: error.message, data: error.data };
      }
      document.results.push(entry);
    }
    await client.close();
    return document;
  });
}
