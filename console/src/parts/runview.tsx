import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { count } from "../format";
import type { Run, RunProps } from "../run/run";
import { Cards } from "./cards";
import { Detail } from "./detail";
import { Outline } from "./outline";
import { TreeMap } from "./treemap";
import { Votes } from "./votes";

const MOST_CARDS = 64;

interface Props extends RunProps {
  selected: string | null;
  onSelect: (key: string | null) => void;
  children?: ComponentChildren;
}

/** Samples or the search tree, the vote, and one sample from near. */
export function RunView({ run, version, selected, onSelect, children }: Props) {
  const [showCut, setShowCut] = useState(true);
  const node = selected === null ? undefined : run.nodes.get(selected);
  const tree = run.grows;
  return (
    <div class="run">
      <section class="panel samples">
        <header>
          <h3>{tree ? "Search" : "Candidates"}</h3>
          <span class="dim">{tally(run)}</span>
          {tree && run.favourite && <button type="button" class="chip" onClick={() => onSelect(run.favourite!.key)}>Go to the best</button>}
          {tree && <label class="check"><input type="checkbox" checked={showCut} onInput={(event) => setShowCut(event.currentTarget.checked)} /> Cut branches</label>}
        </header>
        {tree && <TreeMap run={run} version={version} selected={selected} onSelect={onSelect} />}
        {tree || run.nodes.size > MOST_CARDS
          ? <Outline run={run} version={version} showCut={showCut} selected={selected} onSelect={onSelect} />
          : <Cards run={run} version={version} selected={selected} onSelect={onSelect} />}
        {run.failures.map((failure) => (
          <p key={failure.t} class="failed">{failure.samples} {failure.samples === 1 ? "sample" : "samples"} failed{failure.error ? `: ${failure.error}` : ""}</p>
        ))}
      </section>
      <div class="side">
        {node && <Detail node={node} onSelect={onSelect} />}
        <Votes run={run} version={version} />
        {children}
      </div>
    </div>
  );
}

function tally(run: Run): string {
  const parts = run.grows ? [`${count(run.nodes.size)} nodes`, `${count(run.pruned)} cut`, `${count(run.samples)} replies`] : [`${count(run.samples)} arrived`];
  if (run.writing.size > 0) parts.push(`${count(run.writing.size)} being written`);
  return parts.join(" · ");
}
