import { count, dollars } from "../format";

export interface BillRow {
  readonly purpose: string;
  readonly tokens: number;
  readonly calls: number;
  readonly cost: number | null;
}

/** Where tokens and money went. */
export function BillTable({ rows }: { rows: readonly BillRow[] }) {
  if (rows.length === 0) return null;
  return (
    <section class="panel">
      <h3>Spent on</h3>
      <table class="figures">
        <thead><tr><th scope="col">Purpose</th><th scope="col">Calls</th><th scope="col">Tokens</th><th scope="col">Cost</th></tr></thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.purpose}><th scope="row">{row.purpose}</th><td>{count(row.calls)}</td><td>{count(row.tokens)}</td><td>{dollars(row.cost)}</td></tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
