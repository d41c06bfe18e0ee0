"""Which groups may be begun, and which a step may train: the arithmetic of staleness and of memory.

The learner takes ``batch`` groups a step and is then one version further. A group that begins at
version a and is trained at version v has staleness v - a. Two rules keep it at ``max_staleness`` S
or below, and nothing has to be thrown away for it:

1. *Beginning.* At version v at most (v + S + 1) * batch groups have ever begun, whether they run,
   wait to be trained, or were trained (AReaL, arXiv 2505.24298, equation 3; SkyRL's staleness
   manager counts the same). So at most (S + 1) * batch are open before a step takes its groups.
2. *Taking.* Groups are taken in the order in which they are complete only as far as the older ones
   can still be trained in time. For j = 0 .. S let n(j) be the open groups that began at version
   v - S + j or before: they have to be trained within j + 1 steps, so while ``left`` more groups
   are to be taken at this step, n(j) - j * batch <= left has to hold.

Rule 2 holds at the next step too: if it holds with left = 0, the groups that began at v + 1 - S + j
or before are at most (j + 1) * batch for j < S, and for j = S rule 1 says so. With S = 0 both say:
begin ``batch`` groups, take all of them, and begin nothing until the learner has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Admission:
    """The groups that are open: begun and not taken yet. Groups are known by their numbers."""

    batch: int
    """Groups that the learner takes a step."""
    max_staleness: int
    kv_tokens: int = 0
    """Tokens that all groups under way may hold in the engine's cache, those that wait for tools
    included; 0 for no limit. One group may always be under way, however large."""
    version: int = 0
    last_version: int = 0
    """Where the learner stops, so that nothing begins that nobody will train; 0 for never."""
    _num_spared: int = 0
    """How many more may begin than rule 1 says: as many as were there already when a run went on,
    and as were taken beyond a batch."""
    _num_begun: int = 0
    _since: dict[int, int] = field(default_factory=dict)
    """Version at which each open group began."""
    _tokens: dict[int, float] = field(default_factory=dict)
    """What each group under way holds or will hold."""
    _ready: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._num_spared = -self.version * self.batch

    @property
    def num_open(self) -> int:
        return len(self._since)

    @property
    def num_ready(self) -> int:
        """Complete and not taken yet."""
        return len(self._ready)

    @property
    def held_tokens(self) -> float:
        return sum(self._tokens.values())

    @property
    def room(self) -> int:
        """How many more groups may begin as far as staleness is concerned (rule 1)."""
        steps = self.version + self.max_staleness + 1
        if self.last_version:
            steps = min(steps, self.last_version)
        return steps * self.batch + self._num_spared - self._num_begun

    def may_begin(self, tokens: float) -> bool:
        """Whether a group that will hold ``tokens`` may begin now."""
        return self.room > 0 and self.fits(tokens)

    def fits(self, tokens: float) -> bool:
        """Whether the cache has room for ``tokens`` more; an empty one has for any."""
        fits = not self.kv_tokens or self.held_tokens + tokens <= self.kv_tokens
        return fits or not self._tokens

    def begin(self, number: int, tokens: float) -> None:
        assert number not in self._since and self.may_begin(tokens), number
        self._num_begun += 1
        self._since[number] = self.version
        self._tokens[number] = tokens

    def hold(self, number: int, tokens: float) -> None:
        """A group under way holds this from now on: some of its trajectories have ended. Also what
        is played beside groups, under a negative number."""
        self._tokens[number] = tokens

    def let_go(self, number: int) -> None:
        """It holds nothing any more."""
        del self._tokens[number]

    def complete(self, number: int) -> None:
        """Every trajectory of a group has ended: it holds nothing and may be taken."""
        self.let_go(number)
        self._ready.add(number)

    def choose(self, left: int) -> int | None:
        """The oldest complete group that may be taken now, of ``left`` that are still to be taken
        at this step; None where all that are complete have to wait for older ones."""
        for number in sorted(self._ready, key=lambda each: (self._since[each], each)):
            if self._may_take(number, left):
                return number
        return None

    def take(self, number: int) -> None:
        """The learner has a group."""
        self._ready.remove(number)
        del self._since[number]

    def give_back(self, number: int) -> None:
        """A complete group is of no use: it is closed, and another may begin in its place."""
        self.take(number)
        self._num_begun -= 1

    def spare(self, num: int) -> None:
        """Of the groups that this step took, ``num`` do not count: as many more may begin."""
        self._num_spared += num

    def advance(self) -> None:
        """The learner is one version further."""
        self.version += 1

    def _may_take(self, number: int, left: int) -> bool:
        for ahead in range(self.max_staleness + 1):
            horizon = self.version - self.max_staleness + ahead
            due = sum(since <= horizon for since in self._since.values())
            due -= self._since[number] <= horizon
            if due - ahead * self.batch > left - 1:
                return False
        return True
