// The audit of chaos finds what is broken: each of its checks is shown one thing that must not be.
import { expect, test } from "vitest";
import { auditOf, cancelledAndRun } from "../chaos/audit.ts";
import { jobsScene } from "./scene.ts";

const scene = jobsScene();

test("every check of the audit finds what was broken for it, and nothing before that", async () => {
  const { database } = scene;
  const { tenantId } = await database.addTenant();
  expect((await auditOf(database.superuser)).filter(({ found }) => found > 0)).toEqual([]);

  const client = await database.superuser.connect();
  try {
    await client.query("set application_name = 'holdfast_queue'");
    await client.query("set session_replication_role = replica"); // no trigger stands in the way
    await client.query("select set_config('chaos.tenant', $1, false)", [tenantId]);
    await client.query(BROKEN);
    const checks = await auditOf(database.superuser);
    expect(checks.filter(({ found }) => found === 0).map(({ check }) => check)).toEqual([]);
    expect(checks.every(({ proof }) => proof.length > 0)).toBe(true);
  } finally {
    client.release(true);
  }

  const [run] = await scene.rows<{ run_id: string }>(
    "select run_id from app.job_run_events where to_state = 'RUNNING' limit 1",
  );
  const cancels = [{ tenantId, runId: run!.run_id, at: new Date(Date.now() - 60_000) }];
  expect((await cancelledAndRun(database.superuser, cancels)).found).toBe(1);
});

/** Of a kind that two may run at a time, three do, and their leases are over; and so on, one row for each fault. */
const BROKEN = `
  create temp table t as select current_setting('chaos.tenant')::uuid as tenant_id;

  with made as (
    insert into app.job_runs (tenant_id, kind, state, attempt, token_at, lease_until)
    select tenant_id, 'chaos_capped', 'RUNNING', 1, now(), now() - interval '1 minute' from t, generate_series(1, 3)
    returning tenant_id, id)
  insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor)
  select tenant_id, id, 'PENDING', 'RUNNING', 1, 'chaos' from made;

  insert into app.job_runs (tenant_id, kind, available_at)
  select tenant_id, 'chaos_quick', now() - interval '1 minute' from t;

  insert into app.job_runs (tenant_id, kind, state, attempt, finished_at)
  select tenant_id, 'chaos_quick', 'COMPLETED', 1, now() from t;

  with made as (
    insert into app.job_runs (tenant_id, kind, state, attempt, finished_at, crash_count, error_code, error)
    select tenant_id, 'chaos_quick', 'DEAD_LETTER', 1, now(), 2, x.code, 'LEAK_SEEN'
    from t, unnest('{poison,sqlstate_42P01}'::text[]) as x (code)
    returning tenant_id, id)
  insert into chaos.effects (tenant_id, run_id, attempt, committed_by_task)
  select tenant_id, id, 1, false from made, generate_series(1, 2);

  insert into app.job_runs (tenant_id, kind, slot, state, finished_at)
  select tenant_id, 'chaos_second', 60, 'COMPLETED', now() from t, generate_series(1, 2);

  insert into app.job_workers (worker, pool, host, pid, version, kinds, concurrency, seen_at)
  values ('chaos', 'chaos', 'chaos', 1, 'chaos', '{}', 1, now() - interval '1 hour');
`;
