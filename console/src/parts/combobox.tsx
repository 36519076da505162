import type { Signal } from "@preact/signals";
import { useId, useState } from "preact/hooks";
import { Icon } from "./icons";

export interface Option {
  readonly value: string;
  readonly hint?: string;
}

interface Props {
  label: string;
  value: Signal<string>;
  options: readonly Option[];
  placeholder?: string;
  note?: string | undefined;
}

/** A text field that shows what is known to fit; any other text may be typed. */
export function Combobox({ label, value, options, placeholder, note }: Props) {
  const id = useId();
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState(false);
  const [active, setActive] = useState(-1);
  const needle = typed ? value.value.trim().toLowerCase() : "";
  const fitting = options.filter((option) => option.value.toLowerCase().includes(needle));
  const listed = open && fitting.length > 0;

  const show = () => {
    setOpen(true);
    setTyped(false);
    setActive(fitting.findIndex((option) => option.value === value.value));
  };
  const pick = (option: Option) => {
    value.value = option.value;
    setOpen(false);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!listed) return show();
      const step = event.key === "ArrowDown" ? 1 : -1;
      setActive((active + step + fitting.length) % fitting.length);
    } else if (event.key === "Enter" && listed && !event.ctrlKey && !event.metaKey && fitting[active]) {
      event.preventDefault();
      pick(fitting[active]);
    } else if (event.key === "Enter") {
      setOpen(false);
    } else if (event.key === "Escape" && listed) {
      event.stopPropagation();
      setOpen(false);
    }
  };

  return (
    <div class="field combobox">
      <label for={id}>{label}</label>
      <div class="box">
        <input
          id={id} type="text" role="combobox" autocomplete="off" spellcheck={false} placeholder={placeholder}
          aria-expanded={listed} aria-controls={`${id}-list`} aria-autocomplete="list"
          aria-activedescendant={listed && active >= 0 ? `${id}-${active}` : undefined}
          value={value.value}
          onInput={(event) => {
            value.value = event.currentTarget.value;
            setOpen(true);
            setTyped(true);
            setActive(-1);
          }}
          onClick={() => !open && show()} onBlur={() => setOpen(false)} onKeyDown={onKeyDown}
        />
        <Icon name="chevron" />
        <ul id={`${id}-list`} role="listbox" aria-label={label} hidden={!listed}>
          {listed && fitting.map((option, at) => (
            <li
              key={option.value} id={`${id}-${at}`} role="option" aria-selected={at === active}
              ref={(element) => { if (at === active) element?.scrollIntoView({ block: "nearest" }); }}
              onPointerDown={(event) => { event.preventDefault(); pick(option); }}
            >
              <span>{option.value}</span>
              {option.hint && <small>{option.hint}</small>}
            </li>
          ))}
        </ul>
      </div>
      {note && <p class="note">{note}</p>}
    </div>
  );
}
