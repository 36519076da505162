import { useEffect, useState } from "preact/hooks";
import { postFeedback } from "../api";
import { Icon } from "./icons";

/** Thumbs: was the answer right? Told to the gateway at once. */
export function Thumbs({ trace, given }: { trace: string; given?: boolean | null }) {
  const [told, setTold] = useState<boolean | null>(given ?? null);
  const [trouble, setTrouble] = useState("");
  useEffect(() => setTold(given ?? null), [trace, given]);
  const tell = async (correct: boolean) => {
    setTrouble("");
    try {
      await postFeedback(trace, correct);
      setTold(correct);
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  return (
    <span class="thumbs" role="group" aria-label="Was the answer right?">
      <button type="button" class="plain square" aria-label="Right" aria-pressed={told === true} title="The answer is right" onClick={() => tell(true)}><Icon name="up" /></button>
      <button type="button" class="plain square" aria-label="Wrong" aria-pressed={told === false} title="The answer is wrong" onClick={() => tell(false)}><Icon name="down" /></button>
      <span class="dim" role="status">{trouble || (told !== null && told !== (given ?? null) ? "Thank you" : "")}</span>
    </span>
  );
}
