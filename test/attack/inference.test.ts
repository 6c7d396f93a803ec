// What a tenant can infer of the rows of another from anything but rows: estimates of EXPLAIN, counts of EXPLAIN ANALYZE,
// parts of a plan that never ran, errors of a plan that was kept. Whatever a statement says of a value that another tenant
// has, it must say of one that nobody has. What stays is said of all rows together: how many they are, how many pages they
// fill, and the mean length of what a column holds.
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { analysesOf, THREE_FINDINGS } from "../support/findings.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const { costs, analyse } = analysesOf(database);
const tenants = { mine: "", foreign: "" };

/** Something that the tenant role may read; a value of the other tenant that is not its own, and one that nobody has. */
type Probe = { relation: string; column: string; type: string; canary: string; guess: string };
const probes: Probe[] = [];

/** Nobody has them. A guess of a text is the canary with its end changed: what a search would ask next. */
const NOBODYS: Record<string, string> = {
  uuid: "00000000-0000-7000-8000-000000000000",
  bigint: "876543210987",
  integer: "1876543210",
  smallint: "32123",
  date: "2001-01-01",
  "timestamp with time zone": "2001-01-01 00:00:00+00",
  numeric: "876543.210987",
  jsonb: '{"nobody": 1}',
  "text[]": "{nobody}",
  "uuid[]": "{}",
};

/** A node of a plan, as EXPLAIN gives it in JSON. */
type PlanNode = { [key: string]: unknown; Plans?: PlanNode[] };

/** How a planner can be made to read a table: as it likes, from end to end, by an index, by a bitmap of one. */
const ROADS = {
  planner: [],
  seqscan: ["indexscan", "indexonlyscan", "bitmapscan"],
  indexscan: ["seqscan", "bitmapscan"],
  bitmapscan: ["seqscan", "indexscan", "indexonlyscan"],
};

const EXPLAINS = ["costs on", "analyze, timing off, summary off, buffers off"];

beforeAll(async () => {
  for (const whose of ["foreign", "mine"] as const) {
    tenants[whose] = (await database.addTenant({ name: `${whose} of the canary` })).tenantId;
    await costs.load(tenants[whose], THREE_FINDINGS);
    const { runId } = await analyse(tenants[whose]);
    await callModel(tenants[whose], runId);
  }
  await plantCanaries();
  await database.superuser.query("vacuum analyze"); // the first to meet a dead row is told of it, whatever it asks
  await collectProbes();
});

async function callModel(tenantId: string, runId: string): Promise<void> {
  const ask = (text: string, ...values: unknown[]) =>
    database.superuser.query(`select * from ${text}`, [tenantId, database.ticket(tenantId), ...values]);
  const hold = (key: string) =>
    ask("app.llm_reserve($1, $2, $3, 'offline', 'offline-analyst', 10, 10, run_id => $4)", key, runId);
  await ask("app.llm_settle($1, $2, $3, 10, 10)", (await hold("settled")).rows[0].id);
  await hold("open");
}

