
"use strict";

// The run, as `thinkscale show --json` gives it. Times are seconds into the run.
const run = JSON.parse(document.getElementById("run").textContent);
const [ROOT_WIDTH, GAP, ROW, CUT_ROW] = [34, 34, 34, 28];
const END_SHARE = 1.5; // how much wider the end of a branch may be: nothing stands to its right
const at = (id) => document.getElementById(id);

const nodes = new Map();
const root = { key: "", t: 0, verdicts: [], children: [], depth: 0, text: run.question ?? "", cut_at: null, ended: null };
nodes.set("", root);
for (const one of run.nodes) {
  const node = { ...one, key: one.path.join("."), children: [] };
  node.parent = nodes.get(one.parent.join("."));
  node.depth = node.parent.depth + 1;
  nodes.set(node.key, node);
}
for (const node of [...nodes.values()].sort(byPath)) node.parent?.children.push(node);
const end = run.seconds;
const way = new Set();
for (let node = chosen(); node; node = node.parent) way.add(node);

let now = end, selected = null, reached = root, zoom = 1, playing = 0;

function byPath(a, b) {
  const [left, right] = [a.path ?? [], b.path ?? []];
  const fork = left.findIndex((place, depth) => place !== right[depth]);
  return fork < 0 || fork >= right.length ? left.length - right.length : left[fork] - right[fork];
}

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

