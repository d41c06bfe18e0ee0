"""How a model behind somebody's API is reached: keys of ``api.*`` in the rooms' configs.

Checked without a request; a key is never written here, only the name of the variable that holds it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from sft.config import check_choice, check_not_negative, check_positive
from toolshed.errors import ConfigError

NO_KEY = "none"
"""As ``key_variable``: a server of one's own that asks for no key."""
BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
}
PREFIX = "api:"
"""Begins the word of a command that names a model behind an API in place of a checkpoint."""
_SHORT = {
    "provider": "api.provider",
    "base_url": "api.base_url",
    "key_variable": "api.key_variable",
    "tools": "tools.config",
    "show": "tools.show",
}
"""Words of the command line that may be written without the mapping that they belong to."""
KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


@dataclass
class ApiConfig:
    """Keys of ``api``."""

    model: str = ""
    """As the provider names it; of ``eval.run`` the word behind ``api:``."""
    provider: str = "openai"
    """``openai``: chat completions, of whatever server; ``anthropic``: the messages API."""
    base_url: str = ""
    """Up to and with the version, ``http://127.0.0.1:30000/v1``; empty for the provider's own."""
    key_variable: str = ""
    """Environment variable that holds the key; ``none`` sends none, empty is the provider's own."""
    calls: str = "native"
    """``native`` function calling, or ``text``: the tools stand in the system turn, and the model
    writes its calls as text, as our own checkpoints do."""
    image_format: str = "png"
    """``png`` or ``jpeg``; a PNG that is too large for the provider is sent as JPEG."""
    timeout_s: float = 180.0
    """Of one request, answer included."""
    connect_timeout_s: float = 10.0
    retries: int = 5
    """Of one request, after failures of machines and ``429``."""
    backoff_s: float = 1.0
    """Before the first retry, doubled for each further one, times a random share from a half."""
    longest_wait_s: float = 60.0
    """Before one retry; a server that asks for more is given up."""
    requests_per_minute: float = 0.0
    """0 sets no limit."""
    concurrent: int = 8
    """Requests under way at once."""
    cost_limit_usd: float = 0.0
    """Of one command; 0 sets no limit."""
    prices: list[float] = field(default_factory=list)
    """USD per million tokens of input, cached input and output; empty for rl/policy/prices.py."""
    raw_dir: str = ""
    """Folder for one JSON file per request, pictures by their hash; empty keeps none."""

    def __post_init__(self) -> None:
        check_choice(
            self,
            provider=tuple(BASE_URLS),
            calls=("native", "text"),
            image_format=("png", "jpeg"),
        )
        check_positive(self, "timeout_s", "connect_timeout_s", "concurrent", "longest_wait_s")
        check_not_negative(self, "retries", "backoff_s", "requests_per_minute", "cost_limit_usd")
        if len(self.prices) not in (0, 3) or any(price < 0 for price in self.prices):
            raise ConfigError(
                f"prices={self.prices}; give three numbers, USD per million tokens of input, "
                "cached input and output, for example 'api.prices=[2.5,1.25,10]'"
            )

    @property
    def address(self) -> str:
        """The base URL in use, without a slash at its end."""
        return (self.base_url or BASE_URLS[self.provider]).rstrip("/")

    @property
    def variable(self) -> str:
        """Name of the variable that holds the key, or ``none``."""
        return self.key_variable or KEY_VARIABLES[self.provider]

    @property
    def identity(self) -> str:
        """Who plays: weights have a hash, of a model behind an API the name is all."""
        return f"{self.model} {self.provider} {self.address} calls={self.calls}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that no proxy stands before it."""
        host = urlsplit(self.address).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def whole_words(words: Sequence[str]) -> list[str]:
    """``key=value`` words with the short ones written out, ``tools={...}`` as it is."""
    parts = [word.partition("=") for word in words]
    return [
        word if value.startswith("{") else f"{_SHORT.get(key, key)}{equals}{value}"
        for word, (key, equals, value) in zip(words, parts, strict=True)
    ]


def api_of(word: str, api: ApiConfig) -> ApiConfig:
    """The keys with the model that ``api:MODEL`` names; unchanged for any other word.

    ConfigError where the model cannot be reached as configured; nothing is sent.
    """
    if not word.startswith(PREFIX):
        if api.model:
            raise ConfigError(
                f"api.model={api.model} and {word}; give {PREFIX}{api.model} in its place, or no "
                "api.model="
            )
        return api
    named = replace(api, model=word.removeprefix(PREFIX))
    check_api(named)
    return named


def check_api(config: ApiConfig) -> None:
    """ConfigError where a model cannot be reached as configured; sends nothing, needs no key."""
    if not config.model.strip():
        raise ConfigError("no model given; name one, for example api:gpt-4o-mini")
    parts = urlsplit(config.address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigError(
            f"api.base_url={config.base_url!r} is no address; give one like "
            "http://127.0.0.1:30000/v1"
        )
    if parts.username or parts.password:
        raise ConfigError(
            "api.base_url holds a user or a password; put the key into a variable and name it "
            "with api.key_variable="
        )
    if config.base_url and not config.key_variable:
        # The provider's own key would go to a server that the user meant to be another one.
        raise ConfigError(
            f"api.base_url={config.base_url} needs api.key_variable= with the name of the variable "
            f"that holds its key, or {NO_KEY} where it asks for none"
        )
    if config.key_variable != NO_KEY and not config.variable.isidentifier():
        raise ConfigError(
            "api.key_variable is no name of a variable; give the name, never the key itself"
        )


def key_present(config: ApiConfig) -> bool:
    """Whether the variable holds something, or none is needed."""
    return config.variable == NO_KEY or bool(os.environ.get(config.variable, "").strip())


def read_key(config: ApiConfig) -> str:
    """The key, empty where none is needed; ConfigError where the variable is not set."""
    if not key_present(config):
        raise ConfigError(
            f"the variable {config.variable} is not set, and api:{config.model} needs its key "
            "there; export it, or name another one with api.key_variable="
        )
    key = "" if config.variable == NO_KEY else os.environ[config.variable].strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"what {config.variable} holds is no key: it has odd characters")
    return key
