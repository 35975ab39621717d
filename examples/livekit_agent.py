"""LiveKit agent that sees: a voice agent whose model is a live stream of Sightline.

    pip install livekit-agents livekit-plugins-openai
    python examples/livekit_agent.py console     # talk here; `dev` joins rooms of LIVEKIT_URL

SIGHTLINE_URL says where the gateway is, SIGHTLINE_SESSION which stream it looks at.
"""

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins import openai

URL = os.environ.get("SIGHTLINE_URL", "http://localhost:8080")
SESSION = os.environ.get("SIGHTLINE_SESSION", "demo")
INSTRUCTIONS = "You see what the camera shows. Answer in one short sentence."

server = AgentServer()


def agent_session() -> AgentSession:
    """What talks: words, ears and eyes are Sightline's, turns and interruptions LiveKit's."""
    model = openai.realtime.RealtimeModel(
        base_url=f"{URL}/v1?session={SESSION}",
        api_key=os.environ.get("SIGHTLINE_TOKEN", "nobody asks"),
    )
    return AgentSession(llm=model)


@server.rtc_session()
async def entrypoint(context: JobContext) -> None:
    """Called for each room that the agent is sent to."""
    await agent_session().start(agent=Agent(instructions=INSTRUCTIONS), room=context.room)


if __name__ == "__main__":
    cli.run_app(server)
