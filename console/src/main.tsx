import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { asking as askingForKey, enter } from "./access";
import { phase } from "./ask";
import { Icon } from "./parts/icons";
import { KeyDialog } from "./parts/keydialog";
import { ErrorNotice } from "./parts/notice";
import { go, key, route, theme, type Theme } from "./settings";
import { Playground } from "./views/playground";
import { Policies } from "./views/policies";
import { Requests } from "./views/requests";
import { SpendView } from "./views/spend";
import { TraceView } from "./views/trace";

const VIEWS = [
  ["/", "Playground"],
  ["/requests", "Requests"],
  ["/spend", "Spend"],
  ["/policies", "Policies"],
] as const;
const NEXT_THEME: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
const THEME_ICON = { auto: "auto", light: "sun", dark: "moon" } as const;

const trouble = signal<Error | null>(null);

async function start(): Promise<void> {
  trouble.value = await enter();
}

function App() {
  const here = VIEWS.findLast(([path]) => route.value.startsWith(path)) ?? VIEWS[0];
  useEffect(() => {
    document.title = here[0] === "/" ? "thinkscale" : `${here[1]} · thinkscale`;
  }, [here]);
  return (
    <>
      <header class="top-bar">
        <a class="brand" href="#/"><img src="icon.svg" alt="" width="20" height="20" />thinkscale</a>
        <nav aria-label="Views">
          {VIEWS.map(([path, name]) => (
            <a key={path} href={`#${path}`} aria-current={path === here[0] ? "page" : undefined}>
              {name}
              {path === "/" && phase.value === "asking" && <span class="pulse asking" aria-label="running" />}
            </a>
          ))}
        </nav>
        <button type="button" class="plain" onClick={() => (askingForKey.value = "")}><Icon name="key" /><span class="word">{key.value ? "Key set" : "Key"}</span></button>
        <button type="button" class="plain square" aria-label={`Theme: ${theme.value}`} title={`Theme: ${theme.value}`} onClick={() => (theme.value = NEXT_THEME[theme.value])}><Icon name={THEME_ICON[theme.value]} /></button>
      </header>
      <main>
        {trouble.value && <ErrorNotice error={trouble.value} onRetry={() => void start()} />}
        <View />
      </main>
      <KeyDialog />
    </>
  );
}

function View() {
  const [, name, rest] = route.value.split("/");
  if (name === "requests" && rest) return <TraceView key={rest} trace={decodeURIComponent(rest)} />;
  if (name === "requests") return <Requests />;
  if (name === "spend") return <SpendView />;
  if (name === "policies") return <Policies />;
  return <Playground />;
}

addEventListener("keydown", (event) => {
  const typing = event.target instanceof Element && event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) go(view[0]);
});

render(<App />, document.body);
void start();
