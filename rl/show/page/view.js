// The gallery of a training run.
gallery({
  filters: ["step", "task", "outcome", "reward", "stop", "tools", "trained"],
  values: { tools: (one) => one.tools },
  sorts: {
    worst: (a, b) => (a.score ?? -1) - (b.score ?? -1),
    best: (a, b) => (b.score ?? -1) - (a.score ?? -1),
    slowest: (a, b) => b.seconds - a.seconds,
    calls: (a, b) => b.calls - a.calls,
    gain: (a, b) => Math.abs(b.advantage ?? 0) - Math.abs(a.advantage ?? 0),
  },
  parts: (one) => [one.step, String(one.group), String(one.sample)],
  facts: (one) => {
    const [oldest, newest] = one.versions;
    const version = oldest === undefined ? "" : oldest === newest ? ` · weights ${oldest}` : ` · weights ${oldest} to ${newest}`;
    return `step ${one.step} · group ${one.group} · ${one.task} · question ${one.id} · ${one.stop}${version}`;
  },
  badge: (one) => {
    const score = one.score === null ? "" : `reward ${one.score}`;
    const gain = one.advantage === null ? "not trained" : `advantage ${signed(one.advantage)}`;
    return [score, gain, `step ${one.step}, ${one.task}`];
  },
  more: (one) => [tokensOf(one)],
});

function signed(value) {
  return value > 0 ? `+${value}` : String(value);
}

// Every stretch of tokens after the prompt, in the colour of what became of it.
function tokensOf(one) {
  const trained = one.stretches.filter(([kind]) => kind === "sampled").reduce((sum, [, num]) => sum + num, 0);
  const words = one.advantage === null ? `${trained} sampled tokens, none trained` : `${trained} tokens trained`;
  const text = node("div", "tokens");
  for (const [kind, num, advantage, said] of one.stretches) {
    if (kind === "template" && !said.trim()) continue;
    const fate = advantage === null || !advantage ? "" : advantage > 0 ? "towards" : "away";
    const label = advantage === null ? `${kind}, ${num}` : `${kind}, ${num}, ${signed(advantage)}`;
    text.append(node("p", `stretch ${kind} ${fate}`, node("small", "", label), node("span", "", said.trim())));
  }
  return node("details", "trained", node("summary", "", `Tokens: ${words}`), text);
}
