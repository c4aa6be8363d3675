"""What applications do with pydantic-ai: `python pydantic_ai_agent.py TASK…`, answers as one JSON object.

An agent on its OpenAI model class; OPENAI_BASE_URL and OPENAI_API_KEY are read by the library itself.
"""

import asyncio
import json
import os
import sys
from typing import Annotated, Literal

from openai import AsyncOpenAI
from pydantic import Field
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

CALL = json.loads(os.environ["CALL"])
MODEL = OpenAIChatModel(os.environ["MODEL"], provider=OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0)))
SHORT = ModelSettings(max_tokens=12, temperature=0, seed=7)
ASK = "What is the weather?"


def usage_of(usage):
    return {"input": usage.input_tokens, "output": usage.output_tokens}


async def unary():
    run = await Agent(MODEL, model_settings=SHORT).run(ASK)
    return {"text": run.output, "usage": usage_of(run.usage)}


async def stream():
    pieces = []
    async with Agent(MODEL, model_settings=SHORT).run_stream(ASK) as run:
        async for piece in run.stream_text(delta=True, debounce_by=None):
            pieces.append(piece)
    return {"text": "".join(pieces), "chunks": len(pieces), "usage": usage_of(run.usage)}


async def tools():
    """The calls that the library read from the first answer; this model would never stop calling."""
    settings = ModelSettings(temperature=0, seed=7, max_tokens=CALL["max_tokens"], logit_bias=CALL["logit_bias"])
    agent = Agent(MODEL, model_settings=settings)

    @agent.tool_plain
    def weather(city: Literal["Oslo", "Rome"], days: Annotated[int, Field(ge=1, le=9)]) -> str:
        return "rain"

    async with agent.iter(ASK) as run:
        async for step in run:
            if Agent.is_call_tools_node(step):
                calls = [part for part in step.model_response.parts if isinstance(part, ToolCallPart)]
                return {"name": calls[0].tool_name, "arguments": calls[0].args_as_dict(raise_if_invalid=True)}
    return None


async def faults():
    """What becomes of one run for each of FAULTS, streamed or not: {name: {"fault": for the simulator, …}}."""
    return {name: await fault(asked["fault"]) for name, asked in json.loads(os.environ["FAULTS"]).items()}


async def fault(fault):
    try:
        await Agent(MODEL).run(ASK, model_settings=ModelSettings(extra_headers={"x-sim-fault": fault}))
    except ModelHTTPError as error:
        return {"kind": type(error).__name__, "status": error.status_code}
    except Exception as error:  # what a client was not written to catch
        return {"kind": type(error).__name__, "status": None}
    return {"kind": None, "status": 200}


async def main():
    print(json.dumps({task: await globals()[task]() for task in sys.argv[1:]}))


asyncio.run(main())
