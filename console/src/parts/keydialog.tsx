import { useEffect, useRef, useState } from "preact/hooks";
import { asking, enter } from "../access";
import { key } from "../settings";

export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState("");
  const why = asking.value;

  useEffect(() => {
    if (why !== null && !dialog.current!.open) dialog.current!.showModal();
    if (why === null) dialog.current!.close();
  }, [why]);

  const submit = async (event: Event) => {
    event.preventDefault();
    key.value = typed.trim();
    setBusy(true);
    const error = await enter();
    setBusy(false);
    setTrouble(error?.message ?? "");
    if (!error && asking.value === null) setTyped("");
  };
  const forget = () => {
    key.value = "";
    setTyped("");
    void enter();
  };

  return (
    <dialog ref={dialog} aria-labelledby="key-title" onClose={() => (asking.value = null)} onKeyDown={(event) => event.stopPropagation()}>
      <form onSubmit={submit}>
        <h2 id="key-title">Key</h2>
        {(trouble || why) && <p class="notice" role="status">{trouble || why}</p>}
        <div class="field">
          <label for="key">API key</label>
          <input
            id="key" type="password" autocomplete="off" spellcheck={false} required value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
          <p class="note">Kept in this tab only, until it is closed.</p>
        </div>
        <div class="actions">
          <button type="submit" class="primary" disabled={busy}>Use key</button>
          <button type="button" onClick={() => (asking.value = null)}>Close</button>
          {key.value && <button type="button" class="plain" onClick={forget}>Forget key</button>}
        </div>
      </form>
    </dialog>
  );
}
