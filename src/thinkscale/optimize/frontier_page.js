"use strict";

// What `thinkscale frontier --json` prints. Figures with intervals are [mean, low, high]; null is unknown.
const found = JSON.parse(document.getElementById("found").textContent);
const at = (id) => document.getElementById(id);
const models = Object.keys(found.models);
const axes = Object.keys(found.axes);

const series = new Map();
for (const row of found.rows) {
  const key = JSON.stringify([row.model, row.family]);
  if (!series.has(key)) {
    const name = models.length > 1 ? `${row.model}: ${row.family}` : row.family;
    const place = series.size;
    series.set(key, { key, name, rows: [], colour: `var(--s${place % 10})`, shape: models.indexOf(row.model) % 4, hidden: false });
  }
  row.series = series.get(key);
  row.series.rows.push(row);
}
const state = { by: axes[0], frontOnly: false, shown: null, target: null, limit: null };

const cost = (row) => row.costs[state.by]?.[0] ?? null;
const visible = () => found.rows.filter((row) => !row.series.hidden && cost(row) > 0);
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const between = (figure, write) => (figure[1] === null ? " [cannot tell]" : ` [${write(figure[1])}, ${write(figure[2])}]`);

function amount(value) {
  if (value === null || value === undefined) return "–";
  if (state.by === "tokens") return Math.round(value).toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function marker(shape, x, y, size, attributes) {
  const paths = [
    `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0`,
    `M${x} ${y - 1.3 * size}L${x + 1.3 * size} ${y}L${x} ${y + 1.3 * size}L${x - 1.3 * size} ${y}Z`,
    `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}Z`,
    `M${x} ${y - 1.2 * size}L${x + 1.2 * size} ${y + size}L${x - 1.2 * size} ${y + size}Z`,
  ];
  return svg("path", { d: paths[shape], ...attributes });
}

/** The rows that none beats in accuracy at no more cost, cheapest first. */
function front(rows) {
  const best = [];
  for (const row of [...rows].sort((a, b) => cost(a) - cost(b) || b.accuracy[0] - a.accuracy[0])) {
    if (!best.length || row.accuracy[0] > best.at(-1).accuracy[0]) best.push(row);
  }
  return best;
}

function ticks(low, high) {
  for (const step of [0.01, 0.02, 0.05, 0.1, 0.2]) {
    if ((high - low) / step <= 7) {
      const first = Math.ceil(low / step - 1e-9);
      return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, place) => (first + place) * step);
    }
  }
  return [];
}

function logTicks(low, high) {
  const made = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    // The rounder a value, the sooner it gets its label.
    [1, 3, 2, 5, 1.5, 7, 4].forEach((mantissa, rank) => made.push({ value: mantissa * 10 ** power, rank }));
  }
  return made.filter(({ value }) => value >= low && value <= high).sort((a, b) => a.rank - b.rank).map(({ value }) => value);
}

