// sql/app_private/fence.sql: how the tenant role reads a table, and that no condition of its own reaches it.
import type pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const tenants = { mine: "", foreign: "" };

beforeAll(async () => {
  tenants.mine = (await database.addTenant()).tenantId;
  tenants.foreign = (await database.addTenant()).tenantId;
  await asOwner(async (client) => {
    await client.query(
      `create table app.things (tenant_id uuid not null, word text not null, "Odd name" integer);
       create index things_word_idx on app.things (word);
       comment on table app.things is 'Things.';
       call app_private.isolate('app.things');
       call app_private.fence('app.things')`,
    );
  });
  await database.superuser.query(
    `insert into app.things (tenant_id, word, "Odd name") values ($1, 'own', 1), ($1, 'own too', 2), ($2, 'theirs', 3)`,
    [tenants.mine, tenants.foreign],
  );
});

/** Works as the owner of the schemas, and keeps it. */
async function asOwner(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
  const client = await database.superuser.connect();
  try {
    await client.query("begin; set local role holdfast_owner");
    await work(client);
    await client.query("commit");
  } finally {
    client.release(true);
  }
}

/** Works as the tenant role inside of a tenant, over the login of the service. */
function asTenant<T>(tenantId: string, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  return rolledBack(database.service.pool, async (client) => {
    await client.query("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
    await client.query("set local role holdfast_tenant");
    return work(client);
  });
}

/** How a statement is refused inside a transaction that goes on. */
async function refused(client: pg.ClientBase, text: string): Promise<string> {
  await client.query("savepoint before");
  const said = await client.query(text).then(
    ({ rowCount }) => `accepted, ${rowCount} rows`,
    (error: pg.DatabaseError) => `${error.code} ${error.routine}`,
  );
  await client.query("rollback to before");
  return said;
}

/** All that makes a fence what it is. */
async function fenceOf(client: pg.ClientBase | pg.Pool, name: string): Promise<Record<string, unknown>> {
  const { rows } = await client.query(
    `select c.oid, c.relkind, pg_get_userbyid(c.relowner) as owner, c.reloptions,
            array(select x.grantee::regrole || ' ' || x.privilege_type || case when x.is_grantable then '*' else '' end
                  from aclexplode(c.relacl) as x where x.grantee <> c.relowner order by 1) as rights,
            pg_get_viewdef(c.oid) as definition, obj_description(c.oid, 'pg_class') as comment,
            array(select a.attname::text from pg_attribute as a
                  where a.attrelid = c.oid and a.attnum > 0 order by a.attnum) as columns
     from pg_class as c where c.oid = $1::regclass`,
    [name],
  );
  return rows[0];
}

const NO_RIGHT = "42501 aclcheck_error";

describe("it works", () => {
  test("the fence has the columns of the table, its comment, the owner of the table, and one reader", async () => {
    expect(await fenceOf(database.superuser, "tenant.things")).toMatchObject({
      relkind: "v",
      owner: "holdfast_owner",
      reloptions: ["security_barrier=true"],
      rights: ["holdfast_tenant SELECT"],
      comment: "Own rows. Things.",
      columns: ["tenant_id", "word", "Odd name"],
    });
  });

  test("a tenant sees all of its own rows and no other, and without one nobody sees any", async () => {
    const seenBy = (tenantId: string) =>
      asTenant(tenantId, async (client) => {
        const { rows } = await client.query('select * from tenant.things order by "Odd name"');
        return rows;
      });
    const row = (tenant_id: string, word: string, n: number) => ({ tenant_id, word, "Odd name": n });
    expect(await seenBy(tenants.mine)).toEqual([
      row(tenants.mine, "own", 1),
      row(tenants.mine, "own too", 2),
    ]);
    expect(await seenBy(tenants.foreign)).toEqual([row(tenants.foreign, "theirs", 3)]);

    await rolledBack(database.service.pool, async (client) => {
      await client.query("set local role holdfast_tenant");
      expect(await refused(client, "select from tenant.things")).toBe("42501 check_enable_rls");
      await client.query("set local row_security = on");
      expect(await refused(client, "select from tenant.things")).toBe("RL101 exec_stmt_raise");
    });
  });

  test("the table itself is refused, whatever right on it the tenant role had before", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local role holdfast_owner");
      await client.query("grant select, select (word) on app.things to holdfast_tenant");
      await client.query("call app_private.fence('app.things')");
      await client.query("select app.enter($1, $2)", [tenants.mine, database.ticket(tenants.mine)]);
      await client.query("set local role holdfast_tenant");
      for (const text of ["select from app.things", "select word from app.things", "table app.things"]) {
        expect(await refused(client, text), text).toBe(NO_RIGHT);
      }
    });
  });

  test("nothing can be written through it, by nobody", async () => {
    const writes = [
      "insert into tenant.things (tenant_id, word) values (gen_random_uuid(), 'x')",
      "update tenant.things set word = 'x'",
      "delete from tenant.things",
    ];
    await asTenant(tenants.mine, async (client) => {
      for (const text of writes) expect(await refused(client, text), text).toMatch(/^55000 /);
    });
    await rolledBack(database.superuser, async (client) => {
      for (const role of ["holdfast_owner", "none"]) {
        await client.query(`set local role ${role}`);
        for (const text of writes) expect(await refused(client, text), `${role}: ${text}`).toMatch(/^55000 /);
      }
      const { rows } = await client.query("select pg_relation_is_updatable('tenant.things', true) as events");
      expect(rows).toEqual([{ events: 0 }]);
    });
  });
});

