/** A trace as the gateway tells it. Content fields are absent where message content is not kept. */

export type Path = readonly number[];

export interface TraceEvent {
  readonly t: number;
  readonly event: string;
  readonly [field: string]: unknown;
}

export interface Verdict {
  readonly t: number;
  readonly verifier: string;
  readonly score: number | null;
  readonly passed: boolean | null;
  readonly reason: string;
  readonly steps: readonly (number | null)[];
}

/** One trip to a model or verifier. `end` is null while it is under way; `cost` is null where the price is unknown. */
export interface Trip {
  readonly purpose: string;
  readonly start: number;
  end: number | null;
  n: number;
  promptTokens: number;
  outputTokens: number;
  cachedTokens: number | null;
  cost: number | null;
}

export type State = "live" | "grown" | "finished" | "cut";

/** One step, or one whole reply where `whole` is set. An answer is undefined where content is not kept, null where none was found. */
export interface Node {
  readonly key: string;
  readonly path: Path;
  readonly parent: Node | null;
  readonly born: number;
  readonly children: Node[];
  readonly verdicts: Verdict[];
  text: string | undefined;
  whole: boolean;
  finishReason: string | null;
  answer: string | null | undefined;
  outputTokens: number | null;
  cutReason: string | null;
  trip: Trip | null;
}

const ENDS_NOTHING = new Set<string | null>(["step", "length", "cut", null]);

export function finished(node: Node): boolean {
  return !ENDS_NOTHING.has(node.finishReason);
}

export function stateOf(node: Node): State {
  if (node.cutReason !== null) return "cut";
  if (finished(node)) return "finished";
  return node.children.length > 0 ? "grown" : "live";
}

/** The latest score that a verifier could give; null where none could. */
export function scoreOf(node: Node): number | null {
  return node.verdicts.findLast((verdict) => verdict.score !== null)?.score ?? null;
}

/** The steps from the question down to this node, without the question. */
export function stepsTo(node: Node): Node[] {
  const steps = [node];
  for (let first = node; !first.whole && first.parent?.parent; first = first.parent) steps.unshift(first.parent);
  return steps;
}
