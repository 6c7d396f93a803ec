// One tenant with many runs beside many tenants with few, and a thousand dead letters at a rate.
import { expect, test } from "vitest";
import type { TestTenant } from "../support/database.ts";
import { until } from "../support/job_scene.ts";
import { jobsScene } from "./scene.ts";

const scene = jobsScene();
/** The long queue is a fifth of what one would try on a machine of its own. */
const LARGE = 2_000;
const SMALL = { tenants: 100, runs: 5 };

async function tenantsOf(count: number): Promise<TestTenant[]> {
  return scene.rows<TestTenant>(
    `insert into app.tenants (name) select 'tenant ' || gen_random_uuid() from generate_series(1, $1::int)
     returning tenant_id as "tenantId", name`,
    [count],
  );
}

test("a tenant with a long queue, asked for first, keeps none of the others waiting for its end", async () => {
  const [large, ...small] = await tenantsOf(1 + SMALL.tenants);
  const works = (count: number) => Array.from({ length: count }, () => ({ ms: 5 }));
  await scene.enqueue(large!, "chaos_quick", works(LARGE));
  for (const tenant of small) await scene.enqueue(tenant, "chaos_quick", works(SMALL.runs));
  const crew = scene.crew(16);
  crew.start();

  const live = "select count(*)::int as live from app.job_runs where finished_at is null";
  await until(async () => (await scene.rows<{ live: number }>(live))[0]!.live === 0, 80_000);
  const starts = await scene.rows<{ tenant_id: string; place: number }>(
    `select tenant_id, row_number() over (order by created_at, id)::int as place
     from app.job_run_events where to_state = 'RUNNING' order by created_at, id`,
  );
  const ofLarge = starts.filter((start) => start.tenant_id === large!.tenantId).map(({ place }) => place);
  const last = new Map(starts.map(({ tenant_id, place }) => [tenant_id, place]));
  last.delete(large!.tenantId);

  // The last start of every other tenant comes before a tenth of the long queue has started.
  const startedBefore = ofLarge.filter((place) => place < Math.max(...last.values())).length;
  expect(startedBefore).toBeLessThan(LARGE / 10);

  // While all of them have work, nobody gets more than another: Jain's index of fairness over the starts.
  const firstDone = Math.min(...last.values());
  const counts = [large!, ...small].map(
    ({ tenantId }) =>
      starts.filter(({ tenant_id, place }) => tenant_id === tenantId && place <= firstDone).length,
  );
  expect(jain(counts)).toBeGreaterThan(0.9);
  await crew.stop();
}, 120_000);

/** Jain, Chiu, Hawe, "A quantitative measure of fairness", 1984: 1 when all are equal, 1/n when one has everything. */
function jain(shares: number[]): number {
  const sum = shares.reduce((total, share) => total + share, 0);
  return sum ** 2 / (shares.length * shares.reduce((total, share) => total + share ** 2, 0));
}

test("a thousand dead letters are replayed as themselves, so many each second", async () => {
  const rate = 250; // the last of a thousand is due 4 s after the first
  const tenants = await tenantsOf(10);
  const before = await scene.rows<{ id: string }>(
    `insert into app.job_runs (tenant_id, kind, state, attempt, failure_count, error_code, finished_at, created_at)
     select t.tenant_id, 'chaos_quick', 'DEAD_LETTER', 3, 3, 'upstream_failed', now() - interval '1 hour', now() - interval '2 hours'
     from unnest($1::uuid[]) as t (tenant_id), generate_series(1, 100)
     returning id`,
    [tenants.map(({ tenantId }) => tenantId)],
  );
  const { rows: told } = await scene.database.ops.query(
    `select run, verdict from ops.job_replay('{"error_code": "upstream_failed"}', actor => 'alice', reason => 'it is up again',
       rate => $1, dry_run => false)`,
    [rate],
  );
  expect(told.length).toBe(1_000);

  const crew = scene.crew(16);
  crew.start();
  const ids = before.map(({ id }) => id);
  const left = "select count(*)::int as live from app.job_runs where id = any ($1) and finished_at is null";
  await until(async () => (await scene.rows<{ live: number }>(left, [ids]))[0]!.live === 0, 60_000);

  const [whole] = await scene.rows<Record<string, unknown>>(
    `select count(*)::int as runs, min(replay_count) as replays, count(*) filter (where state = 'COMPLETED')::int as completed,
       bool_and(attempt = 4) as attempts_count_on, bool_and(actor = 'alice') as by_alice,
       bool_and(created_at < now() - interval '1 hour') as origin_kept,
       bool_and(started_at >= available_at) as none_early,
       round(extract(epoch from max(available_at) - min(available_at)), 2)::float as spread
     from app.job_runs where id = any ($1)`,
    [ids],
  );
  expect(whole).toEqual({
    runs: 1_000,
    replays: 1,
    completed: 1_000,
    attempts_count_on: true,
    by_alice: true,
    origin_kept: true,
    none_early: true,
    spread: 4,
  });
  const events = await scene.rows<{ from_state: string; actor: string; reason: string }>(
    `select distinct from_state, actor, reason from app.job_run_events
     where run_id = any ($1) and from_state = 'DEAD_LETTER'`,
    [ids],
  );
  expect(events).toEqual([{ from_state: "DEAD_LETTER", actor: "alice", reason: "it is up again" }]);
}, 120_000);
