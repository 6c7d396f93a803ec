// Many tenants that are due at once, and the rows that ticks make of them, dealt out for the floor.
import type pg from "pg";
import { withClient } from "../../../src/migrate.ts";

/** Every table that a tick fills, and its rows as they are inserted: what the table makes up by itself is not copied. */
export const FILLED = {
  "app.job_slots": "tenant_id, kind, slot, run_id",
  "app.job_runs": `tenant_id, id, kind, slot, state, attempt, priority, input, available_at, token_at, token_rank,
    created_at`,
  "app.job_run_events": "tenant_id, id, run_id, from_state, to_state, attempt, actor, reason, created_at",
  "graphile_worker._private_jobs": `job_queue_id, task_id, payload, priority, run_at, attempts, max_attempts, created_at,
    updated_at, key, revision, flags`,
} as const;

/** Tenants of all cohorts. */
export async function makeTenants(superuser: pg.ClientConfig, tenants: number): Promise<void> {
  await withClient(superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query(
      `insert into app.tenants (name, tier, pinned_tier)
       select 'bench ' || n, tier, tier
       from generate_series(1, $1::integer) as n
       cross join lateral (
         select (array['HIGH_VALUE', 'HIGH_VALUE', 'ACTIVE', 'ACTIVE', 'ACTIVE', 'ACTIVE', 'ACTIVE', 'DORMANT',
                       'DORMANT', 'DORMANT'])[1 + n % 10] as tier) as t`,
      [tenants],
    );
  });
}

/** Nothing was ever made, and every shard of every cohort is due. */
export async function reset(superuser: pg.ClientConfig): Promise<void> {
  await withClient(superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query(
      `truncate ${Object.keys(FILLED).join(", ")}, app.job_run_keys, app.job_gates, app.events restart identity`,
    );
    await client.query("delete from app.schedules");
    await client.query(
      "insert into app.schedules (tier, shard) select tier, shard from app.tiers, generate_series(0, 255) as shard",
    );
    await client.query("vacuum analyze app.schedules");
    await client.query("checkpoint");
  });
}

/** Keeps what the ticks have made, in shares of so many runs each: the floor inserts one in a transaction. */
export async function dealOut(superuser: pg.ClientConfig, runs: number): Promise<void> {
  await withClient(superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query("create schema bench");
    for (const [table, columns] of Object.entries(FILLED)) {
      await client.query(
        `create unlogged table bench.${nameOf(table)} as
         select ((row_number() over (order by ctid) - 1) / ${runs})::integer as share, ${columns} from ${table}`,
      );
      await client.query(`create index on bench.${nameOf(table)} (share)`);
    }
    await client.query("vacuum analyze");
  });
}

/** The same name without its schema. */
export function nameOf(table: string): string {
  return table.slice(table.indexOf(".") + 1);
}

/** In an order of chance. */
export function drawn<T>(values: readonly T[]): T[] {
  return values
    .map((value) => ({ value, key: Math.random() }))
    .sort((one, other) => one.key - other.key)
    .map(({ value }) => value);
}
