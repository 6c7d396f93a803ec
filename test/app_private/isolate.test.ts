import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const tenants = { mine: "", foreign: "" };

const OWN =
  "(app_private.require() AND (tenant_id = ( SELECT app_private.current_tenant_id() AS current_tenant_id)))";
const OWN_POLICY = `tenant_isolation * or holdfast_owner,holdfast_tenant ${OWN} ${OWN}`;
const SYSTEM_POLICY = "system_all * or holdfast_system true none";

beforeAll(async () => {
  tenants.mine = (await database.addTenant()).tenantId;
  tenants.foreign = (await database.addTenant()).tenantId;
});

/** Works as the owner of the schemas, with a table of its own, and leaves nothing behind. */
async function withThings(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
  await rolledBack(database.superuser, async (client) => {
    await client.query("set local role holdfast_owner");
    await client.query(
      "create table app.things (tenant_id uuid not null, id uuid not null default gen_random_uuid())",
    );
    await client.query("insert into app.things (tenant_id) values ($1), ($2)", [
      tenants.mine,
      tenants.foreign,
    ]);
    await work(client);
  });
}

/** How a table is isolated: row security on and forced, and its policies. */
async function isolation(client: pg.ClientBase | pg.Pool, table: string): Promise<string[]> {
  const { rows } = await client.query(
    `select c.relrowsecurity and c.relforcerowsecurity as forced,
            array(select concat_ws(' ', p.polname, p.polcmd, case when p.polpermissive then 'or' else 'and' end,
                (select string_agg(coalesce(r.rolname, 'public'), ',' order by r.rolname)
                 from unnest(p.polroles) as x (oid) left join pg_roles as r on r.oid = x.oid),
                coalesce(pg_get_expr(p.polqual, p.polrelid), 'none'),
                coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none'))
              from pg_policy as p where p.polrelid = c.oid order by p.polname) as policies
     from pg_class as c where c.oid = $1::regclass`,
    [table],
  );
  return rows[0].forced ? rows[0].policies : ["not forced", ...rows[0].policies];
}

/** The locks on a table that this transaction holds, by name. */
async function locks(client: pg.ClientBase, table: string): Promise<string[]> {
  const { rows } = await client.query(
    "select mode from pg_locks where pid = pg_backend_pid() and relation = $1::regclass order by mode",
    [table],
  );
  return rows.map((row) => row.mode);
}

async function count(client: pg.ClientBase, table: string): Promise<number> {
  return (await client.query(`select count(*)::integer as n from ${table}`)).rows[0].n;
}

async function fails(client: pg.ClientBase, text: string): Promise<{ code: string }> {
  await client.query("savepoint before");
  const error = await client.query(text).then(
    () => ({ code: "accepted" }),
    (caught: { code: string }) => caught,
  );
  await client.query("rollback to before");
  return error;
}

