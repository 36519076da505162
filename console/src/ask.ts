/** The playground's question and the run that answers it. It outlives the view: one may look elsewhere meanwhile. */

import { batch, signal } from "@preact/signals";
import { postChat, type PurposeBill, Refused } from "./api";
import type { TraceEvent } from "./run/events";
import { Run } from "./run/run";
import { messages } from "./sse";
import { wantsKey } from "./access";

export const LIMITS = ["tokens", "usd", "seconds", "calls"] as const;
export type Limit = (typeof LIMITS)[number];

export const form = {
  question: signal(""),
  model: signal(""),
  choice: signal<"policy" | "strategy">("policy"),
  policy: signal(""),
  strategy: signal(""),
  verifier: signal(""),
  kind: signal("auto"),
  budget: { tokens: signal(""), usd: signal(""), seconds: signal(""), calls: signal("") },
};

export interface Summary {
  readonly strategy?: string;
  readonly policy?: string | null;
  readonly stop_reason?: string;
  readonly confidence?: number | null;
  readonly samples?: number;
  readonly calls?: number;
  readonly cached?: boolean;
  readonly cost_usd?: number | null;
  readonly seconds?: number;
  readonly trace_id?: string;
  readonly usage_by_purpose?: Record<string, PurposeBill>;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
}

export type Phase = "idle" | "asking" | "done" | "failed" | "cancelled";

export const phase = signal<Phase>("idle");
export const run = signal(new Run());
/** Grows once a frame while events come in: the run itself is changed in place. */
export const version = signal(0);
export const reply = signal("");
export const progress = signal("");
export const summary = signal<Summary | null>(null);
export const usage = signal<Usage | null>(null);
export const traceId = signal("");
export const failure = signal<Error | null>(null);
export const began = signal(0);
export const ended = signal(0);
export const chosen = signal<string | null>(null);

interface Chunk {
  readonly choices?: readonly { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null }[];
  readonly usage?: Usage | null;
  readonly thinkscale?: Summary & { event?: TraceEvent };
  readonly error?: { message?: string; code?: string | null };
}

let abort: AbortController | null = null;

/** A field's number; null where it is empty, undefined where it is not a positive number. */
export function limitOf(name: Limit): number | null | undefined {
  const typed = form.budget[name].value.trim();
  if (!typed) return null;
  const value = Number(typed);
  const whole = name === "tokens" || name === "calls";
  return Number.isFinite(value) && value > 0 && (!whole || Number.isInteger(value)) ? value : undefined;
}

export function canAsk(): boolean {
  return phase.value !== "asking" && form.question.value.trim() !== "" && form.model.value.trim() !== "" && LIMITS.every((name) => limitOf(name) !== undefined);
}

function body(): unknown {
  const inference: Record<string, unknown> = { kind: form.kind.value, trace: true };
  const choice = form.choice.value;
  if (form[choice].value.trim()) inference[choice] = form[choice].value.trim();
  if (form.verifier.value.trim()) inference.verifier = form.verifier.value.trim();
  const budget = Object.fromEntries(LIMITS.map((name) => [name, limitOf(name)] as const).filter(([, limit]) => limit));
  if (Object.keys(budget).length > 0) inference.budget = budget;
  return {
    model: form.model.value.trim(),
    messages: [{ role: "user", content: form.question.value }],
    stream: true,
    stream_options: { include_usage: true },
    inference,
  };
}

export function cancel(): void {
  abort?.abort();
}

export async function ask(): Promise<void> {
  if (!canAsk()) return;
  const mine = new AbortController();
  abort = mine;
  batch(() => {
    phase.value = "asking";
    run.value = new Run();
    version.value = 0;
    reply.value = progress.value = traceId.value = "";
    summary.value = usage.value = failure.value = chosen.value = null;
    began.value = performance.now();
  });
  const inbox = new Inbox();
  try {
    const response = await postChat(body(), mine.signal);
    traceId.value = response.headers.get("x-thinkscale-trace-id") ?? "";
    await listen(response, inbox);
    phase.value = "done";
  } catch (error) {
    phase.value = mine.signal.aborted ? "cancelled" : "failed";
    if (!mine.signal.aborted) {
      failure.value = error instanceof TypeError ? new Error(CUT_OFF) : (error as Error);
      if (error instanceof Refused && error.status === 401) wantsKey(error); // a 403 is about what was asked for
    }
  } finally {
    inbox.close();
    run.value.close();
    version.value += 1;
    ended.value = performance.now();
  }
}

/** An error within a stream has a code where another has a status. */
const STATUS: Record<string, number> = {
  budget_exhausted: 402,
  rate_limit_exceeded: 429,
  upstream_overloaded: 429,
  upstream_error: 502,
  upstream_unavailable: 503,
  interrupted: 503,
  deadline_exceeded: 504,
};
const CUT_OFF = "The connection ended before the answer was complete.";

async function listen(response: Response, inbox: Inbox): Promise<void> {
  let complete = false;
  for await (const message of messages(response)) {
    if (message === "[DONE]") return;
    const chunk: Chunk = JSON.parse(message);
    if (chunk.error) throw new Refused(STATUS[chunk.error.code ?? ""] ?? 0, chunk.error.message ?? "The gateway reported an error.");
    if (inbox.take(chunk)) complete = true;
  }
  if (!complete) throw new Error(CUT_OFF);
}

/** Gathers what the stream brings and shows it once per frame, however fast it comes. */
class Inbox {
  private events: TraceEvent[] = [];
  private said = "";
  private tried = "";
  private due: { cancel: () => void } | null = null;

  /** True for the chunk that ends the reply. */
  take(chunk: Chunk): boolean {
    const [choice] = chunk.choices ?? [];
    this.said += choice?.delta?.content ?? "";
    this.tried += choice?.delta?.reasoning_content ?? "";
    if (chunk.thinkscale?.event) this.events.push(chunk.thinkscale.event);
    if (chunk.usage) usage.value = chunk.usage;
    const last = Boolean(choice?.finish_reason);
    if (last && chunk.thinkscale) {
      summary.value = chunk.thinkscale;
      traceId.value = chunk.thinkscale.trace_id ?? traceId.value;
    }
    this.due ??= soon(() => this.show());
    return last;
  }

  close(): void {
    this.due?.cancel();
    this.show();
  }

  private show(): void {
    this.due = null;
    batch(() => {
      for (const event of this.events) run.value.hear(event);
      if (this.events.length > 0) version.value += 1;
      if (this.said) reply.value += this.said;
      // Progress comes in lines, a model's own thoughts in pieces of them.
      const lines = this.tried.split("\n");
      progress.value = lines.findLast((line) => line.trim()) ?? progress.value;
      this.tried = lines.at(-1)!;
    });
    this.events = [];
    this.said = "";
  }
}

const CROWD = 500; // nodes from which on drawing takes a good part of a frame

/** The next frame; ten times a second for a crowd, so that the page stays at hand; a hidden page gets no frames at all. */
function soon(show: () => void): { cancel: () => void } {
  if (document.hidden || run.value.nodes.size > CROWD) {
    const timer = setTimeout(show, 100);
    return { cancel: () => clearTimeout(timer) };
  }
  const frame = requestAnimationFrame(show);
  return { cancel: () => cancelAnimationFrame(frame) };
}
