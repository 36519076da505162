import { count, oneLine, score as scoreText } from "../format";
import { type Node, scoreOf, type State, stateOf } from "../run/events";

/** A score with a bar under it; "?" where a verifier could not judge. */
export function Score({ value }: { value: number | null }) {
  return (
    <span class={value === null ? "score none" : "score"} title={value === null ? "could not be judged" : `score ${value}`}>
      {scoreText(value)}
      <span class="gauge"><span style={{ width: `${100 * Math.min(1, Math.max(0, value ?? 0))}%` }} /></span>
    </span>
  );
}

const WORDS: Record<State, string> = { live: "open", grown: "continued", finished: "finished", cut: "cut" };

export function stateWords(node: Node): string {
  const what = stateOf(node);
  return what === "cut" ? `cut: ${node.cutReason}` : WORDS[what];
}

export function NodeMark({ node, best }: { node: Node; best: boolean }) {
  return <span class={`mark ${best ? "best" : stateOf(node)}`} title={best ? "the best so far" : stateWords(node)} />;
}

/** The beginning of a node's text; where it is not kept, how long it was. */
export function Excerpt({ node }: { node: Node }) {
  if (node.text !== undefined) return <span class="text">{oneLine(node.text)}</span>;
  return <span class="text dim">{node.outputTokens === null ? node.key : `${count(node.outputTokens)} tokens`}</span>;
}

export function NodeScore({ node }: { node: Node }) {
  return node.verdicts.length > 0 ? <Score value={scoreOf(node)} /> : <span class="score" />;
}

export function Said({ answer }: { answer: string | null | undefined }) {
  if (answer === undefined) return null;
  return answer === null ? <span class="said none">no answer</span> : <span class="said">{answer}</span>;
}
