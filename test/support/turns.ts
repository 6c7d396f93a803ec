// The scheduler as tests see it: tenants, the shards that are due, ticks, and the runs of turns.
import { expect } from "vitest";
import type { Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** The cohorts that are there from the start. */
export const COHORTS = ["HIGH_VALUE", "ACTIVE", "DORMANT"];
const PLANS: Record<string, string> = { HIGH_VALUE: "pro", ACTIVE: "growth", DORMANT: "free" };

/** What a tick answers for a cohort. */
export type Ticked = {
  cohort: string;
  runs: number;
  shards: number;
  overlapped: number;
  duplicates: number;
};

export type Turns = {
  rows(text: string, values?: unknown[]): Promise<Row[]>;
  /** Tenants on the plan of that cohort, many in one statement; gives their ids. */
  addTenants(count: number, cohort?: string): Promise<string[]>;
  /** Moves all tenants with these ids into one shard of their cohort: their ids change. Gives the new ones, sorted. */
  addToOneShard(count: number, cohort?: string): Promise<string[]>;
  /** The tenant has a source, so that its turns begin with cost_import. */
  addSource(tenantId: string): Promise<void>;
  /** Nobody is due, cohorts are as at the start with a period of 31 days, and nothing has run. */
  reset(): Promise<void>;
  /** The shards of these tenants are due, `missed` turns after the last one (null: they had none yet). */
  makeDue(tenantIds: string[], missed?: number | null): Promise<number>;
  /** All that was taken and is due was so many seconds earlier, and so is every boundary: as if time had passed. */
  pass(seconds: number): Promise<void>;
  /** The row of `app.schedules` of a tenant, and the slot that has begun. */
  shardOf(tenantId: string): Promise<Row>;
  tick(maxRuns?: number): Promise<Ticked[]>;
  /** How many runs ticks made, until one has nothing more to make. */
  tickAll(maxRuns?: number): Promise<number>;
  /** The runs of turns of these tenants, oldest slot first. */
  runsFor(tenantIds: string[]): Promise<Row[]>;
  /** Ends runs as a worker would, in the state named. */
  end(runIds: string[], state?: "COMPLETED" | "DEAD_LETTER"): Promise<void>;
  deadlocks(): Promise<number>;
  /** Turns that were taken twice, and runs of turns without a token that nothing holds back: none of both. */
  audit(): Promise<void>;
};

/** Time passes for this database alone: from the first call on, its boundaries are the real ones that much earlier. */
const GRID = `do $do$
begin
  if to_regclass('app_private.time_passed') is null then
    create table app_private.time_passed (seconds bigint);
    insert into app_private.time_passed values (0);
    grant select on app_private.time_passed to public;
    execute replace(pg_get_functiondef('app_private.slot_of'::regproc), 'slot_of', 'slot_of_now');
    create or replace function app_private.slot_of(at timestamptz, every interval, shard smallint)
    returns table (slot bigint, next_run_at timestamptz, seconds bigint)
    language sql stable set search_path = ''
    as $$
      select n.slot - p.seconds, n.next_run_at - p.seconds * interval '1 second', n.seconds
      from app_private.time_passed as p
      cross join lateral app_private.slot_of_now(at + p.seconds * interval '1 second', every, shard) as n
    $$;
    grant execute on function app_private.slot_of_now to public;
  end if;
end
$do$`;

/** The scheduler of a test database. */
export function turnsOf({ superuser, worker }: TestDatabase): Turns {
  const rows = async (text: string, values: unknown[] = []) =>
    (await superuser.query(text, values)).rows as Row[];
  const turns: Turns = {
    rows,
    async addTenants(count, cohort = "ACTIVE") {
      const made = await rows(
        `insert into app.tenants (name, plan, tier) select 'tenant ' || gen_random_uuid(), $2, $3
         from generate_series(1, $1) returning tenant_id`,
        [count, PLANS[cohort], cohort],
      );
      return made.map((row) => row["tenant_id"]);
    },
    async addToOneShard(count, cohort = "ACTIVE") {
      const made = await rows(
        `insert into app.tenants (tenant_id, name, plan, tier)
         select i.id, 'tenant ' || i.id, $2, $3
         from (select g.id, ('x' || left(md5(g.id::text), 2))::bit(8)::integer as shard
               from (select gen_random_uuid() as id from generate_series(1, $1 * 2000)) as g) as i
         where i.shard = 77 limit $1 returning tenant_id`,
        [count, PLANS[cohort], cohort],
      );
      expect(made).toHaveLength(count);
      return made.map((row) => row["tenant_id"]).sort();
    },
    async addSource(tenantId) {
      await rows("insert into app.cost_sources (tenant_id, source, path) values ($1, 'aws', '/costs.csv')", [
        tenantId,
      ]);
    },
    async reset() {
      await rows(
        "truncate app.job_runs, app.job_run_events, app.job_slots, app.cost_sources, app.tenant_schedules",
      );
      await rows("delete from graphile_worker._private_jobs");
      await rows("update app.tenants set status = 'SUSPENDED'");
      await rows(
        `update app.tiers set every = '31 days', missed = 'latest', missed_max = 10, skip_after = null,
           overlap = 'skip', paused_at = null`,
      );
      await rows("update app.job_kinds set paused_at = null");
      await rows(
        `update app.schedules set next_run_at = 'infinity', last_slot = null, open_slot = null, resume_after = null,
           missed_slots = 0`,
      );
    },
    async makeDue(tenantIds, missed = null) {
      const due = await rows(
        `update app.schedules as s
         set next_run_at = now() - interval '1 minute', last_slot = n.slot - ($2::bigint + 1) * n.seconds
         from app.tiers as c, app.schedules as x
         cross join lateral (select * from app.tiers as y where y.tier = x.tier) as y
         cross join lateral app_private.slot_of(now(), y.every, x.shard) as n
         where c.tier = s.tier and x.tier = s.tier and x.shard = s.shard and exists (
           select from app.tenants as t where t.tier = s.tier and t.shard = s.shard and t.tenant_id = any ($1))
         returning s.shard`,
        [tenantIds, missed],
      );
      return due.length;
    },
    async pass(seconds) {
      await rows(GRID);
      await rows("update app_private.time_passed set seconds = seconds + $1", [seconds]);
      // Over negative slots: two updates never meet a slot that is still to be moved.
      await rows("update app.job_slots set slot = $1 - slot", [seconds]);
      await rows(
        `update app.job_slots as j set slot = -j.slot, run_id = (lpad(to_hex(
           ('x' || left(i.hex, 12))::bit(48)::bigint - $1::bigint * 1000), 12, '0') || right(i.hex, 20))::uuid
         from app.job_slots as x, replace(x.run_id::text, '-', '') as i (hex)
         where x.tenant_id = j.tenant_id and x.kind = j.kind and x.slot = j.slot`,
        [seconds],
      );
      await rows("update app.job_runs set slot = slot - $1", [seconds]);
      for (const table of ["app.schedules", "app.tenant_schedules"])
        await rows(
          `update ${table} set last_slot = last_slot - $1::bigint, next_run_at = next_run_at - $1 * interval '1 second'`,
          [seconds],
        );
      await rows("update app.schedules set open_slot = open_slot - $1::bigint where open_slot is not null", [
        seconds,
      ]);
    },
    async shardOf(tenantId) {
      const [shard] = await rows(
        `select s.*, n.slot as newest, n.seconds, s.next_run_at > clock_timestamp() as ahead,
                extract(epoch from s.next_run_at)::bigint = n.slot + n.seconds as next_is_first
         from app.tenants as t
         join app.tiers as c on c.tier = t.tier
         join app.schedules as s on s.tier = t.tier and s.shard = t.shard
         cross join lateral app_private.slot_of(clock_timestamp(), c.every, t.shard) as n
         where t.tenant_id = $1`,
        [tenantId],
      );
      return shard!;
    },
    tick: async (maxRuns = 50_000) =>
      (await worker.pool.query<Ticked>("select * from app.schedule_tick($1)", [maxRuns])).rows,
    async tickAll(maxRuns = 50_000) {
      for (let total = 0; ; ) {
        const made = (await turns.tick(maxRuns)).reduce((sum, each) => sum + each.runs, 0);
        total += made;
        if (made < maxRuns) return total;
      }
    },
    runsFor: (tenantIds) =>
      rows(
        "select * from app.job_runs where tenant_id = any ($1) and slot is not null order by slot, tenant_id, id",
        [tenantIds],
      ),
    async end(runIds, state = "COMPLETED") {
      await rows(
        `update app.job_runs set state = 'RUNNING', attempt = attempt + 1, lease_until = now() + interval '1 minute',
           token_at = coalesce(token_at, now())
         where id = any ($1)`,
        [runIds],
      );
      await rows(
        `update app.job_runs set state = $2, lease_until = null, finished_at = clock_timestamp(), error_code =
           case $2 when 'DEAD_LETTER' then 'llm_timeout' end where id = any ($1)`,
        [runIds, state],
      );
    },
    deadlocks: async () =>
      Number(
        (await rows("select deadlocks from pg_stat_database where datname = current_database()"))[0]![
          "deadlocks"
        ],
      ),
    async audit() {
      expect(
        await rows(
          `select tenant_id, kind, slot from app.job_runs where slot is not null
           group by tenant_id, kind, slot having count(*) > 1`,
        ),
      ).toEqual([]);
      expect(
        await rows(
          `select r.id from app.job_runs as r where r.token_at is not null and not exists (
             select from graphile_worker._private_jobs as j where j.key = 'run:' || r.id || ':' || r.attempt)
             and r.state = 'PENDING'`,
        ),
      ).toEqual([]);
      expect(
        await rows(
          `select r.id from app.job_runs as r where (
             select count(*) from app.job_run_events as e where e.run_id = r.id and e.from_state is null) <> 1`,
        ),
      ).toEqual([]);
    },
  };
  return turns;
}
