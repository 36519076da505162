/** The gateway's routes. Every call sends the person's key, if there is one. */

import type { TraceEvent } from "./run/events";
import { key } from "./settings";

/** The gateway said no. `retryAfter` is in seconds, null where it did not say. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

/** No answer came at all. */
export class Unreachable extends Error {
  constructor() {
    super("The gateway cannot be reached. It may be stopped or restarting.");
  }
}

export interface Feedback {
  readonly correct: boolean | null;
  readonly score: number | null;
}

export interface RequestRow {
  readonly trace_id: string;
  readonly at: number;
  readonly key: string;
  readonly model: string;
  readonly policy: string;
  readonly strategy: string;
  readonly status: number;
  readonly stop_reason: string | null;
  readonly confidence: number | null;
  readonly prompt_tokens: number;
  readonly output_tokens: number;
  readonly calls: number;
  readonly samples: number;
  readonly cost_usd: number | null;
  readonly seconds: number;
  readonly queue_s: number;
  readonly feedback: Feedback | null;
}

export interface PurposeBill {
  readonly prompt_tokens: number;
  readonly output_tokens: number;
  readonly calls: number;
  readonly cost_usd: number | null;
}

export interface RequestDetail extends RequestRow {
  readonly budget: Record<string, number | null>;
  readonly usage_by_purpose: Record<string, PurposeBill>;
  readonly events: readonly TraceEvent[] | null;
}

export interface DaySpend {
  readonly day: string;
  readonly tokens: number;
  readonly cost_usd: number | null;
  readonly requests: number;
}

export interface NamedSpend {
  readonly name: string;
  readonly tokens: number;
  readonly cost_usd: number | null;
  readonly requests?: number;
  readonly calls?: number;
}

export interface Spend {
  readonly by_day: readonly DaySpend[];
  readonly by_key: readonly NamedSpend[];
  readonly by_model: readonly NamedSpend[];
  readonly by_purpose: readonly NamedSpend[];
}

export interface Setup {
  readonly models: readonly { name: string; policy: string | null; policies: readonly string[]; price: string | null }[];
  readonly policies: readonly { name: string; strategy: string; budget: string | Record<string, number> | null; verifier: string | null; kind: string | null }[];
  readonly strategies: readonly { name: string; options: string }[];
  /** Names that the gateway was set up with; absent where it tells none. */
  readonly verifiers?: readonly string[];
  readonly efforts: Record<string, string>;
  readonly log_content: boolean;
  readonly version: string;
}

export interface Key {
  readonly name: string;
  readonly admin: boolean;
  readonly models: readonly string[] | null;
  readonly policies: readonly string[] | null;
  readonly limits: Record<string, number | null>;
  readonly created_at: number;
  readonly revoked_at: number | null;
}

// The page is at ROOT/console/, wherever a proxy may have put ROOT.
const root = new URL("..", document.baseURI);

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("Authorization", `Bearer ${key.value}`);
  let response: Response;
  try {
    response = await fetch(new URL(path, root), { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<Refused> {
  const said = await response.text();
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  return new Refused(response.status, messageIn(said) ?? `The gateway answered ${response.status}.`, Number.isFinite(after) ? after : null);
}

function messageIn(body: string): string | null {
  try {
    const message: unknown = JSON.parse(body)?.error?.message;
    return typeof message === "string" ? message : null;
  } catch {
    return null;
  }
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await call(path, signal ? { signal } : {})).json();
}

function post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body), ...(signal ? { signal } : {}) });
}

export const getSetup = () => get<Setup>("admin/api/setup");
export const getKeys = (signal?: AbortSignal) => get<{ keys: Key[] }>("admin/api/keys", signal);
export const getSpend = (days: number, signal?: AbortSignal) => get<Spend>(`admin/api/spend?days=${days}`, signal);
export const getRequest = (trace: string, signal?: AbortSignal) =>
  get<RequestDetail>(`admin/api/requests/${encodeURIComponent(trace)}`, signal);
export const getModels = () => get<{ data: { id: string }[] }>("v1/models");
export const postFeedback = (trace: string, correct: boolean) => post("v1/feedback", { trace_id: trace, correct });
export const postChat = (body: unknown, signal: AbortSignal) => post("v1/chat/completions", body, signal);

export function getRequests(limit: number, before: number | null, signal?: AbortSignal): Promise<{ requests: RequestRow[] }> {
  return get(`admin/api/requests?limit=${limit}${before === null ? "" : `&before=${before}`}`, signal);
}
