import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { asking } from "../access";
import { Refused } from "../api";

const TITLES: Record<number, string> = {
  400: "The request was refused",
  401: "A key is needed",
  402: "The budget is spent",
  403: "This key may not do that",
  404: "Not found",
  422: "The request was refused",
  429: "Too many requests",
  502: "The model behind the gateway failed",
  503: "The gateway is busy",
  504: "It took too long",
};

/** An error in plain words, with what one can do about it. */
export function ErrorNotice({ error, onRetry }: { error: Error; onRetry?: (() => void) | undefined }) {
  const status = error instanceof Refused ? error.status : 0;
  const wait = useCountdown(error instanceof Refused ? error.retryAfter : null);
  return (
    <div class="notice bad" role="alert">
      <strong>{TITLES[status] ?? "It did not work"}</strong>
      <p>{error.message}</p>
      <div class="actions">
        {(status === 401 || status === 403) && <button type="button" onClick={() => (asking.value = "")}>Use another key</button>}
        {onRetry && status !== 401 && (
          <button type="button" disabled={wait > 0} onClick={onRetry}>{wait > 0 ? `Try again in ${wait} s` : "Try again"}</button>
        )}
      </div>
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

function useCountdown(from: number | null): number {
  const [left, setLeft] = useState(Math.ceil(from ?? 0));
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return left;
}
