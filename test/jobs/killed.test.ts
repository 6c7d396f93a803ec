// A worker process that dies at each step of the protocol. One wait for the leases serves all of them.
import { expect, test } from "vitest";
import { rescueOf } from "../chaos/audit.ts";
import { STEPS } from "../chaos/steps.ts";
import { until } from "../support/job_scene.ts";
import { jobsScene } from "./scene.ts";

const scene = jobsScene();
/** What a lease, a reaper and a start may take together. */
const BACK_MS = 30_000;

test("whatever step a worker dies at, its runs are back within 30 s, and each effect is there once", async () => {
  const steps = STEPS.filter((step) => step !== "anywhere");
  const tenants = await Promise.all(steps.map(() => scene.database.addTenant()));
  for (const tenant of tenants)
    await scene.enqueue(
      tenant,
      "chaos_quick",
      Array.from({ length: 3 }, () => ({ ms: 20, hold: 20 })),
    );

  const doomed = scene.crew(1);
  const ends = await Promise.all(steps.map((step) => doomed.start(step).ended));
  expect(ends.map(({ signal }) => signal)).toEqual(steps.map(() => "SIGKILL"));
  expect(scene.orphans.length).toBeGreaterThanOrEqual(3); // claimed, working, in_transaction

  scene.crew(8).start();
  const live = "select count(*)::int as live from app.job_runs where finished_at is null";
  await until(async () => (await scene.rows<{ live: number }>(live))[0]!.live === 0, 45_000);

  await scene.expectClean();
  const rescue = await rescueOf(scene.database.superuser, scene.orphans);
  expect(rescue.lost).toBe(0);
  expect(Math.max(...rescue.claimedMs)).toBeLessThan(BACK_MS);
  const runs = await scene.rows<{ id: string; crash_count: number }>(
    "select id, state, crash_count, failure_count, attempt from app.job_runs",
  );
  // One attempt for each, and one more for those that a worker took with it.
  expect(runs).toEqual(
    runs.map(({ id, crash_count }) => ({
      id,
      state: "COMPLETED",
      crash_count,
      failure_count: 0,
      attempt: 1 + crash_count,
    })),
  );
  const crashed = runs.map(({ crash_count }) => crash_count).filter((crashes) => crashes > 0);
  expect(crashed.length).toBeGreaterThanOrEqual(3);
  expect(crashed.length).toBeLessThanOrEqual(steps.length);
  expect(Math.max(...crashed)).toBe(1);
}, 90_000);
