import { useMemo, useState } from "preact/hooks";
import { type DaySpend, getSpend, type NamedSpend, type Spend } from "../api";
import { axisDollars, compact, count, dollars } from "../format";
import { DayChart } from "../parts/daychart";
import { useLoaded } from "../parts/load";
import { Empty, ErrorNotice } from "../parts/notice";

const MEASURES = {
  cost: { words: "Dollars", of: (day: DaySpend) => day.cost_usd, show: dollars, axis: axisDollars },
  tokens: { words: "Tokens", of: (day: DaySpend) => day.tokens, show: compact, axis: compact },
  requests: { words: "Requests", of: (day: DaySpend) => day.requests, show: compact, axis: compact },
} as const;
type Measure = keyof typeof MEASURES;

export function SpendView() {
  const [days, setDays] = useState(30);
  const { value, error, reload } = useLoaded((signal) => getSpend(days, signal), String(days));
  return (
    <div class="page">
      <header class="bar">
        <h1>Spend</h1>
        <div class="switch" role="radiogroup" aria-label="Period">
          {[7, 30, 90].map((one) => (
            <label key={one}><input type="radio" name="days" checked={days === one} onChange={() => setDays(one)} /><span>{one} days</span></label>
          ))}
        </div>
      </header>
      {error && <ErrorNotice error={error} onRetry={reload} />}
      {value && <Figures spend={value} days={days} />}
    </div>
  );
}

function Figures({ spend, days }: { spend: Spend; days: number }) {
  const [picked, setPicked] = useState<Measure | null>(null);
  const filled = useMemo(() => everyDay(spend.by_day, days), [spend, days]);
  const priced = spend.by_day.some((day) => day.cost_usd !== null);
  const measure = picked ?? (priced ? "cost" : "tokens");
  const { of, show, axis, words } = MEASURES[measure];
  const names = useMemo(() => filled.map((day) => day.day), [filled]);
  const values = useMemo(() => filled.map(of), [filled, of]);
  const unknown = spend.by_day.filter((day) => day.cost_usd === null).length;
  const known = spend.by_day.reduce((sum, day) => sum + (day.cost_usd ?? 0), 0);
  const sum = (pick: (day: DaySpend) => number) => count(spend.by_day.reduce((total, day) => total + pick(day), 0));
  return (
    <>
      <dl class="meters">
        <div class="meter">
          <dt>Cost</dt>
          <dd>{unknown > 0 ? "unknown" : dollars(known)}</dd>
          {unknown > 0 && known > 0 && <dd class="limit">known part {dollars(known)}</dd>}
        </div>
        <div class="meter"><dt>Tokens</dt><dd>{sum((day) => day.tokens)}</dd></div>
        <div class="meter"><dt>Requests</dt><dd>{sum((day) => day.requests)}</dd></div>
      </dl>
      <section class="panel">
        <header>
          <h3>By day</h3>
          <div class="switch" role="radiogroup" aria-label="Measure">
            {(Object.keys(MEASURES) as Measure[]).map((one) => (
              <label key={one}><input type="radio" name="measure" checked={measure === one} onChange={() => setPicked(one)} /><span>{MEASURES[one].words}</span></label>
            ))}
          </div>
        </header>
        <DayChart days={names} values={values} show={show} axis={axis} label={`${words} by day`} />
        {measure === "cost" && unknown > 0 && <p class="dim">The cost of {unknown} {unknown === 1 ? "day is" : "days is"} unknown and not drawn: a model without a price was used.</p>}
      </section>
      <div class="thirds">
        <Split title="By key" rows={spend.by_key} />
        <Split title="By model" rows={spend.by_model} />
        <Split title="By purpose" rows={spend.by_purpose} />
      </div>
    </>
  );
}

/** The last `days` days, the silent ones too: nothing was asked on them, and that is known. */
function everyDay(told: readonly DaySpend[], days: number): DaySpend[] {
  const byDay = new Map(told.map((day) => [day.day, day]));
  const today = Date.now();
  return Array.from({ length: days }, (_, at) => {
    const day = new Date(today - (days - 1 - at) * 86_400_000).toISOString().slice(0, 10);
    return byDay.get(day) ?? { day, tokens: 0, cost_usd: 0, requests: 0 };
  });
}

function Split({ title, rows }: { title: string; rows: readonly NamedSpend[] }) {
  const most = Math.max(1, ...rows.map((row) => row.tokens));
  const sorted = rows.toSorted((a, b) => b.tokens - a.tokens);
  const counts = rows.some((row) => row.requests !== undefined) ? "Requests" : "Calls";
  return (
    <section class="panel">
      <h3>{title}</h3>
      {rows.length === 0 ? <Empty>Nothing spent.</Empty> : (
        <table class="figures split">
          <thead><tr><th scope="col">Name</th><th scope="col">{counts}</th><th scope="col">Tokens</th><th scope="col">Cost</th></tr></thead>
          <tbody>
            {sorted.map((row) => (
              <tr key={row.name}>
                <th scope="row">{row.name || <span class="dim">none</span>}<span class="gauge"><span style={{ width: `${(100 * row.tokens) / most}%` }} /></span></th>
                <td>{count(row.requests ?? row.calls)}</td>
                <td>{compact(row.tokens)}</td>
                <td>{row.cost_usd === null ? <span class="dim">unknown</span> : dollars(row.cost_usd)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
