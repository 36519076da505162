// Bundles src/ into the folder that the gateway serves. Run by `npm run build`.

import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const OUT = "../src/thinkscale/serve/console";

await rm(OUT, { recursive: true, force: true });
await mkdir(OUT, { recursive: true });
await build({
  entryPoints: [
    { in: "src/main.tsx", out: "app" },
    { in: "src/styles/app.css", out: "app" },
  ],
  outdir: OUT,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // LICENSES.txt holds them whole
  logLevel: "info",
});
for (const file of ["index.html", "icon.svg"]) await copyFile(`src/${file}`, `${OUT}/${file}`);

const { dependencies } = JSON.parse(await readFile("package.json", "utf8"));
const bundled = [...Object.keys(dependencies), "@preact/signals-core"].sort();
const notes = [];
for (const name of bundled) {
  const { version, license } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  const text = await readFile(`node_modules/${name}/LICENSE`, "utf8");
  notes.push(`${name} ${version} (${license})\n\n${text.trim()}\n`);
}
const head = "The console (app.js, app.css) is part of thinkscale, under the Apache License 2.0, and contains these libraries.\n";
await writeFile(`${OUT}/LICENSES.txt`, [head, ...notes].join(`\n${"-".repeat(80)}\n\n`));
