import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type Node, stateOf } from "../run/events";
import { type Row, rowsOf } from "../run/rows";
import type { RunProps } from "../run/run";
import { Excerpt, NodeMark, NodeScore, Said, stateWords } from "./marks";

const HEIGHT = 30;
const SPARE = 8;

interface Props extends RunProps {
  showCut: boolean;
  selected: string | null;
  onSelect: (key: string | null) => void;
}

/** The tree in words, one line a node. Only the lines in sight exist, so that thousands cost nothing. */
export function Outline({ run, showCut, selected, onSelect }: Props) {
  const id = useId();
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(400);
  const rows = rowsOf(run.root, showCut);
  const way = run.way;
  const favourite = run.favourite;
  const at = rows.findIndex((row) => row.node.key === selected);

  useEffect(() => {
    const element = box.current!;
    const watcher = new ResizeObserver(() => setRoom(element.clientHeight));
    watcher.observe(element);
    return () => watcher.disconnect();
  }, []);
  useLayoutEffect(() => {
    const { scrollTop, clientHeight } = box.current!;
    if (at < 0) return;
    if (at * HEIGHT < scrollTop) box.current!.scrollTop = at * HEIGHT;
    else if ((at + 1) * HEIGHT > scrollTop + clientHeight) box.current!.scrollTop = (at + 1) * HEIGHT - clientHeight;
  }, [selected]);

  const first = Math.max(0, Math.floor(top / HEIGHT) - SPARE);
  const shown = rows.slice(first, Math.ceil((top + room) / HEIGHT) + SPARE);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape" && selected !== null) {
      event.stopPropagation();
      return onSelect(null);
    }
    const to = target(event.key, rows, at);
    if (!to) return;
    event.preventDefault();
    onSelect(to.key);
  };
  return (
    <div
      ref={box} class={run.judged ? "outline judged" : "outline"} role="tree" tabIndex={0} aria-label="Samples"
      aria-activedescendant={at >= 0 ? `${id}-${selected}` : undefined}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)} onKeyDown={onKeyDown}
    >
      <div class="lines" style={{ height: `${rows.length * HEIGHT}px` }}>
        {shown.map((row, place) => (
          <Line
            key={row.node.key} id={`${id}-${row.node.key}`} row={row} y={(first + place) * HEIGHT} way={way.has(row.node)}
            best={row.node === favourite} selected={row.node.key === selected} onSelect={onSelect}
          />
        ))}
      </div>
    </div>
  );
}

interface LineProps {
  id: string;
  row: Row;
  y: number;
  way: boolean;
  best: boolean;
  selected: boolean;
  onSelect: (key: string) => void;
}

function Line({ id, row: { node, guides }, y, way, best, selected, onSelect }: LineProps) {
  return (
    <div
      id={id} role="treeitem" aria-selected={selected} aria-level={node.path.length} aria-label={`${node.key}, ${stateWords(node)}`}
      class={`row ${stateOf(node)}${way ? " way" : ""}`} style={{ transform: `translateY(${y}px)` }} onClick={() => onSelect(node.key)}
    >
      {[...guides].map((guide, level) => <span key={level} class={`guide ${GUIDES[guide]}`} />)}
      <NodeMark node={node} best={best} />
      <NodeScore node={node} />
      <Excerpt node={node} />
      {node.answer !== null && <Said answer={node.answer} />}
    </div>
  );
}

const GUIDES: Record<string, string> = { "|": "on", "+": "fork", L: "end", " ": "" };

function target(key: string, rows: readonly Row[], at: number): Node | undefined {
  if (rows.length === 0) return undefined;
  const page = 12;
  const places: Record<string, number> = {
    ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), PageDown: at + page, PageUp: at - page, Home: 0, End: rows.length - 1,
  };
  const node = rows[at]?.node;
  if (key === "ArrowLeft") return node?.parent?.parent ? node.parent : undefined;
  if (key === "ArrowRight") return node?.children[0];
  const place = places[key];
  return place === undefined ? undefined : rows[Math.min(rows.length - 1, Math.max(0, place))]!.node;
}
