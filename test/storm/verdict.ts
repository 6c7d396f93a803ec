// What is to be found after a storm: nothing. What clients were told is compared with what the database has.
import { withClient } from "../../src/migrate.ts";
import type { StormServer } from "./server.ts";

/** Something that must not be: how often it was found, and some of it. */
export type Check = { check: string; found: number; proof: unknown[] };

/** A hold with its key; amounts in nano-USD. */
export type HoldRow = {
  id: string;
  tenant_id: string;
  status: string;
  held: string;
  settled: string;
  key: string;
};

const PROOFS = 5;

/** A check with what it has found. */
export function checkOf(check: string, found: readonly unknown[]): Check {
  return { check, found: found.length, proof: found.slice(0, PROOFS) };
}

/** What the database itself has to say. */
export async function booksOf(server: StormServer): Promise<Check[]> {
  return withClient(server.superuser, async (superuser) => {
    const rows = async (text: string) => (await superuser.query(text)).rows;
    return [
      checkOf("app.llm_check() finds something", await rows("select * from app.llm_check()")),
      checkOf("a budget is above its limit and recorded over-runs", await rows(OVER)),
      checkOf("a key has two holds, or none; a hold has two keys, or none", await rows(KEYS)),
      checkOf("what is spent is not what the usage adds up to", await rows(UNPAID)),
    ];
  });
}

/** Limits are only raised here, so the limit of now bounds all that was ever admitted. */
const OVER = `
  with late as (
    select u.tenant_id, u.reservation_id, sum(u.cost_nanousd) as nanousd
    from app.llm_usage as u where u.status = 'ADJUSTED' group by u.tenant_id, u.reservation_id),
  over as (
    select h.tenant_id, h.budget_id, h.period_start,
           sum(coalesce(l.nanousd, 0)
             + greatest(0, r.settled_nanousd - coalesce(l.nanousd, 0) - r.estimated_cost_nanousd)) as nanousd
    from app.llm_reservations as r
    join app.llm_reservation_budgets as h on h.tenant_id = r.tenant_id and h.reservation_id = r.id
    left join late as l on l.tenant_id = r.tenant_id and l.reservation_id = r.id
    group by h.tenant_id, h.budget_id, h.period_start)
  select p.*, b.scope, b.scope_id, b.limit_nanousd, o.nanousd as over_nanousd
  from app.llm_budget_periods as p
  join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id and not b.unlimited
  left join over as o on o.tenant_id = p.tenant_id and o.budget_id = p.budget_id and o.period_start = p.period_start
  where p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd > b.limit_nanousd + coalesce(o.nanousd, 0)`;

const KEYS = `
  select r.id, k.reservation_id, k.idempotency_key
  from app.llm_reservations as r
  full join app.llm_reservation_keys as k on k.tenant_id = r.tenant_id and k.reservation_id = r.id
  where r.id is null or k.reservation_id is null
  union all
  select null, k.reservation_id, min(k.idempotency_key)
  from app.llm_reservation_keys as k group by k.reservation_id having count(*) > 1`;

const UNPAID = `
  select r.id, r.status, r.settled_nanousd, sum(u.cost_nanousd) as usage_nanousd
  from app.llm_reservations as r
  left join app.llm_usage as u on u.tenant_id = r.tenant_id and u.reservation_id = r.id
  where r.closed_at is not null
  group by r.tenant_id, r.id
  having r.settled_nanousd <> coalesce(sum(u.cost_nanousd), 0)`;

/** The holds as the database has them now. */
export async function holdsOf(server: StormServer): Promise<HoldRow[]> {
  return withClient(server.superuser, async (superuser) => {
    const { rows } = await superuser.query<HoldRow>(
      `select r.id, r.tenant_id, r.status, r.estimated_cost_nanousd as held, r.settled_nanousd as settled,
         k.idempotency_key as key
       from app.llm_reservations as r
       join app.llm_reservation_keys as k on k.tenant_id = r.tenant_id and k.reservation_id = r.id`,
    );
    return rows;
  });
}

/** Whether all that clients were told is so. `lines` are those of each process, in order. */
export function toldOf(lines: readonly string[][], rows: readonly HoldRow[]): Check[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  return [
    checkOf("a client was told of a hold that is not there, or of another amount", wrongHolds(lines, byId)),
    checkOf("clients were told of two holds for one key", twoHolds(lines)),
    checkOf("a client was told of a settle that is not there, or of another cost", wrongSettles(lines, byId)),
    checkOf("a client was told that a hold was given back that is not", wrongReleases(lines, byId)),
  ];
}

type Holds = ReadonlyMap<string, HoldRow>;

function wrongHolds(lines: readonly string[][], byId: Holds): unknown[] {
  return lines.filter(([word, key, tenantId, id, amount]) => {
    if (word !== "held") return false;
    const row = byId.get(id!);
    return row?.key !== key || row?.tenant_id !== tenantId || row?.held !== amount;
  });
}

function twoHolds(lines: readonly string[][]): unknown[] {
  const first = new Map<string, string>();
  return lines.filter(([word, key, tenantId, id]) => {
    if (word !== "held") return false;
    const name = `${tenantId} ${key}`;
    if (!first.has(name)) first.set(name, id!);
    return first.get(name) !== id;
  });
}

/** The last answer counts; one that was not told any more, of a process that was killed, can only have made it more. */
function wrongSettles(lines: readonly string[][], byId: Holds): unknown[] {
  const last = new Map<string, { cost: bigint; isExact: boolean; line: string[] }>();
  for (const line of lines) {
    const [word, , id, cost] = line;
    const before = last.get(id ?? "");
    if (word === "settled") last.set(id!, { cost: BigInt(cost!), isExact: true, line });
    else if (word === "part" && !before?.isExact)
      last.set(id!, { cost: BigInt(cost!), isExact: false, line });
    else if (word === "adjusts" && before !== undefined) before.isExact = false;
  }
  return [...last].flatMap(([id, { cost, isExact, line }]) => {
    const row = byId.get(id);
    const settled = BigInt(row?.settled ?? -1);
    const isSpent = ["APPLIED", "WRITTEN_OFF"].includes(row?.status ?? "");
    // A stream whose end was not told may have cost less than its parts.
    const isRight = isExact
      ? isSpent && settled === cost
      : settled >= cost || (line[0] === "part" && row?.status === "APPLIED");
    return isRight ? [] : [{ line, row }];
  });
}

function wrongReleases(lines: readonly string[][], byId: Holds): unknown[] {
  return lines.filter(([word, , id]) => word === "released" && byId.get(id!)?.status !== "RELEASED");
}

/** Errors that nothing explains, and lost connections while the server was not away. */
export function errorsOf(lines: readonly string[][], [from, to]: readonly [number, number]): Check[] {
  const lost = lines.filter(([word, , at]) => word === "away" && (Number(at) < from || Number(at) > to));
  const failures = lines.filter(([word]) => word === "failed").map((line) => line.join(" "));
  return [
    checkOf("a statement failed by an error that is not to be", [...new Set(failures)]),
    checkOf("a connection was lost while the server was up", lost),
  ];
}
