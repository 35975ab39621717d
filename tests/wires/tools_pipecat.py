"""Pipecat's pipeline lets a model call a function: URL SESSION, what came as JSON."""

import asyncio
import json
import sys
from typing import Any

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

PATIENCE_S = 90


async def converse(url: str, session: str) -> dict[str, Any]:
    told: dict[str, Any] = {"calls": []}
    ended: asyncio.Queue[Any] = asyncio.Queue()
    parse = events.parse_server_event

    def parsed(text: str) -> Any:
        event = json.loads(text)
        if event["type"] == "response.done":
            ended.put_nowait([item["type"] for item in event["response"]["output"]])
        return parse(text)

    events.parse_server_event = parsed
    address = url.replace("http", "ws", 1)
    service = OpenAIRealtimeLLMService(
        api_key="nobody asks",
        base_url=f"{address}v1/realtime?session={session}",
        session_properties=events.SessionProperties(tool_choice="required"),
    )

    async def ring(params: FunctionCallParams) -> None:
        told["calls"].append([params.function_name, dict(params.arguments)])
        brief = events.SessionProperties(tool_choice="none", max_output_tokens=5)
        await service.send_client_event(events.SessionUpdateEvent(session=brief))
        await params.result_callback({"rang": True})

    service.register_function("ring", ring)
    schema = FunctionSchema(name="ring", description="Ring.", properties={}, required=[])
    asked = [{"role": "user", "content": "Ring, please."}]
    pair = LLMContextAggregatorPair(LLMContext(asked, ToolsSchema(standard_tools=[schema])))
    worker = PipelineWorker(Pipeline([pair.user(), service, pair.assistant()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frames([LLMRunFrame()])
    told["responses"] = [await ended.get(), await ended.get()]
    await worker.cancel()
    await running
    return told


async def main() -> None:
    async with asyncio.timeout(PATIENCE_S):
        print(json.dumps(await converse(*sys.argv[1:])))


asyncio.run(main())
