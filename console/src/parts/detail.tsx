import { count, dollars, seconds } from "../format";
import { finished, type Node, stepsTo } from "../run/events";
import { Icon } from "./icons";
import { NodeScore, Said, Score, stateWords } from "./marks";

/** All that is known of one node. */
export function Detail({ node, onSelect }: { node: Node; onSelect: (key: string | null) => void }) {
  const steps = stepsTo(node);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    onSelect(null);
  };
  return (
    <aside class="panel detail" aria-label={`Sample ${node.key}`} onKeyDown={onKeyDown}>
      <header>
        <h3>{node.whole ? "Reply" : "Step"} <span class="number">{node.key}</span></h3>
        <button type="button" class="plain square" aria-label="Close" onClick={() => onSelect(null)}><Icon name="close" /></button>
      </header>
      <p class="facts">
        <span>{stateWords(node)}</span>
        {node.finishReason && node.finishReason !== "step" && <span>finish reason {node.finishReason}</span>}
        <span>at {seconds(node.born)}</span>
        {node.outputTokens !== null && <span>{count(node.outputTokens)} tokens</span>}
      </p>
      {(node.answer || (node.answer === null && finished(node))) && <p class="line">Answer <Said answer={node.answer} /></p>}
      {node.text === undefined ? <p class="dim">Its text is not kept.</p> : <pre>{node.text.trim() || "(empty)"}</pre>}
      {steps.length > 1 && (
        <details>
          <summary>The reply up to here, {steps.length} steps</summary>
          <ol class="steps">
            {steps.map((step) => (
              <li key={step.key}>
                <button type="button" class="plain" aria-label={`Go to ${step.key}`} onClick={() => onSelect(step.key)}><NodeScore node={step} /></button>
                <pre>{step.text?.trim() ?? "not kept"}</pre>
              </li>
            ))}
          </ol>
        </details>
      )}
      {node.verdicts.map((verdict) => (
        <div class="verdict" key={`${verdict.t} ${verdict.verifier}`}>
          <h4>{verdict.verifier} <Score value={verdict.score} /></h4>
          <p>
            {verdict.score === null ? "Could not judge" : verdict.passed === true ? "Passed" : verdict.passed === false ? "Did not pass" : "No pass mark"}
            {verdict.reason && `: ${verdict.reason}`}
          </p>
          {verdict.steps.length > 1 && <p class="chain">{verdict.steps.map((one, place) => <Score key={place} value={one} />)}</p>}
        </div>
      ))}
      {node.trip && (
        <dl class="pairs">
          <dt>Travelled with</dt><dd>{node.trip.n - 1} others</dd>
          <dt>Prompt tokens</dt><dd>{count(node.trip.promptTokens)}</dd>
          <dt>of them cached</dt><dd>{count(node.trip.cachedTokens)}</dd>
          <dt>Output tokens, all {node.trip.n}</dt><dd>{count(node.trip.outputTokens)}</dd>
          <dt>Cost, all {node.trip.n}</dt><dd>{dollars(node.trip.cost)}</dd>
        </dl>
      )}
    </aside>
  );
}
