import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { isDark } from "../settings";
import { colorOf } from "./canvas";

interface Props {
  days: readonly string[];
  /** null where it is unknown: no bar is drawn, rather than an empty one. */
  values: readonly (number | null)[];
  show: (value: number) => string;
  axis: (value: number) => string;
  label: string;
}

const HEIGHT = 220;

export function DayChart({ days, values, show, axis: onAxis, label }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const dark = isDark();
  useEffect(() => {
    const element = box.current!;
    const [ink, grid, bar] = [colorOf("--dim"), colorOf("--line"), colorOf("--accent")];
    const axis = { stroke: ink, font: `11px ${getComputedStyle(element).fontFamily}`, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        legend: { show: false },
        padding: [8, 8, 0, 0],
        scales: { x: { time: false, range: [-0.6, days.length - 0.4] }, y: { range: (_, _min, max) => [0, max > 0 ? max * 1.08 : 1] } },
        axes: [
          { ...axis, grid: { show: false }, size: 28, splits: () => spread(days.length, Math.max(2, Math.floor(element.clientWidth / 90))), values: (_, at) => at.map((one) => dayWords(days[one])) },
          { ...axis, size: 62, values: (_, at) => at.map(onAxis) },
        ],
        series: [{}, { fill: bar, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.7, 40], radius: 0.12 }) }],
        hooks: { setCursor: [(one) => tell(one.cursor.idx ?? null)] },
      },
      [days.map((_, at) => at), [...values]],
      element,
    );
    const told = element.nextElementSibling as HTMLElement;
    const tell = (at: number | null) => {
      const value = at === null ? undefined : values[at];
      told.textContent = at === null || value === undefined ? "" : `${dayWords(days[at])}: ${value === null ? "unknown" : show(value)}`;
    };
    const watcher = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      plot.destroy();
    };
  }, [days, values, show, onAxis, dark]);
  return (
    <figure class="chart" aria-label={label}>
      <div ref={box} class="plot" />
      <figcaption class="dim" />
    </figure>
  );
}

function spread(days: number, most: number): number[] {
  const step = Math.max(1, Math.ceil(days / most));
  return Array.from({ length: Math.ceil(days / step) }, (_, at) => days - 1 - at * step).toReversed();
}

function dayWords(day: string | undefined): string {
  if (day === undefined) return "";
  return new Date(`${day}T00:00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}