describe("it works twice", () => {
  test("the same again changes nothing, and keeps the view for what depends on it", async () => {
    const once = await fenceOf(database.superuser, "tenant.things");
    await asOwner(async (client) => {
      await client.query("call app_private.fence('app.things')");
    });
    expect(await fenceOf(database.superuser, "tenant.things")).toEqual(once);
  });

  test("a new column is behind the fence when it is called again, and not before", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local role holdfast_owner; alter table app.things add column more text");
      const before = await fenceOf(client, "tenant.things");
      expect(before["columns"]).toEqual(["tenant_id", "word", "Odd name"]);
      await client.query("call app_private.fence('app.things')");
      expect(await fenceOf(client, "tenant.things")).toMatchObject({
        oid: before["oid"],
        rights: before["rights"],
        reloptions: before["reloptions"],
        columns: ["tenant_id", "word", "Odd name", "more"],
      });
    });
  });

  test("a column that was dropped before is not missed", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query(
        `set local role holdfast_owner;
         create table app.others (tenant_id uuid not null, gone text, kept text);
         alter table app.others drop column gone;
         call app_private.fence('app.others')`,
      );
      expect((await fenceOf(client, "tenant.others"))["columns"]).toEqual(["tenant_id", "kept"]);
    });
  });
});

type Node = { "Relation Name"?: string; Plans?: Node[]; Filter?: string } & Record<string, unknown>;

/** Every node of the plan of a statement. */
async function planOf(client: pg.ClientBase, text: string): Promise<Node[]> {
  const { rows } = await client.query(`explain (costs off, format json) ${text}`);
  const all = (node: Node): Node[] => [node, ...(node.Plans ?? []).flatMap(all)];
  return all(rows[0]["QUERY PLAN"][0].Plan);
}

/** What a plan does at the tables themselves: how it reads each, and with which conditions. */
function scansOf(plan: Node[]): string[] {
  return (
    plan
      .filter((node) => node["Relation Name"] !== undefined || "Index Name" in node)
      .map(({ Plans: _below, "Parent Relationship": _where, Alias: _name, ...scan }) => JSON.stringify(scan))
      // The planner numbers what it computes once; the tenant's number moves with what else the statement has.
      .map((scan) => scan.replaceAll(/\(InitPlan \d+\)\.col1|\$\d+/g, "(once)"))
      .sort()
  );
}

/** The conditions of a plan that stand above its scans. */
function conditionsAbove(plan: Node[]): string {
  const above = plan.filter((node) => node["Relation Name"] === undefined && !("Index Name" in node));
  return above.flatMap((node) => Object.values(node).filter((value) => typeof value === "string")).join("\n");
}

/** By type: a constant, to compare a column with, for which the planner knows an equality that is leakproof. */
const CONSTANTS: Record<string, string> = {
  uuid: "'00000000-0000-7000-8000-00000000000a'",
  text: "'of the reader'",
  smallint: "7::smallint",
  integer: "7654321",
  bigint: "7654321::bigint",
  date: "date '2031-03-07'",
  "timestamp with time zone": "timestamptz '2031-03-07 00:00+00'",
  boolean: "true",
  real: "0.75::real",
  interval: "interval '7654321 seconds'",
  numeric: "7654321::numeric",
};

