// sql/ops/doctor.sql: each check sees the fault that is planted for it, and the fix that it prints, run as it stands,
// ends it. What superuser.sql does is tested in test/superuser.test.ts.
import { readFileSync } from "node:fs";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { projectFile, withClient } from "../../src/migrate.ts";
import { inDatabase } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { asPeople, changed, type Finding, locked } from "../support/doctor.ts";
import { rolledBack } from "../support/rolled_back.ts";

const server = inject("server");
const database = testDatabase();
const superuserSql = readFileSync(projectFile("sql/superuser.sql"), "utf8");
/** Where the lock is under which roles are changed. */
const roles = new pg.Client(server.administrator);
let version = 0;
/** What the doctor says of the clone on which superuser.sql ran. */
let healthy: Finding[] = [];

beforeAll(async () => {
  await roles.connect();
  await locked(roles, () => database.superuser.query(superuserSql));
  version = Number((await database.superuser.query("show server_version_num")).rows[0].server_version_num);
  healthy = await rolledBack(database.superuser, asPeople);
});
afterAll(() => roles.end());

/** The checks of groups of functions. */
const GROUPS = [
  ...["signals", "activity", "volume", "advisory_locks", "large_objects", "wal_messages"],
  ...["exported_snapshots", "server_files"],
];

/** A fault: what is planted, which checks see it besides its own, and what mends it where SQL alone cannot. */
type Fault = { plant: string; also?: string[]; mend?: string; state?: "warning"; from?: number };

const IN_DATABASE = `in database "${database.name}"`;
const NEXT_MONTH = `(select c.oid::regclass::text from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
  where i.inhparent = 'app.events'::regclass
    and c.relname = 'events' || to_char(now() at time zone 'UTC' + interval '1 month', '"_y"YYYY"m"MM'))`;
const NOW_GONE = "update app_private.ticket_keys set not_after = now() - interval '1 second'";

