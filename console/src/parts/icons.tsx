/** Line icons on a 16-unit grid; always beside words or under an aria-label. */

const PATHS = {
  key: "M9.8 6.2a3.2 3.2 0 1 0-2.6 3.1L8.4 10.5h1.4v1.4h1.4v1.6h2.3v-2.2L9.5 7.5c.2-.4.3-.8.3-1.3ZM5.6 6h.01",
  sun: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6ZM8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M3.4 12.6l.9-.9M11.7 4.3l.9-.9",
  moon: "M13.2 9.6A5.6 5.6 0 0 1 6.4 2.8a5.6 5.6 0 1 0 6.8 6.8Z",
  auto: "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2ZM8 2.2v11.6M8 5.2h4.9M8 8h5.7M8 10.8h4.9",
  up: "M5.2 7.2 8 2c1 0 1.7.8 1.5 1.8L9 6.2h3.4c.8 0 1.4.8 1.2 1.6l-1 4.2c-.1.7-.7 1.1-1.4 1.1H5.2M5.2 7.2v5.9M5.2 7.2H2.6v5.9h2.6",
  down: "M5.2 8.8 8 14c1 0 1.7-.8 1.5-1.8L9 9.8h3.4c.8 0 1.4-.8 1.2-1.6l-1-4.2c-.1-.7-.7-1.1-1.4-1.1H5.2M5.2 8.8V2.9M5.2 8.8H2.6V2.9h2.6",
  close: "M4 4l8 8M12 4l-8 8",
  chevron: "M4.5 6.5 8 10l3.5-3.5",
  play: "M5 3.2v9.6L12.6 8 5 3.2Z",
  pause: "M5.2 3.2v9.6M10.8 3.2v9.6",
  back: "M9.8 3.8 5.6 8l4.2 4.2",
  download: "M8 2.5v7.6M4.9 7.2 8 10.3l3.1-3.1M3 13.2h10",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
