// Shows what the server tells once a second. Whatever tools say is only ever set as text.
(() => {
  const OUTCOMES = ["ok", "refused", "failed"];
  const MOST_CALLS = 60;
  // Programs tell once a second, so the last seconds are not whole yet.
  const DELAY_S = 2;
  const byId = (id) => document.getElementById(id);
  const filters = byId("filters");
  const calls = byId("calls");
  let fixed = null;
  let state = null;
  let heldBack = [];
  let paused = false;
  let offset_s = 0;

  // ---- elements ---------------------------------------------------------------------------

  function make(tag, className = "", text = "") {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  }

  function drawn(tag, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // Only what has changed is touched, so that a selection of text survives the next second.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function keyed(parent, items, keyOf, create, update) {
    const old = [...parent.children].filter((child) => child.dataset.key !== undefined);
    const there = new Map(old.map((child) => [child.dataset.key, child]));
    let place = old[0] ?? null;
    for (const item of items) {
      const key = keyOf(item);
      let child = there.get(key);
      if (child) there.delete(key);
      else {
        child = create(item);
        child.dataset.key = key;
      }
      if (child !== place) parent.insertBefore(child, place);
      else place = place.nextSibling;
      update(child, item);
    }
    for (const child of there.values()) child.remove();
  }

  // ---- figures ----------------------------------------------------------------------------

  function duration(ms) {
    if (ms === null || ms === undefined) return "–";
    if (ms < 0.995) return `${ms.toFixed(2)} ms`;
    if (ms < 9.95) return `${ms.toFixed(1)} ms`;
    if (ms < 999.5) return `${Math.round(ms)} ms`;
    if (ms < 99500) return `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;
    return `${Math.round(ms / 1000)} s`;
  }

  function since(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} days`;
  }

  const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
  const now_s = () => Date.now() / 1000 + offset_s;
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);
  const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

  // ---- the head ---------------------------------------------------------------------------

  function showHead() {
    const live = byId("live");
    live.className = `live ${state.problem ? "off" : "on"}`;
    say(live, state.problem ? `no news for ${since(state.silent_s)}` : "live");
    const programs = state.programs?.length ?? 0;
    say(byId("where"), `· ${state.namespace} at ${state.address} · ${programs ? plural(programs, "program") : "no program"} connected`);
    const broken = (state.groups ?? []).flatMap((group) =>
      group.replicas.filter((each) => ["down", "dead", "suspect"].includes(each.state)).map((each) => `${group.families}: replica ${each.index} is ${each.state}`));
    const problem = byId("problem");
    problem.hidden = !state.problem && !broken.length;
    say(problem, state.problem ? `${state.problem[0].toUpperCase()}${state.problem.slice(1)}. What is shown below is as it was last heard.` : broken.join(" · "));
  }

  function facts() {
    const until = Math.floor(state.now_s) - DELAY_S;
    const lately = state.history.filter(([second]) => second > until - 10 && second <= until);
    const minutes = state.history.reduce((total, row) => total.map((n, i) => n + row[i + 1]), [0, 0, 0]);
    const all = sum(minutes);
    const replicas = state.groups.flatMap((group) => group.replicas);
    const ready = replicas.filter((each) => each.state === "ready").length;
    const waiting = sum(state.groups.map((group) => group.interactive + group.rollout));
    const rate = sum(lately.map(([, ...n]) => sum(n))) / 10;
    return [
      ["Calls per second", rate < 10 ? rate.toFixed(1) : number(Math.round(rate)), "last 10 s", ""],
      ["Answered ok", all ? `${((100 * minutes[0]) / all).toFixed(minutes[0] === all ? 0 : 1)} %` : "–", minutes[2] ? `${number(minutes[2])} failed` : "last 5 min", minutes[2] ? "bad" : ""],
      ["Latency p50", duration(state.latency.p50), `p95 ${duration(state.latency.p95)}`, ""],
      ["Replicas ready", `${ready}`, `of ${replicas.length}`, ready < replicas.length ? "warn" : ""],
      ["Calls waiting", number(waiting), `${number(sum(state.groups.map((group) => group.running)))} running`, ""],
    ];
  }

  function showFacts() {
    keyed(byId("facts"), facts(), ([name]) => name, ([name]) => {
      const fact = make("div");
      fact.append(make("dt", "", name), make("dd"));
      fact.lastChild.append(make("span"), " ", make("small"));
      return fact;
    }, (fact, [, value, remark, kind]) => {
      fact.className = kind;
      say(fact.querySelector("span"), value);
      say(fact.querySelector("small"), remark);
    });
  }

  // ---- calls per second -------------------------------------------------------------------

  function niceTop(value) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
    return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
  }

  function showHistory() {
    const chart = byId("history");
    const { clientWidth: width, clientHeight: height } = chart;
    const [left, right, bottom] = [36, 2, 22];
    const span = width < 600 ? 120 : fixed.history_s;
    const until = Math.floor(state.now_s) - DELAY_S;
    const rows = state.history.filter(([second]) => second > until - span && second <= until);
    const top = niceTop(Math.max(4, ...rows.map(([, ...n]) => sum(n))));
    const scale = (height - bottom - 8) / top;
    const step = (width - left - right) / span;
    const label = `Calls that ended, second by second over ${span / 60} minutes; ${plural(sum(rows.map(([, ...n]) => sum(n))), "call")}`;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const value of [0, top / 2, top]) {
      const y = height - bottom - value * scale;
      svg.append(drawn("line", { x1: left, x2: width - right, y1: y, y2: y }));
      const text = drawn("text", { x: left - 8, y: y + 4, "text-anchor": "end" });
      text.textContent = number(value);
      svg.append(text);
    }
    for (const [second, ...nums] of rows) {
      let y = height - bottom;
      const x = left + (second - (until - span) - 1) * step;
      nums.forEach((num, index) => {
        if (!num) return;
        y -= num * scale;
        svg.append(drawn("rect", { class: OUTCOMES[index], x, y, width: Math.max(step - (step > 3 ? 0.8 : 0), 0.8), height: num * scale }));
      });
    }
    for (let ago = 0; ago <= span; ago += 60) {
      const text = drawn("text", { x: width - right - ago * step, y: height - 4, "text-anchor": ago === 0 ? "end" : ago === span ? "start" : "middle" });
      text.textContent = ago ? `${ago / 60} min ago` : "now";
      svg.append(text);
    }
    chart.replaceChildren(svg);
  }

  // ---- replicas ---------------------------------------------------------------------------

  function makeGroup(group) {
    const made = make("article", "group");
    const head = make("header");
    head.append(make("h3", "", group.families.replaceAll(", ", " · ")), make("p", "load"));
    for (const what of ["interactive", "rollout", "running"]) {
      const part = make("span", what);
      part.append(make("b"), ` ${{ interactive: "interactive waiting", rollout: "rollout waiting", running: "running" }[what]}`);
      head.lastChild.append(part);
    }
    made.append(head, make("div"));
    return made;
  }

  function showGroup(made, group) {
    for (const what of ["interactive", "rollout", "running"]) {
      const part = made.querySelector(`.${what}`);
      say(part.querySelector("b"), number(group[what]));
      part.classList.toggle("busy", what !== "running" && group[what] > 0);
    }
    keyed(made.lastChild, group.replicas, (each) => each.name, makeReplica, showReplica);
  }

  function makeReplica(replica) {
    const made = make("div", "replica");
    made.append(...["soft place", "state", "soft since", "figures", "why"].map((each) => make("span", each)));
    made.children[3].append(...["n", "n", "n", "machine"].map((each) => make("span", each)));
    say(made.firstChild, `# ${replica.index}`);
    return made;
  }

  function showReplica(made, replica) {
    const health = replica.health;
    const [, stateOf, time, figures, why] = made.children;
    const [taken, now, memory, machine] = figures.children;
    stateOf.className = `state ${replica.state}`;
    say(stateOf, replica.state);
    const restarts = replica.num_restarts ? `, ${plural(replica.num_restarts, "restart")}` : "";
    say(time, `for ${since(replica.since_s)}${restarts}`);
    say(taken, health ? plural(health.num_calls, "call") : "");
    say(now, health ? `${health.num_accepted - health.num_waiting} now${health.num_waiting ? ` + ${health.num_waiting}` : ""}` : "");
    now.title = health ? `${health.num_accepted} calls are there, ${health.num_waiting} wait for their turn; the oldest has run for ${duration(1000 * health.longest_s)}` : "";
    say(memory, health ? `${Math.round(health.resident_mb)} MB` : "");
    say(machine, health ? `${health.node} · ${health.process_id}` : "");
    say(why, replica.reason);
  }

  // ---- tools ------------------------------------------------------------------------------

  // Long names may break after dots and underscores.
  function toolName(name) {
    const made = make("code");
    for (const part of name.split(/(?<=[._])/)) made.append(part, document.createElement("wbr"));
    return made;
  }

  function makeTool(tool) {
    const made = make("div", "tool");
    made.setAttribute("role", "row");
    const name = make("span", "name");
    name.append(toolName(tool.name), make("span", "share"), make("span", "reasons"));
    made.append(name);
    for (const label of ["Calls", "p50", "p95", "p99"]) {
      made.append(make("span", "n"));
      made.lastChild.dataset.label = label;
    }
    made.append(make("span", "spread"), make("span", "where-time"));
    for (const cell of made.children) cell.setAttribute("role", "cell");
    made.lastChild.append(make("span", "stages"));
    return made;
  }

  function bars(element, values, names) {
    const total = sum(values) || 1;
    element.replaceChildren(...values.map((value, index) => {
      const bar = make("i", names[index]);
      bar.style.width = `${(100 * value) / total}%`;
      return bar;
    }).filter((bar, index) => values[index]));
  }

  function showTool(made, tool) {
    const outcome = filters.elements.outcome.value;
    const latency = tool.latency[outcome || "all"];
    const [name, num, p50, p95, p99, spread, time] = made.children;
    const nums = OUTCOMES.map((each) => tool.num[each]);
    bars(name.children[1], nums, OUTCOMES);
    const reasons = tool.reasons.filter(([each]) => !outcome || each === outcome).slice(0, 4);
    say(name.children[2], reasons.map(([each, reason, n]) => `${each} ${reason} ${number(n)}`).join(" · "));
    say(num, number(outcome ? tool.num[outcome] : sum(nums)));
    [p50, p95, p99].forEach((cell, index) => say(cell, duration(latency[["p50", "p95", "p99"][index]])));
    showSpread(spread, latency);
    bars(time.firstChild, tool.stages_ms, fixed.stages);
    time.firstChild.title = fixed.stages.map((stage, index) => `${stage} ${duration(tool.stages_ms[index])}`).join(", ") + " on average";
  }

  function showSpread(cell, latency) {
    const most = Math.max(1, ...latency.counts);
    const num = fixed.bucket_ends_ms.length;
    const svg = drawn("svg", { viewBox: `0 0 ${num} 28`, preserveAspectRatio: "none", role: "img", "aria-label": `half within ${duration(latency.p50)}` });
    svg.append(drawn("line", { x1: 0, x2: num, y1: 27.5, y2: 27.5, "vector-effect": "non-scaling-stroke" }));
    latency.counts.forEach((count, index) => {
      if (!count) return;
      const high = Math.max(1.5, (26 * count) / most);
      svg.append(drawn("rect", { x: latency.first + index + 0.1, y: 27 - high, width: 0.8, height: high }));
    });
    cell.replaceChildren(svg);
  }

  function showTools() {
    const wanted = filters.elements.tool.value;
    const shown = state.tools.filter((tool) => !wanted || tool.name === wanted);
    keyed(byId("tools"), shown, (tool) => tool.name, makeTool, showTool);
    byId("no-tools").hidden = state.tools.length > 0;
    const menu = byId("tool");
    const known = new Set([...menu.options].map((option) => option.value));
    for (const tool of state.tools) {
      if (known.has(tool.name)) continue;
      menu.append(make("option", "", tool.name));
      menu.lastChild.value = tool.name;
    }
  }

  // ---- recent calls -----------------------------------------------------------------------

  function makeCall(call) {
    const made = make("details", "call");
    Object.assign(made.dataset, { key: call.number, tool: call.tool, outcome: call.outcome, at: call.at_s, total: duration(call.total_ms) });
    const summary = make("summary");
    const picture = make(call.has_picture ? "img" : "span", "thumb");
    if (call.has_picture) Object.assign(picture, { src: `pictures/${call.number}.jpg`, alt: "", loading: "lazy" });
    const what = make("span", "what");
    what.append(toolName(call.tool), make("span", "said", call.text));
    const ended = make("span", "ended");
    ended.append(make("span", `verdict ${call.outcome}`, call.reason ? `${call.outcome}: ${call.reason}` : call.outcome), make("small"));
    summary.append(picture, what, ended);
    made.append(summary);
    made.addEventListener("toggle", () => {
      if (made.open && made.children.length === 1) made.append(details(call));
      release();
    });
    return made;
  }

  function details(call) {
    const more = make("div", "more");
    const words = make("div");
    if (call.has_picture) {
      const picture = make("img");
      Object.assign(picture, { src: `pictures/${call.number}.jpg`, alt: `what ${call.tool} answered, drawn on its picture` });
      more.append(picture);
    }
    const list = make("dl");
    const rows = [["total", duration(call.total_ms)], ...fixed.stages.map((stage, index) => [stage, duration(call.stages_ms[index])])];
    if (call.outcome !== "ok") rows.splice(1);
    for (const [name, value] of [...rows, ["ended", new Date(1000 * call.at_s).toLocaleTimeString()], ["program", call.program]]) {
      list.append(make("dt", "", name), make("dd", "", value));
    }
    words.append(make("samp", "", call.text), list);
    more.append(words);
    return more;
  }

  const isRead = () => paused || calls.querySelector("details[open], :focus-visible") !== null;

  function release() {
    const reading = isRead();
    if (!reading && heldBack.length) {
      calls.prepend(...heldBack.slice(-MOST_CALLS).reverse().map(makeCall));
      heldBack = [];
      while (calls.children.length > MOST_CALLS) calls.lastChild.remove();
      sift();
    }
    byId("held").hidden = !heldBack.length;
    say(byId("held"), `Show ${plural(heldBack.length, "new call")}`);
  }

  function sift() {
    const [tool, outcome] = [filters.elements.tool.value, filters.elements.outcome.value];
    let shown = 0;
    for (const call of calls.children) {
      call.hidden = Boolean((tool && call.dataset.tool !== tool) || (outcome && call.dataset.outcome !== outcome));
      shown += !call.hidden;
    }
    byId("no-calls").hidden = shown > 0;
    say(byId("no-calls"), calls.children.length ? "None of the recent calls is of this kind." : "Calls show up here as they end.");
  }

  function showAges() {
    for (const call of calls.children) {
      const { total, at } = call.dataset;
      say(call.querySelector(".ended small"), `${total} · ${since(now_s() - at)} ago`);
    }
  }

  function take(recent) {
    heldBack.push(...recent);
    heldBack = heldBack.slice(-2 * MOST_CALLS);
    release();
  }

  // ---- keys, filters, news ----------------------------------------------------------------

  function step(by) {
    const visible = [...calls.children].filter((call) => !call.hidden);
    if (!visible.length) return;
    const at = visible.findIndex((call) => call.contains(document.activeElement));
    const next = visible[Math.min(Math.max(at + by, 0), visible.length - 1)];
    next.querySelector("summary").focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function pause() {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    say(byId("pause"), paused ? "Go on" : "Pause");
    release();
  }

  // Done reading: everything is closed, and what was held back is shown.
  function goOn() {
    for (const open of calls.querySelectorAll("details[open]")) open.open = false;
    document.activeElement?.blur();
    if (paused) pause();
    release();
  }

  function show() {
    if (!state?.groups) return;
    showFacts();
    showHistory();
    keyed(byId("groups"), state.groups, (group) => group.key, makeGroup, showGroup);
    showTools();
    showAges();
  }

  document.addEventListener("keydown", (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "Escape") goOn();
    if (event.target.closest?.("select")) return;
    const action = { j: () => step(1), k: () => step(-1), p: pause, f: () => byId("tool").focus() }[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  filters.addEventListener("change", () => { sift(); show(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  byId("pause").addEventListener("click", pause);
  byId("held").addEventListener("click", goOn);
  calls.addEventListener("focusout", () => setTimeout(release));
  window.addEventListener("resize", () => state?.groups && showHistory());

  const news = new EventSource("events");
  news.addEventListener("message", (event) => {
    const { recent, ...rest } = JSON.parse(event.data);
    if (rest.bucket_ends_ms) fixed = rest;
    state = rest;
    if (state.now_s && !state.problem) offset_s = state.now_s - Date.now() / 1000;
    showHead();
    take(recent);
    show();
  });
  news.addEventListener("error", () => {
    byId("live").className = "live off";
    say(byId("live"), "no connection to the dashboard; trying again");
  });
})();
