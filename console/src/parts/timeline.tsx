import { seconds } from "../format";
import type { Trip } from "../run/events";
import type { Run } from "../run/run";
import { type Surface, useCanvas } from "./canvas";

const TOP = 16;
const BOTTOM = 4;

/** Every trip to a model or verifier as a bar, and when the leading answer changed. Click to go to a time. */
export function Timeline({ whole, end, now, onSeek }: { whole: Run; end: number; now: number; onSeek: (t: number) => void }) {
  const lanes = stack(whole.trips, end);
  const canvas = useCanvas((surface) => draw(surface, whole, lanes, end, now));
  const seek = (event: PointerEvent) => onSeek((end * event.offsetX) / Math.max(1, canvas.current!.clientWidth));
  const purposes = [...new Set(whole.trips.map((trip) => trip.purpose))];
  return (
    <div class="timeline">
      <canvas
        ref={canvas} aria-hidden="true"
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          seek(event);
        }}
        onPointerMove={(event) => event.buttons === 1 && seek(event)}
      />
      <p class="legend">
        {purposes.map((purpose) => <span key={purpose} class={`swatch ${purpose === "verify" ? "verify" : "generate"}`}>{purpose}</span>)}
        {whole.offers.length > 0 && <span class="swatch offer">leading answer changed</span>}
        <span class="dim">{seconds(end)}</span>
      </p>
    </div>
  );
}

/** Each trip takes the first lane that is free when it starts. */
function stack(trips: readonly Trip[], end: number): { lane: readonly number[]; count: number } {
  const freeAt: number[] = [];
  const lane = trips.map((trip) => {
    const free = freeAt.findIndex((until) => until <= trip.start);
    const place = free < 0 ? freeAt.length : free;
    freeAt[place] = trip.end ?? end;
    return place;
  });
  return { lane, count: freeAt.length };
}

function draw({ context, width, height, color }: Surface, whole: Run, lanes: ReturnType<typeof stack>, end: number, now: number): void {
  const scale = width / Math.max(end, 1e-9);
  const pitch = Math.min(10, (height - TOP - BOTTOM) / Math.max(1, lanes.count));
  const thick = Math.max(1, pitch - (pitch > 3 ? 1.5 : 0));
  const [generate, verify, line, ink, dim] = ["--accent", "--second", "--line", "--ink", "--dim"].map(color) as [string, string, string, string, string];

  const tick = tickFor(end, width);
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "top";
  for (let t = 0; t <= end; t += tick) {
    context.fillStyle = line;
    context.fillRect(Math.round(t * scale), 0, 1, height);
    context.fillStyle = dim;
    if (t * scale < width - 30) context.fillText(`${Number(t.toPrecision(6))} s`, t * scale + 4, 1);
  }
  whole.trips.forEach((trip, at) => {
    const y = TOP + lanes.lane[at]! * pitch;
    const [from, to] = [trip.start, trip.end ?? end];
    const bar = (a: number, b: number, opacity: number) => {
      context.globalAlpha = opacity;
      context.fillRect(a * scale, y, Math.max(1, (b - a) * scale - 0.5), thick);
    };
    context.fillStyle = trip.purpose === "verify" ? verify : generate;
    if (from < now) bar(from, Math.min(to, now), 0.85);
    if (to > now) bar(Math.max(from, now), to, 0.2);
  });
  context.globalAlpha = 1;
  context.fillStyle = ink;
  let before: string | null | undefined;
  for (const offer of whole.offers) {
    if (offer.answer !== before || offer.answer === undefined) {
      context.beginPath();
      context.arc(offer.t * scale, TOP - 3, 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    before = offer.answer;
  }
  context.fillRect(Math.min(width - 1.5, now * scale), 0, 1.5, height);
}

function tickFor(end: number, width: number): number {
  const least = (end * 70) / Math.max(1, width);
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-6)));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= least) ?? 10);
}
