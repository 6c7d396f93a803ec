// Tasks that do what no task should, in a worker process: each ends in time, and leaves its slot to the next.
import { expect, test } from "vitest";
import type { Behaviour } from "../chaos/kinds.ts";
import { until } from "../support/job_scene.ts";
import { jobsScene } from "./scene.ts";

const scene = jobsScene();
const TIMEOUT_MS = 2_000;
const GRACE_MS = 2_000;
/** What the machine may be late by: it has other tests to run. */
const LATE_MS = 3_000;

/** How each of them ends, without a second attempt. */
const ENDS: Partial<Record<Behaviour, [state: string, errorCode: string | null]>> = {
  sleeps: ["DEAD_LETTER", "job_timeout"],
  traps: ["DEAD_LETTER", "job_timeout"],
  holds: ["DEAD_LETTER", "job_timeout"],
  spins: ["DEAD_LETTER", "job_timeout"],
  throws: ["DEAD_LETTER", "internal_error"],
  commits: ["DEAD_LETTER", "job_transaction_lost"],
  leaks: ["COMPLETED", null],
  leaves_a_promise: ["COMPLETED", null],
};

test("whatever a task does, its attempt ends by its time limit and the grace, and its slot is free again", async () => {
  await scene.rows("update app.job_kinds set max_retries = 0 where kind in ('chaos_harsh', 'chaos_thread')");
  const behaviours = Object.keys(ENDS) as Behaviour[];
  const tenants = await Promise.all(behaviours.map(() => scene.database.addTenant()));
  const member = scene.crew(behaviours.length).start();

  const runs = new Map<string, Behaviour>();
  for (const [place, behave] of behaviours.entries()) {
    const kind = behave === "spins" ? "chaos_thread" : "chaos_harsh";
    const [id] = await scene.enqueue(tenants[place]!, kind, [{ behave }]);
    runs.set(id!, behave);
  }
  const ended = await until(() => ends([...runs.keys()]), 30_000);
  expect(Object.fromEntries(ended.map((run) => [runs.get(run.id), [run.state, run.error_code]]))).toEqual(
    ENDS,
  );
  for (const run of ended)
    expect.soft(run.ms, runs.get(run.id)).toBeLessThan(TIMEOUT_MS + GRACE_MS + LATE_MS);

  // Every slot of the same process works again, on connections that keep nothing of what was done to them.
  const after = (
    await Promise.all(
      tenants.map((tenant) =>
        scene.enqueue(tenant, "chaos_quick", [{ ms: 300, hold: 50 }, { behave: "leaks" }]),
      ),
    )
  ).flat();
  const done = await until(() => ends(after), 20_000);
  expect(done.map(({ state, pid }) => [state, pid])).toEqual(done.map(() => ["COMPLETED", member.pid]));
  await scene.expectClean();
}, 90_000);

type Ended = { id: string; state: string; error_code: string | null; ms: number; pid: number };

/** How they ended, when all have. */
async function ends(ids: string[]): Promise<Ended[] | undefined> {
  const found = await scene.rows<Ended>(
    `select id, state, error_code, (result ->> 'pid')::int as pid,
       (extract(epoch from finished_at - started_at) * 1000)::float as ms
     from app.job_runs where id = any ($1) and finished_at is not null`,
    [ids],
  );
  return found.length === ids.length ? found : undefined;
}

test("of two workers with one run, one is fenced, and its effect is not there", async () => {
  const tenant = await scene.database.addTenant();
  const [id] = await scene.enqueue(tenant, "chaos_quick", [{ ms: 3_000 }]);
  const state = async () =>
    (
      await scene.rows<{ state: string; attempt: number }>("select * from app.job_runs where id = $1", [id])
    )[0]!;
  await until(async () => (await state()).state === "RUNNING");

  // Its worker counts as lost, and works on.
  await scene.rows("update app.job_runs set lease_until = now() - interval '1 second' where id = $1", [id]);
  await scene.database.worker.pool.query("select * from app.job_reap()");
  await until(async () => (await state()).attempt === 2);
  // Tokens that are not its own make no third attempt.
  await scene.rows(
    "select graphile_worker.add_job('run', json_build_object('tenant_id', $1::text, 'run_id', $2::text)) from generate_series(1, 5)",
    [tenant.tenantId, id],
  );
  await until(async () => (await state()).state === "COMPLETED", 15_000);

  const fenced = () => scene.lines().filter(({ msg, run_id }) => msg === "job_fenced" && run_id === id);
  await until(() => fenced().length > 0);
  expect(fenced()).toEqual([expect.objectContaining({ attempt: 1 })]);
  expect(await state()).toMatchObject({ attempt: 2, crash_count: 1, failure_count: 0 });
  await scene.expectClean();
}, 60_000);
