// The table of `npm start`. SQL makes every number and every text of it; this only lines them up.
import { z } from "zod";
import { type Db, systemCall } from "./db.ts";

/** A connection of holdfast_ops. */
export type Ops = Pick<Db, "pool">;

const Line = z.object({
  tenant: z.string(),
  tier: z.string(),
  rows: z.string(),
  flags: z.string(),
  findings: z.string(),
  saving: z.string(),
  reserved: z.string(),
  settled: z.string(),
  left: z.string(),
  state: z.string(),
});
type Line = z.infer<typeof Line>;

const HEADINGS: Line = {
  tenant: "tenant",
  tier: "tier",
  rows: "rows imported",
  flags: "flagged",
  findings: "findings",
  saving: "saving / month",
  reserved: "LLM reserved",
  settled: "settled",
  left: "budget left",
  state: "state",
};
const LEFT_ALIGNED: ReadonlySet<string> = new Set(["tenant", "tier", "state"]);

/** The report as lines for a terminal: one per tenant, and what the columns mean. */
export async function reportTable(ops: Ops): Promise<string> {
  const lines = await systemCall(
    ops,
    `select tenant, tier, rows, flags, findings, saving, reserved, settled, "left", state
     from ops.report_text`,
    [],
    Line,
  );
  return [...grid([HEADINGS, ...lines]), "", ...MEANING].join("\n");
}

const MEANING = [
  "flagged: lines with a data-quality flag (ops.imports tells which).   " +
    "saving: what increases that still run cost",
  "a month, if they went back; - where it is not known.   " +
    "LLM money is US dollars: held before the call, then cost.",
];

/** The report as one JSON document, exactly as SQL wrote it: `{"tenants": [...]}`. */
export async function reportJson(ops: Ops): Promise<string> {
  const rows = await systemCall(
    ops,
    "select json_build_object('tenants', coalesce(json_agg(r), '[]'))::text as document from ops.report as r",
    [],
    z.object({ document: z.string() }),
  );
  return rows[0]?.document ?? "";
}

/** How many runs there are that have not ended, and that have; of one tenant, or of all. */
export async function runsLeft(ops: Ops, tenantId?: string): Promise<{ live: number; ended: number }> {
  const [counts] = await systemCall(
    ops,
    `select count(*) filter (where state not in ('COMPLETED', 'DEAD_LETTER')) as live,
            count(*) filter (where state in ('COMPLETED', 'DEAD_LETTER')) as ended
     from ops.jobs
     where $1::uuid is null or tenant = (select left(t.tenant, 14) from ops.tenants as t where t.tenant_id = $1)`,
    [tenantId ?? null],
    z.object({ live: z.coerce.number(), ended: z.coerce.number() }),
  );
  return counts!;
}

function grid(lines: Line[]): string[] {
  const columns = Object.keys(HEADINGS) as (keyof Line)[];
  const widths = new Map(
    columns.map((column) => [column, Math.max(...lines.map((line) => line[column].length))]),
  );
  const drawn = lines.map((line) =>
    columns
      .map((column) => {
        const width = widths.get(column) ?? 0;
        return LEFT_ALIGNED.has(column) ? line[column].padEnd(width) : line[column].padStart(width);
      })
      .join("  ")
      .trimEnd(),
  );
  const rule = columns.map((column) => "─".repeat(widths.get(column) ?? 0)).join("  ");
  return [drawn[0] ?? "", rule, ...drawn.slice(1)];
}
