import type { Node } from "../run/events";
import { scoreOf, stateOf } from "../run/events";
import type { Run, RunProps } from "../run/run";
import { type Surface, useCanvas } from "./canvas";

interface Place {
  readonly node: Node;
  readonly x: number;
  readonly y: number;
}

const MARGIN = 12;

interface Props extends RunProps {
  selected: string | null;
  onSelect: (key: string) => void;
}

/** The whole search at a glance, left to right. The outline beside it says the same in words. */
export function TreeMap({ run, selected, onSelect }: Props) {
  const layout = arrange(run.root);
  const canvas = useCanvas((surface) => draw(surface, run, layout, selected));

  const nearest = (event: MouseEvent): Place | null => {
    const { clientWidth, clientHeight } = canvas.current!;
    let [best, distance] = [null as Place | null, 18 ** 2];
    for (const place of layout.places.values()) {
      const [x, y] = scaled(place, layout, clientWidth, clientHeight);
      const away = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (away < distance && place.node.parent) [best, distance] = [place, away];
    }
    return best;
  };
  return (
    <canvas
      ref={canvas} class="treemap" aria-hidden="true"
      onClick={(event) => {
        const place = nearest(event);
        if (place) onSelect(place.node.key);
      }}
      onPointerMove={(event) => {
        const place = nearest(event);
        event.currentTarget.style.cursor = place ? "pointer" : "";
        event.currentTarget.title = place ? place.node.key : "";
      }}
    />
  );
}

interface Layout {
  readonly places: Map<Node, Place>;
  readonly depth: number;
  readonly leaves: number;
}

/** x is the depth, y the place among the leaves; a parent stands in the middle of its children. */
function arrange(root: Node): Layout {
  const places = new Map<Node, Place>();
  let [depth, leaves] = [1, 0];
  const stack: { node: Node; x: number; left: boolean }[] = [{ node: root, x: 0, left: false }];
  for (let at = stack.pop(); at; at = stack.pop()) {
    const { node, x, left } = at;
    if (!left && node.children.length > 0) {
      stack.push({ node, x, left: true });
      for (const child of node.children.toReversed()) stack.push({ node: child, x: x + 1, left: false });
      continue;
    }
    depth = Math.max(depth, x);
    const [first, last] = [node.children[0], node.children.at(-1)];
    const y = first && last ? (places.get(first)!.y + places.get(last)!.y) / 2 : leaves++;
    places.set(node, { node, x, y });
  }
  return { places, depth, leaves };
}

function pitch({ leaves }: Layout, height: number): number {
  return Math.min(22, (height - 2 * MARGIN) / Math.max(1, leaves - 1));
}

function scaled(place: Place, layout: Layout, width: number, height: number): [number, number] {
  const { depth, leaves } = layout;
  const row = pitch(layout, height);
  const top = (height - row * (leaves - 1)) / 2;
  return [MARGIN + (place.x * (width - 2 * MARGIN)) / depth, top + place.y * row];
}

function draw({ context, width, height, color }: Surface, run: Run, layout: Layout, selected: string | null): void {
  const [line, way, cut, base, ink, open] = ["--line-strong", "--accent", "--cut", "--panel", "--ink", "--dim"].map(color) as [string, string, string, string, string, string];
  const onWay = run.way;
  const spots = [...layout.places.values()].map((place) => [place.node, ...scaled(place, layout, width, height)] as const);
  const at = new Map(spots.map(([node, x, y]) => [node, [x, y] as const]));
  const curve = (node: Node) => {
    const [x0, y0] = at.get(node.parent!)!;
    const [x1, y1] = at.get(node)!;
    const bend = (x1 - x0) / 2;
    context.moveTo(x0, y0);
    context.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
  };
  const row = pitch(layout, height);
  const thin = Math.min(1.25, Math.max(0.2, row / 4)); // else a crowd of branches runs into one block
  const strokes: [string, number, (node: Node) => boolean][] = [
    [cut, Math.min(1, thin), (node) => node.cutReason !== null && !onWay.has(node)],
    [line, thin, (node) => node.cutReason === null && !onWay.has(node)],
    [way, 2.25, (node) => onWay.has(node)],
  ];
  for (const [stroke, weight, which] of strokes) {
    context.beginPath();
    for (const [node] of spots) if (node.parent && which(node)) curve(node);
    context.strokeStyle = stroke;
    context.lineWidth = weight;
    context.stroke();
  }
  const size = Math.min(4, Math.max(1.5, row / 2));
  for (const [node, x, y] of spots) {
    if (size < 2 && !onWay.has(node) && node.key !== selected) {
      context.fillStyle = node.cutReason === null ? open : cut; // too small for more
      context.fillRect(x - size / 2, y - size / 2, size, size);
      continue;
    }
    const what = stateOf(node);
    const score = scoreOf(node);
    context.beginPath();
    context.arc(x, y, what === "cut" ? size * 0.7 : onWay.has(node) ? size + 1 : size, 0, 2 * Math.PI);
    context.fillStyle = base;
    context.fill();
    if (what !== "cut") {
      context.globalAlpha = score === null ? 0 : 0.12 + 0.88 * Math.min(1, Math.max(0, score));
      context.fillStyle = onWay.has(node) ? way : open;
      context.fill();
      context.globalAlpha = 1;
    }
    context.strokeStyle = what === "cut" ? cut : onWay.has(node) ? way : open;
    context.lineWidth = what === "finished" ? 2 : 1;
    context.stroke();
    if (node.key === selected && node.parent) {
      context.beginPath();
      context.arc(x, y, size + 4, 0, 2 * Math.PI);
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.stroke();
    }
  }
}
