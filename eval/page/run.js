// The gallery of an evaluation.
gallery({
  filters: ["benchmark", "type", "mode", "outcome", "error", "chain", "findings"],
  values: { findings: (one) => [...new Set(one.findings.map((words) => words.split(":")[0]))] },
  sorts: {
    worst: (a, b) => (a.score ?? -1) - (b.score ?? -1),
    best: (a, b) => (b.score ?? -1) - (a.score ?? -1),
    slowest: (a, b) => b.seconds - a.seconds,
    calls: (a, b) => b.calls - a.calls,
  },
  parts: (one) => [one.benchmark, one.id, one.draw, String(one.repeat)],
  facts: (one) => {
    const draw = one.draw === "greedy" ? "greedy" : `draw ${one.draw}`;
    return `${one.benchmark} · ${one.type} · question ${one.id} · ${draw} · repeat ${one.repeat} · ${one.chain}`;
  },
  badge: (one) => {
    const draw = one.draw === "greedy" ? "" : `, draw ${one.draw}`;
    const repeat = one.repeat ? `, repeat ${one.repeat}` : "";
    const score = one.score === null || !one.outcome ? "" : `score ${one.score}`;
    return [one.error || score, `${one.benchmark}${draw}${repeat}`];
  },
});
