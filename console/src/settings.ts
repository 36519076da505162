/** What the person chose for this page: the key (gone when the tab is), the theme, where they are. */

import { effect, signal } from "@preact/signals";

const KEY = "thinkscale.key";
const THEME = "thinkscale.theme";

export type Theme = "auto" | "light" | "dark";
const THEMES: readonly string[] = ["auto", "light", "dark"];

export const key = signal(sessionStorage.getItem(KEY) ?? "");
effect(() => {
  if (key.value) sessionStorage.setItem(KEY, key.value);
  else sessionStorage.removeItem(KEY);
});

const kept = localStorage.getItem(THEME) ?? "auto";
export const theme = signal<Theme>(THEMES.includes(kept) ? (kept as Theme) : "auto");
effect(() => {
  localStorage.setItem(THEME, theme.value);
  document.documentElement.dataset.theme = theme.value;
});

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(systemDark.matches);
systemDark.addEventListener("change", () => (systemIsDark.value = systemDark.matches));

export function isDark(): boolean {
  return theme.value === "dark" || (theme.value === "auto" && systemIsDark.value);
}

export const route = signal(location.hash.slice(1) || "/");
addEventListener("hashchange", () => (route.value = location.hash.slice(1) || "/"));

export function go(path: string): void {
  location.hash = path;
}
