// The TypeScript client of generation 2 (`@modelcontextprotocol/client`, both eras). See README.md.

import { CLIENT_CAPABILITIES, drive, packagesOf } from "./sdk_driver.mjs";

const MODES = { auto: "auto", legacy: "legacy", modern: { pin: "2026-07-28" } };
const require = packagesOf("client-ts2");
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");
const version = require("./node_modules/@modelcontextprotocol/client/package.json").version;

await drive("auto", Object.keys(MODES), async (options, register) => {
  const client = new Client(
    { name: "fairlead-test-ts2", version: "1" },
    {
      capabilities: CLIENT_CAPABILITIES[options.capabilities],
      versionNegotiation: { mode: MODES[options.mode] },
      listMaxPages: 1000,
    },
  );
  const transport = options.stdio
    ? new StdioClientTransport({ command: options.stdio[0], args: options.stdio.slice(1), stderr: "ignore" })
    : new StreamableHTTPClientTransport(new URL(options.url));
  const modern = () => client.getProtocolEra() === "modern";
  const fresh = { cacheMode: "bypass" };
  // Without a cursor the SDK fetches every page itself.
  const lists = {
    tools: async () => (await client.listTools(undefined, fresh)).tools,
    resources: async () => (await client.listResources(undefined, fresh)).resources,
    templates: async () => (await client.listResourceTemplates(undefined, fresh)).resourceTemplates,
    prompts: async () => (await client.listPrompts(undefined, fresh)).prompts,
  };
  const adapter = {
    client,
    name: { name: "@modelcontextprotocol/client", version },
    question: (method, answer) => client.setRequestHandler(method, answer),
    logs: (record) =>
      client.setNotificationHandler("notifications/message", (notification) => record(notification.params)),
    list: (name) => lists[name](),
    enableLogs: async () => {
      if (!modern()) await client.setLoggingLevel("debug");
    },
    protocolVersion: () => client.getNegotiatedProtocolVersion() ?? null,
    perform: ({ operation, name, arguments: value }, onprogress) => {
      const wantsLogs = modern() && options.capabilities === "full";
      const meta = wantsLogs ? { _meta: { "io.modelcontextprotocol/logLevel": "debug" } } : {};
      if (operation === "call") return client.callTool({ name, arguments: value, ...meta }, { onprogress });
      if (operation === "read") return client.readResource({ uri: name, ...meta }, fresh);
      return client.getPrompt({ name, arguments: value, ...meta });
    },
  };
  register(adapter);
  await client.connect(transport);
  return adapter;
});
