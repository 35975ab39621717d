"""The official `mcp` package as a client of `sightline mcp`: prints what it got, as JSON.

Arguments: the gateway's address, a session, a condition that comes true, and a URL of a server, or
"" to start one and speak by stdio.
"""

import asyncio
import base64
import json
import sys
from typing import Any

from mcp import Client, StdioServerParameters


def value_of(result: Any) -> Any:
    """What a tool gave."""
    structured = result.structured_content
    return structured.get("result", structured) if structured else None


async def main(address: str, session: str, condition: str, url: str) -> None:
    command = ["-m", "sightline.cli", "--server", address, "mcp"]
    by_stdio = StdioServerParameters(command=sys.executable, args=command)
    found: dict[str, Any] = {}
    async with Client(url or by_stdio) as client:
        tools = (await client.list_tools()).tools
        found["tools"] = {tool.name: bool(tool.description) for tool in tools}
        found["sessions"] = value_of(await client.call_tool("list_sessions", {}))
        found["models"] = value_of(await client.call_tool("describe_server", {}))
        asked = {"session": session, "question": "what is in the scene"}
        found["answer"] = value_of(await client.call_tool("ask", asked))
        statements = {"session": session, "statements": ["a red circle is there", condition]}
        found["decisions"] = value_of(await client.call_tool("decide", statements))
        watched = {"session": session, "condition": condition, "for_s": 60}
        found["events"] = value_of(await client.call_tool("watch", watched))
        picture = (await client.call_tool("snapshot", {"session": session})).content[0]
        found["picture"] = base64.b64decode(picture.data)[:2].hex()
        ruled = {"session": session, "condition": condition, "name": "standing"}
        made = await client.call_tool("create_rule", ruled)
        terms = {"rule": "standing", "threshold": 0.6, "severity": "critical", "labels": {"a": "b"}}
        changed = await client.call_tool("update_rule", terms)
        listed = await client.call_tool("rules", {"session": session})
        found["rules"] = [value_of(each) for each in (made, changed, listed)]
        await client.call_tool("delete_rule", {"rule": "standing"})
        found["rules left"] = value_of(await client.call_tool("rules", {}))
        wrong = await client.call_tool("ask", {"session": "nowhere", "question": "what"})
        found["refusal"] = [wrong.is_error, wrong.content[0].text]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