function short(value) {
  for (const [size, suffix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${suffix}`;
  }
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** An empty chart with its axes: accuracy against something on a logarithmic scale. */
function frame(into, xs, ys, label) {
  const width = Math.max(280, into.clientWidth), height = Math.round(Math.min(460, Math.max(300, width * 0.55)));
  const [left, right, top, bottom] = [46, 14, 12, 44];
  const pad = Math.max(0.03, 0.04 * Math.log10(Math.max(...xs) / Math.min(...xs)));
  const [low, high] = [Math.min(...xs) / 10 ** pad, Math.max(...xs) * 10 ** pad];
  const room = Math.max(0.02, 0.06 * (Math.max(...ys) - Math.min(...ys)));
  const [floor, ceiling] = [Math.max(0, Math.min(...ys) - room), Math.min(1, Math.max(...ys) + room)];
  const x = (value) => left + (Math.log(value / low) / Math.log(high / low)) * (width - left - right);
  const y = (value) => height - bottom - ((value - floor) / (ceiling - floor)) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `accuracy against ${label}` });
  for (const tick of ticks(floor, ceiling)) {
    picture.append(
      svg("path", { d: `M${left} ${y(tick)}H${width - right}`, stroke: "var(--grid)" }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end", class: "axis" }, `${Math.round(100 * tick)}%`),
    );
  }
  const taken = [];
  for (const tick of logTicks(low, high)) {
    const half = 4 + 3.8 * short(tick).length; // about half of what its label takes
    if (taken.some(([from, to]) => x(tick) + half > from && x(tick) - half < to)) continue;
    taken.push([x(tick) - half - 6, x(tick) + half + 6]);
    picture.append(
      svg("path", { d: `M${x(tick)} ${top}V${height - bottom}`, stroke: "var(--grid)" }),
      svg("text", { x: x(tick), y: height - bottom + 17, "text-anchor": "middle", class: "axis" }, short(tick)),
    );
  }
  picture.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", class: "axis" }, label));
  const clamped = (value) => y(Math.min(ceiling, Math.max(floor, value)));
  return { picture, x, y, clamped, width, height, left, right, top, bottom };
}

const line = (places) => `M${places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

function told(row) {
  const lines = [
    `accuracy ${percent(row.accuracy[0])}${between(row.accuracy, percent)}`,
    `${amount(cost(row))}${between(row.costs[state.by], amount)} ${found.axes[state.by]}`,
    `${row.samples.toFixed(1)} samples in ${row.rounds.toFixed(1)} rounds a request`,
  ];
  if (row.coverage_oracle !== null) lines.push(`coverage of these samples (oracle) ${percent(row.coverage_oracle)}`);
  return lines;
}

function tip(into, head, lines, x, y, width) {
  into.querySelector(".tip")?.remove();
  const box = element("div", { className: "tip" }, element("b", { textContent: head }), lines.join("\n"));
  into.append(box);
  const left = Math.min(Math.max(4, x + 14), width - box.offsetWidth - 4);
  box.style.left = `${left < x + 8 && x - box.offsetWidth - 14 > 0 ? x - box.offsetWidth - 14 : left}px`;
  box.style.top = `${y - box.offsetHeight - 12 > 0 ? y - box.offsetHeight - 12 : y + 16}px`;
}

function draw() {
  const into = at("chart");
  into.replaceChildren();
  const rows = visible();
  if (!rows.length) {
    into.append(element("p", { className: "dim", textContent: "All strategies are hidden." }));
    return;
  }
  const best = front(rows), onFront = new Set(best);
  const drawn = state.frontOnly ? best : rows;
  const label = `${found.axes[state.by]} per request (log scale)`;
  const plot = frame(into, rows.map(cost), rows.flatMap((row) => [row.accuracy[0], ...(onFront.has(row) && row.accuracy[1] !== null ? row.accuracy.slice(1) : [])]), label);
  const { picture, x, y } = plot;
  const steps = best.flatMap((row, place) => (place ? [[x(cost(row)), y(best[place - 1].accuracy[0])], [x(cost(row)), y(row.accuracy[0])]] : [[x(cost(row)), y(row.accuracy[0])]]));
  steps.push([plot.width - plot.right, steps.at(-1)[1]]);
  picture.append(svg("path", { d: line(steps), fill: "none", stroke: "currentColor", "stroke-opacity": 0.28, "stroke-width": 7, "stroke-linejoin": "round" }));
  for (const one of series.values()) {
    const mine = drawn.filter((row) => row.series === one);
    const top = front(mine);
    if (top.length > 1 && !state.frontOnly) picture.append(svg("path", { d: line(top.map((row) => [x(cost(row)), y(row.accuracy[0])])), fill: "none", stroke: one.colour, "stroke-width": 1.8, "stroke-opacity": 0.8 }));
    for (const row of mine) {
      if (onFront.has(row) && row.accuracy[1] !== null) {
        picture.append(svg("path", { d: `M${x(cost(row))} ${y(row.accuracy[1])}V${y(row.accuracy[2])}`, stroke: one.colour, "stroke-width": 2, "stroke-opacity": 0.35 }));
      }
      const strong = onFront.has(row) || top.includes(row);
      picture.append(marker(one.shape, x(cost(row)), y(row.accuracy[0]), onFront.has(row) ? 5 : 3.4, { fill: one.colour, "fill-opacity": strong ? 1 : 0.4, class: "point" }));
    }
  }
  for (const [d, row] of [
    [`M${plot.left} ${plot.clamped(state.target)}H${plot.width - plot.right}`, cheapest(state.target)],
    [`M${x(state.limit)} ${plot.top}V${plot.height - plot.bottom}`, mostAccurate(state.limit)],
  ]) {
    picture.append(svg("path", { d, stroke: "currentColor", "stroke-dasharray": "3 4", "stroke-opacity": 0.6 }));
    if (row) picture.append(ring(plot, row));
  }
  into.append(picture);
  if (state.shown && drawn.includes(state.shown)) point(plot, state.shown);
  picture.addEventListener("pointermove", (event) => nearest(plot, drawn, event));
  picture.addEventListener("pointerdown", (event) => nearest(plot, drawn, event));
  picture.addEventListener("pointerleave", () => pick(null));

  function point({ x, y, width }, row) {
    picture.append(marker(row.series.shape, x(cost(row)), y(row.accuracy[0]), 7.5, { fill: "none", stroke: row.series.colour, "stroke-width": 2.5, class: "shown" }));
    tip(into, row.name, told(row), x(cost(row)), y(row.accuracy[0]), width);
  }
  function nearest(plot, drawn, event) {
    const box = picture.getBoundingClientRect();
    const away = (row) => Math.hypot(event.clientX - box.left - plot.x(cost(row)), event.clientY - box.top - plot.y(row.accuracy[0]));
    const row = drawn.reduce((a, b) => (away(b) < away(a) ? b : a));
    const near = away(row) < 40 ? row : null;
    if (near === state.shown) return;
    pick(near);
    picture.querySelectorAll(".shown").forEach((old) => old.remove());
    if (near) point(plot, near);
  }
}

function ring({ x, y }, row) {
  return svg("circle", { cx: x(cost(row)), cy: y(row.accuracy[0]), r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 });
}

function pick(row) {
  state.shown = row;
  if (!row) document.querySelectorAll(".tip, .shown").forEach((old) => old.remove());
  for (const line of document.querySelectorAll("#rows tbody tr")) line.classList.toggle("picked", line.row === row && row !== null);
}

const cheapest = (target) => front(visible()).find((row) => row.accuracy[0] >= target) ?? null;
const mostAccurate = (limit) => front(visible()).findLast((row) => cost(row) <= limit) ?? null;
const sentence = (row) => `${row.name}: ${percent(row.accuracy[0])}${between(row.accuracy, percent)} at ${amount(cost(row))} ${found.axes[state.by]}`;

function read() {
  const rows = visible(), best = front(rows);
  if (!best.length) {
    at("target-found").textContent = at("limit-found").textContent = "";
    return;
  }
  const row = cheapest(state.target);
  const sure = front(rows.filter((one) => one.accuracy[1] !== null && one.accuracy[1] >= state.target))[0];
  at("target-said").textContent = percent(state.target);
  at("target-found").textContent = row
    ? `Cheapest: ${sentence(row)}. ` + (sure === row ? "Its whole interval reaches the target." : sure ? `With the whole interval above it: ${sentence(sure)}.` : "No interval lies wholly above it, so it may be missed on other problems.")
    : `No setting reaches it: the highest is ${sentence(best.at(-1))}.`;
  const within = mostAccurate(state.limit);
  at("limit-said").textContent = `${amount(state.limit)} ${found.axes[state.by]}`;
  at("limit-found").textContent = within ? `Most accurate: ${sentence(within)}.` : `No setting is that cheap: the cheapest is ${sentence(best[0])}.`;
}

/** Places the sliders' ends on what is to be had, and their values, where they have none, in the middle of it. */
function span(fresh) {
  const best = front(found.rows.filter((row) => cost(row) > 0));
  const [least, most] = [Math.min(...best.map((row) => row.accuracy[0])), best.at(-1).accuracy[0]];
  const costs = found.rows.map(cost).filter((value) => value > 0);
  const [cheap, dear] = [Math.log(Math.min(...costs)), Math.log(Math.max(...costs))];
  const step = Math.max(1e-4, (most - least) / 200);
  Object.assign(at("target"), { min: least, max: Math.min(1, most + 2 * step), step: "any" });
  Object.assign(at("limit"), { min: cheap - 1e-9, max: dear + 1e-9, step: "any" });
  if (fresh) state.target = found.asked.accuracy ?? least + 0.9 * (most - least);
  state.limit = found.asked[state.by] ?? Math.exp((cheap + dear) / 2);
  at("target").value = state.target;
  at("limit").value = Math.log(state.limit);
}

function refresh() {
  draw();
  read();
  for (const row of document.querySelectorAll("#rows tbody tr")) row.hidden = row.row.series.hidden;
}

function controls() {
  for (const by of axes) {
    const button = element("button", { type: "button", textContent: found.axes[by] });
    button.setAttribute("aria-pressed", by === state.by);
    button.addEventListener("click", () => {
      state.by = by;
      for (const other of button.parentNode.children) other.setAttribute("aria-pressed", other === button);
      span(false);
      refresh();
    });
    at("axes").append(button);
  }
  at("axes").hidden = axes.length < 2;
  at("only").addEventListener("change", (event) => {
    state.frontOnly = event.target.checked;
    draw();
  });
  for (const one of series.values()) {
    const key = svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, marker(one.shape, 7, 7, 5, { fill: one.colour }));
    const button = element("button", { type: "button" }, key, one.name);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      one.hidden = !one.hidden;
      button.setAttribute("aria-pressed", !one.hidden);
      refresh();
    });
    at("legend").append(button);
  }
  at("target").addEventListener("input", (event) => {
    state.target = Number(event.target.value);
    draw();
    read();
  });
  at("limit").addEventListener("input", (event) => {
    state.limit = Math.exp(Number(event.target.value));
    draw();
    read();
  });
}

function sortable() {
  const table = at("rows").querySelector("table"), body = table.tBodies[0];
  [...body.rows].forEach((line, place) => {
    line.row = found.rows[place];
    line.addEventListener("click", () => {
      pick(line.row);
      draw();
      at("chart").scrollIntoView({ block: "nearest" });
    });
  });
  const number = (text) => (Number.isNaN(Number.parseFloat(text)) ? -Infinity : Number.parseFloat(text.replaceAll(",", "")));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const textual = [...body.rows].some((line) => Number.isNaN(Number.parseFloat(line.cells[column].textContent)) && line.cells[column].textContent !== "–");
    const button = element("button", { type: "button", textContent: head.textContent });
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : textual;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const of = (line) => line.cells[column].textContent;
      const order = [...body.rows].sort((a, b) => (textual ? of(a).localeCompare(of(b), "en", { numeric: true }) : number(of(a)) - number(of(b))) * (rising ? 1 : -1));
      body.append(...order);
    });
    head.replaceChildren(button);
  });
}

