// Two tenants side by side in one database, for the tests that attack: one whose rows the attacker may see, and one of
// which nothing may ever be seen. Whatever the second one owns is marked, so that a leak shows in any text.
import { createHash, randomUUID } from "node:crypto";
import type { TestDatabase, TestTenant } from "../support/database.ts";
import { type Leaks, leaksOf } from "./leaks.ts";
import { liveALife } from "./life.ts";

/** Every text of the foreign tenant holds this word; no other text of the database does. */
export const CANARY_WORD = "xqzkanarie";
/** Every amount of the foreign tenant begins with these digits; no other number of the database does. */
export const CANARY_NUMBER = "7364519028";
const FOREIGN_DAYS = 6;
/** And so does the sum of its costs: with the digits that the fractions of the days do not touch. */
const CANARY_SUM = String(BigInt(CANARY_NUMBER) * BigInt(FOREIGN_DAYS)).slice(0, 9);
/** What the attacker's own texts hold: proof that a statement has read something. */
export const OWN_WORD = "ownrow";

/** What of a test database a scene is made with. */
export type SceneDatabase = Pick<TestDatabase, "superuser" | "addTenant" | "ticket"> & {
  worker: Pick<TestDatabase["worker"], "pool">;
};

/** What an attack looks at before and after. */
export type AttackScene = {
  /** The attacker's own tenant. */
  mine: TestTenant;
  /** The tenant that is attacked. */
  foreign: TestTenant;
  /** Every table with a column `tenant_id`, as `schema.name`; partitions are left to their parents. */
  tables: string[];
  /** Those of the tables and views with a tenant that the tenant role may select. */
  readable: string[];
  /** Every string that must never be seen: words, numbers, ids of the foreign rows, its tenant id, in several forms. */
  canaries: string[];
  /** Uuids in the rows of a tenant, by table and column. */
  ids: { mine: Record<string, string[]>; foreign: Record<string, string[]> };
  /** The first canary in a text, or undefined. Fast; finds what `canaries` lists, whatever its case. */
  leak: Leaks["find"];
  /** A digest of every row that is not the attacker's: other tenants, tables without a tenant, and the keys. */
  foreignFingerprint(): Promise<string>;
  /** What `foreignFingerprint` is a digest of, table by table: for saying which one has changed. */
  foreignFingerprints(): Promise<Record<string, string>>;
  /** How many rows the attacker's tenant has in each table. */
  mineRows(): Promise<Record<string, number>>;
};

/** Makes the scene in a clone. Fails when a table holds no row of the foreign tenant, or none of the attacker's. */
export async function attackScene(database: SceneDatabase): Promise<AttackScene> {
  const mine = await database.addTenant({ name: `${OWN_WORD} ${randomUUID()}`, limitUsd: "1000" });
  const foreign = await database.addTenant({
    name: `${CANARY_WORD} ${randomUUID()}`,
    limitUsd: "7364519.028",
  });
  // Twice as long a life for the foreign tenant: a count of its rows is not a count of mine.
  await liveALife(database, mine.tenantId, { word: OWN_WORD, number: "100", days: 3 });
  await liveALife(database, foreign.tenantId, {
    word: CANARY_WORD,
    number: CANARY_NUMBER,
    days: FOREIGN_DAYS,
  });
  await database.worker.pool.query("select * from app.schedule_tick()");

  const rowsOf = (name: string, of: string) => textRows(database, name, `tenant_id = '${of}'`);
  const tables = await tablesWithTenant(database);
  const ids: AttackScene["ids"] = { mine: {}, foreign: {} };
  const seen: Record<"mine" | "foreign", string[]> = { mine: [], foreign: [] };
  for (const name of tables) {
    for (const [whose, tenant] of Object.entries({ mine, foreign }) as ["mine" | "foreign", TestTenant][]) {
      const rows = await rowsOf(name, tenant.tenantId);
      if (rows.length === 0) throw new Error(`${name} holds no row of the tenant "${whose}"`);
      seen[whose].push(...rows);
      Object.assign(ids[whose], uuidsOf(name, rows));
    }
  }
  const leaks = leaksOf({
    words: [CANARY_WORD, foreign.tenantId],
    numbers: [CANARY_NUMBER, CANARY_SUM],
    foreign: seen.foreign,
    known: [...seen.mine, ...(await publicTexts(database))],
  });
  const foreignFingerprints = () => fingerprints(database, mine.tenantId);
  return {
    mine,
    foreign,
    tables,
    readable: await readableWithTenant(database),
    canaries: leaks.canaries,
    ids,
    leak: leaks.find,
    foreignFingerprints,
    foreignFingerprint: async () => digest(JSON.stringify(await foreignFingerprints())),
    async mineRows() {
      const counts: Record<string, number> = {};
      for (const name of tables) counts[name] = (await rowsOf(name, mine.tenantId)).length;
      return counts;
    },
  };
}

