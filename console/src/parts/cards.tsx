import type { Node } from "../run/events";
import { stateOf } from "../run/events";
import type { RunProps } from "../run/run";
import { Excerpt, NodeMark, NodeScore, Said, stateWords } from "./marks";

interface Props extends RunProps {
  selected: string | null;
  onSelect: (key: string | null) => void;
}

/** Whole replies side by side, as they arrive; those being written stand empty. */
export function Cards({ run, selected, onSelect }: Props) {
  const favourite = run.favourite;
  const leading = run.outcome?.answer ?? run.offers.at(-1)?.answer;
  return (
    <ul class="cards" aria-label="Candidates">
      {run.root.children.map((node) => (
        <li key={node.key}>
          <Card
            node={node} best={node === favourite} agrees={node.answer != null && node.answer === leading}
            selected={node.key === selected} onSelect={() => onSelect(node.key === selected ? null : node.key)}
          />
        </li>
      ))}
      {[...run.writing].filter((key) => !run.nodes.has(key)).map((key) => (
        <li key={key}>
          <div class="card ghost"><span class="number">{key}</span><span class="dim">writing</span></div>
        </li>
      ))}
    </ul>
  );
}

function Card({ node, best, agrees, selected, onSelect }: { node: Node; best: boolean; agrees: boolean; selected: boolean; onSelect: () => void }) {
  return (
    <button
      type="button" class={`card ${stateOf(node)}${agrees ? " agrees" : ""}`} aria-pressed={selected} onClick={onSelect}
      aria-label={`Candidate ${node.key}, ${best ? "the best so far, " : ""}${stateWords(node)}${node.answer ? `, answer ${node.answer}` : ""}`}
    >
      <span class="top">
        <NodeMark node={node} best={best} />
        <span class="number">{node.key}</span>
        <NodeScore node={node} />
        <Said answer={node.answer} />
      </span>
      <Excerpt node={node} />
    </button>
  );
}
