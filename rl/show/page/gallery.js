// A gallery: episodes are unpacked from the page and drawn when somebody opens them.

function node(name, style, ...children) {
  const made = document.createElement(name);
  if (style) made.className = style;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const seconds = (s) => (s >= 10 ? `${s.toFixed(0)} s` : s >= 1 ? `${s.toFixed(1)} s` : `${(1000 * s).toFixed(0)} ms`);

// What a page says of its episodes: filters (names of fields, or of its `values`), sorts, the parts
// of an episode's address, its facts, what its badge says, and further nodes below its steps.
async function gallery({ filters: FILTERS, values = {}, sorts, parts, facts, badge, more = () => [] }) {
  const PAGE = 40;
  const form = document.querySelector(".filters");
  const list = document.querySelector("#list");
  const status = document.querySelector("#count");
  const SORTS = { run: null, ...sorts };

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  const source = document.querySelector("#episodes-data");
  let episodes;
  try {
    episodes = await unpacked(source.textContent);
  } catch (error) {
    status.textContent = `This browser cannot unpack the episodes (${error}); a newer one can.`;
    return;
  }
  source.textContent = "";
  document.body.classList.remove("no-script");
  const anchors = new Map();
  for (const one of episodes) {
    one.anchor = parts(one).map(anchorPart).join("/");
    one.findings ??= [];
    one.error ??= "";
    anchors.set(one.anchor, one);
  }
  let shown = episodes;
  let first = 0;

  // Python's quote leaves only letters, digits and _.-~ as they are.
  function anchorPart(text) {
    const more = /[!'()*]/g;
    const code = (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`;
    return encodeURIComponent(text.toWellFormed?.() ?? text).replace(more, code);
  }

  // ---- words ----

  const literal = (value) => JSON.stringify(value);
  const callWords = (call) =>
    `${call.name}(${Object.entries(call.with ?? {}).map(([k, v]) => `${k}=${literal(v)}`).join(", ")})`;
  function haystack(one) {
    if (!one.hay) {
      const words = [one.id, one.question, one.answer, one.failure, one.why, ...one.findings];
      for (const turn of one.turns) {
        words.push(turn.say, ...(turn.errors ?? []));
        for (const call of turn.calls ?? []) words.push(callWords(call), call.reply);
      }
      one.hay = words.filter(Boolean).join("\n").toLowerCase();
    }
    return one.hay;
  }

  // ---- one episode ----

  function step(title, style, picture, ...words) {
    const what = node("p", "what", title);
    return node("li", `step ${style}`, picture, node("div", "words", what, ...words));
  }

  const said = (text) => (text ? node("p", "thought", text) : null);

  function callStep(one, call, thought) {
    const number = one.pictures[call.image ?? 0];
    const sheet = new Sheet(number);
    if (call.draw) sheet.draw(call.draw, "seen");
    const flag = call.status ? node("span", "flag", `${call.status}${call.reason ? ` (${call.reason})` : ""} `) : null;
    const [total, queue, run] = call.times;
    const times = `${seconds(total)} in all, ${seconds(queue)} waiting, ${seconds(run)} at work`;
    return step(
      "Calls", call.status ? `is-${call.status}` : "",
      sheet.finished(`${call.name}: ${call.reply ?? ""}`.slice(0, 200)),
      thought,
      node("p", "code", node("code", "", callWords(call))),
      node("p", "reply", flag, node("samp", "", call.reply || "(an empty reply)")),
      node("p", "spent", times),
    );
  }

  function turnSteps(one, turn, isLast) {
    const steps = [];
    let thought = said(turn.say);
    for (const call of turn.calls ?? []) {
      steps.push(callStep(one, call, thought));
      thought = null;
    }
    for (const text of turn.errors ?? []) {
      const reply = node("p", "reply", node("samp", "", text));
      steps.push(step("Miswrites a call", "is-refused", null, thought, reply));
      thought = null;
    }
    if (!steps.length && !isLast && turn.say) steps.push(step("Says", "", null, thought));
    const [generate, tools, tokens] = turn.times;
    const cut = turn.finish ? `, ended by ${turn.finish}` : "";
    const spent = `turn: ${seconds(generate)} for ${tokens} tokens, ${seconds(tools)} in tools${cut}`;
    steps.at(-1)?.querySelector(".words").append(node("p", "spent", spent));
    return steps;
  }

  function answerStep(one) {
    const sheet = new Sheet(one.pictures[0] ?? one.seen);
    if (one.target) sheet.draw(one.target, "truth");
    if (one.given) sheet.draw(one.given, "given");
    const drawn = one.target || one.given;
    const parts = Object.entries(one.parts ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
    const last = one.turns.at(-1);
    const score = one.score === null ? "not scored" : `score ${one.score}`;
    // Of a poisoned run the page holds no outcomes.
    const verdict = one.outcome
      ? node("p", "reply", node("span", "verdict", one.outcome), ` · ${score} · truth: ${one.truth}`)
      : null;
    return step(
      "Answer", `step-answer is-${one.outcome ?? "withheld"}`, sheet.finished(`Answer: ${one.answer}`.slice(0, 200)),
      said(last?.calls ? "" : last?.say),
      node("p", "code", node("code", "", one.answer)),
      verdict,
      one.state ? node("p", "reply", `could not be read: ${one.state.replace("_", " ")}`) : null,
      one.error ? node("p", "reply", node("b", "", one.error), one.why ? `: ${one.why}` : "") : null,
      one.failure ? node("p", "reply is-failed", one.failure) : null,
      ...one.findings.map((words) => node("p", "reply", node("b", "", "gate: "), words)),
      parts ? node("p", "spent", parts) : null,
      drawn ? node("p", "spent key", ...(one.target ? [node("i", "truth"), "truth "] : []), node("i", "given"), "answer") : null,
    );
  }

  function bodyOf(one) {
    const title = one.swapped ? "Sees another scene's picture" : "Sees";
    const look = step(title, "", new Sheet(one.seen).finished("The question's picture"),
      node("p", "asking", one.question));
    const turns = one.turns.flatMap((turn, number) => turnSteps(one, turn, number === one.turns.length - 1));
    const link = node("a", "", "link to this episode");
    link.href = `#${one.anchor}`;
    const about = node("p", "about", `${facts(one)} · ${seconds(one.seconds)} · `, link);
    return [about, node("ol", "steps", look, ...turns, answerStep(one)), ...more(one)];
  }

  function item(one) {
    const shot = shotOf(one.seen);
    let thumb = node("span", "nothing", "no picture");
    if (shot) {
      thumb = node("img");
      Object.assign(thumb, { src: shot.source, alt: "", width: 76, height: 76, decoding: "async" });
    }
    const calls = `${one.calls} call${one.calls === 1 ? "" : "s"}`;
    const words = node("span", "", node("span", "asked", one.question.slice(0, 220)),
      node("span", "short", `${one.answer.slice(0, 160)} · ${calls}`));
    const verdict = one.outcome ? node("span", `verdict ${one.outcome}`, one.outcome) : null;
    const side = node("span", "badge", verdict, ...badge(one).map((text) => node("small", "", text)));
    const made = node("details", "episode", node("summary", "", thumb, words, side));
    made.one = one;
    made.addEventListener("toggle", () => {
      if (made.open && made.children.length === 1) made.append(...bodyOf(one));
      remember();
    });
    return made;
  }

  // ---- the list ----

  function chosen() {
    const data = Object.fromEntries(new FormData(form));
    return Object.fromEntries(Object.entries(data).filter(([name, value]) => value && !(name === "sort" && value === "run")));
  }

  const valuesOf = (one, name) => (values[name] ? values[name](one) : [one[name]]);

  function fits(one, wanted, words) {
    for (const name of FILTERS) {
      if (!(name in wanted)) continue;
      if (!valuesOf(one, name).includes(wanted[name])) return false;
    }
    return words.every((word) => haystack(one).includes(word));
  }

  function filter() {
    const wanted = chosen();
    const words = (wanted.text ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    shown = episodes.filter((one) => fits(one, wanted, words));
    const order = SORTS[wanted.sort];
    if (order) shown = shown.toSorted(order);
    first = 0;
    render();
  }

  function render() {
    list.replaceChildren(...shown.slice(first, first + PAGE).map(item));
    const last = Math.min(first + PAGE, shown.length);
    const range = shown.length > PAGE ? `, ${first + 1} to ${last} on this page` : "";
    status.textContent = `${shown.length} of ${episodes.length} episodes${range}`;
    for (const button of document.querySelectorAll(".pages button")) {
      button.disabled = button.name === "next" ? last >= shown.length : first === 0;
    }
    document.querySelector(".pages").hidden = shown.length <= PAGE;
  }

  function turnPage(by) {
    const next = first + by * PAGE;
    if (next < 0 || next >= shown.length) return false;
    first = next;
    render();
    return true;
  }

  function remember() {
    const open = list.querySelector(":scope > details[open]");
    const state = open ? open.one.anchor : `?${new URLSearchParams(chosen())}`;
    history.replaceState(null, "", open || state !== "?" ? `#${state}` : location.pathname + location.search);
  }

  function show(entry) {
    for (const other of list.children) other.open = other === entry;
    entry.querySelector("summary").focus({ preventScroll: true });
    entry.scrollIntoView({ block: "start" });
  }

  function go(by) {
    const entries = [...list.children];
    if (!entries.length) return;
    const at = entries.findIndex((entry) => entry.contains(document.activeElement) || entry.open);
    const next = at + by;
    if (at >= 0 && next >= entries.length && turnPage(1)) show(list.firstElementChild);
    else if (at >= 0 && next < 0 && turnPage(-1)) show(list.lastElementChild);
    else show(entries[Math.min(Math.max(next, 0), entries.length - 1)]);
  }

  // ---- addresses ----

  function restore() {
    const hash = location.hash.slice(1);
    if (anchors.has(hash)) {
      const one = anchors.get(hash);
      const open = list.querySelector(":scope > details[open]");
      if (open?.one === one) return;
      if (!shown.includes(one)) {
        form.reset();
        filter();
      }
      first = PAGE * Math.floor(shown.indexOf(one) / PAGE);
      render();
      show([...list.children].find((entry) => entry.one === one));
      return;
    }
    if (episodes.length && hash.split("/").length === parts(episodes[0]).length) {
      status.textContent = "The episode that the address names is not in this run.";
    } else if (hash.startsWith("?")) {
      const wanted = new URLSearchParams(hash.slice(1));
      for (const field of form.elements) {
        if (field.name) field.value = wanted.get(field.name) ?? (field.name === "sort" ? "run" : "");
      }
      filter();
      document.querySelector("#episodes").scrollIntoView();
    }
  }

  function fill() {
    for (const name of FILTERS) {
      const counts = new Map();
      for (const one of episodes) {
        for (const value of valuesOf(one, name)) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
      }
      const field = form.elements[name];
      for (const [value, num] of [...counts].sort((a, b) => (name === "chain" ? b[1] - a[1] : 0))) {
        field.append(new Option(`${value} (${num})`, value));
      }
      // One value that all have leaves nothing to choose.
      const all = counts.size === 1 && [...counts.values()][0] === episodes.length;
      field.closest("label").hidden = all || !counts.size;
    }
  }

  // ---- keys ----

  document.addEventListener("keydown", (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    const typing = event.target.closest?.("select, input");
    if (event.key === "Escape") {
      const open = list.querySelector(":scope > details[open]");
      if (typing) {
        if (typing.name === "text" && typing.value) typing.value = "";
        else typing.blur();
        filter();
        remember();
      } else if (open) {
        open.open = false;
        open.querySelector("summary").focus();
      }
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      form.elements.text.focus();
      form.elements.text.select();
    } else if (!typing && event.key === "j") go(1);
    else if (!typing && event.key === "k") go(-1);
    else if (typing && event.key === "Enter" && event.target.name === "text") {
      event.preventDefault();
      clearTimeout(waiting);
      filter();
      remember();
      if (list.firstElementChild) list.firstElementChild.querySelector("summary").focus();
    }
  });

  let waiting;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => (filter(), remember()));
  form.elements.text.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (filter(), remember()), 120);
  });
  for (const button of document.querySelectorAll(".pages button")) {
    button.addEventListener("click", () => {
      turnPage(button.name === "next" ? 1 : -1);
      document.querySelector("#episodes").scrollIntoView();
    });
  }
  window.addEventListener("hashchange", restore);
  fill();
  filter();
  restore();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.body.dataset.readyMs = performance.now().toFixed(1);
  }));
}
