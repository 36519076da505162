import { useEffect, useState } from "preact/hooks";
import { compact, count, dollars, seconds } from "../format";
import type { RunProps } from "../run/run";

interface Props extends RunProps {
  elapsed: number;
}

/** What the run has used of what it may. */
export function Meters({ run, elapsed }: Props) {
  const { total, budget } = run;
  const known = (value: string, isKnown = true) => {
    if (!isKnown) return "unknown";
    if (!run.unbilled) return value;
    if (total.calls === 0) return run.closed ? "unknown" : "–";
    return run.closed ? `≥ ${value}` : value;
  };
  return (
    <dl class="meters" aria-label="Spent so far">
      <Meter name="Tokens" value={known(count(total.tokens))} used={total.tokens} limit={budget.max_total_tokens} show={compact} />
      <Meter
        name="Cost" value={known(dollars(total.cost), !total.unpriced)} used={total.cost} limit={budget.max_cost_usd} show={dollars}
        note={total.unpriced && total.cost > 0 ? `known part ${dollars(total.cost)}` : undefined}
      />
      <Meter name="Time" value={seconds(elapsed)} used={elapsed} limit={budget.deadline_s} show={seconds} />
      <Meter name="Calls" value={known(count(total.calls))} used={total.calls} limit={budget.max_calls} show={count} />
    </dl>
  );
}

interface MeterProps {
  name: string;
  value: string;
  used: number;
  limit: number | undefined;
  show: (value: number) => string;
  note?: string | undefined;
}

function Meter({ name, value, used, limit, show, note }: MeterProps) {
  const share = limit === undefined ? 0 : Math.min(1, used / limit);
  return (
    <div class="meter" data-meter={name.toLowerCase()}>
      <dt>{name}</dt>
      <dd>{value}</dd>
      <dd class="limit">{note ?? (limit === undefined ? "no limit" : `of ${show(limit)}`)}</dd>
      <div class={share >= 0.9 ? "gauge near" : "gauge"} hidden={limit === undefined}><span style={{ width: `${100 * share}%` }} /></div>
    </div>
  );
}

/** Seconds since `from` (by performance.now), moving while `running`. */
export function useElapsed(running: boolean, from: number, until: number): number {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(performance.now()), 100);
    return () => clearInterval(timer);
  }, [running]);
  return Math.max(0, ((running ? now : until) - from) / 1000);
}
