// What a tenant's query costs under isolation, beside the same query without it that names the tenant: round trips of
// one client, both sides in the same entered transaction of the tenant role.
import type pg from "pg";
import { mintTicket } from "../../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../../support/constants.ts";
import {
  type Batch,
  compared,
  type Figure,
  type Limits,
  measure,
  median,
  type Side,
  timed,
} from "./rounds.ts";
import { idOf, momentOf, type Size, tenantOf } from "./scene.ts";

/** What is read, and whether the tenant is named: no row security; the isolated table; its fence, as the tenant role sees it. */
const SIDES = {
  plain: { relation: "bench.plain", named: true },
  isolated: { relation: "bench.isolated", named: false },
  named: { relation: "bench.isolated", named: true },
  fenced: { relation: "tenant.isolated", named: false },
} as const;

type SideName = keyof typeof SIDES;

/** Medians in µs, and the ratios to the plain side. */
export type QueryResult = {
  query: string;
  prepared: boolean;
  rounds: number;
  plain_us: number;
  isolated_us: number;
  ratio: Figure;
  /** The isolated side with the tenant named all the same; an insert has to name it anyway. */
  named_ratio: Figure | null;
  /** Through the fence: it reads all rows of the tenant, whatever the condition. */
  fenced_us: number | null;
  target: number | null;
};

type Kind = {
  name: string;
  target: number;
  limits: Limits;
  /** The statement on a relation; `also` names the tenant, on the sides that do, as the last parameter. */
  text(relation: string, also: (word: "and" | "where") => string): string;
  /** The parameters but for the tenant, for a row at a place. */
  values(place: number, size: Size): unknown[];
  settings?: string;
  /** It writes, and names the tenant anyhow: taken back after each run. */
  writes?: boolean;
};

const READS = { seconds: 5, rounds: 20_000 };
const TENANTS = 25;
const PER_TRANSACTION = 40;
const RANGE = 100;

const KINDS: Kind[] = [
  {
    name: "point: one row by a unique key",
    target: 1.35,
    limits: READS,
    text: (relation, also) =>
      `select t.id, t.amount_nanousd from ${relation} as t where t.number = $1 ${also("and")}`,
    values: (place, size) => [Math.floor(place / size.tenants)],
  },
  {
    name: "primary key",
    target: 1.35,
    limits: READS,
    text: (relation, also) =>
      `select t.number, t.amount_nanousd from ${relation} as t where t.id = $1 ${also("and")}`,
    values: (place) => [idOf(place)],
  },
  {
    name: `range of ${RANGE} rows`,
    target: 1.1,
    limits: READS,
    text: (relation, also) => `select t.id, t.amount_nanousd, t.created_at from ${relation} as t
      where t.created_at >= $1 and t.created_at < $2 ${also("and")} order by t.created_at`,
    values: (place, size) => [momentOf(place), momentOf(place + RANGE * size.tenants)],
  },
  {
    name: "aggregate of a tenant's rows",
    target: 1.1,
    limits: READS,
    text: (relation, also) => `select count(*), sum(t.amount_nanousd) from ${relation} as t ${also("where")}`,
    values: () => [],
  },
  {
    name: "insert of 1,000 rows",
    target: 1.1,
    limits: { seconds: 8, rounds: 300 },
    text: (relation) =>
      `insert into ${relation} (tenant_id, id, number, amount_nanousd, note, created_at)
       select $1, gen_random_uuid(), 1000000000 + n, n, repeat('n', 60), now() from generate_series(1, 1000) as n`,
    values: () => [],
    writes: true,
  },
  {
    name: "full scan",
    target: 1.1,
    limits: { seconds: 10, rounds: 200 },
    text: (relation, also) => `select count(*), sum(t.amount_nanousd) from ${relation} as t ${also("where")}`,
    values: () => [],
    // One process: two on two processors would measure the neighbours.
    settings: `set local enable_indexscan = off; set local enable_indexonlyscan = off;
      set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0`,
  },
];

/**
 * All kinds of query, prepared; then those that only read and are short, planned each time, for information. `tidy` takes
 * away what a write left behind, before the next kind is measured.
 */
