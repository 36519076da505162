import { useEffect, useState } from "preact/hooks";
import { entered, wantsKey } from "../access";

export interface Loaded<T> {
  readonly value: T | null;
  readonly error: Error | null;
  readonly reload: () => void;
}

/** Loads when `what` changes, when a key was accepted and, with `every` (ms), again and again while the page is seen. */
export function useLoaded<T>(load: (signal: AbortSignal) => Promise<T>, what: string, every?: number): Loaded<T> {
  const [loaded, setLoaded] = useState<{ what: string; value: T } | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [round, setRound] = useState(0);
  const reload = () => setRound((before) => before + 1);
  const accepted = entered.value;

  useEffect(() => {
    const abort = new AbortController();
    load(abort.signal).then(
      (value) => {
        setLoaded({ what, value });
        setError(null);
      },
      (trouble: Error) => {
        if (abort.signal.aborted) return;
        setError(trouble);
        wantsKey(trouble);
      },
    );
    return () => abort.abort();
  }, [what, round, accepted]);
  useEffect(() => {
    if (every === undefined || error) return; // after an error the person decides when to go on
    const timer = setInterval(() => document.hidden || reload(), every);
    return () => clearInterval(timer);
  }, [every, error]);
  return { value: loaded?.what === what ? loaded.value : null, error, reload };
}
