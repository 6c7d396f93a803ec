// What each role sees of each table: the shell's logins nothing, the tenant role its own rows or an error, nobody
// silence.
import pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const REFUSED = "42501 check_enable_rls";
const RAISED = "RL101 exec_stmt_raise";
const tenants = { mine: "", foreign: "" };

beforeAll(async () => {
  for (const whose of ["mine", "foreign"] as const) {
    const { tenantId } = await database.addTenant();
    tenants[whose] = tenantId;
    await liveADay(tenantId);
  }
});

/** Leaves a row in every table that a tenant may read. */
async function liveADay(tenantId: string): Promise<void> {
  const ask = (text: string, ...values: unknown[]) =>
    database.superuser.query(`select * from ${text}`, [tenantId, database.ticket(tenantId), ...values]);

  const started = await ask("app.cost_import_start($1, $2, 'test', 'file.csv', '1.0') as id");
  const importId = started.rows[0].id;
  await ask("app.cost_import_add($1, $2, $3, $4)", importId, [await costLine()]);
  await ask("app.cost_import_roll_up($1, $2, $3)", importId);
  await ask("app.cost_import_publish($1, $2, $3)", importId);

  const requested = await ask("app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10)");
  const runId = requested.rows[0].run_id;
  await database.superuser.query("select app.job_claim('test', array[$1::uuid], array[$2::uuid])", [
    tenantId,
    runId,
  ]);
  await ask("app.analysis_candidates($1, $2, $3, 1)", runId);
  const held = await ask(
    "app.llm_reserve($1, $2, 'key', 'offline', 'offline-analyst', 10, 10, run_id => $3)",
    runId,
  );
  await ask("app.llm_settle($1, $2, $3, 10, 10)", held.rows[0].id);
  await database.superuser.query(
    `insert into app.llm_price_overrides (tenant_id, provider, factor, valid) values ($1, 'of its own', 0.5, '[2026-01-01,)')`,
    [tenantId],
  );
  const result = { narrated_by: "template", fallback_reason: "no_findings", items: [] };
  await ask("app.job_complete($1, $2, $3, 1, $4)", runId, result);
}

/** A line of usage that has no tag, so that a detector finds something. */
async function costLine(): Promise<string> {
  const { rows } = await database.superuser.query<{ name: string; type: string }>(
    `select attname as name, format_type(atttypid, null) as type from pg_attribute
     where attrelid = 'app.cost_line_cells'::regclass order by attnum`,
  );
  const known: Record<string, string> = {
    line_no: "2",
    billing_period_start: "2026-04-01",
    billing_period_end: "2026-05-01",
    charge_period_start: "2026-04-02",
    charge_period_end: "2026-04-03",
    charge_category: "Usage",
    billing_currency: "USD",
  };
  const cell = ({ name, type }: { name: string; type: string }) =>
    known[name] ?? (type === "numeric" ? "100" : type === "text" ? "text" : "");
  return `(${rows.map((column) => (column.name === "charge_class" ? "" : cell(column))).join(",")})`;
}

