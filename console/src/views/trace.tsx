import { useEffect, useMemo, useState } from "preact/hooks";
import { getRequest, type RequestDetail } from "../api";
import { count, dollars, percent, seconds, when } from "../format";
import { BillTable } from "../parts/bill";
import { Icon } from "../parts/icons";
import { useLoaded } from "../parts/load";
import { ErrorNotice } from "../parts/notice";
import { RunView } from "../parts/runview";
import { Thumbs } from "../parts/thumbs";
import { Timeline } from "../parts/timeline";
import type { TraceEvent } from "../run/events";
import { Replay } from "../run/replay";
import { go } from "../settings";
import { Outcome } from "./requests";

export function TraceView({ trace }: { trace: string }) {
  const { value, error, reload } = useLoaded((signal) => getRequest(trace, signal), trace);
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === "Escape") go("/requests");
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);
  return (
    <div class="page">
      <header class="bar">
        <a class="back" href="#/requests"><Icon name="back" /> Requests</a>
        <h1 class="id">{trace}</h1>
        {value?.events && <button type="button" class="plain" onClick={() => download(trace, value.events!)}><Icon name="download" /> Events</button>}
      </header>
      {error && <ErrorNotice error={error} onRetry={reload} />}
      {value && <Facts request={value} />}
      {value && (value.events && value.events.length > 0 ? <Recorded request={value} events={value.events} /> : <Unrecorded request={value} />)}
    </div>
  );
}

function Facts({ request }: { request: RequestDetail }) {
  const limits = Object.entries(request.budget).filter(([, limit]) => limit !== null);
  const facts: [string, preact.ComponentChildren][] = [
    ["Asked", when(request.at)],
    ["Model", request.model],
    ["Strategy", <code>{request.strategy}</code>],
    ["Policy", request.policy || "none"],
    ["Key", request.key || "none"],
    ["Outcome", <Outcome row={request} />],
    ["Confidence", request.confidence === null ? "unknown" : percent(request.confidence)],
    ["Tokens", `${count(request.prompt_tokens)} + ${count(request.output_tokens)}`],
    ["Cost", dollars(request.cost_usd)],
    ["Took", `${seconds(request.seconds)}${request.queue_s >= 0.01 ? `, ${seconds(request.queue_s)} waiting` : ""}`],
    ["Budget", limits.length > 0 ? limits.map(([name, limit]) => `${LIMIT_WORDS[name] ?? name} ${count(limit)}`).join(", ") : "no limit"],
  ];
  return (
    <dl class="panel fact-grid">
      {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
      <div><dt>Right?</dt><dd><Thumbs trace={request.trace_id} given={request.feedback?.correct ?? null} /></dd></div>
    </dl>
  );
}

const LIMIT_WORDS: Record<string, string> = {
  max_output_tokens: "output tokens", max_total_tokens: "tokens", max_cost_usd: "$", deadline_s: "seconds", max_calls: "calls",
};

function bills(request: RequestDetail) {
  return Object.entries(request.usage_by_purpose).map(([purpose, used]) => ({
    purpose, tokens: used.prompt_tokens + used.output_tokens, calls: used.calls, cost: used.cost_usd,
  }));
}

function Unrecorded({ request }: { request: RequestDetail }) {
  return (
    <>
      <p class="notice">No events of this request are kept.</p>
      <BillTable rows={bills(request)} />
    </>
  );
}

function Recorded({ request, events }: { request: RequestDetail; events: readonly TraceEvent[] }) {
  const [replay, whole] = useMemo(() => {
    const made = new Replay(events);
    return [made, made.run] as const;
  }, [events]);
  const [now, setNow] = useState(replay.end);
  const [selected, setSelected] = useState<string | null>(null);
  const [speed, setSpeed] = useState(1);
  const playing = usePlaying(now, replay.end, speed, setNow);
  replay.seek(now);
  const run = replay.run;
  const answer = run.outcome ? run.outcome.answer : run.offers.at(-1)?.answer;
  return (
    <>
      {!whole.contentKept && <p class="notice">Message content is not kept. Switch on <code>log_content</code> to see questions, replies and answers here.</p>}
      {whole.question && <section class="panel question"><h3>Question</h3><pre>{whole.question}</pre></section>}
      <section class="panel replay">
        <header>
          <h3>Replay</h3>
          <span class="dim" role="status">{seconds(now)} of {seconds(replay.end)} · {count(run.total.tokens)} tokens · {run.total.unpriced ? "cost unknown" : dollars(run.total.cost)}</span>
          {answer != null && <span class="leading">{run.outcome ? "answer" : "leading"} <b>{answer}</b></span>}
        </header>
        <Timeline whole={whole} end={replay.end} now={now} onSeek={(t) => { playing.stop(); setNow(Math.min(replay.end, Math.max(0, t))); }} />
        <div class="controls">
          <button type="button" class="square" aria-label={playing.on ? "Pause" : "Play"} onClick={playing.toggle}><Icon name={playing.on ? "pause" : "play"} /></button>
          <input
            type="range" aria-label="Time" min={0} max={replay.end} step={replay.end / 500} value={now} aria-valuetext={seconds(now)}
            onInput={(event) => { playing.stop(); setNow(event.currentTarget.valueAsNumber); }}
          />
          <select aria-label="Speed" value={speed} onInput={(event) => setSpeed(Number(event.currentTarget.value))}>
            {[0.25, 1, 4, 16].map((times) => <option key={times} value={times}>{times}×</option>)}
          </select>
        </div>
      </section>
      <RunView run={run} version={now} selected={selected} onSelect={setSelected}>
        <BillTable rows={bills(request)} />
      </RunView>
    </>
  );
}

/** Moves the time on by the clock while it is on; at the end it stops. */
function usePlaying(now: number, end: number, speed: number, setNow: (t: number) => void) {
  const [on, setOn] = useState(false);
  useEffect(() => {
    if (!on) return;
    let [frame, before, t] = [0, performance.now(), now >= end ? 0 : now];
    const step = (time: number) => {
      t = Math.min(end, t + (Math.max(0, time - before) / 1000) * speed);
      before = time;
      setNow(t);
      if (t >= end) setOn(false);
      else frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
    return () => cancelAnimationFrame(frame);
  }, [on, end, speed]);
  return { on, toggle: () => setOn(!on), stop: () => setOn(false) };
}

function download(trace: string, events: readonly TraceEvent[]): void {
  const lines = events.map((event) => `${JSON.stringify(event)}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = `${trace}.jsonl`;
  link.click();
  URL.revokeObjectURL(link.href);
}
