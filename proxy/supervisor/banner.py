"""What `weir serve` says to the person who started it: where requests go, and how to send one.

Rules: pure text, no secrets; the snippets work as they stand against this very proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.globs import is_glob

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration

ANY_MODEL = "gpt-5-mini"


def banner(configuration: Configuration, *, address: str | None = None, target: str | None = None) -> str:
    """The lines to print. `address` is the data port as bound; `target` replaces the words for where requests go."""
    base = base_url(configuration, address)
    key = example_key(configuration)
    model = example_model(configuration)
    return f"""\
weir forwards to {target or targets(configuration)}
     serves   {base}   {"keys required" if configuration.deployment.keys == "required" else "open to this machine"}

Try it:
  curl {base}/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  {_imports(key)}
  client = OpenAI(base_url="{base}", api_key={_python(key)})
  print(client.responses.create(model="{model}", input="Hello").output_text)
"""


def targets(configuration: Configuration) -> str:
    """The upstreams by name and address."""
    return ", ".join(f"{upstream.url} ({name})" for name, upstream in configuration.deployment.upstreams.items())


def base_url(configuration: Configuration, address: str | None = None) -> str:
    """What a client on this machine sets as `base_url`."""
    deployment = configuration.deployment
    host, _, port = (address or str(deployment.listen)).rpartition(":")
    if host in ("0.0.0.0", "[::]"):  # noqa: S104  # every interface: this machine is one of them
        host = "127.0.0.1"
    return f"{'https' if deployment.tls else 'http'}://{host}:{port}/v1"


def example_model(configuration: Configuration) -> str:
    """A model that this configuration offers."""
    return next((name for name in configuration.deployment.models if not is_glob(name)), ANY_MODEL)


def example_key(configuration: Configuration) -> str:
    """What stands for the key: ours, the provider's, or anything where the upstream asks for none or has its own."""
    if configuration.deployment.keys == "required":
        return "$WEIR_KEY"
    if any(not one.secrets and one.url.startswith("https://") for one in configuration.deployment.upstreams.values()):
        return "$OPENAI_API_KEY"
    return "any"


def _imports(key: str) -> str:
    return "import os; from openai import OpenAI" if key.startswith("$") else "from openai import OpenAI"


def _python(key: str) -> str:
    return f'os.environ["{key[1:]}"]' if key.startswith("$") else f'"{key}"'
