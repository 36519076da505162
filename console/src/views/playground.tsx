import { computed } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { modelNames, setup } from "../access";
import { ask, began, canAsk, cancel, chosen, ended, failure, form, type Limit, LIMITS, limitOf, phase, progress, reply, run, summary, traceId, usage, version as latest } from "../ask";
import { count, dollars, percent, reason, seconds } from "../format";
import type { RunProps } from "../run/run";
import { BillTable } from "../parts/bill";
import { Combobox } from "../parts/combobox";
import { Meters, useElapsed } from "../parts/meters";
import { ErrorNotice } from "../parts/notice";
import { RunView } from "../parts/runview";
import { Thumbs } from "../parts/thumbs";

export function Playground() {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === "Escape" && phase.value === "asking") cancel();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      void ask();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);
  return (
    <div class="playground">
      <AskForm />
      <Answering />
    </div>
  );
}

const models = computed(() =>
  modelNames.value.map((name) => {
    const price = setup.value?.models.find((model) => model.name === name)?.price;
    return { value: name, ...(price ? { hint: `$${price.replace("/", " / $")} per M tokens` } : {}) };
  }),
);
const policies = computed(() => {
  const allowed = setup.value?.models.find((model) => model.name === form.model.value)?.policies;
  return (setup.value?.policies ?? [])
    .filter((policy) => !allowed || allowed.includes(policy.name))
    .map((policy) => ({ value: policy.name, hint: policy.strategy }));
});
const strategies = computed(() => (setup.value?.strategies ?? []).map((one) => ({ value: one.name, hint: one.options })));
const VERIFIERS = ["arithmetic", "judge", "step-judge", "rollouts", "confidence"];
const verifiers = computed(() => {
  const used = (setup.value?.policies ?? []).map((policy) => policy.verifier).filter((word) => word !== null);
  return [...new Set([...used, ...(setup.value?.verifiers ?? VERIFIERS)])].map((value) => ({ value }));
});
const KINDS = ["auto", "number", "choice", "text", "expression", "code"];

function AskForm() {
  const question = useRef<HTMLTextAreaElement>(null);
  const asking = phase.value === "asking";
  const defaultPolicy = setup.value?.models.find((model) => model.name === form.model.value)?.policy;
  const options = setup.value?.strategies.find((one) => one.name === form.strategy.value.split(":")[0])?.options;
  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) question.current!.focus();
  }, []);
  useEffect(() => {
    if (!form.model.value && modelNames.value[0]) form.model.value = modelNames.value[0];
  }, [modelNames.value]);

  return (
    <form class="ask panel" aria-label="Ask" onSubmit={(event) => { event.preventDefault(); void ask(); }}>
      <div class="field">
        <label for="question">Question</label>
        <textarea
          id="question" ref={question} rows={6} placeholder="Ask something that takes some thought"
          value={form.question.value} onInput={(event) => (form.question.value = event.currentTarget.value)}
        />
      </div>
      <Combobox label="Model" value={form.model} options={models.value} />
      <div class="field">
        <div class="switch" role="radiogroup" aria-label="How to spend">
          {(["policy", "strategy"] as const).map((choice) => (
            <label key={choice}>
              <input type="radio" name="choice" checked={form.choice.value === choice} onChange={() => (form.choice.value = choice)} />
              <span>{choice === "policy" ? "Policy" : "Strategy"}</span>
            </label>
          ))}
        </div>
        {form.choice.value === "policy"
          ? <Combobox key="policy" label="Policy" value={form.policy} options={policies.value} placeholder={defaultPolicy ? `${defaultPolicy} (the model's own)` : "the model's own"} />
          : <Combobox key="strategy" label="Strategy" value={form.strategy} options={strategies.value} placeholder="such as self-consistency:n=8" note={options ? `Options: ${options}` : undefined} />}
      </div>
      <fieldset>
        <legend>Budget</legend>
        <div class="limits">{LIMITS.map((name) => <LimitField key={name} name={name} />)}</div>
        <Efforts />
      </fieldset>
      <div class="pair">
        <Combobox label="Verifier" value={form.verifier} options={verifiers.value} placeholder="the policy's" />
        <div class="field">
          <label for="kind">Answer is</label>
          <select id="kind" value={form.kind.value} onInput={(event) => (form.kind.value = event.currentTarget.value)}>
            {KINDS.map((kind) => <option key={kind} value={kind}>{kind}</option>)}
          </select>
        </div>
      </div>
      <div class="actions">
        {asking
          ? <button type="button" key="cancel" class="stop" onClick={cancel}>Cancel <kbd>Esc</kbd></button>
          : <button type="submit" key="ask" class="primary" disabled={!canAsk()}>Ask <kbd>Ctrl ↵</kbd></button>}
      </div>
    </form>
  );
}

const UNITS: Record<Limit, string> = { tokens: "Tokens", usd: "Dollars", seconds: "Seconds", calls: "Calls" };

function LimitField({ name }: { name: Limit }) {
  const wrong = limitOf(name) === undefined;
  return (
    <div class="field">
      <label for={`limit-${name}`}>{UNITS[name]}</label>
      <input
        id={`limit-${name}`} type="text" inputmode="decimal" autocomplete="off" placeholder="none" value={form.budget[name].value}
        aria-invalid={wrong} title={wrong ? `a ${name === "tokens" || name === "calls" ? "whole " : ""}number above 0` : undefined}
        onInput={(event) => (form.budget[name].value = event.currentTarget.value)}
      />
    </div>
  );
}