function number(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

function dollars(value) {
  return value === null ? "unknown" : `$${value.toFixed(6)}`;
}

// -- what is known of a node at a time ------------------------------------------------------------------------------

function judged(node, t) {
  const heard = node.verdicts.filter((verdict) => verdict.t <= t);
  return { any: heard.length > 0, score: heard.findLast((verdict) => verdict.score !== null)?.score ?? null };
}

function state(node, t) {
  if (node.cut_at !== null && node.cut_at <= t) return "cut";
  if (node.ended !== null && node.ended <= t) return "finished";
  return node.children.some((child) => child.t <= t) ? "grown" : "live";
}

function best(t) {
  if (run.chosen !== null && t >= end) return run.chosen.join(".");
  return run.offers.findLast((offer) => offer.t <= t)?.path.join(".") ?? null;
}

function chip(score) {
  const made = element("span", { className: "chip", textContent: score === null ? "?" : score.toFixed(2).replace(/^0/, "") });
  // One lightness for all, so that white on it can be read; the hue goes from red to green.
  if (score !== null) made.style.background = `oklch(0.52 0.13 ${25 + 120 * Math.min(1, Math.max(0, score))})`;
  return made;
}

// -- the tree -------------------------------------------------------------------------------------------------------

function build() {
  for (const node of nodes.values()) {
    node.edge = document.createElementNS("http://www.w3.org/2000/svg", "path");
    if (node.parent) at("edges").append(node.edge);
    node.button = element("button", { type: "button", tabIndex: -1 });
    node.button.setAttribute("role", "treeitem");
    node.button.setAttribute("aria-level", node.depth + 1);
    node.button.dataset.node = node.key;
    node.button.addEventListener("click", () => select(node));
    at("tree").append(node.button);
  }
  root.button.tabIndex = 0;
}

function survives(node) {
  return state(node, end) !== "cut" || node.children.some(survives);
}

function lay() {
  const shown = at("cut").checked ? () => true : survives;
  const deepest = Math.max(1, ...Array.from(nodes.values(), (node) => (shown(node) ? node.depth : 0)));
  const room = at("scroll").clientWidth - 44 - ROOT_WIDTH;
  const column = Math.min(480, Math.max(150, room / (deepest - 1 + END_SHARE)));
  let y = 0;
  const place = (node) => {
    node.kept = true;
    const children = node.children.filter(shown);
    children.forEach(place);
    const row = state(node, end) === "cut" ? CUT_ROW : ROW;
    node.y = children.length ? (children[0].y + children.at(-1).y) / 2 : y + row / 2;
    y = children.length ? y : y + row;
    node.x = node.depth ? ROOT_WIDTH + GAP + (node.depth - 1) * column : 0;
    node.width = node.depth ? column * (children.length ? 1 : END_SHARE) - GAP : ROOT_WIDTH;
  };
  for (const node of nodes.values()) node.kept = false;
  place(root);
  at("tree").style.width = `${ROOT_WIDTH + (deepest - 1 + END_SHARE) * column}px`;
  at("tree").style.height = `${Math.max(y, ROW)}px`;
  for (const node of nodes.values()) {
    node.button.hidden = !node.kept;
    node.edge.style.display = node.kept ? "" : "none";
    if (!node.kept) continue;
    Object.assign(node.button.style, { left: `${node.x}px`, top: `${node.y}px`, width: `${node.width}px` });
    node.button.style.transform = "translateY(-50%)";
    if (!node.parent) continue;
    const [x0, y0] = [node.parent.x + node.parent.width, node.parent.y];
    node.edge.setAttribute("d", `M${x0} ${y0}C${x0 + GAP / 2} ${y0} ${node.x - GAP / 2} ${node.y} ${node.x} ${node.y}`);
  }
}

const MARKS = { live: "○", grown: "", finished: "✓", cut: "✗" };

function draw(node, favourite) {
  const { any, score } = judged(node, now);
  const what = node === root ? "grown" : state(node, now);
  const isBest = node.key === favourite && node !== root;
  const classes = ["node", what];
  if (node === root) classes.push("root");
  if (node.t > now) classes.push("unborn");
  if (way.has(node) && now >= end) classes.push("way");
  if (isBest) classes.push("best");
  const looks = `${classes.join(" ")} ${any} ${score}`;
  if (looks === node.looks) return;
  node.looks = looks;
  node.button.className = classes.join(" ");
  node.edge.setAttribute("class", classes.slice(1).join(" "));
  if (node === root) {
    node.button.textContent = "?";
    node.button.title = node.text || "the question";
    return;
  }
  const text = node.text.trim().replace(/\s+/g, " ").slice(0, 200);
  const parts = [element("span", { className: "text", textContent: text })];
  if (any) parts.unshift(chip(score));
  const mark = isBest ? "★" : MARKS[what];
  if (mark) parts.unshift(element("span", { className: "mark", textContent: mark }));
  if (node.answer !== null && what !== "live") parts.push(element("span", { className: "said", textContent: `= ${node.answer}` }));
  node.button.replaceChildren(...parts);
  const why = what === "cut" ? `cut: ${node.cut_reason}` : what;
  node.button.title = any && score === null ? `${why}, could not be judged` : why;
  node.button.setAttribute("aria-label", `${node.key}, ${isBest ? "best, " : ""}${why}, ${any ? `score ${score ?? "unknown"}, ` : ""}${text}`);
  if (node === selected) describe();
}

function show(t) {
  now = Math.min(end, Math.max(0, t));
  const favourite = best(now);
  const counts = { live: 0, finished: 0, cut: 0, grown: 0 };
  for (const node of nodes.values()) {
    draw(node, favourite);
    if (node !== root && node.t <= now) counts[state(node, now)] += 1;
  }
  const spent = run.spendings.filter((one) => one.t <= now);
  const tokens = spent.reduce((sum, one) => sum + one.total_tokens, 0);
  const limit = run.budget.max_total_tokens;
  const born = counts.live + counts.finished + counts.cut + counts.grown;
  at("status").textContent = `${now.toFixed(1)} of ${end.toFixed(1)} s · ${number(born)} nodes, ${counts.live} live, `
    + `${counts.finished} finished, ${counts.cut} cut · ${number(tokens)}${limit ? ` of ${number(limit)}` : ""} tokens`;
  at("time").value = now;
}

// -- the panel ------------------------------------------------------------------------------------------------------

function select(node, focus = true) {
  if (selected) selected.button.setAttribute("aria-selected", "false");
  const opens = node !== null && at("panel").hidden;
  selected = node;
  at("panel").hidden = node === null;
  if (node) {
    reach(node);
    node.button.setAttribute("aria-selected", "true");
    describe();
    if (opens) node.button.scrollIntoView({ block: "nearest", inline: "nearest" }); // the panel may cover it
    if (focus) node.button.focus({ preventScroll: opens });
  }
  remember();
}

// Of all nodes one is in the tab order; the arrow keys go on from there.
function reach(node) {
  reached.button.tabIndex = -1;
  node.button.tabIndex = 0;
  reached = node;
}

function section(title, ...content) {
  return [element("h3", { textContent: title }), ...content];
}

function list(entries) {
  const made = element("dl");
  for (const [name, value] of entries) made.append(element("dt", { textContent: name }), element("dd", {}, value));
  return made;
}

function replyOf(node) {
  const steps = [node];
  while (!steps[0].whole && steps[0].parent && steps[0].parent !== root) steps.unshift(steps[0].parent);
  return steps;
}

function describe() {
  const node = selected;
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => closePanel());
  if (node === root) {
    at("panel").replaceChildren(
      element("header", {}, element("h2", { textContent: "The question" }), close),
      element("pre", { className: "this", textContent: node.text || "The trace does not tell it." }));
    return;
  }
  const what = state(node, now);
  const { any, score } = judged(node, now);
  const steps = replyOf(node);
  const parts = [
    element("header", {}, element("h2", { textContent: `${node.whole ? "Reply" : "Step"} ${node.key}` }), close),
    element("p", { className: "dim", textContent: (what === "cut" ? `cut: ${node.cut_reason}` : what)
      + (node.finish_reason && node.finish_reason !== "step" ? ` · finish reason ${node.finish_reason}` : "") + ` · appeared at ${node.t.toFixed(2)} s` }),
  ];
  if (node.answer !== null) parts.push(element("p", { className: "said", textContent: `= ${node.answer}` }));
  if (any) parts.push(...section("Score", chip(score)));
  parts.push(...section(node.whole ? "The reply" : "This step",
    element("pre", { className: "this", textContent: node.text.trim() || "(empty)" })));
  if (steps.length > 1) {
    const whole = element("ol");
    for (const step of steps) {
      const known = judged(step, now);
      const go = element("button", { type: "button", title: step.key }, known.any ? chip(known.score) : chip(null));
      go.addEventListener("click", () => select(step));
      whole.append(element("li", {}, go, element("pre", { textContent: step.text.trim() || "(empty)" })));
    }
    parts.push(...section(`The reply up to here, ${steps.length} steps`, whole));
  }
  for (const verdict of node.verdicts.filter((one) => one.t <= now)) {
    const chips = element("div", { className: "chips" }, ...verdict.steps.map(chip));
    parts.push(...section(`Verdict of ${verdict.verifier}`, list([
      ["score", verdict.score === null ? "could not judge" : String(verdict.score)],
      ["passed", verdict.passed === null ? "–" : verdict.passed ? "yes" : "no"],
      ["reason", verdict.reason || "–"],
      ["steps", verdict.steps.length ? chips : "–"],
    ])));
  }
  const made = [["output tokens", number(node.output_tokens)]];
  const request = node.request;
  if (request) {
    const share = request.cost_usd === null ? null : request.cost_usd / request.n;
    made.push(["samples in the request", number(request.n)],
      ["its prompt tokens", number(request.prompt_tokens)],
      ["of which cached", number(request.cached_tokens)],
      ["its output tokens", number(request.output_tokens)],
      ["its cost", dollars(request.cost_usd)],
      ["this one's share", dollars(share)]);
  }
  parts.push(...section("What it cost", list(made)));
  at("panel").replaceChildren(...parts);
}