/** Coverage, an oracle figure, above the plain vote over as many samples. */
function gap() {
  const into = at("gap");
  const curves = models.flatMap((model, place) => {
    const vote = new Map([[1, null]]);
    for (const row of found.rows) {
      if (row.model !== model) continue;
      if (row.strategy === "single") vote.set(1, row.accuracy);
      const size = /^self-consistency:n=(\d+)$/.exec(row.strategy);
      if (size) vote.set(Number(size[1]), row.accuracy);
    }
    const name = models.length > 1 ? `${model}: ` : "";
    return [
      { name: `${name}coverage (oracle)`, dashed: true, colour: `var(--s${place})`, points: found.coverage_oracle[model].map((one) => [one.n, one.coverage]) },
      { name: `${name}vote`, dashed: false, colour: `var(--s${place})`, points: [...vote].sort((a, b) => a[0] - b[0]) },
    ];
  });
  into.replaceChildren();
  const every = curves.flatMap((curve) => curve.points);
  const plot = frame(into, every.map(([n]) => n), every.flatMap(([, figure]) => figure.filter((value) => value !== null)), "samples per request (log scale)");
  const placed = [];
  for (const { name, dashed, colour, points } of curves) {
    const bounded = points.filter(([, figure]) => figure[1] !== null);
    if (bounded.length) {
      const band = [...bounded.map(([n, figure]) => [plot.x(n), plot.y(figure[2])]), ...bounded.reverse().map(([n, figure]) => [plot.x(n), plot.y(figure[1])])];
      plot.picture.append(svg("path", { d: line(band) + "Z", fill: colour, "fill-opacity": 0.1 }));
    }
    const places = points.map(([n, figure]) => [plot.x(n), plot.y(figure[0])]);
    plot.picture.append(svg("path", { d: line(places), fill: "none", stroke: colour, "stroke-width": 2.2, ...(dashed ? { "stroke-dasharray": "6 4" } : {}) }));
    for (const [n, figure] of points) {
      placed.push({ name, n, figure, x: plot.x(n), y: plot.y(figure[0]) });
      plot.picture.append(svg("circle", { cx: plot.x(n), cy: plot.y(figure[0]), r: 3, fill: colour }));
    }
    const [x, y] = places.at(-1);
    plot.picture.append(svg("text", { x: x - 6, y: y - 9, "text-anchor": "end" }, name));
  }
  into.append(plot.picture);
  plot.picture.addEventListener("pointermove", (event) => {
    const box = plot.picture.getBoundingClientRect();
    const away = (one) => Math.hypot(event.clientX - box.left - one.x, event.clientY - box.top - one.y);
    const near = placed.reduce((a, b) => (away(b) < away(a) ? b : a));
    if (away(near) < 40) tip(into, `${near.name}, ${near.n} samples`, [`${percent(near.figure[0])}${between(near.figure, percent)}`], near.x, near.y, plot.width);
    else into.querySelector(".tip")?.remove();
  });
  plot.picture.addEventListener("pointerleave", () => into.querySelector(".tip")?.remove());
}

controls();
sortable();
span(true);
for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
for (const plot of document.querySelectorAll(".plot")) plot.classList.replace("still", "drawn");
refresh();
gap();
let wide = at("chart").clientWidth;
new ResizeObserver(() => {
  if (at("chart").clientWidth === wide) return;
  wide = at("chart").clientWidth;
  draw();
  gap();
}).observe(at("chart"));
