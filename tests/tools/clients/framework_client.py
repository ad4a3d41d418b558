"""The client of one agent framework as a program that prints what it saw of each URL. See README.md.

One process for all URLs, because what takes long is importing the framework. A framework shows a tool in its own
words; here only what all of them have is printed: the name, the description and the names of the arguments.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import sys

# Frameworks like to tell their makers that they were started.
for variable in ("CREWAI_DISABLE_TELEMETRY", "OTEL_SDK_DISABLED", "OPENAI_AGENTS_DISABLE_TRACING", "DO_NOT_TRACK"):
    os.environ[variable] = "true"
for variable in ("HAYSTACK_TELEMETRY_ENABLED", "ANONYMIZED_TELEMETRY", "CREWAI_TELEMETRY_ENABLED"):
    os.environ[variable] = "False"


def shown(name, description, schema):
    return {"name": name, "description": description, "arguments": sorted((schema or {}).get("properties", {}))}


def of_mcp(tool):
    """An `mcp` 1.x or 2.x tool."""
    schema = tool.input_schema if hasattr(tool, "input_schema") else tool.inputSchema
    return shown(tool.name, tool.description, schema)


def text_of(content):
    """The text of MCP content blocks, or of what a framework makes of them."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return text_of(content["text"] if "text" in content else content["content"])
    if isinstance(content, (list, tuple)):
        return "".join(text_of(block) for block in content)
    return content.text


async def fastmcp(url, calls):
    from fastmcp import Client

    async with Client(url) as client:
        tools = [of_mcp(tool) for tool in await client.list_tools()]
        return tools, [text_of((await client.call_tool(name, value)).content) for name, value in calls]


async def pydantic_ai(url, calls):
    from pydantic_ai.mcp import MCPToolset, StreamableHttpTransport

    toolset = MCPToolset(StreamableHttpTransport(url))
    async with toolset:
        tools = [of_mcp(tool) for tool in await toolset.list_tools()]
        return tools, [await toolset.direct_call_tool(name, value) for name, value in calls]


async def openai_agents(url, calls):
    from agents.mcp import MCPServerStreamableHttp

    async with MCPServerStreamableHttp(name="gw", params={"url": url}, cache_tools_list=True) as server:
        tools = [of_mcp(tool) for tool in await server.list_tools()]
        return tools, [text_of((await server.call_tool(name, value)).content) for name, value in calls]


async def langchain(url, calls):
    from langchain_mcp_adapters.client import MultiServerMCPClient

    client = MultiServerMCPClient({"gw": {"transport": "http", "url": url}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    results = [text_of(await tools[name].ainvoke(value)) for name, value in calls]
    return [shown(tool.name, tool.description, tool.args_schema) for tool in tools.values()], results


async def llamaindex(url, calls):
    from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

    tools = await McpToolSpec(client=BasicMCPClient(url)).to_tool_list_async()
    by_name = {tool.metadata.name: tool for tool in tools}
    results = [text_of((await by_name[name].acall(**value)).raw_output.content) for name, value in calls]
    schemas = [tool.metadata.fn_schema.model_json_schema() for tool in tools]
    return [shown(t.metadata.name, t.metadata.description, s) for t, s in zip(tools, schemas, strict=True)], results


async def semantic_kernel(url, calls):
    from semantic_kernel import Kernel
    from semantic_kernel.connectors.mcp import MCPStreamableHttpPlugin

    async with MCPStreamableHttpPlugin(name="gw", url=url) as plugin:
        kernel = Kernel()
        functions = kernel.add_plugin(plugin).functions
        results = [text_of((await kernel.invoke(functions[name], **value)).value) for name, value in calls]
        tools = [
            shown(name, function.description, {"properties": {each.name: None for each in function.parameters}})
            for name, function in functions.items()
        ]
        return tools, results


def haystack(url, calls):
    from haystack_integrations.tools.mcp import MCPToolset, StreamableHttpServerInfo

    toolset = MCPToolset(server_info=StreamableHttpServerInfo(url=url))
    toolset.warm_up()
    try:
        tools = {tool.name: tool for tool in toolset}
        results = [text_of(json.loads(tools[name].invoke(**value))) for name, value in calls]
        return [shown(tool.name, tool.description, tool.parameters) for tool in tools.values()], results
    finally:
        toolset.close()


async def autogen(url, calls):
    from autogen_core import CancellationToken
    from autogen_ext.tools.mcp import StreamableHttpServerParams, mcp_server_tools

    tools = {tool.name: tool for tool in await mcp_server_tools(StreamableHttpServerParams(url=url))}
    results = [text_of(await tools[name].run_json(value, CancellationToken())) for name, value in calls]
    return [shown(tool.name, tool.description, tool.schema["parameters"]) for tool in tools.values()], results


def crewai(url, calls):
    from crewai_tools import MCPServerAdapter

    with MCPServerAdapter({"url": url, "transport": "streamable-http"}) as adapted:
        tools = {tool.name: tool for tool in adapted}
        results = [tools[name].run(**value) for name, value in calls]
        return [shown(t.name, t.description, t.args_schema.model_json_schema()) for t in tools.values()], results


# By name: the function, and the distribution whose version is told.
FRAMEWORKS = {
    "fastmcp": (fastmcp, "fastmcp"),
    "pydantic-ai": (pydantic_ai, "pydantic-ai-slim"),
    "openai-agents": (openai_agents, "openai-agents"),
    "langchain": (langchain, "langchain-mcp-adapters"),
    "llamaindex": (llamaindex, "llama-index-tools-mcp"),
    "semantic-kernel": (semantic_kernel, "semantic-kernel"),
    "haystack": (haystack, "mcp-haystack"),
    "autogen": (autogen, "autogen-ext"),
    "crewai": (crewai, "crewai-tools"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=sorted(FRAMEWORKS))
    parser.add_argument("targets", type=json.loads, nargs="+", metavar='{"url": URL, "calls": [[NAME, ARGUMENTS]]}')
    parser.add_argument("--timeout", type=float, default=60)
    arguments = parser.parse_args()
    observe, distribution = FRAMEWORKS[arguments.framework]
    client = {"name": arguments.framework}
    client |= {name: importlib.metadata.version(name) for name in (distribution, "mcp")}
    seen = []
    # What a framework prints is no part of the document.
    with contextlib.redirect_stdout(sys.stderr):
        for target in arguments.targets:
            calls = [(name, value) for name, value in target["calls"]]
            if asyncio.iscoroutinefunction(observe):
                tools, results = asyncio.run(asyncio.wait_for(observe(target["url"], calls), arguments.timeout))
            else:
                tools, results = observe(target["url"], calls)
            tools.sort(key=lambda tool: tool["name"])
            seen.append({"tools": tools, "results": results})
    json.dump({"client": client, "seen": seen}, sys.stdout, indent=1, sort_keys=True, ensure_ascii=False, default=str)
    print()
    sys.stdout.flush()
    # Some leave threads behind that nobody ends.
    os._exit(0)


if __name__ == "__main__":
    main()