describe("isolate", () => {
  test("lets the owner and the tenant role see the tenant that was entered, and raises without one", async () => {
    await withThings(async (client) => {
      await client.query("grant select on app.things to holdfast_tenant");
      await client.query("call app_private.isolate('app.things')");
      expect(await isolation(client, "app.things")).toEqual([OWN_POLICY]);
      expect(await fails(client, "select from app.things where false")).toMatchObject({ code: "RL101" });

      await client.query("select app.enter($1, $2)", [tenants.mine, database.ticket(tenants.mine)]);
      expect(await count(client, "app.things")).toBe(1);
      const forged = `insert into app.things (tenant_id) values ('${tenants.foreign}')`;
      expect(await fails(client, forged)).toMatchObject({ code: "42501", routine: "ExecWithCheckOptions" });
      await client.query("set local role holdfast_tenant");
      expect(await count(client, "app.things")).toBe(1);
      await client.query("set local role holdfast_system");
      expect(await fails(client, "select from app.things")).toMatchObject({ code: "42501" });
    });
  });

  test("opens the table to the system role only when it is asked to, and shuts it again", async () => {
    await withThings(async (client) => {
      await client.query("call app_private.isolate('app.things', for_system => true)");
      expect(await isolation(client, "app.things")).toEqual([SYSTEM_POLICY, OWN_POLICY]);
      await client.query("call app_private.isolate('app.things')");
      expect(await isolation(client, "app.things")).toEqual([OWN_POLICY]);
    });
  });

  test.each([
    ["row security was disabled", "alter table app.things disable row level security"],
    ["it is no longer forced", "call app_private.force_off('app.things')"],
    ["the policy is gone", "drop policy tenant_isolation on app.things"],
    ["the policy shows all", "alter policy tenant_isolation on app.things using (true)"],
    ["the policy lets any row in", "alter policy tenant_isolation on app.things with check (true)"],
    ["the policy is for everybody", "alter policy tenant_isolation on app.things to public"],
    [
      "the policy is for reading alone",
      `drop policy tenant_isolation on app.things;
       create policy tenant_isolation on app.things for select to holdfast_owner, holdfast_tenant using ${OWN}`,
    ],
    ["there is one policy more", "create policy also on app.things to holdfast_tenant using (true)"],
    ["there is one for the system", "create policy system_all on app.things to holdfast_system using (true)"],
  ])("mends a table where %s", async (_what, damage) => {
    await withThings(async (client) => {
      await client.query("call app_private.isolate('app.things')");
      await client.query(damage);
      expect(await isolation(client, "app.things")).not.toEqual([OWN_POLICY]);
      await client.query("call app_private.isolate('app.things')");
      expect(await isolation(client, "app.things")).toEqual([OWN_POLICY]);
    });
  });

  test("does nothing the second time: no lock on a table that others are using", async () => {
    const { rows } = await database.superuser.query<{ name: string; system: boolean }>(
      `select c.oid::regclass::text as name,
              exists (select from pg_policy as p where p.polrelid = c.oid and p.polname = 'system_all') as system
       from pg_class as c where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p') and c.relrowsecurity`,
    );
    expect(rows.length).toBeGreaterThan(40);
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local role holdfast_owner; set local lock_timeout = '1s'");
      for (const { name, system } of rows) {
        await client.query(`call app_private.isolate('${name}', ${system})`);
        expect(await locks(client, name), name).toEqual([]);
      }
    });
  });

  test("every table with a tenant in it is isolated, each partition too", async () => {
    const { rows } = await database.superuser.query<{ name: string; partition: boolean }>(
      `select c.oid::regclass::text as name, c.relispartition as partition
       from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id'
       where c.relnamespace in ('app'::regnamespace, 'app_private'::regnamespace, 'ops'::regnamespace)
         and c.relkind in ('r', 'p', 'f')`,
    );
    expect(rows.filter((row) => row.partition).length).toBeGreaterThan(20);
    for (const { name } of rows) {
      expect([[OWN_POLICY], [SYSTEM_POLICY, OWN_POLICY]], name).toContainEqual(
        await isolation(database.superuser, name),
      );
    }
  });
});

test("force_off shows the owner every row of several tables, and force_on ends it", async () => {
  await withThings(async (client) => {
    await client.query("call app_private.isolate('app.things')");
    await client.query("call app_private.force_off('app.things', 'app.tenants')");
    expect(await count(client, "app.things")).toBe(2);
    expect(await count(client, "app.tenants")).toBe(2);

    await client.query("call app_private.force_on('app.things', 'app.tenants')");
    expect(await fails(client, "select from app.things")).toMatchObject({ code: "RL101" });
    expect(await fails(client, "select from app.tenants")).toMatchObject({ code: "RL101" });
    expect(await isolation(client, "app.things")).toEqual([OWN_POLICY]);
  });
});