/** Everything that the tenant role may read and that has a tenant in it: tables and views, in any schema. */
async function readable(): Promise<string[]> {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class as c
     where c.relkind in ('r', 'p', 'v', 'm', 'f') and has_any_column_privilege('holdfast_tenant', c.oid, 'select')
       and exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'tenant_id')
     order by 1`,
  );
  return rows.map((row) => row.name);
}

/** Texts and counts of the other tenant become its own alone, wherever no check forbids it. */
async function plantCanaries(): Promise<void> {
  const { rows } = await database.superuser.query<{ name: string; column: string; type: string }>(
    `select c.oid::regclass::text as name, quote_ident(a.attname) as column, format_type(a.atttypid, null) as type
     from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
       and a.attname <> 'tenant_id' and a.attgenerated = '' and format_type(a.atttypid, null) in ('text', 'integer', 'bigint', 'numeric')
       and not exists (select from pg_index as i where i.indrelid = c.oid and i.indisunique and a.attnum = any (i.indkey))
       and exists (select from pg_attribute as t where t.attrelid = c.oid and t.attname = 'tenant_id')`,
  );
  const client = await database.superuser.connect();
  try {
    await client.query("begin");
    await client.query("set local session_replication_role = replica"); // no trigger and no foreign key objects
    for (const { name, column, type } of rows) {
      const value = type === "text" ? `canary of ${name}.${column}` : "987654321"; // a number fits all three
      await client.query("savepoint before");
      await client
        .query(`update ${name} set ${column} = $1 where tenant_id = $2`, [value, tenants.foreign])
        .catch(() => client.query("rollback to before"));
    }
    await client.query("commit");
  } finally {
    client.release();
  }
}

async function collectProbes(): Promise<void> {
  for (const relation of await readable()) {
    const { rows } = await database.superuser.query<{ column: string; type: string }>(
      `select quote_ident(attname) as column, format_type(atttypid, null) as type from pg_attribute
       where attrelid = $1::regclass and attnum > 0 and not attisdropped and atttypid <> 'boolean'::regtype`,
      [relation],
    );
    // Views for tenants show nothing to a superuser: their rows are looked up in the table of the same name.
    const table = relation.replace(/^.*\./, "app.");
    for (const { column, type } of rows) {
      const found = await database.superuser.query<{ value: string }>(
        `select ${column}::text as value from ${table} where tenant_id = $1 and ${column} is not null
         except select ${column}::text from ${table} where tenant_id <> $1 limit 1`,
        [tenants.foreign],
      );
      const canary = found.rows[0]?.value;
      if (canary === undefined) continue;
      probes.push({ relation, column, type, canary, guess: NOBODYS[type] ?? `${canary.slice(0, -1)}~` });
    }
  }
}

async function asTenant(client: pg.ClientBase): Promise<void> {
  await client.query("set local jit = off"); // a road that is shut has a price for which every plan would be compiled
  await client.query("select app.enter($1, $2)", [tenants.mine, database.ticket(tenants.mine)]);
  await client.query("set local role holdfast_tenant");
}

/** What a statement answers: rows, a plan without the words of its conditions, or an error. */
async function said(client: pg.ClientBase, text: string): Promise<string> {
  await client.query("savepoint before");
  const answer = await client.query(text).then(
    (result) =>
      JSON.stringify(result.rows, (key, value) => (/ Cond$|^(One-Time )?Filter$/.test(key) ? "" : value)),
    (error: pg.DatabaseError) => [error.code, error.message, error.detail, error.where].join(" "),
  );
  await client.query("rollback to before");
  return answer;
}

const conditions = ({ column, type }: Probe, value: string) => {
  const literal = `'${value.replaceAll("'", "''")}'::${type}`;
  return [
    `${column} = ${literal}`,
    `${column} in (${literal}, ${literal})`,
    ...(type === "jsonb" ? [] : [`${column} >= ${literal} and ${column} <= ${literal}`]),
  ];
};

/** Each probe of which the canary is answered otherwise than the guess, by what `ask` says of a condition. */
async function told(ask: (client: pg.ClientBase, probe: Probe, value: string) => Promise<string[]>) {
  return rolledBack(database.service.pool, async (client) => {
    await asTenant(client);
    const leaks = new Set<string>();
    for (const probe of probes) {
      const [canary, guess] = [await ask(client, probe, probe.canary), await ask(client, probe, probe.guess)];
      if (canary.join("\n") !== guess.join("\n")) leaks.add(`${probe.relation}.${probe.column}`);
    }
    return [...leaks];
  });
}

test("there is a canary in most columns that the tenant role may read", () => {
  expect(probes.length).toBeGreaterThan(200);
});

describe("EXPLAIN says of what another tenant has what it says of what nobody has", () => {
  test.each(Object.entries(ROADS))("by the road of the %s", { timeout: 120_000 }, async (_road, shut) => {
    const leaks = await told(async (client, probe, value) => {
      const answers: string[] = [];
      for (const each of shut) await client.query(`set local enable_${each} = off`);
      for (const condition of conditions(probe, value)) {
        for (const options of EXPLAINS) {
          const text = `explain (format json, ${options}) select 1 from ${probe.relation} where ${condition}`;
          answers.push(await said(client, text));
        }
      }
      return answers;
    });
    expect(leaks).toEqual([]);
  });
});

/** Plans of statements that look at a column in every way in which a planner asks for statistics. */
const statements = (relation: string, column: string) => [
  `select ${column} from ${relation} order by 1`,
  `select distinct ${column} from ${relation}`,
  `select ${column}, count(*) from ${relation} group by 1 having count(*) > 1`,
  `select from ${relation} where ${column} > 'canary'`,
  `select from ${relation} where ${column} like 'canary%'`,
  `select from ${relation} where ${column} is null`,
  `select from ${relation} as a join ${relation} as b using (${column})`,
  `select from ${relation} as a where exists (select from ${relation} as b where b.${column} = a.${column})`,
  `select from ${relation} as a cross join lateral (
     select from ${relation} as b where b.${column} = a.${column} limit 1) as c`,
];

