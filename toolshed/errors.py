"""Every failure has an owner.

ToolshedError
  ConfigError (also ValueError)  the user wrote something impossible: stop before anything starts
  CallEnded                      a call ended without an answer
    ToolRefusal                  the model erred, or the tool found nothing: the model reads why
    ToolFailure                  our machinery broke: counted, never scored as the model's fault

Anything else is a bug and propagates.
"""


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, where libraries go on for pages."""
    return str(error).strip().split("\n")[0]


class ToolshedError(Exception):
    """Root of the errors that this project raises on purpose."""


class ConfigError(ToolshedError, ValueError):
    """The user asked for something impossible; the message names the value and the remedy."""


class CallEnded(ToolshedError):
    """A call ended without an answer; ``reason`` is a short machine-readable word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text
        self.num_retries = 0
        """How often the call was tried again before this was said."""
        self.queue_s = self.transfer_s = self.run_s = 0.0
        """Where its time went until then; see ``types.Timings``."""


class ToolRefusal(CallEnded):
    """A tool declines a call; ``text`` is for the model."""

    def __str__(self) -> str:
        return self.text


class ToolFailure(CallEnded):
    """The machinery behind a tool broke; ``text`` is for people."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"