/** Tables and views of our schemas that the tenant role may select; those with a tenant in them, or the others. */
async function readable(withTenant: boolean): Promise<string[]> {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select c.oid::regclass::text as name
     from pg_class as c
     where c.relnamespace::regnamespace::text in ('app', 'app_private', 'ops', 'tenant')
       and c.relkind in ('r', 'p', 'v', 'm', 'f')
       and has_table_privilege('holdfast_tenant', c.oid, 'select')
       and $1 = exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'tenant_id')
     order by 1`,
    [withTenant],
  );
  return rows.map((row) => row.name);
}

async function asTenant(client: pg.ClientBase, tenantId: string): Promise<void> {
  await client.query("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
  await client.query("set local role holdfast_tenant");
}

async function outcome(client: pg.ClientBase, text: string): Promise<string> {
  await client.query("savepoint before");
  const said = await client.query(text).then(
    (result) => `silent, ${result.rowCount} rows`,
    (error: unknown) =>
      error instanceof pg.DatabaseError ? `${error.code} ${error.routine}` : String(error),
  );
  await client.query("rollback to before");
  return said;
}

describe("the tenant role, inside its tenant", () => {
  test("sees in every table all of its own rows and no other", async () => {
    const names = await readable(true);
    expect(names.length).toBeGreaterThan(12);
    expect(names.every((name) => name.startsWith("tenant."))).toBe(true);
    for (const name of names) {
      const all = await database.superuser.query(
        `select count(*) filter (where tenant_id = $1)::integer as own, count(*)::integer as of_all
         from ${name.replace("tenant.", "app.")}`,
        [tenants.mine],
      );
      const { own, of_all } = all.rows[0];
      const seen = await rolledBack(database.service.pool, async (client) => {
        await asTenant(client, tenants.mine);
        return (await client.query(`select tenant_id from ${name}`)).rows.map((row) => row.tenant_id);
      });
      expect(own, `${name} holds rows of this tenant, and of others`).toBeGreaterThan(0);
      expect(of_all, `${name} holds rows of others`).toBeGreaterThan(own);
      expect(seen, name).toEqual(Array(own).fill(tenants.mine));
    }
  });

  test("sees of the tables without a tenant only what is for all", async () => {
    expect(await readable(false)).toEqual([
      "app.error_codes",
      "app.job_kinds",
      "app.job_run_transitions",
      "app.llm_prices",
      "app.tiers",
    ]);
  });

  test("sees no statistics of a table in which there are other tenants", async () => {
    await database.superuser.query(
      "analyze app.tenants, app.findings, app.job_runs, app.llm_reservations, app.tiers",
    );
    const text = "select distinct tablename from pg_stats where schemaname = 'app' order by 1";
    expect((await database.superuser.query(text)).rowCount).toBeGreaterThan(5);
    await rolledBack(database.service.pool, async (client) => {
      await asTenant(client, tenants.mine);
      expect((await client.query(text)).rows).toEqual([{ tablename: "tiers" }]);
      await client.query("set local row_security = off");
      expect((await client.query(text)).rows).toEqual([{ tablename: "tiers" }]);
    });
  });

  test("gets the rows of the tenant that runs a plan, not of the one that made it", async () => {
    const client = await database.service.pool.connect();
    const run = async (tenantId: string) => {
      await client.query("begin");
      await asTenant(client, tenantId);
      const { rows } = await client.query({
        name: "kept",
        text: "select tenant_id from tenant.tenants where name > $1",
        values: [""],
      });
      await client.query("commit");
      return rows.map((row) => row.tenant_id);
    };
    try {
      // From the sixth run on, the plan is a generic one that stays.
      for (let n = 0; n < 7; n += 1) expect(await run(tenants.mine)).toEqual([tenants.mine]);
      expect(await run(tenants.foreign)).toEqual([tenants.foreign]);

      await client.query("begin");
      await client.query("set local role holdfast_tenant");
      const stale = client.query({
        name: "kept",
        text: "select tenant_id from tenant.tenants where name > $1",
        values: [""],
      });
      await expect(stale).rejects.toMatchObject({ code: "42501", routine: "check_enable_rls" });
      await client.query("rollback");
    } finally {
      client.release(true);
    }
  });
});

// test/attack/silence.test.ts asks more, of everybody; this is strict where the place of the tenant is not just empty.
describe("without a tenant, the tenant role is not answered with silence when it turns row_security on", () => {
  // Not those that want no row: a fence of which no row can be wanted is not even planned.
  const statements = [
    "select * from $t",
    "select exists (select from $t)",
    "select * from $t where tenant_id = '00000000-0000-0000-0000-000000000000'",
    "select * from $t where tenant_id is null",
    "select (select count(*) from $t)",
  ];

  test.each([
    ["unset", "select 1"],
    ["left empty by an earlier transaction", "set local app.tenant = ''"],
    ["malformed", "set local app.tenant = 'x'"],
  ])("and the tenant is %s", async (_what, before) => {
    for (const name of await readable(true)) {
      await rolledBack(database.service.pool, async (client) => {
        await client.query("set local row_security = on; set local role holdfast_tenant");
        await client.query(before);
        for (const text of statements) {
          expect(await outcome(client, text.replaceAll("$t", name)), `${text} ${name}`).toBe(RAISED);
        }
      });
    }
  });
});

describe("the logins of the shell", () => {
  test.each(["holdfast_service", "holdfast_worker"])("%s has no right on a table of ours", async (login) => {
    const { rows } = await database.superuser.query(
      `select c.oid::regclass::text as name
       from pg_class as c
       where c.relnamespace in ('app'::regnamespace, 'app_private'::regnamespace, 'ops'::regnamespace)
         and ((c.relkind in ('r', 'p', 'v', 'm', 'f') and (
             has_table_privilege($1, c.oid, 'select, insert, update, delete, truncate, references, trigger')
             or has_any_column_privilege($1, c.oid, 'select, insert, update, references')))
           or (c.relkind = 'S' and has_sequence_privilege($1, c.oid, 'usage, select, update')))`,
      [login],
    );
    expect(rows).toEqual([{ name: "app.error_codes" }]);

    await rolledBack(
      login === "holdfast_worker" ? database.worker.pool : database.service.pool,
      async (client) => {
        expect(await outcome(client, "select from app.tenants")).toBe(REFUSED);
        await client.query("set local row_security = on");
        expect(await outcome(client, "select from app.tenants")).toBe("42501 aclcheck_error");
      },
    );
  });

  const forAll = ["app.enter", "app_private.current_tenant_id", "app_private.require"];
  test.each([
    ["holdfast_service", ["app.enter", "app.migration_applied", "app.ticket_binding", "app.ticket_check"]],
    ["holdfast_tenant", forAll],
    [
      "holdfast_worker",
      [
        ...["app.cost_import_sweep", "app.enter", "app.job_admit", "app.job_claim", "app.job_complete_many"],
        ...["app.job_kinds_missing", "app.job_metrics", "app.job_reap", "app.job_sweep"],
        ...["app.llm_check", "app.llm_expire", "app.llm_presumed_resolve", "app.llm_sweep"],
        ...["app.maintain", "app.migration_applied"],
        ...["app.schedule_tick", "app.tenant_find", "app.ticket_binding", "app.ticket_check"],
        ...["app.tiers_derive", "app.tokens_repair", "app.worker_beat", "app.worker_seen"],
        ...["app.worker_stop", "app.workers_reap"],
      ],
    ],
    ["holdfast_metrics", ["app.job_metrics"]],
  ])("%s may execute contract functions, and by name what else it needs", async (role, others) => {
    const { rows } = await database.superuser.query<{ name: string }>(
      `select p.pronamespace::regnamespace || '.' || p.proname as name
       from pg_proc as p
       where p.pronamespace in ('app'::regnamespace, 'app_private'::regnamespace, 'ops'::regnamespace)
         and has_function_privilege($1, p.oid, 'execute')
         and not ($1 in ('holdfast_service', 'holdfast_worker')
           and p.pronamespace = 'app'::regnamespace and p.proname <> 'enter'
           and p.proargnames[1:2] = '{tenant_id,ticket}')
       order by 1`,
      [role],
    );
    expect(rows.map((row) => row.name)).toEqual(others);
  });

  test.each(["holdfast_service", "holdfast_worker", "holdfast_tenant", "holdfast_ops", "holdfast_metrics"])(
    "%s owns nothing, can create nothing, and is no superuser",
    async (role) => {
      const { rows } = await database.superuser.query(
        `select r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication as strong,
                has_database_privilege(r.oid, current_database(), 'create, temp') as creates,
                (select bool_or(has_schema_privilege(r.oid, n.oid, 'create')) from pg_namespace as n
                 where n.nspname !~ '^pg_') as creates_in_schema,
                exists (select from pg_class as c where c.relowner = r.oid) as owns,
                pg_has_role(r.oid, 'holdfast_owner', 'member') or pg_has_role(r.oid, 'holdfast_system', 'member') as rises
         from pg_roles as r where r.rolname = $1`,
        [role],
      );
      expect(rows).toEqual([
        { strong: false, creates: false, creates_in_schema: false, owns: false, rises: false },
      ]);
    },
  );
});

test("what sees all tenants is this, and no more", async () => {
  const { rows } = await database.superuser.query<{ name: string }>(
    `select o.namespace::regnamespace || '.' || o.name as name
     from (
       select p.pronamespace, p.proname, p.proowner from pg_proc as p
       union all
       select c.relnamespace, c.relname, c.relowner from pg_class as c where c.relkind in ('r', 'p', 'v', 'm')
     ) as o (namespace, name, owner)
     where pg_get_userbyid(o.owner) = 'holdfast_system'
     order by 1`,
  );
  expect(rows.map((row) => row.name)).toEqual([
    ...[
      "app.cost_import_sweep",
      "app.job_admit",
      "app.job_claim",
      "app.job_complete_many",
      "app.job_metrics",
      "app.job_reap",
    ],
    ...["app.job_sweep", "app.llm_check", "app.llm_expire", "app.llm_presumed_resolve", "app.llm_sweep"],
    ...["app.schedule_tick", "app.tenant_find"],
    ...["app.tiers_derive", "app.tokens_repair", "app.worker_beat", "app.worker_seen"],
    ...["app.worker_stop", "app.workers_reap", "app_private.job_gauges"],
    ...["app_private.partition_needed", "app_private.replay_gauges", "app_private.run_waits"],
    ...["app_private.slot_waits"],
    ...["app_private.tenant_check", "app_private.turn_gauges", "app_private.upkeep_gauges"],
    ...["ops.budgets", "ops.cost_daily", "ops.cost_source_drop"],
    ...["ops.cost_source_set", "ops.cost_sources", "ops.dead_letters", "ops.findings"],
    ...["ops.findings_all", "ops.imports", "ops.job_cancel", "ops.job_discard", "ops.job_enqueue"],
    ...["ops.job_kind_set", "ops.job_pause", "ops.job_replay", "ops.job_resume", "ops.job_show"],
    ...["ops.jobs", "ops.llm_calls", "ops.llm_price_override_end", "ops.llm_price_override_set"],
    ...["ops.llm_price_overrides", "ops.llm_price_set", "ops.llm_prices", "ops.llm_prices_load"],
    ...["ops.llm_write_off", "ops.queue"],
    ...["ops.report", "ops.report_text", "ops.reservations_presumed", "ops.retention_set", "ops.run_events"],
    ...[
      "ops.schedule_set",
      "ops.schedules",
      "ops.set_limit",
      "ops.stuck",
      "ops.tenant_add",
      "ops.tenant_set",
      "ops.tenants",
    ],
    ...["ops.tier_set", "ops.why_waiting", "ops.workers"],
  ]);
});
