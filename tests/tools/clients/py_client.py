"""The Python client (`mcp` 2.x) as a program that prints what it saw. See README.md."""

import argparse
import asyncio
import importlib.metadata
import json
import sys

import mcp_types as types
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

MAX_PAGES = 1000
MODERN = "2026-07-28"


class Operation(argparse.Action):
    """Collects --call, --read and --prompt in the order they stand in."""

    def __call__(self, parser, namespace, values, option_string=None):
        operations = getattr(namespace, "operations", None) or []
        name = option_string.lstrip("-")
        if name == "read":
            operations.append((name, values[0], None))
        else:
            try:
                operations.append((name, values[0], json.loads(values[1])))
            except json.JSONDecodeError as error:
                parser.error(f"{option_string} {values[0]}: not JSON: {error}")
        namespace.operations = operations


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--mode", choices=["auto", "legacy", "modern"], default="auto")
    parser.add_argument("--capabilities", choices=["none", "full"], default="none")
    parser.add_argument("--call", nargs=2, action=Operation, metavar=("NAME", "JSON"))
    parser.add_argument("--read", nargs=1, action=Operation, metavar="URI")
    parser.add_argument("--prompt", nargs=2, action=Operation, metavar=("NAME", "JSON"))
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--server-stdio", nargs=argparse.REMAINDER, metavar="COMMAND")
    arguments = parser.parse_args()
    if bool(arguments.url) == bool(arguments.server_stdio):
        parser.error("either URL or --server-stdio COMMAND")
    arguments.operations = getattr(arguments, "operations", None) or []
    return arguments


def plain(model):
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


def fixed_value(schema):
    """The answer to one property of a form: its default, or a value of its type that never changes."""
    if "default" in schema:
        return schema["default"]
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return schema[key][0]["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "array":
            return [fixed_value(schema.get("items", {}))]
        case "boolean":
            return True
        case "integer" | "number":
            return 1
        case _:
            return "text"


class Observer:
    """What arrives beside the results."""

    def __init__(self):
        self.logs, self.questions = [], []

    def record_question(self, method, params):
        document = plain(params) if params is not None else {}
        document.pop("_meta", None)
        self.questions.append({"method": method, "params": document})

    async def on_log(self, params):
        document = plain(params)
        document.pop("_meta", None)
        self.logs.append(document)

    async def on_sampling(self, context, params):
        self.record_question("sampling/createMessage", params)
        text = types.TextContent(type="text", text="sampled")
        return types.CreateMessageResult(role="assistant", content=text, model="test-model", stop_reason="endTurn")

    async def on_elicitation(self, context, params):
        self.record_question("elicitation/create", params)
        document = plain(params)
        if document.get("mode") == "url":
            return types.ElicitResult(action="accept")
        properties = document.get("requestedSchema", {}).get("properties", {})
        content = {name: fixed_value(schema) for name, schema in properties.items()}
        return types.ElicitResult(action="accept", content=content)

    async def on_roots(self, context):
        self.record_question("roots/list", None)
        return types.ListRootsResult(roots=[types.Root(uri="file:///srv/roots/one", name="one")])


async def every_page(fetch, member):
    entries, cursor = [], None
    for _ in range(MAX_PAGES):
        page = await fetch(cursor=cursor)
        entries += [plain(entry) for entry in getattr(page, member)]
        cursor = page.next_cursor
        if cursor is None:
            return entries
    raise RuntimeError(f"{member}: more than {MAX_PAGES} pages")


async def perform(client, operation, name, value):
    entry = {"operation": operation, "name": name, "progress": []}

    async def on_progress(progress, total, message):
        step = {"progress": progress, "total": total, "message": message}
        entry["progress"].append({key: value for key, value in step.items() if value is not None})

    try:
        match operation:
            case "call":
                entry["arguments"] = value
                result = await client.call_tool(name, value, progress_callback=on_progress)
            case "read":
                result = await client.read_resource(name)
            case "prompt":
                entry["arguments"] = value
                result = await client.get_prompt(name, value)
        entry["result"] = plain(result)
    except MCPError as error:
        entry["error"] = plain(error.error)
    return entry


async def observe(arguments):
    if arguments.server_stdio:
        server = StdioServerParameters(command=arguments.server_stdio[0], args=arguments.server_stdio[1:])
    elif arguments.url.endswith("/sse"):
        server = sse_client(arguments.url)
    else:
        server = arguments.url
    observer = Observer()
    full = arguments.capabilities == "full"
    options = {}
    if full:
        options = {
            "sampling_callback": observer.on_sampling,
            "elicitation_callback": observer.on_elicitation,
            "list_roots_callback": observer.on_roots,
            "logging_callback": observer.on_log,
            "log_level": "debug",
        }
    mode = {"auto": "auto", "legacy": "legacy", "modern": MODERN}[arguments.mode]
    info = types.Implementation(name="fairlead-test-python", version="1")
    async with Client(server, mode=mode, client_info=info, cache=None, **options) as client:
        if mode == MODERN:
            # A pinned version is adopted without asking, so the client does not know what the server has.
            answer = await client.session.send_discover(MODERN)
            client.session.adopt(types.DiscoverResult.model_validate(answer))
        capabilities = client.server_capabilities
        document = {
            "client": {"name": "python mcp", "version": importlib.metadata.version("mcp")},
            "protocol_version": client.protocol_version,
            "server_info": plain(client.server_info) if client.server_info else None,
            "capabilities": plain(capabilities),
            "instructions": client.instructions,
        }
        if full and capabilities.logging is not None and client.protocol_version < "2026":
            await client.set_logging_level("debug")
        for key, present, fetch, member in [
            ("tools", capabilities.tools, client.list_tools, "tools"),
            ("resources", capabilities.resources, client.list_resources, "resources"),
            ("templates", capabilities.resources, client.list_resource_templates, "resource_templates"),
            ("prompts", capabilities.prompts, client.list_prompts, "prompts"),
        ]:
            document[key] = await every_page(fetch, member) if present is not None else []
        document["results"] = [
            await perform(client, operation, name, value) for operation, name, value in arguments.operations
        ]
        document |= {"logs": observer.logs, "questions": observer.questions}
    return document


def main():
    arguments = parse_arguments()
    try:
        document = asyncio.run(asyncio.wait_for(observe(arguments), arguments.timeout))
    except Exception as error:  # noqa: BLE001 the reason is what the caller wants
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    json.dump(document, sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