const faults: Record<string, Fault[]> = {
  session_row_security: [{ plant: "set local row_security = off", state: "warning" }],
  role_attributes: [
    { plant: "alter role holdfast_service bypassrls" },
    { plant: "alter role holdfast_tenant superuser" },
    { plant: "alter role holdfast_owner login inherit" },
    { plant: "alter role holdfast_worker createrole createdb nologin" },
    { plant: "alter role holdfast_system replication bypassrls" },
    { plant: "alter role holdfast_metrics rename to gone" },
  ],
  role_memberships: [
    { plant: "revoke holdfast_tenant from holdfast_service" },
    { plant: "revoke holdfast_system from holdfast_owner" },
    { plant: "grant holdfast_owner to holdfast_service", also: ["lint"] },
    { plant: "grant holdfast_tenant to holdfast_worker", also: ["lint"] },
    { plant: "grant pg_read_all_settings to holdfast_tenant", also: ["lint"] },
    { plant: "grant pg_write_all_data to holdfast_ops" },
    { plant: "create role stranger_to_all; grant holdfast_system to stranger_to_all" },
    {
      plant: "create role stranger_to_all login; grant holdfast_service to stranger_to_all",
      also: ["lint"],
    },
    { plant: "grant holdfast_tenant to holdfast_service with admin option" },
    { plant: "grant holdfast_owner to holdfast_admin with inherit true", from: 160_000 },
  ],
  role_settings: [
    { plant: "alter role holdfast_service reset row_security" },
    { plant: "alter role holdfast_worker set row_security = on" },
    { plant: "alter role holdfast_worker reset all", also: ["logged_parameters"] },
    { plant: "alter role holdfast_service set statement_timeout = 0" },
    { plant: "alter role holdfast_service reset client_connection_check_interval" },
    { plant: `alter role holdfast_service ${IN_DATABASE} set row_security = on` },
    { plant: `alter role holdfast_worker ${IN_DATABASE} set idle_in_transaction_session_timeout = 0` },
    { plant: "alter role holdfast_service set session_replication_role = replica" },
    // A login may do these to itself, and so may SQL that goes back to it: no right forbids it.
    {
      plant: "set local role holdfast_service; alter role holdfast_service set array_nulls = off; reset role",
    },
    {
      plant: "set local role holdfast_service; alter role holdfast_service set row_security = on; reset role",
    },
    {
      plant: `set local role holdfast_service; alter role holdfast_service ${IN_DATABASE} set datestyle = 'German'; reset role`,
    },
    { plant: "alter role holdfast_worker set role = holdfast_owner" },
    { plant: `alter database "${database.name}" set session_replication_role = replica` },
    { plant: `alter role holdfast_owner ${IN_DATABASE} set session_replication_role = replica` },
    { plant: "alter role all set session_replication_role = replica" },
  ],
  parameter_rights: [
    { plant: "grant set on parameter session_replication_role to holdfast_service" },
    { plant: "grant set, alter system on parameter log_parameter_max_length to public" },
  ],
  owners: [
    { plant: `alter database "${database.name}" owner to current_user` },
    { plant: "alter schema ops owner to current_user" },
    { plant: "alter table app.findings owner to holdfast_system", also: ["lint"] },
    { plant: "alter table graphile_worker._private_jobs owner to holdfast_worker" },
    { plant: "alter function graphile_worker.add_job owner to holdfast_worker" },
  ],
  row_security_forced: [
    { plant: "alter table app.findings no force row level security", also: ["lint"] },
    { plant: "alter table app.events disable row level security", also: ["lint"] },
    { plant: "alter table graphile_worker._private_jobs disable row level security" },
  ],
  policies: [
    { plant: "create policy mine on app.findings using (true)", also: ["lint"] },
    { plant: "create policy mine on app.tiers as restrictive for select to public using (true)" },
    { plant: "create policy mine on graphile_worker._private_jobs to holdfast_service using (true)" },
  ],
  table_rights: [
    { plant: "grant select on app.findings to holdfast_tenant", also: ["lint"] },
    { plant: "grant insert on tenant.findings to holdfast_tenant", also: ["lint"] },
    { plant: "grant select on app.findings to holdfast_service", also: ["lint"] },
    { plant: "grant select (secret) on app_private.seal_secret to public", also: ["lint"] },
    { plant: "grant delete on graphile_worker._private_jobs to holdfast_service" },
    { plant: "grant select on pg_catalog.pg_statistic to public" },
    { plant: "grant select (rolpassword) on pg_catalog.pg_authid to holdfast_tenant" },
    { plant: "create table public.things (id integer); grant select on public.things to public" },
    { plant: "create sequence public.numbers; grant usage on sequence public.numbers to holdfast_tenant" },
  ],
  definer_functions: [
    { plant: "create function public.thing() returns integer language sql security definer as 'select 1'" },
    {
      plant: `create function graphile_worker.thing() returns integer language sql security definer as 'select 1';
        alter function graphile_worker.thing owner to holdfast_owner;
        revoke execute on function graphile_worker.thing from public;
        grant execute on function graphile_worker.thing to holdfast_tenant`,
    },
  ],
  schema_rights: [
    { plant: "grant create on schema public to public" },
    { plant: "grant create on schema app to holdfast_service", also: ["lint"] },
    { plant: "grant usage on schema ops to holdfast_tenant" },
    { plant: "grant usage on schema graphile_worker to public", also: ["lint"] },
  ],
  database_rights: [
    { plant: `grant temporary on database "${database.name}" to public`, also: ["lint"] },
    { plant: `grant create on database "${database.name}" to holdfast_service` },
    { plant: `revoke connect on database "${database.name}" from holdfast_service` },
    {
      plant: "update pg_database set datacl = null where datname = current_database()",
      also: ["lint", "backup_role"],
    },
  ],
  lint: [
    {
      plant: "comment on view ops.help is null",
      mend: "comment on view ops.help is 'What there is for people in psql.'",
    },
  ],
  partitions: [{ plant: `do $$ begin execute 'drop table ' || ${NEXT_MONTH}; end $$` }],
  ticket_keys: [
    {
      plant: NOW_GONE,
      mend: "update app_private.ticket_keys set not_after = null",
      also: ["ticket_binding"],
    },
  ],
  ticket_key_end: [
    {
      plant: "update app_private.ticket_keys set not_after = now() + interval '1 day'",
      mend: "insert into app_private.ticket_keys (kid, ipad, opad) select 2, ipad, opad from app_private.ticket_keys",
      state: "warning",
    },
  ],
  signals: [
    { plant: "grant execute on function pg_cancel_backend to public", state: "warning" },
    { plant: "grant execute on function pg_terminate_backend to holdfast_service", state: "warning" },
    {
      plant: "grant pg_signal_backend to holdfast_tenant",
      state: "warning",
      also: ["lint", "role_memberships"],
    },
  ],
  activity: [
    { plant: "grant execute on function pg_stat_get_activity to public", state: "warning" },
    { plant: "grant execute on function pg_lock_status to holdfast_tenant", state: "warning" },
    { plant: "grant execute on function pg_stat_get_backend_activity to public", state: "warning" },
  ],
  volume: [
    { plant: "grant execute on function pg_stat_get_tuples_inserted to public", state: "warning" },
    { plant: "grant execute on function pg_current_wal_lsn, pg_table_size to public", state: "warning" },
  ],
  advisory_locks: [
    { plant: "grant execute on function pg_try_advisory_lock(bigint) to public", state: "warning" },
    { plant: "revoke execute on function pg_advisory_xact_lock(bigint) from holdfast_owner" },
    { plant: "grant execute on function pg_advisory_unlock_all to holdfast_service", state: "warning" },
  ],
  large_objects: [
    { plant: "grant execute on function lo_create, lowrite to public", state: "warning" },
    { plant: "grant execute on function loread to holdfast_tenant", state: "warning" },
  ],
  wal_messages: [
    {
      plant: `do $$ declare f regprocedure; begin
        for f in select oid from pg_proc where proname = 'pg_logical_emit_message' loop
          execute format('grant execute on function %s to public', f);
        end loop; end $$`,
      state: "warning",
    },
  ],
  exported_snapshots: [{ plant: "grant execute on function pg_export_snapshot to public", state: "warning" }],
  server_files: [
    { plant: "grant execute on function pg_read_file(text) to public" },
    { plant: "grant execute on function lo_import(text), pg_ls_dir(text) to holdfast_tenant" },
    {
      plant: "grant pg_monitor to holdfast_tenant",
      also: ["activity", "lint", "role_memberships", "volume"],
    },
  ],
  languages: [
    { plant: "grant usage on language plpgsql to public", state: "warning" },
    { plant: "revoke usage on language plpgsql from holdfast_owner" },
    { plant: "grant usage on language plpgsql to holdfast_service", state: "warning" },
  ],
  extensions: [
    { plant: "create extension dblink schema public", state: "warning" },
    { plant: "create extension pg_stat_statements schema public", state: "warning" },
    {
      plant: `create extension if not exists dblink schema public; do $$ declare f regprocedure; begin
        for f in select objid from pg_depend where classid = 'pg_proc'::regclass and deptype = 'e' and refobjid =
          (select oid from pg_extension where extname = 'dblink') loop
          execute format('revoke execute on function %s from public', f);
        end loop; end $$;
        create server elsewhere foreign data wrapper dblink_fdw; grant usage on foreign server elsewhere to holdfast_tenant`,
      state: "warning",
    },
  ],
  ddl: [
    { plant: "alter event trigger holdfast_no_ddl disable", state: "warning" },
    { plant: "alter event trigger holdfast_no_ddl enable replica", state: "warning" },
    ...[
      "drop event trigger holdfast_no_ddl",
      `drop event trigger holdfast_no_ddl; create event trigger holdfast_no_ddl on ddl_command_start
        when tag in ('CREATE TABLE') execute function holdfast_guard.no_ddl();
        alter event trigger holdfast_no_ddl enable always`,
      `drop event trigger holdfast_no_ddl; create event trigger holdfast_no_ddl on ddl_command_end
        execute function holdfast_guard.no_ddl(); alter event trigger holdfast_no_ddl enable always`,
      "create or replace function holdfast_guard.no_ddl() returns event_trigger language plpgsql as 'begin end'",
      "alter function holdfast_guard.no_ddl security definer",
      "alter function holdfast_guard.no_ddl reset search_path",
      "alter function holdfast_guard.no_ddl owner to holdfast_owner",
      "alter schema holdfast_guard owner to holdfast_owner",
    ].map((plant) => ({ plant, mend: superuserSql, state: "warning" as const })),
    {
      plant: "set local event_triggers = off",
      mend: "set local event_triggers = on",
      state: "warning",
      from: 170_000,
    },
  ],
  temporary_files: [
    { plant: "alter role holdfast_service reset temp_file_limit", state: "warning" },
    { plant: "alter role holdfast_service set temp_file_limit = -1", state: "warning" },
    { plant: `alter role holdfast_service ${IN_DATABASE} set temp_file_limit = -1`, state: "warning" },
  ],
  logged_parameters: [
    { plant: "alter role holdfast_worker reset log_parameter_max_length", state: "warning" },
    { plant: "alter role holdfast_ops set log_parameter_max_length = -1", state: "warning" },
    { plant: "alter role holdfast_service set log_parameter_max_length_on_error = 100", state: "warning" },
    {
      plant: `alter role holdfast_service ${IN_DATABASE} set log_parameter_max_length = -1`,
      state: "warning",
    },
  ],
  logged_plans: [
    { plant: "load 'auto_explain'", state: "warning" },
    {
      plant: `load 'auto_explain';
        alter role holdfast_service set auto_explain.log_min_duration = -1;
        alter role holdfast_worker set auto_explain.log_min_duration = '5s'`,
      state: "warning",
    },
  ],
  backup_role: [
    { plant: "alter role holdfast_backup rename to gone", state: "warning" },
    { plant: "alter role holdfast_backup createdb" },
    { plant: "revoke pg_read_all_data from holdfast_backup" },
    { plant: "alter role holdfast_backup reset default_transaction_read_only", state: "warning" },
    { plant: `revoke connect on database "${database.name}" from holdfast_backup` },
  ],
  replicator_role: [
    { plant: "alter role holdfast_replicator rename to gone", state: "warning" },
    { plant: "alter role holdfast_replicator superuser" },
  ],
};

