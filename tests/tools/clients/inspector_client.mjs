// The Inspector CLI as one of the test clients: a process per operation, its JSON collected. See README.md.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

import { main, parseArguments, toolsDirectory } from "./command_line.mjs";

// Its exit status for a tool that answered with `isError`: the result is printed all the same.
const TOOL_ERROR = 5;
const LISTS = [
  ["tools", "tools/list", "tools"],
  ["resources", "resources/list", "resources"],
  ["templates", "resources/templates/list", "resourceTemplates"],
  ["prompts", "prompts/list", "prompts"],
];

const options = parseArguments("legacy", ["auto", "legacy", "modern"]);
const group = join(toolsDirectory(), "inspector");
const require = createRequire(join(group, "package.json"));
const version = require("./node_modules/@modelcontextprotocol/inspector/package.json").version;
// It keeps a catalog and tokens in the home directory.
const home = mkdtempSync(join(tmpdir(), "fairlead-inspector-"));

function inspect(method, ...words) {
  const target = options.stdio ?? [options.url, "--transport", "http"];
  const command = [join(group, "node_modules/.bin/mcp-inspector"), "--cli", ...target];
  command.push("--method", method, ...words, "--format", "json", "--quiet", "--protocol-era", options.mode, "--stored-auth-only");
  const path = `${dirname(process.execPath)}:${process.env.PATH}`;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, command, {
      env: { ...process.env, HOME: home, PATH: path },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeout * 1000,
    });
    let output = "";
    let complaint = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (complaint += text));
    child.on("error", reject);
    child.on("close", (status) => {
      if (status === 0 || (status === TOOL_ERROR && output.trim() !== "")) {
        try {
          resolve({ result: JSON.parse(output).result });
        } catch (error) {
          reject(new Error(`${method}: ${error.message}: ${output}`));
        }
        return;
      }
      resolve({ error: { status, message: complaint.trim() } });
    });
  });
}

await main(options, async () => {
  try {
    const document = { client: { name: "@modelcontextprotocol/inspector", version }, results: [] };
    for (const [key, method, member] of LISTS) {
      const { result, error } = await inspect(method);
      // A server without the capability refuses the list; one that cannot be reached refuses all of them.
      if (error && key === "tools") throw new Error(error.message);
      document[key] = result?.[member] ?? [];
    }
    for (const operation of options.operations) {
      const { name, arguments: value } = operation;
      let outcome;
      if (operation.operation === "call") {
        outcome = await inspect("tools/call", "--tool-name", name, "--tool-args-json", JSON.stringify(value));
      } else if (operation.operation === "read") {
        outcome = await inspect("resources/read", "--uri", name);
      } else {
        const pairs = Object.entries(value).map(([key, text]) => `${key}=${text}`);
        outcome = await inspect("prompts/get", "--prompt-name", name, ...(pairs.length > 0 ? ["--prompt-args", ...pairs] : []));
      }
      document.results.push({ ...operation, ...outcome });
    }
    return document;
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
