import type { ComponentChildren } from "preact";
import { setup } from "../access";
import { getKeys, type Key } from "../api";
import { compact, dollars, when } from "../format";
import { useLoaded } from "../parts/load";
import { Empty, ErrorNotice } from "../parts/notice";

export function Policies() {
  const { value: keys, error, reload } = useLoaded((signal) => getKeys(signal), "keys");
  const known = setup.value;
  return (
    <div class="page">
      <header class="bar"><h1>Policies</h1>{known && <span class="dim">thinkscale {known.version} · message content is {known.log_content ? "kept" : "not kept"}</span>}</header>
      {error && <ErrorNotice error={error} onRetry={reload} />}
      {known && (
        <>
          <Listing title="Models" head={["Name", "Own policy", "Policies", "Price"]} rows={known.models.map((model) => [
            model.name, model.policy || "none", words(model.policies), model.price ? `$${model.price.replace("/", " in, $")} out, per M tokens` : <span class="dim">unknown</span>,
          ])} />
          <Listing title="Policies" head={["Name", "Strategy", "Budget", "Verifier", "Answers"]} rows={known.policies.map((policy) => [
            policy.name, <code>{policy.strategy}</code>, budgetWords(policy.budget), policy.verifier ?? "none", policy.kind ?? "auto",
          ])} />
        </>
      )}
      {keys && <Listing title="Keys" head={["Name", "Role", "Models", "Policies", "Limits", "Made"]} none="No keys yet." rows={keys.keys.map((one) => [
        one.name, one.revoked_at !== null ? <span class="tag bad">revoked</span> : one.admin ? <span class="tag">admin</span> : "client",
        one.models ? words(one.models) : "all", one.policies ? words(one.policies) : "all", limitWords(one), when(one.created_at),
      ])} />}
      {known && (
        <>
          <Listing title="Efforts" head={["Effort", "Budget"]} rows={Object.entries(known.efforts).map(([name, budget]) => [name, <code>{budget}</code>])} />
          <Listing title="Strategies" head={["Name", "Options"]} rows={known.strategies.map((one) => [one.name, one.options ? <code>{one.options}</code> : <span class="dim">none</span>])} />
        </>
      )}
    </div>
  );
}

interface ListingProps {
  title: string;
  head: readonly string[];
  rows: readonly (readonly ComponentChildren[])[];
  none?: string;
}

function Listing({ title, head, rows, none = "None." }: ListingProps) {
  return (
    <section class="panel">
      <h3>{title}</h3>
      {rows.length === 0 ? <Empty>{none}</Empty> : (
        <div class="table-box">
          <table class="listing">
            <thead><tr>{head.map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
            <tbody>
              {rows.map((row, at) => (
                <tr key={at}>{row.map((cell, place) => (place === 0 ? <th key={place} scope="row">{cell}</th> : <td key={place} data-name={head[place]}>{cell}</td>))}</tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

const words = (names: readonly string[]) => (names.length > 0 ? names.join(", ") : "none");

function budgetWords(budget: string | Record<string, number | null> | null): ComponentChildren {
  if (budget === null) return "no limit";
  const text = typeof budget === "string" ? budget : Object.entries(budget).filter(([, limit]) => limit !== null).map(([name, limit]) => `${name}=${limit}`).join(",");
  return text ? <code>{text}</code> : "no limit";
}

const PERIODS: Record<string, (limit: number) => string> = {
  requests_per_minute: (limit) => `${compact(limit)} requests a minute`,
  tokens_per_minute: (limit) => `${compact(limit)} tokens a minute`,
  tokens_per_day: (limit) => `${compact(limit)} tokens a day`,
  tokens_per_month: (limit) => `${compact(limit)} tokens a month`,
  usd_per_day: (limit) => `${dollars(limit)} a day`,
  usd_per_month: (limit) => `${dollars(limit)} a month`,
};

function limitWords(one: Key): string {
  const set = Object.entries(one.limits).filter((entry): entry is [string, number] => entry[1] !== null);
  return set.length > 0 ? set.map(([name, limit]) => PERIODS[name]?.(limit) ?? `${name} ${limit}`).join(", ") : "none";
}