test("where superuser.sql ran, nothing is wrong but the server's version", async () => {
  const wrong = healthy.filter((row) => row.state !== "ok" && row.checked !== "server_version");
  expect(wrong).toEqual([]);
  expect(healthy.every((row) => (row.state === "ok") === (row.fix === null))).toBe(true);
});

test("holdfast_ops itself is answered, in little time", async () => {
  const started = performance.now();
  const { rows } = await database.ops.query<Finding>("select * from ops.doctor()");
  expect(rows).toEqual(healthy);
  expect(performance.now() - started).toBeLessThan(5_000);
});

test.each(["holdfast_service", "holdfast_worker", "holdfast_tenant", "holdfast_metrics"])(
  "%s is refused",
  async (role) => {
    await rolledBack(database.superuser, async (client) => {
      await client.query(`set local role ${role}`);
      await expect(client.query("select * from ops.doctor()")).rejects.toMatchObject({ code: "42501" });
    });
  },
);

test("every check has a fault planted here; the server's version cannot be changed", () => {
  const checks = healthy.map((row) => row.checked).filter((checked) => checked !== "server_version");
  expect([...Object.keys(faults), "ticket_binding"].sort()).toEqual(checks.sort());
});

type Planted = Fault & { checked: string };
const planted: Planted[] = Object.entries(faults).flatMap(([checked, of]) =>
  of.map((fault) => ({ checked, ...fault })),
);

