import { percent, score as scoreText } from "../format";
import type { RunProps } from "../run/run";

const MOST = 12;

/** How many replies gave each answer. The bar of the leading one stands out. */
export function Votes({ run }: RunProps) {
  const votes = run.votes;
  if (votes.length === 0) return null;
  const total = votes.reduce((sum, vote) => sum + vote.replies, 0);
  const leading = run.outcome?.answer ?? run.offers.at(-1)?.answer;
  const rest = votes.slice(MOST).reduce((sum, vote) => sum + vote.replies, 0);
  return (
    <section class="panel votes">
      <h3>Vote <span class="dim">{total} {total === 1 ? "reply" : "replies"}</span></h3>
      <ol>
        {votes.slice(0, MOST).map((vote) => (
          <li key={vote.answer ?? "\u0000"} class={vote.answer !== null && vote.answer === leading ? "leads" : ""}>
            <span class="choice" title={vote.answer ?? ""}>{vote.answer ?? <em>no answer</em>}</span>
            <span class="replies">{vote.replies}</span>
            <span class="share">{percent(vote.replies / total)}</span>
            <span class="bar"><span style={{ transform: `scaleX(${vote.replies / total})` }} /></span>
            {vote.score !== null && <span class="top-score">best score {scoreText(vote.score)}</span>}
          </li>
        ))}
      </ol>
      {rest > 0 && <p class="dim">{rest} more, on {votes.length - MOST} other answers</p>}
    </section>
  );
}
