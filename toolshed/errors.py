"""Every failure has an owner.

ToolshedError
  ConfigError (also ValueError)  the user wrote something impossible: stop before anything starts
  ToolRefusal                    the model erred, or the tool found nothing: the model reads why
  ToolFailure                    our machinery broke: counted, never scored as the model's fault

Anything else is a bug and propagates.
"""


class ToolshedError(Exception):
    """Root of the errors that this project raises on purpose."""


class ConfigError(ToolshedError, ValueError):
    """The user asked for something impossible; the message names the value and the remedy."""


class ToolRefusal(ToolshedError):
    """A tool declines a call; ``reason`` is a machine-readable word, ``text`` is for the model."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return self.text


class ToolFailure(ToolshedError):
    """The machinery behind a tool broke; ``reason`` is a short machine-readable word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text
        self.num_retries = 0
        """How often the call was tried again before this was said."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"
