// The database of chaos: migrated, with tenants of all tiers, the kinds of kinds.ts, and a table of effects.
import { readFile } from "node:fs/promises";
import { Logger as QueueLogger, runMigrations } from "graphile-worker";
import type pg from "pg";
import { createPool, type Db } from "../../src/db.ts";
import { createLog } from "../../src/log.ts";
import { asOwner, bootstrap, migrateDatabase, projectFile, withClient } from "../../src/migrate.ts";
import { TEST_PASSWORD, TEST_TICKET_KEY } from "../support/constants.ts";
import { KINDS } from "./kinds.ts";
import type { ChaosServer } from "./server.ts";

const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"] as const;
/** Below deadlock_timeout. */
const LOCK_MS = 400;
type Login = (typeof LOGINS)[number];

/** A tenant of chaos. */
export type ChaosTenant = { tenantId: string; name: string };

/** What chaos works with. The pools of the server come back by themselves after a restart. */
export type Scene = {
  server: ChaosServer;
  tenants: ChaosTenant[];
  superuser: pg.Pool;
  ops: pg.Pool;
  service: Db;
  url(login: Login): string;
  end(): Promise<void>;
};

/** Makes all of it. */
export async function chaosScene(server: ChaosServer, tenantCount: number): Promise<Scene> {
  const url = (login: Login) =>
    `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${server.database}`;
  await bootstrap(server.administrator, {
    database: server.database,
    passwords: Object.fromEntries(LOGINS.map((login) => [login, TEST_PASSWORD])),
  });
  const log = createLog({ level: "warn" });
  await migrateDatabase(url("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });

  const pools: pg.Pool[] = [];
  const open = (config: pg.PoolConfig) => {
    const pool = createPool({ ...config, application_name: "chaos" });
    pools.push(pool);
    return pool;
  };
  const superuser = open({ ...server.superuser, options: "-c row_security=on" });
  await superuser.query(THINGS);
  await addKinds(superuser);
  return {
    server,
    tenants: await addTenants(superuser, tenantCount),
    superuser,
    ops: open({ connectionString: url("holdfast_ops") }),
    service: { pool: open({ connectionString: url("holdfast_service") }), ticketKey: TEST_TICKET_KEY },
    url,
    end: async () => {
      await Promise.all(pools.map((pool) => pool.end()));
    },
  };
}

/** Effects are the tenant's own writes; a tenant's tiers are kept, for the cap that held at each moment. */
export const THINGS = `
  create schema chaos;
  create table chaos.effects (
    tenant_id uuid not null, run_id uuid not null, attempt integer not null,
    committed_by_task boolean not null, made_at timestamptz not null default clock_timestamp());
  create table chaos.tiers (
    tenant_id uuid not null, tier text not null, since timestamptz not null default clock_timestamp());
  grant usage on schema chaos to holdfast_tenant;
  grant insert on chaos.effects to holdfast_tenant;

  create function chaos.trap(seconds integer) returns void language plpgsql as $$
  begin
    for i in 1..seconds loop
      begin
        perform pg_catalog.pg_sleep(1);
      exception when query_canceled then
        null;
      end;
    end loop;
  end $$;

  create function chaos.tier_changed() returns trigger language plpgsql security definer as $$
  begin
    insert into chaos.tiers (tenant_id, tier) values (new.tenant_id, new.tier);
    return null;
  end $$;
  create trigger chaos_tier after insert or update of tier on app.tenants
    for each row execute function chaos.tier_changed();
`;

/** From here on, the scheduler makes nothing: its next turns are weeks away. */
export const NO_TURNS = `
  update app.tiers set every = interval '31 days', paused_at = null;
  update app.schedules set next_run_at = now() + interval '30 days', open_slot = null, resume_after = null;
`;

/** Kinds of the product leave their places in a slot to those of chaos. */
export async function addKinds(superuser: Pick<pg.Pool, "query">): Promise<void> {
  await superuser.query("update app.job_kinds set slot_order = null");
  for (const kind of KINDS) {
    await superuser.query(
      `insert into app.job_kinds (kind, timeout_seconds, max_retries, backoff_base_ms, backoff_cap_ms, max_running,
         rate_per_minute, rate_burst, slot_order, tenant_enqueues, description)
       values ($1, $2, $3, 200, 2000, $4, $5, $6, $7, true, 'For chaos.')`,
      [
        kind.kind,
        kind.timeoutSeconds,
        kind.maxRetries,
        kind.maxRunning ?? null,
        kind.ratePerMinute ?? null,
        kind.rateBurst ?? 1,
        kind.slotOrder ?? null,
      ],
    );
  }
}

/** Turns come as often as they may; every tier has as many tenants as another. */
async function addTenants(superuser: pg.Pool, count: number): Promise<ChaosTenant[]> {
  await superuser.query("update app.tiers set every = rank * interval '1 minute'");
  const { rows } = await superuser.query<ChaosTenant>(
    `insert into app.tenants (name, tier, pinned_tier)
     select 'tenant ' || n, t.tier, t.tier
     from generate_series(1, $1::int) as n
     join app.tiers as t on t.rank = 1 + n % 3
     order by n
     returning tenant_id as "tenantId", name`,
    [count],
  );
  await superuser.query("update app.schedules set next_run_at = now()");
  return rows;
}

/** A lock that does not come is given up before the server looks for a deadlock: runs go on and take theirs. */
function hasty(url: string): string {
  const target = new URL(url);
  target.searchParams.set("options", `${target.searchParams.get("options")} -c lock_timeout=${LOCK_MS}`);
  return target.href;
}

/** Drops the queue's schema and makes it again, as a migration does. Tokens are lost, runs are not. */
export async function remakeQueue(scene: Pick<Scene, "superuser" | "url">): Promise<void> {
  const client = await scene.superuser.connect();
  try {
    await client.query("begin");
    await client.query(`set local lock_timeout = ${LOCK_MS}`);
    await client.query("drop schema graphile_worker cascade");
    await client.query("commit");
    client.release();
  } catch (error) {
    client.release(true);
    throw error;
  }
  const connectionString = hasty(asOwner(scene.url("holdfast_admin")));
  await runMigrations({ connectionString, logger: new QueueLogger(() => () => {}) });
  const grants = await readFile(projectFile("sql/worker_grants.sql"), "utf8");
  await withClient({ connectionString }, (owner) => owner.query(grants));
}
