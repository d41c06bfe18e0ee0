"""Fingerprints of rows' pictures: each picture is read once."""

from __future__ import annotations

from collections.abc import Sequence

from sft.curation.traces import Trace
from sft.fingerprint import Fingerprint, fingerprint
from toolshed.errors import ConfigError


class Fingerprints:
    """Of paths and data URIs."""

    def __init__(self) -> None:
        self._known: dict[str, Fingerprint] = {}

    def read(self, traces: Sequence[Trace]) -> None:
        """Fill the memory; ConfigError names the row of a picture that cannot be read."""
        from tqdm import tqdm

        owners = {location: trace for trace in traces for location in trace.pictures}
        for location, trace in tqdm(owners.items(), desc="pictures", disable=None):
            if location not in self._known:
                try:
                    self._known[location] = fingerprint(location)
                except ConfigError as error:
                    raise ConfigError(f"{trace.place}: {error}") from error

    def of(self, trace: Trace) -> tuple[Fingerprint, ...]:
        """In the order of the row's pictures, which ``read`` has seen."""
        return tuple(self._known[location] for location in trace.pictures)
