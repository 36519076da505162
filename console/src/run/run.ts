import { finished, type Node, type Path, stepsTo, type TraceEvent, type Trip, type Verdict } from "./events";

export interface Vote {
  /** null for replies that ended without an answer */
  readonly answer: string | null;
  readonly replies: number;
  readonly score: number | null;
}

export interface Bill {
  tokens: number;
  calls: number;
  /** The part that is known; the whole is unknown where `unpriced` is set. */
  cost: number;
  unpriced: boolean;
}

/** What a component needs to show a run. The run is changed in place: `version` tells that it was. */
export interface RunProps {
  readonly run: Run;
  readonly version: number;
}

export interface Outcome {
  readonly answer: string | null | undefined;
  readonly key: string;
  readonly confidence: number | null;
  readonly stopReason: string;
}

const CUT_SHORT: Record<string, string> = { length: "out of tokens", cut: "stopped early" };
const VERIFYING = "verify"; // such trips number their own samples: their paths name no node

const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
const number = (value: unknown): number | null => (typeof value === "number" ? value : null);
const path = (value: unknown): Path => (Array.isArray(value) && value.every(Number.isInteger) ? value : []);
const paths = (value: unknown): Path[] => (Array.isArray(value) ? value.map(path) : []);
const answer = (value: unknown): string | null | undefined => (value === null ? null : text(value));
const nameOf = (one: Path): string => one.join(".");

function emptyBill(): Bill {
  return { tokens: 0, calls: 0, cost: 0, unpriced: false };
}

function byPath(left: Path, right: Path): number {
  const fork = left.findIndex((place, depth) => place !== right[depth]);
  if (fork < 0 || fork >= right.length) return left.length - right.length;
  return left[fork]! - right[fork]!;
}

/** What is known of a run so far. `hear` takes its events in their order; unknown ones say nothing. */
export class Run {
  readonly root: Node = newNode([], null, 0);
  readonly nodes = new Map<string, Node>();
  readonly offers: { t: number; key: string; answer: string | null | undefined; value: number | null }[] = [];
  readonly failures: { t: number; samples: number; error: string | undefined }[] = [];
  readonly trips: Trip[] = [];
  readonly purposes = new Map<string, Bill>();
  readonly total: Bill = emptyBill();
  /** Samples that are being written, by path. */
  readonly writing = new Set<string>();
  question: string | undefined;
  kind = "";
  strategy = "";
  budget: Record<string, number> = {};
  outcome: Outcome | null = null;
  seconds = 0;
  samples = 0;
  pruned = 0;
  /** Whether replies grew from others: a tree, not a row of samples. */
  grows = false;
  judged = false;
  closed = false;
  contentKept = true;

  private readonly pending: { trip: Trip; purpose: string; key: string }[] = [];

  hear(event: TraceEvent): void {
    this.seconds = Math.max(this.seconds, event.t);
    switch (event.event) {
      case "request":
        this.question = text(event.prompt);
        this.kind = text(event.kind) ?? "";
        this.contentKept = this.question !== undefined;
        break;
      case "plan":
        this.strategy = text(event.strategy) ?? "";
        this.budget = Object.fromEntries(
          Object.entries((event.budget ?? {}) as Record<string, number | null>).filter((one): one is [string, number] => one[1] !== null),
        );
        break;
      case "call":
        this.call(event);
        break;
      case "settle":
        this.settle(event);
        break;
      case "failed":
        for (const one of paths(event.paths)) this.writing.delete(nameOf(one));
        this.failures.push({ t: event.t, samples: paths(event.paths).length, error: text(event.error) });
        break;
      case "step":
        this.step(event);
        break;
      case "candidate":
        this.candidate(event);
        break;
      case "verdict":
        this.verdict(event);
        break;
      case "prune":
        this.prune(event);
        break;
      case "offer":
        this.offers.push({ t: event.t, key: nameOf(path(event.path)), answer: answer(event.answer), value: number(event.value) });
        break;
      case "result":
        this.writing.clear();
        this.outcome = {
          answer: answer(event.answer),
          key: nameOf(path(event.path)),
          confidence: number(event.confidence),
          stopReason: text(event.stop_reason) ?? "complete",
        };
        break;
    }
  }

  /** No more will be heard: what was being written never arrives, nor does its bill. */
  close(): void {
    this.closed = true;
    this.writing.clear();
  }

  /** Whether trips were begun whose bill has not come. */
  get unbilled(): boolean {
    return this.pending.length > 0;
  }

  /** The node that the run returned or, before that, would return if it ended now. */
  get favourite(): Node | null {
    const key = this.outcome?.key ?? this.offers.at(-1)?.key;
    return key === undefined ? null : (this.nodes.get(key) ?? null);
  }

  /** The favourite and what it grew from. */
  get way(): Set<Node> {
    const way = new Set<Node>();
    for (let node: Node | null = this.favourite; node; node = node.parent) way.add(node);
    return way;
  }

  /** Final answers with how many replies gave them, most first. */
  get votes(): Vote[] {
    const counted = new Map<string | null, { replies: number; score: number | null }>();
    for (const node of this.nodes.values()) {
      if (node.answer === undefined || (node.answer === null && !finished(node))) continue;
      const vote = counted.get(node.answer) ?? { replies: 0, score: null };
      vote.replies += 1;
      for (const { score } of node.verdicts) if (score !== null) vote.score = Math.max(vote.score ?? 0, score);
      counted.set(node.answer, vote);
    }
    return [...counted].map(([said, vote]) => ({ answer: said, ...vote })).sort((a, b) => b.replies - a.replies);
  }