/** Budgets by name: a click fills the fields in. */
function Efforts() {
  const efforts = Object.entries(setup.value?.efforts ?? {});
  if (efforts.length === 0) return null;
  const fill = (words: string) => {
    const limits = Object.fromEntries(words.split(",").map((part) => part.trim().split("=")));
    for (const name of LIMITS) form.budget[name].value = limits[name] ?? "";
  };
  return (
    <p class="efforts">
      <span class="dim">Effort</span>
      {efforts.map(([name, words]) => <button key={name} type="button" class="chip" title={words} onClick={() => fill(words)}>{name}</button>)}
    </p>
  );
}

function Answering() {
  const now = latest.value;
  const top = useRef<HTMLDivElement>(null);
  const shown = run.value;
  const running = phase.value === "asking";
  const elapsed = useElapsed(running, began.value, ended.value);
  useEffect(() => {
    // On a phone the form fills the screen: what is to be watched is below it.
    if (running && matchMedia("(max-width: 860px)").matches) top.current?.scrollIntoView();
  }, [running]);
  if (phase.value === "idle") return <Welcome />;
  const begun = running || phase.value === "done" || shown.strategy !== "";
  const hasSamples = shown.nodes.size > 0 || shown.writing.size > 0;
  return (
    <div ref={top} class="answering" aria-busy={running}>
      {failure.value && <ErrorNotice error={failure.value} onRetry={() => void ask()} />}
      {phase.value === "cancelled" && <div class="notice" role="status"><strong>Cancelled</strong><p>The request was broken off; what it had asked of the model is stopped.</p></div>}
      {begun && (
        <section class="panel bottom-line">
          <Status running={running} run={shown} version={now} />
          <Meters run={shown} version={now} elapsed={summary.value?.seconds ?? elapsed} />
          <Answer run={shown} version={now} running={running} />
        </section>
      )}
      {hasSamples && (
        <RunView run={shown} version={now} selected={chosen.value} onSelect={(key) => (chosen.value = key)}>
          <BillTable rows={[...shown.purposes].map(([purpose, bill]) => ({ purpose, tokens: bill.tokens, calls: bill.calls, cost: bill.unpriced ? null : bill.cost }))} />
        </RunView>
      )}
    </div>
  );
}

function Status({ running, run: shown }: RunProps & { running: boolean }) {
  const strategy = summary.value?.strategy ?? shown.strategy;
  const stop = summary.value?.stop_reason ?? shown.outcome?.stopReason;
  const words = running ? (shown.outcome || reply.value ? "Writing the answer" : "Thinking") : phase.value === "done" ? `Done: ${reason(stop ?? "complete")}` : phase.value === "failed" ? "Failed" : "Cancelled";
  return (
    <header class="status">
      <span class={`pulse ${phase.value}`} />
      <strong role="status">{words}</strong>
      {strategy && <code>{strategy}</code>}
      {summary.value?.policy && <span class="dim">policy {summary.value.policy}</span>}
      <span class="progress dim" title={progress.value}>{running ? progress.value : ""}</span>
      {running && <button type="button" class="chip stop" onClick={cancel}>Stop</button>}
      {traceId.value && phase.value !== "asking" && <a href={`#/requests/${traceId.value}`}>Trace</a>}
    </header>
  );
}

function Answer({ run: shown, version, running }: RunProps & { running: boolean }) {
  const offer = shown.offers.at(-1);
  const settled = shown.outcome;
  const answer = settled ? settled.answer : offer?.answer;
  const sure = summary.value?.confidence ?? settled?.confidence ?? (settled ? null : offer?.value) ?? null;
  const text = reply.value.trim() || (running ? "" : shown.favourite?.text?.trim());
  if (answer == null && !text) return running ? <p class="answer waiting dim">No answer yet</p> : null;
  return (
    <div class={`answer${running && !settled ? " open" : ""}`}>
      <div class="top">
        <span class="label">{settled || reply.value || phase.value === "done" ? "Answer" : running ? "Leading answer" : "Best so far"}</span>
        {answer != null && answer.length <= 80 && <output class="big">{answer}</output>}
        <span class="confidence" title="how sure the strategy is of the answer">
          {sure !== null ? <>confidence <b>{percent(sure)}</b></> : settled ? "confidence unknown" : ""}
        </span>
        {!running && traceId.value && <Thumbs trace={traceId.value} />}
      </div>
      <Changes run={shown} version={version} />
      {text && text !== answer && <pre class="reply">{text}</pre>}
      {summary.value && (
        <p class="facts dim">
          {summary.value.cached && <span>from the cache</span>}
          <span>{count(summary.value.samples)} samples</span>
          <span>{dollars(summary.value.cost_usd)}</span>
          <span>{seconds(summary.value.seconds)}</span>
          {usage.value && <span>{count(usage.value.prompt_tokens)} prompt and {count(usage.value.completion_tokens)} output tokens</span>}
        </p>
      )}
    </div>
  );
}

/** How the leading answer changed, oldest first. */
function Changes({ run: shown }: RunProps) {
  const changes = shown.offers.map((offer) => offer.answer ?? null).filter((said, at, all) => said !== null && said !== all[at - 1]);
  if (changes.length < 2) return null;
  return <p class="changes">{changes.slice(-6).map((said, at) => <span key={at}>{said}</span>)}</p>;
}

function Welcome() {
  return (
    <div class="welcome">
      <h1>Ask, and watch it think</h1>
      <p>Each question is tried many ways under the budget you set. Candidates, votes and the bill show here as they come.</p>
      <dl class="keys">
        <dt><kbd>Ctrl</kbd> <kbd>↵</kbd></dt><dd>ask</dd>
        <dt><kbd>Esc</kbd></dt><dd>cancel</dd>
        <dt><kbd>1</kbd> – <kbd>4</kbd></dt><dd>change the view</dd>
        <dt><kbd>/</kbd></dt><dd>filter requests</dd>
      </dl>
    </div>
  );
}