describe("no condition of the reader reaches the table", () => {
  const conditions = [
    "word = 'theirs'",
    "word in ('theirs', 'x')",
    "word >= 'theirs' and word < 'theirs x'",
    '"Odd name" = 3',
    `tenant_id = '00000000-0000-7000-8000-00000000000a'`,
    "word = (select 'theirs')",
    "word = any (array(select 'theirs'))",
    "exists (select from (values ('theirs')) as v (word) where v.word = things.word)",
  ];

  async function eager(client: pg.ClientBase): Promise<void> {
    await client.query("set local enable_seqscan = off");
  }

  test.each(conditions)("it stands above the scan: %s", async (condition) => {
    await asTenant(tenants.mine, async (client) => {
      await eager(client);
      const bare = scansOf(await planOf(client, "select * from tenant.things"));
      expect(bare.join()).toContain('"Relation Name":"things"');
      const plan = await planOf(client, `select * from tenant.things where ${condition}`);
      expect(scansOf(plan)).toEqual(bare);
      const column = /tenant_id|Odd name|word/.exec(condition)![0];
      expect(conditionsAbove(plan)).toContain(column);
    });
  });

  // So the tests above can fail: this is what the planner does where there is row security alone.
  test("of the table itself it would go through the index, before the tenant is looked at", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("grant select on app.things to holdfast_tenant");
      await client.query("select app.enter($1, $2)", [tenants.mine, database.ticket(tenants.mine)]);
      await client.query("set local role holdfast_tenant");
      await eager(client);
      const plan = await planOf(client, "select * from app.things where word = 'theirs'");
      expect(scansOf(plan).join()).toContain(`"Index Cond":"(word = 'theirs'::text)"`);
    });
  });

  test("a plan that is kept for every tenant has it above the scan too", async () => {
    await asTenant(tenants.mine, async (client) => {
      await eager(client);
      await client.query("set local plan_cache_mode = force_generic_plan");
      await client.query("prepare kept (text) as select * from tenant.things where word = $1");
      const plan = await planOf(client, "execute kept ('theirs')");
      expect(scansOf(plan)).toEqual(scansOf(await planOf(client, "select * from tenant.things")));
      expect(conditionsAbove(plan)).toContain("(things.word = $1)");
    });
  });

  test("of none of our tables, by none of their columns that have a leakproof equality", async () => {
    const { rows } = await database.superuser.query<{ fence: string; column: string; type: string }>(
      `select c.oid::regclass::text as fence, quote_ident(a.attname) as column, format_type(a.atttypid, null) as type
       from pg_class as c
       join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
       join pg_operator as o on o.oprname = '=' and o.oprleft = a.atttypid and o.oprright = a.atttypid
       join pg_proc as p on p.oid = o.oprcode and p.proleakproof
       where c.relnamespace = 'tenant'::regnamespace
       order by 1, a.attnum`,
    );
    expect(new Set(rows.map((row) => row.fence)).size).toBeGreaterThan(15);
    expect(rows.length).toBeGreaterThan(150);
    await asTenant(tenants.mine, async (client) => {
      await eager(client);
      for (const { fence, column, type } of rows) {
        const constant = CONSTANTS[type] ?? expect.fail(`no constant of type ${type}`);
        const text = `select * from ${fence} where ${column} = ${constant}`;
        const plan = await planOf(client, text);
        expect(scansOf(plan), text).toEqual(scansOf(await planOf(client, `select * from ${fence}`)));
        expect(conditionsAbove(plan), text).toContain(column);
      }
    });
  });
});

test("of every table with a tenant, the tenant role reads the fence and neither the table nor a partition", async () => {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name
     from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id'
     where c.relnamespace in ('app'::regnamespace, 'app_private'::regnamespace, 'ops'::regnamespace)
       and c.relkind in ('r', 'p', 'v', 'm', 'f')`,
  );
  expect(rows.length).toBeGreaterThan(50);
  await asTenant(tenants.mine, async (client) => {
    for (const { name } of rows)
      expect(await refused(client, `select from ${name}`), name).toMatch(/^42501 /);
  });
  const unfenced = await database.superuser.query<{ name: string }>(
    `select c.relname as name
     from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id'
     where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
       and coalesce(not has_table_privilege('holdfast_tenant', to_regclass(format('tenant.%I', c.relname)), 'select'), true)
     order by 1`,
  );
  // What the budgets and the queue keep for themselves, and where the workers find files.
  expect(unfenced.rows.map(({ name }) => name)).toEqual([
    ...["cost_sources", "job_gates", "job_run_keys", "job_slots"],
    ...["llm_reservation_budgets", "llm_reservation_keys", "tenant_schedules"],
  ]);
});
