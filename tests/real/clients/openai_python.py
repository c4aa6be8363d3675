"""What applications do with openai-python, 2.x and newest: `python openai_python.py TASK…`, answers as one JSON object.

The environment gives OPENAI_BASE_URL and OPENAI_API_KEY, which the SDK reads itself, and the models to ask.
"""

import json
import os
import sys

import openai

MODEL, EMBEDDING = os.environ["MODEL"], os.environ["EMBEDDING_MODEL"]
CALL = json.loads(os.environ["CALL"])  # the arguments that make this model call a tool
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "What is the weather?"}], "temperature": 0, "seed": 7}
SHORT = {"model": MODEL, "input": "Hello", "max_output_tokens": 8}

client = openai.OpenAI(max_retries=0)


def usage_of(usage):
    return usage and {"input": usage.prompt_tokens, "output": usage.completion_tokens}


def unary():
    answer = client.chat.completions.create(**ASK, max_tokens=12)
    choice = answer.choices[0]
    return {"text": choice.message.content, "finish": choice.finish_reason, "usage": usage_of(answer.usage)}


def stream(**more):
    text, finish, usage, chunks = "", None, None, 0
    for chunk in client.chat.completions.create(**ASK, max_tokens=12, stream=True, **more):
        chunks, usage = chunks + 1, usage_of(chunk.usage) or usage
        for choice in chunk.choices:
            text, finish = text + (choice.delta.content or ""), choice.finish_reason or finish
    return {"text": text, "finish": finish, "usage": usage, "chunks": chunks}


def stream_with_usage():
    return stream(stream_options={"include_usage": True})


def tools():
    call = client.chat.completions.create(**ASK, **CALL).choices[0].message.tool_calls[0].function
    return {"name": call.name, "arguments": json.loads(call.arguments)}


def tools_streamed():
    """The first of the calls, put together from its pieces by their index."""
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**ASK, **CALL, stream=True):
        for choice in chunk.choices:
            for call in (c for c in choice.delta.tool_calls or () if c.index == 0):
                name, arguments = name + (call.function.name or ""), arguments + (call.function.arguments or "")
    return {"name": name, "arguments": json.loads(arguments)}


def embeddings():
    answer = client.embeddings.create(model=EMBEDDING, input=["one", "two"])
    return {"count": len(answer.data), "size": len(answer.data[0].embedding), "input": answer.usage.prompt_tokens}


def responses():
    answer = client.responses.create(**SHORT)
    usage = {"input": answer.usage.input_tokens, "output": answer.usage.output_tokens}
    return {"text": answer.output_text, "usage": usage}


def responses_streamed():
    kinds = [event.type for event in client.responses.create(**SHORT, stream=True)]
    return {"first": kinds[0], "last": kinds[-1]}


def faults():
    """What becomes of one chat for each of FAULTS: {name: {"fault": for the simulator, "stream": bool}}."""
    return {name: fault(**asked) for name, asked in json.loads(os.environ["FAULTS"]).items()}


def fault(fault, stream):
    chunks = 0
    try:
        answer = client.chat.completions.create(**ASK, stream=stream, extra_headers={"x-sim-fault": fault})
        for _ in answer if stream else ():
            chunks += 1
    except openai.APIError as error:
        return described(error) | {"chunks": chunks}
    except Exception as error:  # what a client was not written to catch
        return {"kind": type(error).__name__, "status": None, "chunks": chunks}
    return {"kind": None, "chunks": chunks}


def described(error):
    answer = getattr(error, "response", None)
    told = {"kind": type(error).__name__, "status": getattr(error, "status_code", None), "message": error.message}
    return told | {"type": error.type, "code": error.code, "retry_after": answer and answer.headers.get("retry-after")}


print(json.dumps({task: globals()[task]() for task in sys.argv[1:]}))
