"""``python -m rl.train CONFIG --check``: a run as a table, and what keeps it from running here.

Nothing is loaded, started or fetched: no torch, no Ray, no network is needed. What
``rl.start.plan.prepare`` says about data and checkpoint is said here too, where both are on this
machine.
"""

from __future__ import annotations

from rl.config import RLConfig
from rl.start.memory import disk_gb, engine_gb, run_gb, together_gb
from rl.start.plan import asked_with, commits_of, load_all, staleness_note
from sft.checkpoint import resolve_checkpoint
from sft.config import check_device_name, to_yaml
from sft.memory import Shape
from sft.preflight import Preflight, say_checkpoint, say_folder, say_learner, told_gb
from sft.trackers import check_trackers
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet


def examine(config: RLConfig, *, ranks: int = 1) -> Preflight:
    """All that can be known of a run whose learner has ``ranks`` processes."""
    found = Preflight()
    _run(found, config)
    tools = found.attempt(lambda: _tools(found, config))
    shape = say_checkpoint(found, config.model, tools, config.tools.schema)
    _data(found, config)
    _policy(found, config, ranks)
    if shape is not None:
        _memory(found, config, shape, ranks)
    say_folder(
        found,
        to_yaml(config),
        config.out,
        config.save.every,
        disk_gb(shape, config) if shape else {},
        "pictures, dumps and weights on their way",
    )
    found.attempt(lambda: check_trackers(config.show.track))
    if tools is not None and shape is not None and config.data and _is_here(config):
        found.attempt(lambda: _questions(config, tools))
    return found


def fetch(config: RLConfig) -> None:
    """Bring the questions here that are not, so that no GPU waits for them."""
    load_all(config, commits_of(config))


def _run(found: Preflight, config: RLConfig) -> None:
    algorithm, limits = config.chosen_algorithm, config.rollout
    found.say(
        "steps",
        f"{config.steps} of {config.num_prompts} questions x {config.group_size} rollouts, "
        f"{limits.width} at a time, max_staleness {config.max_staleness}, {config.selection.order}",
    )
    if note := staleness_note(config):
        found.say("", f"note: {note}")
    found.say(
        "algorithm",
        f"{config.algorithm}, lr {config.learner.optim.lr:g}, KL {algorithm.kl:g}, clip "
        f"{algorithm.clip_low:g} and {algorithm.clip_high:g}, {algorithm.aggregation}",
    )
    found.say(
        "limits",
        f"{limits.max_turns} turns of {limits.max_calls} calls, {limits.max_tokens} tokens, "
        f"{limits.max_length} places with the prompt, pictures of "
        f"{f'{limits.max_pixels} pixels' if limits.max_pixels else 'the size of the checkpoint'}",
    )


def _tools(found: Preflight, config: RLConfig) -> ToolSet:
    from toolshed.config import load_tools
    from toolshed.resources import missing_resources
    from toolshed.serving.room import gpu_needs

    name = config.tools.config
    tools = ToolSet.named(name, config.tools.show or None)
    found.say("tools", f"{name}: {', '.join(spec.name for spec in tools.specs) or 'none'}")
    if name != "none":
        loaded = load_tools(name)
        gpus = sum(need.gpus for need in gpu_needs(loaded, tools))
        processes = {family.process or each for each, family in loaded.families.items()}
        found.say("", f"{len(processes)} kinds of replicas ({loaded.host}), {gpus:g} GPUs")
        lacking = missing_resources(loaded, tools)
        if lacking:
            found.missing.append(f"tools.config={name} cannot run here: {'; '.join(lacking)}")
    return tools


def _data(found: Preflight, config: RLConfig) -> None:
    from rl.questions.sources import origin_of

    if not config.data:
        found.missing.append("no questions: give data, for example data=[{path: train.parquet}]")
    words = [(item.path, item.rows, item.limit) for item in config.data]
    for title, (word, rows, limit) in zip(["data"] + [""] * len(words), words, strict=False):
        origin = found.attempt(lambda word=word: origin_of(word))  # type: ignore[misc]
        part = f", the first {limit}" if limit else f", {rows} rows" if rows else ""
        found.say(title, f"{origin or word}{part}")
    if config.val.data:
        every = f"every {config.val.every} steps" if config.val.every else "never"
        val_origin = found.attempt(lambda: origin_of(config.val.data))
        found.say("validation", f"{val_origin or config.val.data}, {every}")


def _policy(found: Preflight, config: RLConfig, ranks: int) -> None:
    from toolshed.resources import visible_gpus

    there = visible_gpus()
    found.attempt(lambda: check_device_name(config.device))
    if config.device.startswith("cuda") and not there:
        found.missing.append(f"device={config.device}, but no GPU is seen here; give device=cpu")
    elif config.device.startswith("cuda") and there < ranks:
        found.missing.append(f"{ranks} ranks need a GPU each, and {there} are seen here")
    if config.policy != "sglang":
        found.say("policy", f"{config.policy}, in the process of the learner")
        return
    from rl.policy.sglang.preflight import check_training, missing
    from rl.policy.sglang.server import interpreter

    engine = config.engine
    found.missing += missing(engine)
    found.attempt(
        lambda: check_training(
            engine,
            device=config.device,
            frozen=config.learner.frozen,
            lora=config.learner.lora,
            ranks=ranks,
        )
    )
    try:
        python = interpreter(engine)[0]
    except ConfigError:
        python = engine.environment
    gpus = f" on GPUs {', '.join(map(str, engine.gpus))}" if engine.gpus else ""
    found.say("policy", f"{engine.servers} sglang servers, {engine.device}{gpus}")
    found.say("", f"environment {python}")


def _memory(found: Preflight, config: RLConfig, shape: Shape, ranks: int) -> None:
    parts = run_gb(shape, config, ranks)
    say_learner(found, parts, ranks, config.learner.shard.zero)
    if config.policy == "sglang":
        found.say("engine", f"in GB of a GPU: {told_gb(engine_gb(shape, config))}")
        if config.engine.colocated:
            both = together_gb(shape, config, ranks)
            found.say("", f"with the learner between its updates, on its GPU: {both:.3g} GB")


def _questions(config: RLConfig, tools: ToolSet) -> None:
    """All that ``rl.start.plan.prepare`` says of them, from what is on this machine."""
    folder, commits = resolve_checkpoint(config.model), commits_of(config, fetches=False)
    asked_with(config, tools, folder, commits, fetches=False)


def _is_here(config: RLConfig) -> bool:
    """Whether all questions can be read without a server."""
    from rl.questions.sources import at_commit, is_here

    words = [item.path for item in config.data] + [config.val.data] * bool(config.val.data)
    try:
        if not all(is_here(word) for word in words):
            return False
        commits = commits_of(config, fetches=False)
        return all(is_here(at_commit(word, commits, fetches=False)) for word in words)
    except ConfigError:
        # It was said of that part already.
        return False
