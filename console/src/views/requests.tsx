import { useEffect, useRef, useState } from "preact/hooks";
import { getRequests, type RequestRow } from "../api";
import { count, dollars, percent, reason, seconds, when } from "../format";
import { useLoaded } from "../parts/load";
import { Empty, ErrorNotice } from "../parts/notice";
import { go } from "../settings";

const PAGE = 50;
const REFRESH_MS = 5000;

export function Requests() {
  const [filter, setFilter] = useState("");
  const [live, setLive] = useState(true);
  const [older, setOlder] = useState<RequestRow[]>([]);
  const [nothingOlder, setNothingOlder] = useState(false);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const search = useRef<HTMLInputElement>(null);
  const { value, error, reload } = useLoaded((signal) => getRequests(PAGE, null, signal), "requests", live ? REFRESH_MS : undefined);

  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key !== "/" || event.target instanceof HTMLInputElement) return;
      event.preventDefault();
      search.current?.focus();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);

  const newest = value?.requests ?? [];
  const seen = new Set(newest.map((row) => row.trace_id));
  const rows = [...newest, ...older.filter((row) => !seen.has(row.trace_id))];
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = rows.filter((row) => words.every((word) => searchable(row).includes(word)));
  const loadOlder = async () => {
    try {
      const more = (await getRequests(PAGE, rows.at(-1)!.at)).requests;
      setOlder([...rows.slice(newest.length), ...more]);
      setNothingOlder(more.length < PAGE);
      setTrouble(null);
    } catch (failed) {
      setTrouble(failed as Error);
    }
  };

  return (
    <div class="page">
      <header class="bar">
        <h1>Requests</h1>
        <input
          ref={search} type="search" aria-label="Filter requests" placeholder="Filter by model, key, strategy, status …" value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
        <label class="check"><input type="checkbox" checked={live} onInput={(event) => setLive(event.currentTarget.checked)} /> Refresh</label>
      </header>
      {(error ?? trouble) && <ErrorNotice error={(error ?? trouble)!} onRetry={reload} />}
      {value && (shown.length > 0 ? <Table rows={shown} /> : <Empty>{rows.length > 0 ? "No request fits the filter." : "No requests yet."}</Empty>)}
      {newest.length >= PAGE && !nothingOlder && <p class="actions"><button type="button" onClick={loadOlder}>Older requests</button></p>}
    </div>
  );
}

function searchable(row: RequestRow): string {
  return [row.trace_id, row.key, row.model, row.policy, row.strategy, row.status, row.stop_reason ?? ""].join(" ").toLowerCase();
}

/** One row is in the tab order; the arrow keys go on from there. */
function Table({ rows }: { rows: readonly RequestRow[] }) {
  const [reached, setReached] = useState(rows[0]!.trace_id);
  const body = useRef<HTMLTableSectionElement>(null);
  const at = Math.max(0, rows.findIndex((row) => row.trace_id === reached));
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter") return go(`/requests/${rows[at]!.trace_id}`);
    const steps: Record<string, number> = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, Home: -at, End: rows.length };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const to = Math.min(rows.length - 1, Math.max(0, at + step));
    setReached(rows[to]!.trace_id);
    (body.current!.children[to] as HTMLElement).focus();
  };
  return (
    <div class="panel table-box">
      <table class="requests">
        <thead>
          <tr>
            <th scope="col">Time</th><th scope="col">Model</th><th scope="col">Strategy</th><th scope="col">Key</th><th scope="col">Outcome</th>
            <th scope="col" class="n">Confidence</th><th scope="col" class="n">Samples</th><th scope="col" class="n">Tokens</th><th scope="col" class="n">Cost</th>
            <th scope="col" class="n">Took</th><th scope="col">Feedback</th>
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={onKeyDown}>
          {rows.map((row, place) => (
            <tr key={row.trace_id} tabIndex={place === at ? 0 : -1} onFocus={() => setReached(row.trace_id)} onClick={() => go(`/requests/${row.trace_id}`)}>
              <td class="time">{when(row.at)}</td>
              <td class="model"><a href={`#/requests/${row.trace_id}`} tabIndex={-1}>{row.model}</a></td>
              <td class="strategy"><code>{row.strategy}</code>{row.policy && <small>{row.policy}</small>}</td>
              <td class="key">{row.key || <span class="dim">none</span>}</td>
              <td class="outcome"><Outcome row={row} /></td>
              <td class="n confidence">{row.confidence === null ? <span class="dim">–</span> : percent(row.confidence)}</td>
              <td class="n samples">{count(row.samples)}</td>
              <td class="n tokens">{count(row.prompt_tokens + row.output_tokens)}</td>
              <td class="n cost">{row.cost_usd === null ? <span class="dim">unknown</span> : dollars(row.cost_usd)}</td>
              <td class="n took">{seconds(row.seconds)}</td>
              <td class="told">{toldWords(row)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Outcome({ row }: { row: RequestRow }) {
  if (row.status === 499) return <span class="tag warn">cancelled</span>;
  if (row.status >= 400) return <span class="tag bad">{row.status}{row.stop_reason ? ` ${reason(row.stop_reason)}` : ""}</span>;
  const early = ["budget", "deadline", "interrupted", "failed"].includes(row.stop_reason ?? "");
  return <span class={`tag ${early ? "warn" : "good"}`}>{row.stop_reason ? reason(row.stop_reason) : "answered"}</span>;
}

function toldWords(row: RequestRow): string {
  const { correct = null, score = null } = row.feedback ?? {};
  if (correct !== null) return correct ? "right" : "wrong";
  return score === null ? "" : `score ${score}`;
}