test("no condition that the tenant wrote stands at a table in which there are other tenants", async () => {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select c.relname as name from pg_class as c join pg_attribute as a on a.attrelid = c.oid
     where c.relkind in ('r', 'p') and a.attname = 'tenant_id'`,
  );
  const shared = new Set(rows.map((row) => row.name));
  const found = new Set<string>();
  const walk = (node: PlanNode, text: string) => {
    const { Plans: below = [], ...own } = node;
    const name = own["Relation Name"];
    if (typeof name === "string" && shared.has(name) && JSON.stringify(own).includes("canary"))
      found.add(text);
    for (const each of below) walk(each, text);
  };
  const texts = probes
    .filter((probe) => probe.type === "text")
    .flatMap((probe) => statements(probe.relation, probe.column))
    .filter((text) => text.includes("'canary"));
  expect(texts.length).toBeGreaterThan(100);
  await rolledBack(database.service.pool, async (client) => {
    await asTenant(client);
    for (const shut of Object.values(ROADS)) {
      await client.query("savepoint road");
      for (const each of shut) await client.query(`set local enable_${each} = off`);
      for (const text of texts) {
        const { rows: plans } = await client.query(`explain (format json) ${text}`);
        walk(plans[0]["QUERY PLAN"][0].Plan, text);
      }
      await client.query("rollback to road");
    }
  });
  expect([...found]).toEqual([]);
});

test("no estimate changes with what others have, as long as it is as many and as long", {
  timeout: 120_000,
}, async () => {
  const columns = [...new Set(probes.filter((probe) => probe.canary.startsWith("canary of ")))];
  expect(columns.length).toBeGreaterThan(50);
  const plansWhen = async (value: string) => {
    const tables = new Map<string, string[]>();
    for (const { relation, column } of columns) {
      if (relation.endsWith("_current")) continue;
      const table = relation.replace(/^.*\./, "app.");
      tables.set(table, [...(tables.get(table) ?? []), column]);
    }
    for (const [table, changed] of tables) {
      await database.superuser.query(
        `begin; set local session_replication_role = replica; update ${table} set ${changed
          .map((column) => `${column} = ${value}`)
          .join()} where tenant_id = '${tenants.foreign}'; commit`,
      );
      await database.superuser.query(`vacuum full ${table}`);
      await database.superuser.query(`analyze ${table}`);
    }
    return rolledBack(database.service.pool, async (client) => {
      await asTenant(client);
      const plans = new Map<string, string>();
      for (const { relation, column } of columns) {
        for (const text of statements(relation, column)) {
          plans.set(text, await said(client, `explain (format json) ${text}`));
        }
      }
      return plans;
    });
  };
  await plansWhen("'canary of nothing'"); // from here on the rows lie in the same order
  // An autovacuum that looks on at the wrong moment keeps dead rows, and a table is longer. A leak shows each time.
  const busy =
    "select from pg_stat_activity where backend_type = 'autovacuum worker' and datname = current_database()";
  let different: string[] = [];
  for (let attempt = 1; attempt <= 8; attempt += 1) {
    const isQuiet = async () => (await database.superuser.query(busy)).rows.length === 0;
    for (let looks = 0; looks < 40 && !(await isQuiet()); looks += 1) await sleep(200);
    const alike = await plansWhen("'canary of one thing  '");
    const apart = await plansWhen("'canary of ' || left(md5(ctid::text), 11)");
    different = [...alike].filter(([text, plan]) => apart.get(text) !== plan).map(([text]) => text);
    if (different.length === 0) break;
  }
  expect(different).toEqual([]);
});

test("a plan that was kept and then lost its tenant does not tell whether it met a row", async () => {
  const leaks = await told(async (client, probe, value) => {
    const condition = conditions(probe, value).at(-1);
    await client.query("savepoint kept");
    await client.query("set local plan_cache_mode = force_generic_plan");
    for (const each of ROADS.seqscan) await client.query(`set local enable_${each} = off`);
    await client.query(`prepare kept as select 1 from ${probe.relation} where ${condition}`);
    await client.query("execute kept");
    await client.query("set local app.tenant = 'nobody'");
    const answer = await said(client, "execute kept");
    await client.query("deallocate kept");
    await client.query("rollback to kept");
    return [answer];
  });
  expect(leaks).toEqual([]);
});

test("a name cannot be read letter by letter", async () => {
  const [relation] = (await readable()).filter((name) => name.endsWith(".tenants"));
  await rolledBack(database.service.pool, async (client) => {
    await asTenant(client);
    for (const each of ROADS.seqscan) await client.query(`set local enable_${each} = off`);
    const letters = "abcdefghijklmnopqrstuvwxyz ";
    const answers = new Set<string>();
    for (const letter of letters) {
      // The own name begins otherwise, so that its row is not the answer.
      const condition = `name >= 'f${letter}' and name < 'f${letter}~'`;
      const text = `explain (format json, analyze, timing off, summary off, buffers off) select 1 from ${relation} where ${condition}`;
      answers.add(await said(client, text));
    }
    expect(answers.size, "one answer to all letters, the right one among them").toBe(1);
  });
});
