// The queue is lost, and then the server, both under load, on a server of this file's own.
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { call } from "../../src/db.ts";
import { patiently } from "../chaos/actions.ts";
import { auditOf } from "../chaos/audit.ts";
import { Crew } from "../chaos/crew.ts";
import { chaosScene, NO_TURNS, remakeQueue, type Scene } from "../chaos/scene.ts";
import { type ChaosServer, chaosServer } from "../chaos/server.ts";
import { Tally } from "../chaos/tally.ts";
import { until } from "../support/job_scene.ts";

const folder = mkdtempSync(join(tmpdir(), "holdfast-jobs-"));
let server: ChaosServer;
let scene: Scene;
let crew: Crew;

beforeAll(async () => {
  server = await chaosServer({ embedded: true });
  scene = await chaosScene(server, 10);
  await scene.superuser.query(NO_TURNS);
  crew = new Crew({
    workerUrl: scene.url("holdfast_worker"),
    serviceUrl: scene.url("holdfast_service"),
    folder,
    concurrency: 4,
    drainMs: 2_000,
  });
  crew.keep(2);
}, 60_000);

afterAll(async () => {
  await crew?.stop();
  await scene?.end();
  await server?.stop();
  await rm(folder, { recursive: true });
}, 60_000);

async function enqueue(each: number): Promise<void> {
  for (const { tenantId } of scene.tenants) {
    const text = `select count(e.run_id)::int as count from generate_series(1, $3) as g (n)
      cross join lateral app.job_enqueue($1, $2, kind => 'chaos_quick',
        input => jsonb_build_object('ms', 40 + g.n, 'hold', 20)) as e`;
    await call(scene.service, tenantId, text, [each], z.object({ count: z.int() }));
  }
}

const COUNTS = `select count(*) filter (where finished_at is null)::int as live,
  count(*) filter (where state = 'RUNNING')::int as running,
  count(*) filter (where state = 'COMPLETED')::int as completed from app.job_runs`;
type Counts = { live: number; running: number; completed: number };

async function counts(): Promise<Counts | undefined> {
  return (await scene.superuser.query<Counts>(COUNTS).catch(() => undefined))?.rows[0];
}

/** Under way: some have ended, and some run at this moment. */
async function underLoad(completed: number): Promise<void> {
  await until(async () => {
    const now = await counts();
    return now !== undefined && now.completed > completed && now.running > 0 && now.live > 50;
  }, 20_000);
}

async function expectAllDone(runs: number): Promise<void> {
  await until(async () => (await counts())?.live === 0, 60_000);
  expect((await counts())?.completed).toBe(runs);
  const checks = await auditOf(scene.superuser);
  expect(checks.filter(({ check, found }) => found > 0 && !check.startsWith("connections"))).toEqual([]);
}

test("the queue's schema is dropped under load and made again: nothing of ours goes with it, and every run gets its token", async () => {
  const ours = `select count(*)::int as objects from pg_catalog.pg_depend as d
    join pg_catalog.pg_namespace as n on d.refobjid = n.oid and n.nspname in ('app', 'app_private', 'ops')`;
  const before = await scene.superuser.query(ours);
  await enqueue(20);
  await underLoad(10);
  await patiently(new Tally(), "remake_queue", () => remakeQueue(scene));
  expect((await scene.superuser.query(ours)).rows).toEqual(before.rows);
  await expectAllDone(200);
}, 120_000);

test("the server is cut off under load and comes back: workers go on, or end with an error and are started again", async () => {
  await enqueue(20);
  await underLoad(210);
  await server.restart?.("immediate");
  await expectAllDone(400);
  for (const { code, signal } of crew.ends) expect([code, signal]).toEqual([1, null]);
}, 120_000);
