// The TypeScript client of generation 1 (`@modelcontextprotocol/sdk`, legacy era). See README.md.

import { CLIENT_CAPABILITIES, drive, packagesOf } from "./sdk_driver.mjs";

const MAX_PAGES = 1000;
const require = packagesOf("client-ts1");
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { SSEClientTransport } = require("@modelcontextprotocol/sdk/client/sse.js");
const { WebSocketClientTransport } = require("@modelcontextprotocol/sdk/client/websocket.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const types = require("@modelcontextprotocol/sdk/types.js");
const version = require("./node_modules/@modelcontextprotocol/sdk/package.json").version;

const REQUESTS = {
  "sampling/createMessage": types.CreateMessageRequestSchema,
  "elicitation/create": types.ElicitRequestSchema,
  "roots/list": types.ListRootsRequestSchema,
};

await drive("legacy", ["auto", "legacy"], async (options, register) => {
  const client = new Client(
    { name: "fairlead-test-ts1", version: "1" },
    { capabilities: CLIENT_CAPABILITIES[options.capabilities] },
  );
  const over = () => {
    if (options.stdio) {
      return new StdioClientTransport({ command: options.stdio[0], args: options.stdio.slice(1), stderr: "ignore" });
    }
    const url = new URL(options.url);
    if (url.protocol === "ws:") return new WebSocketClientTransport(url);
    return url.pathname.endsWith("/sse") ? new SSEClientTransport(url) : new StreamableHTTPClientTransport(url);
  };
  const transport = over();
  // The SDK tells its transport the version and does not keep it.
  let negotiated = null;
  const remember = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (value) => {
    negotiated = value;
    remember?.(value);
  };
  const pages = async (fetch, member) => {
    const entries = [];
    let cursor;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const result = await fetch(cursor === undefined ? {} : { cursor });
      entries.push(...result[member]);
      cursor = result.nextCursor;
      if (cursor === undefined) return entries;
    }
    throw new Error(`${member}: more than ${MAX_PAGES} pages`);
  };
  const lists = {
    tools: () => pages((params) => client.listTools(params), "tools"),
    resources: () => pages((params) => client.listResources(params), "resources"),
    templates: () => pages((params) => client.listResourceTemplates(params), "resourceTemplates"),
    prompts: () => pages((params) => client.listPrompts(params), "prompts"),
  };
  const adapter = {
    client,
    name: { name: "@modelcontextprotocol/sdk", version },
    question: (method, answer) => client.setRequestHandler(REQUESTS[method], answer),
    logs: (record) =>
      client.setNotificationHandler(types.LoggingMessageNotificationSchema, (notification) => record(notification.params)),
    list: (name) => lists[name](),
    enableLogs: () => client.setLoggingLevel("debug"),
    protocolVersion: () => negotiated,
    perform: ({ operation, name, arguments: value }, onprogress) => {
      if (operation === "call") return client.callTool({ name, arguments: value }, undefined, { onprogress });
      if (operation === "read") return client.readResource({ uri: name });
      return client.getPrompt({ name, arguments: value });
    },
  };
  register(adapter);
  await client.connect(transport);
  return adapter;
});