/** Plants a fault, and answers with its fix: the doctor says what it should, and nothing else. */
async function seen(client: pg.ClientBase, fault: Planted, after = "nothing"): Promise<string> {
  await client.query(fault.plant);
  const said = changed(healthy, await asPeople(client));
  expect([...said.keys()].sort(), `after ${after}`).toEqual([fault.checked, ...(fault.also ?? [])].sort());
  expect(said.get(fault.checked)!.state).toBe(fault.state ?? "fault");
  return said.get(fault.checked)!.fix!;
}

describe("a fault is seen by its check alone, and ends with its fix", () => {
  // In one transaction: what the doctor says of the next fault shows that the last has ended.
  let client: pg.PoolClient | undefined;
  let last: string | undefined;
  const inShared = async (work: (client: pg.ClientBase) => Promise<void>) => {
    client ??= await database.superuser.connect();
    if (last === undefined) await client.query("begin");
    last ??= "nothing";
    await work(client).catch(async (error) => {
      await end(); // the next one begins anew
      throw error;
    });
  };
  const end = async () => {
    await client?.query("rollback");
    last = undefined;
  };
  afterAll(async () => {
    await end();
    client?.release();
  });

  test.each(planted.filter((fault) => !isAlone(fault)))("$checked: $plant", async (fault) => {
    if (version < (fault.from ?? 0)) return;
    await inShared(async (shared) => {
      await shared.query(await seen(shared, fault, last));
      last = `the fix of: ${fault.plant}`;
    });
  });

  test("the last of them has ended, too", async () => {
    await inShared(async (shared) => {
      expect([...changed(healthy, await asPeople(shared)).keys()], `after ${last}`).toEqual([]);
    });
  });
});

