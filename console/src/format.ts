/** How numbers read. Unknown is said, never shown as nothing. */

const UNKNOWN = "unknown";

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? UNKNOWN : value.toLocaleString("en");
}

export function compact(value: number): string {
  return value < 10_000 ? count(value) : value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

export function dollars(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "$0";
  if (value >= 100) return `$${value.toLocaleString("en", { maximumFractionDigits: 0 })}`;
  if (value >= 1) return `$${value.toFixed(2)}`;
  return value >= 0.0001 ? `$${value.toFixed(value < 0.01 ? 5 : 4)}` : `$${value.toPrecision(2)}`;
}

/** As short as it can be, for round values. */
export function axisDollars(value: number): string {
  return `$${Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 8 })}`;
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 120) return `${Math.floor(value / 60)} m ${String(Math.round(value % 60)).padStart(2, "0")} s`;
  return `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

export function percent(value: number): string {
  return `${Math.round(value * 100)} %`;
}

export function score(value: number | null): string {
  return value === null ? "?" : value.toFixed(2).replace(/^0\./, ".");
}

export function when(at: number): string {
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB");
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

export function oneLine(text: string | undefined): string {
  return (text ?? "").trim().slice(0, 300).replace(/\s+/g, " ");
}

const REASONS: Record<string, string> = {
  complete: "all samples drawn",
  consensus: "the vote was decided",
  disagreement: "no two replies agree",
  verified: "the verifier passed it",
  converged: "a revision changed nothing",
  budget: "the budget is spent",
  deadline: "the deadline passed",
  interrupted: "interrupted",
  failed: "further samples failed",
};

export function reason(stopReason: string): string {
  return REASONS[stopReason] ?? stopReason;
}
