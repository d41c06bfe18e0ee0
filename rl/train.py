"""Reinforcement learning with live tools: ``python -m rl.train CONFIG [key=value ...]``.

A step is ten verbs: draw, roll out, score (``_take``), compare within groups, learn, move, sync
(``_learn``), log, dump, save (``_record``). Every random number follows from (seed, step, question,
sample), so a run that was killed goes on from its last checkpoint exactly as if it had not been.
With ``max_staleness`` above 0 rollouts are ahead of the learner: then those not trained yet are
played again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rl.config import RLConfig
from rl.dump import TrajectoryLog
from rl.engine import Engine, check_first_sync, engine_of
from rl.figures.rollouts import mean, rollout_figures, speed_figures
from rl.policy.base import LearningPolicy
from rl.ranks import Leader, follow, is_follower
from rl.rewards import score
from rl.rollout import Job, Limits, Player
from rl.scheduling.position import Position
from rl.scheduling.schedule import Rules, Schedule
from rl.scheduling.selection import PromptSelection
from rl.show.flight import Flight
from rl.show.idle import IdleSteps
from rl.show.progress import Dashboard, Progress, board_before, shown
from rl.start.plan import DATA_FILE, Plan, prepare
from rl.types import SamplingParams, Trajectory
from sft.checkpoint import schema_record
from sft.config import help_text, load_config, to_yaml
from sft.run_dir import RunDir, write_atomic
from toolshed.command import USER_ERROR, run_command
from toolshed.config import load_tools
from toolshed.errors import ToolFailure
from toolshed.shed import Toolshed
from toolshed.types import Json

if TYPE_CHECKING:
    from rl.algorithms.samples import StepSamples

_FINAL = "final"
Groups: TypeAlias = Sequence[Sequence[Trajectory]]


def train(config: RLConfig, shed: Toolshed | None = None, *, engine: Engine = engine_of) -> Path:
    """Run to the end; returns the folder of the final checkpoint.

    ``shed`` lends tools that are already open; otherwise those of the config are opened and closed.
    """
    with Leader(config) as leader:
        plan = prepare(config)
        run = RunDir(config.out, tensorboard=config.show.tensorboard, track=config.show.track)
        try:
            run.save_config(to_yaml(config))
            if plan.commits:
                write_atomic(run.path / DATA_FILE, json.dumps(plan.commits, indent=1) + "\n")
            if final := _finished(config, run):
                print(
                    f"{run.path} has its {config.steps} steps; nothing was started", file=sys.stderr
                )
                return final
            return asyncio.run(_run(plan, run, leader, shed, engine))
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(run.way_on()) from stop
        finally:
            run.close()


def _finished(config: RLConfig, run: RunDir) -> Path | None:
    """What this command left the last time, if it came to its end."""
    found, final = run.latest_checkpoint(), run.path / _FINAL
    # What a run leaves last.
    is_whole = found is not None and found[0] >= config.steps and final.exists()
    return final if is_whole else None


async def _run(
    plan: Plan, run: RunDir, leader: Leader, shed: Toolshed | None, engine: Engine
) -> Path:
    wanted = plan.config.tools
    own = shed is None and wanted.config != "none"
    if own:
        shed = Toolshed.open(load_tools(wanted.config), show=wanted.show or None)
    try:
        return await _Training(plan, run, leader).run(shed, engine)
    finally:
        if own and shed is not None:
            await shed.aclose()


class _Training:
    """One run under way."""

    def __init__(self, plan: Plan, run: RunDir, leader: Leader) -> None:
        from rl.update import PolicyUpdate

        config = plan.config
        self.plan, self.config, self.run_dir, self.leader = plan, config, run, leader
        self.selection = PromptSelection(
            plan.questions,
            [item.weight for item in config.data],
            seed=config.seed,
            group_size=config.group_size,
            config=config.selection,
        )
        schema = schema_record(plan.tools.schema_hash, plan.tools.schema_text)
        self.update = PolicyUpdate(config, plan.folder, leader=leader, schema=schema)
        self.learner = self.update.learner
        self.log = TrajectoryLog(run.path, config.save.dump_every, config.cache)
        self.progress: Progress

    async def run(self, shed: Toolshed | None, engine: Engine) -> Path:
        position = self._resume()
        async with aclosing(engine(self.config, self.update, self.learner.renderer)) as policy:
            await policy.start()
            await policy.update_weights(self.update, self.learner.step)
            await check_first_sync(policy, self.update)
            await self._steps(policy, shed, position)
        return self._finish()

    async def _steps(
        self, policy: LearningPolicy, shed: Toolshed | None, position: Position | None
    ) -> None:
        config = self.config
        limits = Limits(
            max_turns=config.rollout.max_turns,
            max_tokens=config.rollout.max_tokens,
            max_calls=config.rollout.max_calls,
            max_reply_chars=config.rollout.max_reply_chars,
        )
        renderer, flight = self.learner.renderer, Flight()
        player = Player(policy=policy, renderer=renderer, shed=shed, limits=limits, flight=flight)
        kv_tokens = config.rollout.kv_tokens or policy.kv_tokens
        schedule = self._schedule(player, kv_tokens, position)
        before = board_before(self.run_dir.path, config.steps, self.run_dir.metrics())
        idle = IdleSteps(self.run_dir.path, before.lines)
        async with aclosing(schedule):
            with shown(config.show.progress, Dashboard(before, flight, schedule)) as self.progress:
                for step in range(self.learner.step, config.steps):
                    if self.leader.is_asked_to_end:
                        self._save_unsaved(schedule)
                        raise KeyboardInterrupt
                    figures = await self._step(step, policy, schedule)
                    self.progress.step(figures)
                    idle.step(figures)

    def _schedule(self, player: Player, kv_tokens: int, position: Position | None) -> Schedule:
        from rl.algorithms.samples import is_informative

        config, algorithm = self.config, self.update.algorithm
        rules = Rules(
            batch=config.num_prompts,
            group_size=config.group_size,
            width=config.rollout.width,
            sampling=self._sampling(config.rollout.temperature),
            seed=config.seed,
            max_staleness=config.max_staleness,
            kv_tokens=kv_tokens,
            max_length=config.rollout.max_length,
            retries=config.rollout.retries,
            steps=config.steps,
            extra=int(algorithm.refill * config.num_prompts),
        )
        schedule = Schedule(
            player,
            rules,
            self.selection.draw,
            lambda trajectory: score(trajectory.question, trajectory, config.reward),
            version=self.learner.step,
            wanted=lambda group: is_informative(group, algorithm, config.rollout.max_tokens),
        )
        if position is not None:
            known = [{each.id: each for each in part} for part in self.plan.questions]
            schedule.restore(position, lambda source, name: known[source][name])
        return schedule

    async def _step(self, step: int, policy: LearningPolicy, schedule: Schedule) -> dict[str, Json]:
        """One optimiser step on the next groups; returns the figures that were logged."""
        begun = time.monotonic()
        groups = await self._take(step, schedule)
        taken = time.monotonic()
        is_ahead = self.config.max_staleness > 0
        # Groups that were ready are taken at once, however long they were played.
        rollout_s = mean(schedule.figures.played_s) if is_ahead else taken - begun
        scheduled = schedule.figures.read()
        figures = self.selection.figures(step)
        figures |= scheduled if is_ahead else {"retried": scheduled["retried"]}
        made, learnt = await self._learn(groups, policy, schedule)
        figures |= rollout_figures(groups, made.counts, rollout_s) | learnt
        ended = time.monotonic()
        figures |= {"update_s": ended - taken, "step_s": ended - begun}
        figures |= speed_figures(figures) | await self._validate(schedule)
        self._record(groups, figures, schedule)
        return figures

    async def _take(self, step: int, schedule: Schedule) -> Groups:
        """Groups that were drawn, played and scored."""
        self.progress.phase("waiting for groups")
        taken = await schedule.step()
        groups = [group.trajectories for group in taken]
        self._check_failures(list(chain(*groups)))
        self.selection.observe(step, [group.order.drawn for group in taken], groups)
        return groups

    async def _learn(
        self, groups: Groups, policy: LearningPolicy, schedule: Schedule
    ) -> tuple[StepSamples, dict[str, Json]]:
        """Move the weights and hand them to the policy; what was learnt from, and figures."""
        self.progress.phase("updating")
        made = self.update.samples(groups)
        if self.config.max_staleness:
            # In a thread, so that rollouts go on meanwhile.
            figures = await asyncio.to_thread(self.update.learn, made)
        else:
            await policy.lend_memory()
            figures = self.update.learn(made)
        self.progress.phase("handing over weights")
        await policy.update_weights(self.update, self.learner.step)
        schedule.trained()
        return made, {**figures, **policy.figures()}

    def _record(self, groups: Groups, figures: dict[str, Json], schedule: Schedule) -> None:
        """Log, dump, and save where it is time, or the last."""
        step = self.learner.step
        self.run_dir.log(step, figures)
        self.log.write(step, groups)
        if step % self.config.save.every == 0 or step == self.config.steps:
            self._save(schedule)

    def _check_failures(self, played: Sequence[Trajectory]) -> None:
        """Stop where our own machinery breaks too often to trust what is left."""
        broken = [t for t in played if not t.stop_reason.is_trainable]
        if len(broken) > self.config.rollout.max_failure_share * len(played):
            raise ToolFailure(
                "too_many_failures",
                f"{len(broken)} of {len(played)} trajectories after step {self.learner.step} "
                f"failed, the last with {broken[-1].failure[:300]}",
            )

    def _sampling(self, temperature: float) -> SamplingParams:
        return SamplingParams(
            temperature=temperature, max_tokens=self.config.rollout.max_turn_tokens
        )

    async def _validate(self, schedule: Schedule) -> dict[str, Json]:
        """Greedy accuracy on the validation questions, every ``val.every`` steps, and the seconds
        it took."""
        every = self.config.val.every
        if not every or self.learner.step % every:
            return {}
        begun = time.monotonic()
        self.progress.phase("validating")
        greedy = self._sampling(0.0)
        jobs = [Job(question=question, sampling=greedy) for question in self.plan.val_questions]
        played = await schedule.play(jobs)
        self._check_failures(played)
        rewards = [score(t.question, t, self.config.reward) for t in played]
        scored = [reward.accuracy for reward in rewards if reward is not None]
        figures: dict[str, Json] = {"val_failures": len(played) - len(scored)}
        figures |= {"val_accuracy": mean(scored)} if scored else {}
        return figures | {"val_s": time.monotonic() - begun}

    # ---- run folder -----------------------------------------------------------------------------

    def _resume(self) -> Position | None:
        """Go on from the newest checkpoint; returns where its schedule stood."""
        found = self.run_dir.latest_checkpoint()
        step, position = 0, None
        if found is not None:
            step, folder = found
            self.update.load(folder)
            self.selection.load(folder)
            position = Position.load(folder)
        self.run_dir.rewind(step)
        self.log.rewind(step)
        return position

    def _save(self, schedule: Schedule) -> None:
        def write(folder: Path) -> None:
            self.update.save(folder)
            self.selection.save(folder)
            position = schedule.position()
            if self.config.max_staleness or position.open:
                position.save(folder)

        self.run_dir.save_checkpoint(self.learner.step, write, exports=self.config.save.keep_hf)

    def _save_unsaved(self, schedule: Schedule) -> None:
        saved = self.run_dir.latest_checkpoint()
        if self.learner.step and (saved is None or saved[0] != self.learner.step):
            self._save(schedule)

    def _finish(self) -> Path:
        final = self.run_dir.path / _FINAL
        if self.config.learner.lora.rank:
            self.update.export_adapters(self.run_dir.path / "adapters")
        self.update.export(final)
        return final


def _check(config: RLConfig, *, ranks: int, fetches: bool) -> int:
    from rl.start.preflight import examine, fetch

    if fetches:
        fetch(config)
    found = examine(config, ranks=ranks)
    print(found.text())
    return USER_ERROR if found.missing else 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.train",
        description="Reinforcement learning with live tools.",
        epilog="keys and defaults:\n" + help_text(RLConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="name in configs/rl (for example demo) or a YAML file")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    parser.add_argument(
        "--check",
        action="store_true",
        help="print the plan and start nothing; 2 if something lacks",
    )
    parser.add_argument("--fetch", action="store_true", help="before that, fetch data of the hub")
    parser.add_argument("--ranks", type=int, default=1, help="of the learner, for --check (1)")
    args = parser.parse_intermixed_args(words)

    def run() -> int:
        config = load_config(RLConfig, "rl", args.config, args.words)
        if args.check:
            return _check(config, ranks=args.ranks, fetches=args.fetch)
        if is_follower():
            return follow(config)
        print(train(config))
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