describe("a fault of roles, or one that takes more than its fix, does so in a transaction of its own", () => {
  test.each(planted.filter(isAlone))("$checked: $plant", async (fault) => {
    if (version < (fault.from ?? 0)) return;
    await inTransaction(fault.plant, async (client) => {
      const fix = await seen(client, fault);
      await client.query(fix);
      if (fault.mend !== undefined) {
        expect(fix).toMatch(/^-- /);
        await client.query(fault.mend);
      }
      let now = await asPeople(client);
      expect(now.find(({ checked }) => checked === fault.checked)).toMatchObject({ state: "ok", fix: null });

      // A role that was missing is there again, and then lacks what it had: fixes of other checks, and again.
      for (let rounds = 0; rounds < 2 && anyFix(now); rounds += 1) {
        for (const each of changed(healthy, now).values())
          if (each.fix !== null) await client.query(each.fix);
        now = await asPeople(client);
      }
      expect(statesOf(now)).toEqual(statesOf(healthy));
    });
  });

  const anyFix = (now: Finding[]) => [...changed(healthy, now).values()].some(({ fix }) => fix !== null);
  const statesOf = (rows: Finding[]) => Object.fromEntries(rows.map((row) => [row.checked, row.state]));
});

describe("what is as it may be is left alone", () => {
  test.each([
    "create role somebody login in role holdfast_ops",
    "create role somebody login in role holdfast_metrics",
    "create role somebody login createrole in role holdfast_owner",
    "create role somebody login superuser in role holdfast_tenant",
    "grant pg_monitor to holdfast_ops",
    "alter role holdfast_service set statement_timeout = '20s'",
    "alter role holdfast_service set work_mem = '8MB'",
    "create extension pg_trgm schema public",
    "create table public.things (id integer)",
    `grant connect on database "${database.name}" to pg_monitor`,
  ])("%s", async (harmless) => {
    await inTransaction(harmless, async (client) => {
      await client.query(harmless);
      expect([...changed(healthy, await asPeople(client)).values()]).toEqual([]);
    });
  });
});

