"""Client of `sightline mcp`, as an assistant is one: it starts it, lists the streams, asks each.

    pip install 'sightline-live[mcp]'
    python examples/mcp_client.py "What is in the scene?"

Assistants that have a file of MCP servers want no program at all: docs/sdk.md has the lines.
"""

import argparse
import asyncio
import os
import sys
from typing import Any

from mcp import Client, StdioServerParameters


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool gave. Raises RuntimeError with the tool's words where it refused."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise RuntimeError(result.content[0].text)
    structured = result.structured_content or {}
    return structured.get("result", structured)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    options = parser.parse_args()
    where = ["--server", options.server] if options.server else []
    arguments = ["-m", "sightline.cli", *where, "mcp"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        print("tools:", ", ".join(sorted(tool.name for tool in tools)))
        for session in await call(client, "list_sessions"):
            name = session["name"]
            if session["state"] == "waiting":
                print(f"{name}: nothing to see yet")
                continue
            answer = await call(client, "ask", session=name, question=options.question)
            print(f"{name}: {answer['answer']}")


if __name__ == "__main__":
    asyncio.run(main())
