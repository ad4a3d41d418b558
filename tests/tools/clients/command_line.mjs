// The command line and the output that the Node programs have in common. See README.md.

export function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

function usage(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

export function parseArguments(defaultMode, modes) {
  const words = process.argv.slice(2);
  const options = { mode: defaultMode, capabilities: "none", timeout: 60, operations: [], stdio: undefined, url: undefined };
  const next = (option) => (words.length > 0 ? words.shift() : usage(`${option} needs a value`));
  const json = (option, text) => {
    try {
      return JSON.parse(text);
    } catch (error) {
      return usage(`${option}: not JSON: ${error.message}`);
    }
  };
  while (words.length > 0) {
    const word = words.shift();
    switch (word) {
      case "--mode":
        options.mode = next(word);
        break;
      case "--capabilities":
        options.capabilities = next(word);
        break;
      case "--timeout":
        options.timeout = Number(next(word));
        break;
      case "--call":
      case "--prompt":
        options.operations.push({ operation: word.slice(2), name: next(word), arguments: json(word, next(word)) });
        break;
      case "--read":
        options.operations.push({ operation: "read", name: next(word) });
        break;
      case "--server-stdio":
        options.stdio = words.splice(0);
        break;
      default:
        if (word.startsWith("-") || options.url !== undefined) usage(`not understood: ${word}`);
        options.url = word;
    }
  }
  if ((options.url === undefined) === (options.stdio === undefined || options.stdio.length === 0)) {
    usage("either URL or --server-stdio COMMAND");
  }
  if (!modes.includes(options.mode)) usage(`--mode is one of ${modes.join(", ")}`);
  if (!["none", "full"].includes(options.capabilities)) usage("--capabilities is none or full");
  if (!(options.timeout > 0)) usage("--timeout is a number of seconds");
  return options;
}

export function toolsDirectory() {
  return process.env.FAIRLEAD_TOOLS ?? fail("FAIRLEAD_TOOLS is not set: `cargo xtask tools --env` prints it");
}

/** The document with sorted keys and without members that are undefined. */
export function print(document) {
  const sorted = (value) => {
    if (Array.isArray(value)) return value.map(sorted);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.keys(value)
        .sort()
        .map((key) => [key, sorted(value[key])]),
    );
  };
  process.stdout.write(`${JSON.stringify(sorted(document), null, 1)}\n`);
}

/** Runs `observe` within the time limit and ends the process. */
export async function main(options, observe) {
  const timer = setTimeout(() => fail(`not done after ${options.timeout} s`), options.timeout * 1000);
  try {
    print(await observe());
  } catch (error) {
    fail(`${error.name}: ${error.message}`);
  }
  clearTimeout(timer);
  process.exitCode = 0;
}
