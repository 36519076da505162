import { useEffect, useRef } from "preact/hooks";
import { isDark } from "../settings";

export interface Surface {
  readonly context: CanvasRenderingContext2D;
  readonly width: number;
  readonly height: number;
  /** The colour behind a custom property, as the theme has it now. */
  color(name: string): string;
}

/** A canvas as sharp as the screen, drawn anew after each render and when its size or the theme changes. */
export function useCanvas(draw: (surface: Surface) => void) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const latest = useRef(draw);
  latest.current = draw;
  const dark = isDark();

  useEffect(() => {
    paint(canvas.current!, latest.current);
  });
  useEffect(() => {
    const element = canvas.current!;
    const watcher = new ResizeObserver(() => paint(element, latest.current));
    watcher.observe(element);
    return () => watcher.disconnect();
  }, [dark]);
  return canvas;
}

function paint(canvas: HTMLCanvasElement, draw: (surface: Surface) => void): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio;
  const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d")!;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  draw({ context, width, height, color: colorOf });
}

// A canvas cannot read var(); a hidden element can, and tells what light-dark() came to.
const probe = document.createElement("span");
probe.hidden = true;

export function colorOf(name: string): string {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
