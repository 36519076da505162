import type { TraceEvent } from "./events";
import { Run } from "./run";

/** A recorded run that can be looked at as it was at any time. */
export class Replay {
  run = new Run();
  readonly end: number;
  private next = 0;

  constructor(private readonly events: readonly TraceEvent[]) {
    this.end = events.at(-1)?.t ?? 0;
    this.seek(this.end);
  }

  /** Forwards it hears what is new; backwards it starts over, which takes a few milliseconds per 5,000 events. */
  seek(t: number): void {
    const last = this.events[this.next - 1];
    if (last && last.t > t) {
      this.run = new Run();
      this.next = 0;
    }
    for (let event = this.events[this.next]; event && event.t <= t; event = this.events[this.next]) {
      this.run.hear(event);
      this.next += 1;
    }
  }
}