  private call(event: TraceEvent): void {
    const purpose = text(event.purpose) ?? "generate";
    const first = path(event.path);
    const n = number(event.n) ?? 1;
    const trip: Trip = {
      purpose, start: event.t, end: null, n, promptTokens: 0, outputTokens: 0, cachedTokens: null, cost: null,
    };
    this.trips.push(trip);
    this.pending.push({ trip, purpose, key: nameOf(first) });
    if (purpose === VERIFYING || first.length === 0) return;
    for (let place = 0; place < n; place++) this.writing.add(nameOf([...first.slice(0, -1), first.at(-1)! + place]));
  }

  private settle(event: TraceEvent): void {
    const purpose = text(event.purpose) ?? "generate";
    const settled = paths(event.paths);
    const keys = settled.map(nameOf);
    const at = this.pending.findIndex((one) => one.purpose === purpose && keys.includes(one.key));
    const trip = at < 0 ? this.unannounced(purpose, event.t, settled.length) : this.pending.splice(at, 1)[0]!.trip;
    trip.end = event.t;
    trip.promptTokens = number(event.prompt_tokens) ?? 0;
    trip.outputTokens = number(event.output_tokens) ?? 0;
    trip.cachedTokens = number(event.cached_tokens);
    trip.cost = number(event.cost_usd);
    const bill = this.purposes.get(purpose) ?? emptyBill();
    this.purposes.set(purpose, bill);
    for (const one of [bill, this.total]) {
      one.tokens += trip.promptTokens + trip.outputTokens;
      one.calls += number(event.calls) ?? 0;
      one.cost += trip.cost ?? 0;
      one.unpriced ||= trip.cost === null;
    }
    if (purpose === VERIFYING) return;
    for (const key of keys) {
      this.writing.delete(key);
      const node = this.nodes.get(key);
      if (node) node.trip = trip;
    }
  }

  private unannounced(purpose: string, t: number, n: number): Trip {
    const trip: Trip = { purpose, start: t, end: t, n, promptTokens: 0, outputTokens: 0, cachedTokens: null, cost: null };
    this.trips.push(trip);
    return trip;
  }

  private step(event: TraceEvent): void {
    const node = this.node(path(event.path), event.t);
    this.grows = true;
    node.text = text(event.text);
    this.end(node, event);
  }

  private candidate(event: TraceEvent): void {
    this.samples += 1;
    const place = path(event.path);
    const known = this.nodes.get(nameOf(place));
    const node = known ?? this.node(place, event.t);
    if (!known) {
      // No step came before: it is a whole reply, or what was added to its parent's.
      const said = text(event.text);
      const before = node.parent?.parent ? stepsTo(node.parent).map((step) => step.text ?? "").join("") : "";
      const continued = said !== undefined && before !== "" && said.startsWith(before) && said !== before;
      node.text = continued ? said.slice(before.length) : said;
      node.whole = !continued;
    }
    this.end(node, event);
  }

  private end(node: Node, event: TraceEvent): void {
    node.finishReason = text(event.finish_reason) ?? null;
    node.answer = answer(event.answer) ?? node.answer ?? (event.answer === null ? null : undefined);
    node.outputTokens ??= number(event.output_tokens);
    node.cutReason ??= CUT_SHORT[node.finishReason ?? ""] ?? null;
    this.writing.delete(node.key);
  }

  private verdict(event: TraceEvent): void {
    const verdict: Verdict = {
      t: event.t,
      verifier: text(event.verifier) ?? "verifier",
      score: number(event.score),
      passed: typeof event.passed === "boolean" ? event.passed : null,
      reason: text(event.reason) ?? "",
      steps: Array.isArray(event.steps) ? event.steps.map(number) : [],
    };
    this.judged = true;
    this.nodes.get(nameOf(path(event.path)))?.verdicts.push(verdict);
  }

  private prune(event: TraceEvent): void {
    const reason = text(event.reason) ?? "pruned";
    for (const one of paths(event.paths)) {
      const node = this.nodes.get(nameOf(one));
      if (!node) continue;
      this.cut(node, reason);
      const stack = [...node.children];
      for (let under = stack.pop(); under; under = stack.pop()) {
        if (under.children.length === 0 && !finished(under)) this.cut(under, reason);
        stack.push(...under.children);
      }
    }
  }

  private cut(node: Node, reason: string): void {
    if (node.cutReason !== null) return;
    node.cutReason = reason;
    this.pruned += 1;
  }

  /** The node of a path, made if it is new, under its nearest known ancestor. */
  private node(place: Path, t: number): Node {
    const key = nameOf(place);
    const known = place.length === 0 ? this.root : this.nodes.get(key);
    if (known) return known;
    let parent = this.root;
    for (let depth = place.length - 1; depth > 0 && parent === this.root; depth--) {
      parent = this.nodes.get(nameOf(place.slice(0, depth))) ?? this.root;
    }
    const node = newNode(place, parent, t);
    const before = parent.children.findLastIndex((sibling) => byPath(sibling.path, place) < 0);
    parent.children.splice(before + 1, 0, node);
    this.grows ||= parent !== this.root;
    this.nodes.set(key, node);
    return node;
  }
}

function newNode(place: Path, parent: Node | null, born: number): Node {
  return {
    key: nameOf(place), path: place, parent, born, children: [], verdicts: [], text: undefined, whole: false,
    finishReason: null, answer: undefined, outputTokens: null, cutReason: null, trip: null,
  };
}