const digest = (text: string) => createHash("sha256").update(text).digest("hex");

/** The rows of a table as JSON texts, in the order of the texts. */
async function textRows({ superuser }: SceneDatabase, name: string, where: string): Promise<string[]> {
  const { rows } = await superuser.query<{ row: string }>(
    `select to_jsonb(t)::text as row from ${name} as t where ${where} order by 1`,
  );
  return rows.map(({ row }) => row);
}

async function tablesWithTenant({ superuser }: SceneDatabase): Promise<string[]> {
  const { rows } = await superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'app_private'::regnamespace, 'ops'::regnamespace)
       and c.relkind in ('r', 'p') and not c.relispartition
       and exists (select from pg_attribute as a
         where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
     order by 1`,
  );
  return rows.map(({ name }) => name);
}

async function readableWithTenant({ superuser }: SceneDatabase): Promise<string[]> {
  const { rows } = await superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class as c
     where c.relkind in ('r', 'p', 'v', 'm', 'f')
       and has_schema_privilege('holdfast_tenant', c.relnamespace, 'usage')
       and has_table_privilege('holdfast_tenant', c.oid, 'select')
       and exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'tenant_id')
     order by 1`,
  );
  return rows.map(({ name }) => name);
}

/** What anybody may read, so that it cannot be told from a leak: the shared tables and the code of functions. */
async function publicTexts(database: SceneDatabase): Promise<string[]> {
  const shared = [
    "app.error_codes",
    "app.job_kinds",
    "app.job_run_transitions",
    "app.llm_prices",
    "app.tiers",
  ];
  const rows = await Promise.all(shared.map((name) => textRows(database, name, "true")));
  const { rows: code } = await database.superuser.query<{ prosrc: string }>("select prosrc from pg_proc");
  return [...rows.flat(), ...code.map(({ prosrc }) => prosrc)];
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

function uuidsOf(name: string, rows: string[]): Record<string, string[]> {
  const found: Record<string, Set<string>> = {};
  for (const row of rows) {
    for (const [column, value] of Object.entries(JSON.parse(row) as Record<string, unknown>)) {
      if (typeof value !== "string" || !UUID.test(value)) continue;
      found[`${name}.${column}`] ??= new Set();
      found[`${name}.${column}`]!.add(value);
    }
  }
  return Object.fromEntries(Object.entries(found).map(([key, values]) => [key, [...values]]));
}

/**
 * A digest for each table of ours, of the queue and of the migrations, over the rows that are not the attacker's. A row
 * without a tenant is nobody's; a token of the queue carries its tenant in its payload.
 */
async function fingerprints(database: SceneDatabase, mine: string): Promise<Record<string, string>> {
  const { rows: tables } = await database.superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class as c
     where c.relnamespace::regnamespace::text in ('app', 'app_private', 'ops', 'graphile_worker', 'graphile_migrate')
       and c.relkind in ('r', 'p', 'm') and not c.relispartition
     order by 1`,
  );
  const found: Record<string, string> = {};
  for (const { name } of tables) {
    const { rows } = await database.superuser.query<{ digest: string }>(
      `select count(*) || ' ' || coalesce(encode(sha256(convert_to(string_agg(t.row::text, E'\\n' order by t.row::text),
         'UTF8')), 'hex'), '') as digest
       from (select to_jsonb(t) as row from ${name} as t) as t
       where coalesce(t.row ->> 'tenant_id', t.row -> 'payload' ->> 'tenant_id', '') <> $1`,
      [mine],
    );
    found[name] = rows[0]!.digest;
  }
  const { rows: schema } = await database.superuser.query<{ row: string }>(
    "select to_jsonb(s)::text as row from app_private.schema_snapshot as s order by 1",
  );
  found["the schema"] = digest(schema.map(({ row }) => row).join("\n"));
  return found;
}