function closePanel() {
  const node = selected;
  select(null);
  node?.button.focus();
}

// -- controls -------------------------------------------------------------------------------------------------------

function visible(node) {
  return node.kept && node.t <= now;
}

function move(from, key) {
  if (key === "ArrowLeft") return from.parent;
  if (key === "ArrowRight") return from.children.find(visible);
  if (key === "Home") return root;
  const level = [...nodes.values()].filter((node) => node.depth === from.depth && visible(node)).sort((a, b) => a.y - b.y);
  return level[level.indexOf(from) + (key === "ArrowDown" ? 1 : -1)];
}

function play(on) {
  cancelAnimationFrame(playing);
  playing = 0;
  at("play").textContent = on ? "Pause" : "Play";
  if (!on) return remember();
  if (now >= end) show(0);
  let before = null;
  const frame = (time) => {
    const speed = at("speed").value ? end / Number(at("speed").value) : 1;
    if (before !== null) show(now + ((time - before) / 1000) * speed);
    before = time;
    if (now >= end) play(false);
    else playing = requestAnimationFrame(frame);
  };
  playing = requestAnimationFrame(frame);
}

function setZoom(value) {
  zoom = Math.min(2, Math.max(0.25, value));
  at("tree").style.zoom = zoom;
}

function fit() {
  const [box, tree] = [at("scroll"), at("tree")];
  const [width, height] = [parseFloat(tree.style.width), parseFloat(tree.style.height)];
  setZoom(Math.min(1, (box.clientWidth - 44) / width, (box.clientHeight - 36) / height));
}

// The address holds what is looked at, `#t=SECONDS&node=3.0`, so that a link shows the same.
function remember() {
  const words = new URLSearchParams();
  if (now < end) words.set("t", now.toFixed(2));
  if (selected) words.set("node", selected.key);
  history.replaceState(null, "", `#${words}`);
}

function chosen() {
  return run.chosen === null ? null : nodes.get(run.chosen.join(".")) ?? null;
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  const node = words.has("node") ? nodes.get(words.get("node")) : null;
  const t = Number(words.get("t") ?? end);
  show(Number.isFinite(t) ? t : end);
  select(node ?? null, false);
}

build();
lay();
at("time").max = end;
recall();
(selected ?? chosen() ?? root).button.scrollIntoView({ block: "center", inline: "nearest" });
at("time").addEventListener("input", () => { play(false); show(Number(at("time").value)); remember(); });
at("play").addEventListener("click", () => play(!playing));
at("cut").addEventListener("change", lay);
at("smaller").addEventListener("click", () => setZoom(zoom / 1.2));
at("larger").addEventListener("click", () => setZoom(zoom * 1.2));
at("fit").addEventListener("click", fit);
at("tree").addEventListener("keydown", (event) => {
  const from = nodes.get(event.target.dataset.node);
  if (event.key === "Escape") return closePanel();
  if (!from || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home"].includes(event.key)) return;
  event.preventDefault();
  const to = move(from, event.key);
  if (!to) return;
  if (selected) return select(to);
  reach(to);
  to.button.focus();
});
at("panel").addEventListener("keydown", (event) => { if (event.key === "Escape") closePanel(); });
addEventListener("resize", lay);
addEventListener("hashchange", recall);