export async function measureQueries(
  client: pg.Client,
  size: Size,
  { say, tidy }: { say: (what: string) => void; tidy: () => Promise<void> },
): Promise<QueryResult[]> {
  const results: QueryResult[] = [];
  for (const kind of KINDS) {
    say(kind.name);
    results.push(await measureKind(client, size, kind, true));
    if (kind.writes) await tidy();
  }
  for (const kind of KINDS.filter(({ limits }) => limits === READS)) {
    say(`${kind.name}, planned each time`);
    results.push(await measureKind(client, size, { ...kind, limits: { seconds: 2, rounds: 10_000 } }, false));
  }
  return results;
}

async function measureKind(
  client: pg.Client,
  size: Size,
  kind: Kind,
  prepared: boolean,
): Promise<QueryResult> {
  const against = (side: SideName, limits: Limits) => {
    const { sides, batch } = arrange(client, size, { kind, prepared, side });
    return measure(sides, limits, batch);
  };
  const quotient = (one: number, other: number) => one / other;
  // Not in the same rounds: two sides on one table would warm its pages for one another.
  const apart = async (side: SideName) =>
    kind.writes ? null : await against(side, { ...kind.limits, seconds: kind.limits.seconds / 4 });
  const times = await against("isolated", kind.limits);
  const named = await apart("named");
  const fenced = await apart("fenced");
  return {
    query: kind.name,
    prepared,
    rounds: times.plain.length,
    plain_us: median(times.plain),
    isolated_us: median(times.other),
    ratio: compared(times.other, times.plain, quotient),
    target: prepared ? kind.target : null,
    named_ratio: named && compared(named.other, named.plain, quotient),
    fenced_us: fenced && median(fenced.other),
  };
}

type Arrangement = { kind: Kind; prepared: boolean; side: SideName };

/** The plain side and another, and the transaction around a batch of rounds: it enters once, and becomes the tenant. */
function arrange(client: pg.Client, size: Size, { kind, prepared, side: other }: Arrangement) {
  let tenant = 0;
  let batches = 0;
  const side = (name: SideName): Side => {
    const own = kind.values(0, size).length;
    const { relation, named } = SIDES[name];
    const text = kind.text(relation, (word) => (named ? `${word} t.tenant_id = $${own + 1}` : ""));
    const statement = prepared ? { text, name: `${kind.name}, ${name}` } : { text };
    const namesTenant = kind.writes || named;
    return async (round) => {
      // Far enough from the end for a whole range.
      const number = (round * 17) % Math.max(1, size.rows / size.tenants - RANGE);
      const place = Math.floor(number) * size.tenants + tenant;
      const values = [...kind.values(place, size), ...(namesTenant ? [tenantOf(tenant)] : [])];
      if (kind.writes) await client.query("savepoint before");
      const time = await timed(() => client.query({ ...statement, values }));
      if (kind.writes) await client.query("rollback to before");
      return time;
    };
  };
  const batch: Batch = {
    rounds: PER_TRANSACTION,
    begin: async () => {
      tenant = (batches++ * 7) % Math.min(size.tenants, TENANTS);
      await client.query("begin");
      await enter(client, tenant);
      // The plan that a prepared statement comes to keep, from the first run on and on both sides.
      const plans = prepared ? "force_generic_plan" : "auto";
      await client.query(
        `set local role holdfast_tenant; set local plan_cache_mode = ${plans}; ${kind.settings ?? ""}`,
      );
    },
    end: async () => {
      await client.query("commit");
    },
  };
  return { sides: { plain: side("plain"), other: side(other) }, batch };
}

/** Enters a tenant by its number, with a fresh ticket for this connection. */
export async function enter(client: pg.Client, tenant: number): Promise<void> {
  await client.query("select app.enter($1, $2)", [tenantOf(tenant), ticketFor(client, tenant)]);
}

/** A ticket for a tenant by its number, good for this connection. */
export function ticketFor(client: pg.Client, tenant: number): string {
  const { processID } = client as unknown as { processID: number };
  return mintTicket(TEST_TICKET_KEY, tenantOf(tenant), processID);
}