describe("tickets", () => {
  const ticketRow = async (change: string) =>
    rolledBack(database.superuser, async (client) => {
      await client.query(change);
      return (await asPeople(client)).find((row) => row.checked === "ticket_binding");
    });

  test("a key whose tickets fit every backend is named, as a thing that may be right", async () => {
    expect(healthy.find((row) => row.checked === "ticket_binding")).toEqual({
      checked: "ticket_binding",
      state: "ok",
      found: "none for key 1: its tickets may fit every backend, as a pooler needs",
      fix: null,
    });
    const bound = await ticketRow("update app_private.ticket_keys set binding = 'backend'");
    expect(bound).toMatchObject({ state: "ok", found: "every ticket is good for one backend" });
  });

  test("no part of a key or of a seal is in any answer", async () => {
    const { rows } = await database.superuser.query<{ secret: string }>(
      `select encode(ipad, 'hex') as secret from app_private.ticket_keys
       union all select encode(opad, 'hex') from app_private.ticket_keys
       union all select encode(secret, 'hex') from app_private.seal_secret`,
    );
    const said = JSON.stringify(healthy);
    for (const { secret } of rows) expect(said).not.toContain(secret.slice(0, 16));
  });
});

test("superuser.sql takes the same functions as the doctor asks for, and gives them to the same roles", () => {
  /** The pairs of a pattern and of who keeps it, from a text in which literals are put together over lines. */
  const groupsIn = (path: string) =>
    [
      ...readFileSync(projectFile(path), "utf8")
        .replaceAll(/--.*/g, "")
        .replaceAll(/'\s*\n\s*'/g, "")
        .matchAll(/'(\^[^']*\$)',\s*(null|'[^']*')\)/g),
    ].map(([, pattern, keptFor]) => [pattern, keptFor]);

  const groups = groupsIn("sql/superuser.sql");
  expect(groups).toHaveLength(healthy.filter(({ checked }) => GROUPS.includes(checked)).length);
  expect(groups).toEqual(groupsIn("sql/app_private/doctor_function_groups.sql"));
});

describe("the server's version", () => {
  /** Major version and floor, wherever a text lists the four as 15: 150_020 or (15, 150020). */
  const floorsIn = (path: string) =>
    [...readFileSync(projectFile(path), "utf8").matchAll(/\b(1[5-9])[:,] (1[5-9][\d_]{4,6})\b/g)].map(
      ([, major, floor]) => [Number(major), Number(floor!.replaceAll("_", ""))],
    );

  test("has the same floor here as in the shell", () => {
    const floors = floorsIn("sql/app_private/doctor_server.sql");
    expect(floors).toHaveLength(4);
    expect(floors).toEqual(floorsIn("src/login_check.ts"));
  });

  test("is a fault below it", () => {
    const floor = floorsIn("src/login_check.ts").find(([major]) => major === Math.floor(version / 10_000));
    const isSafe = floor !== undefined && version >= floor[1]!;
    const row = healthy.find((each) => each.checked === "server_version");
    expect(row).toMatchObject({
      state: isSafe ? "ok" : "fault",
      fix: isSafe ? null : expect.stringMatching(/^-- .*15\.20, 16\.16, 17\.12, 18\.7/),
    });
  });
});

/** Whether it is of the cluster's roles, of a session for good, or takes more than its own check's fix. */
const isAlone = ({ plant, mend, also = [] }: Fault) =>
  ofRoles(plant) ||
  plant.startsWith("load ") ||
  mend !== undefined ||
  also.some((checked) => checked !== "lint");
const ofRoles = (change: string) => /\brole\b|^(grant|revoke) (holdfast|pg)_/.test(change);

/**
 * Lends a transaction that is rolled back, for a change: of the cluster's roles, after all others that change them; of
 * a session for good, on a connection of its own.
 */
async function inTransaction<T>(change: string, work: (client: pg.ClientBase) => Promise<T>): Promise<T> {
  const lend = () =>
    change.startsWith("load ")
      ? withClient(inDatabase(server.administrator, database.name), async (client) => {
          await client.query("begin");
          return work(client);
        })
      : rolledBack(database.superuser, work);
  return ofRoles(change) ? locked(roles, lend) : lend();
}
