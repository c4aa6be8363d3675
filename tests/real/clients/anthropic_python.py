"""What applications do with Anthropic's SDK: `python anthropic_python.py TASK…`, answers as one JSON object.

The environment gives ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, which the SDK reads itself, and the model to ask.
"""

import json
import os
import sys

import anthropic

ASK = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "What is the weather?"}],
    "max_tokens": 40,
}

client = anthropic.Anthropic(max_retries=0)


def usage_of(usage):
    return {"input": usage.input_tokens, "output": usage.output_tokens}


def unary():
    answer = client.messages.create(**ASK)
    return {"text": answer.content[0].text, "stop": answer.stop_reason, "usage": usage_of(answer.usage)}


def stream():
    kinds = []
    with client.messages.stream(**ASK) as events:
        for event in events:
            kinds.append(event.type)
        answer = events.get_final_message()
    told = {"text": answer.content[0].text, "stop": answer.stop_reason, "usage": usage_of(answer.usage)}
    return told | {"first": kinds[0], "last": kinds[-1]}


def faults():
    """What becomes of one message for each of FAULTS: {name: {"fault": for the simulator, "stream": bool}}."""
    return {name: fault(**asked) for name, asked in json.loads(os.environ["FAULTS"]).items()}


def fault(fault, stream):
    chunks = 0
    try:
        answer = client.messages.create(**ASK, stream=stream, extra_headers={"x-sim-fault": fault})
        for _ in answer if stream else ():
            chunks += 1
    except anthropic.APIError as error:
        told = {"kind": type(error).__name__, "status": getattr(error, "status_code", None), "message": error.message}
        return told | {"chunks": chunks}
    except Exception as error:  # what a client was not written to catch
        return {"kind": type(error).__name__, "status": None, "chunks": chunks}
    return {"kind": None, "chunks": chunks}


print(json.dumps({task: globals()[task]() for task in sys.argv[1:]}))