describe("partitions", () => {
  const parents = ["app.events", "app.job_runs", "app.llm_reservation_budgets"];

  test.each(parents)("one of a month far ahead is isolated like its parent: %s", async (parent) => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local role holdfast_owner");
      const name = `${parent}_y2040m12`;
      for (let times = 0; times < 2; times += 1) {
        await client.query("call app_private.partition_add($1, '2040-12-01 00:00+00')", [parent]);
        expect(await isolation(client, name)).toEqual(await isolation(client, parent));
      }
      expect(await fails(client, `select from ${name} where false`)).toMatchObject({ code: "RL101" });
      const { rows } = await client.query("select relacl from pg_class where oid = $1::regclass", [name]);
      expect(rows[0].relacl, "nobody may reach it but through its parent").toBeNull();
    });
  });

  test("one holds its month in UTC, from the first millisecond to the last, whatever the session's zone", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local timezone = 'America/Los_Angeles'");
      await client.query("call app_private.partition_add('app.events', '2040-12-01 00:00+00')");
      const home = async (at: string) => {
        const { rows } = await client.query(
          `insert into app.events (tenant_id, type, id)
           values ($1, 'a.b', (overlay(app_private.uuid_v7_floor($2)::text placing '7' from 15))::uuid)
           returning tableoid::regclass::text as name`,
          [tenants.mine, at],
        );
        return rows[0].name;
      };
      expect(await home("2040-12-01 00:00:00.000+00")).toBe("app.events_y2040m12");
      expect(await home("2040-12-31 23:59:59.999+00")).toBe("app.events_y2040m12");
      expect(await fails(client, "select 1")).toEqual({ code: "accepted" });
      await expect(home("2041-01-01 00:00:00.000+00")).rejects.toMatchObject({ code: "23514" });
    });
  });

  test("partitions_make adds what is missing, and nothing the second time", async () => {
    const make = async (months: number) =>
      Number(
        (await database.superuser.query("select app_private.partitions_make($1) as n", [months])).rows[0].n,
      );
    const names = async () => {
      const { rows } = await database.superuser.query<{ name: string }>(
        "select oid::regclass::text as name from pg_class where relispartition and relkind in ('r', 'p') order by 1",
      );
      return rows.map((row) => row.name);
    };

    const before = await names();
    expect(await make(3)).toBe(0);
    const made = await make(5);
    const added = (await names()).filter((name) => !before.includes(name));
    expect(made).toBe(added.length);
    const parents = await database.superuser.query(
      "select from pg_class where relkind = 'p' and relnamespace = 'app'::regnamespace",
    );
    expect(made, "two more months of each table").toBe(2 * parents.rowCount!);
    for (const name of added) {
      const parent = name.replace(/_y\d{4}m\d{2}$/, "");
      expect(await isolation(database.superuser, name)).toEqual(await isolation(database.superuser, parent));
    }
    expect(await make(5)).toBe(0);

    await database.superuser.query(`drop table ${added[0]}`);
    expect(await make(5)).toBe(1);
    expect(await isolation(database.superuser, added[0]!)).toContain(OWN_POLICY);
  });

  test("two that make partitions at once both succeed", async () => {
    const make = "select app_private.partitions_make(7)";
    const first = await database.superuser.connect();
    try {
      await first.query("begin");
      await first.query(make);
      const second = database.superuser.query(make);
      await waiting(first);
      await first.query("commit");
      await second;
    } finally {
      first.release();
    }
    const { rows } = await database.superuser.query("select app_private.partitions_make(7) as n");
    expect(rows).toEqual([{ n: 0 }]);
  });

  /** Until another session waits for a lock of this one. */
  async function waiting(client: pg.PoolClient): Promise<void> {
    const holder = Number((await client.query("select pg_backend_pid() as pid")).rows[0].pid);
    for (let tries = 0; tries < 200; tries += 1) {
      const { rowCount } = await database.ops.query(
        "select from pg_stat_activity where $1 = any (pg_blocking_pids(pid))",
        [holder],
      );
      if (rowCount === 1) return;
      await sleep(20);
    }
    throw new Error("the second caller did not wait");
  }
});
