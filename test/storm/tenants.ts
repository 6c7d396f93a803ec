// Tenants of a storm, their budgets, and the prices; and what goes on beside the clients.
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { createPool } from "../../src/db.ts";
import { llmExpire, llmPresumedResolve } from "../../src/jobs.ts";
import { withClient } from "../../src/migrate.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { isAway, nameOf } from "./errors.ts";
import type { StormServer } from "./server.ts";

const OTHERS = 500;
/** Every so many tenants one has no limit for the whole of it. */
const UNLIMITED_EVERY = 25;
/** A hold of the small model is about 0.6 million nano-USD, one of the large one five times as much. */
const ROOM_USD = 0.06;
const SWEEP_ROWS = 500;

/**
 * Budgets of each tenant: of the tenant itself, and of some names of its calls. Periods differ, and limits are small; a
 * presumed hold of every second tenant is given back after 2 s, which is less than the product allows. The second tenant
 * has a limit of 0, the third has no budget.
 */
const TENANTS = `
  alter table app.tenants drop constraint tenants_presumed_after_iff_release;

  insert into app.tenants (name, presumed_policy, presumed_after)
  select 'storm ' || n, case when n % 2 = 0 then 'release_after' else 'hold' end,
         case when n % 2 = 0 then interval '2 seconds' end
  from generate_series(0, ${OTHERS}) as n;

  insert into app.llm_budgets (tenant_id, scope, scope_id, period, limit_nanousd, unlimited)
  select t.tenant_id, b.scope, b.scope_id, b.period,
         case when n.n = 1 then 0 when not x.unlimited then b.usd * 1e9 end, x.unlimited
  from app.tenants as t
  cross join lateral (select replace(t.name, 'storm ', '')::integer as n) as n
  cross join (values ('tenant', '', 'month', 0.04), ('tenant', '', 'total', 0.05), ('api_key', 'key 1', 'day', 0.02),
    ('user', 'user 1', 'month', 0.02), ('user', 'user 2', 'week', 0.03), ('model', 'storm/large', 'day', 0.03),
    ('tag', 'team', 'week', 0.02), ('tag', 'batch', 'total', 0.02)) as b (scope, scope_id, period, usd)
  cross join lateral (
    select b.scope = 'tenant' and n.n % ${UNLIMITED_EVERY} = ${UNLIMITED_EVERY - 1} as unlimited) as x
  where t.name like 'storm %' and n.n <> 2;
`;

const PRICES = `
  select from ops.llm_price_set('storm', 'small', 1, 2, reason => 'storm');
  select from ops.llm_price_set('storm', 'large', 5, 10, reason => 'storm');
`;

/** Makes the scene; answers the ids of the tenants, the one that half of the calls are of first. */
export async function stormTenants(server: StormServer): Promise<string[]> {
  await withClient({ connectionString: server.url("holdfast_ops") }, (ops) => ops.query(PRICES));
  return withClient(server.superuser, async (superuser) => {
    await superuser.query(TENANTS);
    const { rows } = await superuser.query<{ tenant_id: string }>(
      "select tenant_id from app.tenants where name like 'storm %' order by length(name), name",
    );
    return rows.map((row) => row.tenant_id);
  });
}

/** Something that goes on beside the clients, until `stop`; errors that are not to be are in `failures`. */
export type Beside = { count: number; failures: string[]; stop(): Promise<void> };

/** Does `work` over and over, and counts what it answers. */
function beside(everyMs: number, work: () => Promise<number>, end: () => Promise<unknown>): Beside {
  const stopping = new AbortController();
  const done: Beside = { count: 0, failures: [], stop: async () => {} };
  const loop = async () => {
    while (!stopping.signal.aborted) {
      try {
        done.count += await work();
      } catch (error) {
        if (!isAway(error)) done.failures.push(nameOf(error));
      }
      await sleep(everyMs, undefined, { signal: stopping.signal }).catch(() => {});
    }
    await end();
  };
  const ended = loop();
  done.stop = () => {
    stopping.abort();
    return ended;
  };
  return done;
}

/** Holds that nobody closes expire, and what is presumed ends as the policy says. */
export function sweeper(server: StormServer): Beside {
  const connectionString = server.url("holdfast_worker");
  const pool = createPool({ connectionString, application_name: "storm_sweeper", max: 1 });
  const db = { pool, ticketKey: TEST_TICKET_KEY };
  const sweep = async () => {
    const expired = await llmExpire(db, SWEEP_ROWS);
    const resolved = await llmPresumedResolve(db, SWEEP_ROWS);
    return expired.length + resolved.length;
  };
  return beside(100, sweep, () => pool.end());
}

/** An operator who raises what is nearly used up, of the first tenant always and of others now and then. */
export function operator(server: StormServer): Beside {
  const open = (config: pg.PoolConfig) =>
    createPool({ ...config, max: 1, application_name: "storm_operator" });
  const ops = open({ connectionString: server.url("holdfast_ops") });
  const superuser = open(server.superuser);
  const raise = async () => {
    const { rows } = await superuser.query(NEARLY_USED_UP);
    for (const { name, scope, scope_id, period, usd } of rows) {
      await ops.query(
        "select from ops.set_limit($1, $2, reason => 'storm', period => $3, scope => $4, scope_id => $5)",
        [name, usd, period, scope, scope_id],
      );
    }
    return rows.length;
  };
  return beside(100, raise, () => Promise.all([ops.end(), superuser.end()]));
}

const NEARLY_USED_UP = `
  select t.name, b.scope, b.scope_id, b.period,
    (p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd) / 1e9 + ${ROOM_USD} as usd
  from app.tenants as t
  join app.llm_budgets as b on b.tenant_id = t.tenant_id and not b.unlimited
  join app.llm_budget_periods as p on p.tenant_id = b.tenant_id and p.budget_id = b.id
  where p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd > b.limit_nanousd - ${ROOM_USD / 3} * 1e9
    and b.limit_nanousd > 0 and (t.name = 'storm 0' or random() < 0.005)`;

/** From here on a commit waits a millisecond longer for its disk. */
export async function slowDisk(server: StormServer): Promise<void> {
  await withClient(server.superuser, async (superuser) => {
    await superuser.query("alter system set commit_delay = 1000");
    await superuser.query("alter system set commit_siblings = 0");
    await superuser.query("select pg_reload_conf()");
  });
}
