// sql/app/findings_detect.sql: the detectors, as a run of kind detection runs them.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { lockWaits, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, costOf, THREE_FINDINGS } from "../support/findings.ts";

const database = testDatabase();
const { costs, runs, detect, findings } = analysesOf(database);
const DETECT = "select * from app.findings_detect($1, $2, $3, 1)";
let tenantId = "";

beforeEach(async () => {
  ({ tenantId } = await database.addTenant());
  await costs.load(tenantId, THREE_FINDINGS);
});

const running = () => runs.running(tenantId, "detection");

describe("it works", () => {
  test("what is found is kept and counted, and remembers the run", async () => {
    const runId = await running();
    expect(await detect(tenantId, runId)).toEqual({ findings: 3, open: 3 });
    expect((await findings(tenantId)).map((each) => [each["run_id"], each["state"]])).toEqual(
      Array(3).fill([runId, "open"]),
    );
  });

  test("what a person has put away is found and does not stand", async () => {
    await detect(tenantId, await running());
    const [first, second, third] = await findings(tenantId);
    for (const [id, state] of [
      [first!["id"], "dismissed"],
      [second!["id"], "snoozed"],
      [third!["id"], "acknowledged"],
    ])
      await database.superuser.query("update app.findings set state = $2 where id = $1", [id, state]);
    expect(await detect(tenantId, await running())).toEqual({ findings: 3, open: 1 });
  });

  test("a tenant without costs has none", async () => {
    const { tenantId: empty } = await database.addTenant();
    expect(await detect(empty, await runs.running(empty, "detection"))).toEqual({ findings: 0, open: 0 });
  });
});

test("it works twice: an attempt that is tried again finds the same", async () => {
  const runId = await running();
  await detect(tenantId, runId);
  const before = await findings(tenantId);
  expect(await detect(tenantId, runId)).toEqual({ findings: 3, open: 3 });
  const without = ({ last_seen_at: _, ...each }: Record<string, unknown>) => each;
  expect((await findings(tenantId)).map(without)).toEqual(before.map(without));
});

test("those of a tenant go one after the other, each over what is published by then", async () => {
  const holder = await database.superuser.connect();
  await detect(tenantId, await running());
  const [early, late] = [await running(), await running()];
  await holder.query("begin");
  await holder.query("select from app.findings where tenant_id = $1 for no key update", [tenantId]);
  const first = detect(tenantId, early); // it has seen three, and waits to write them down
  await expect.poll(() => lockWaits(database), { timeout: 10_000 }).toBe(1);
  await costs.load(tenantId, costOf("EC2", 100));
  const second = detect(tenantId, late);
  await expect.poll(() => lockWaits(database), { timeout: 10_000 }).toBe(2);
  await holder.query("commit");
  holder.release();
  expect(await Promise.all([first, second])).toEqual([
    { findings: 3, open: 3 },
    { findings: 0, open: 0 },
  ]);
  expect((await findings(tenantId)).map((each) => each["state"])).toEqual(Array(3).fill("resolved"));
});

describe("it refuses", () => {
  test("an attempt that no longer runs, and changes nothing", async () => {
    const runId = await running();
    await runs.loseWorker(runId);
    await runs.reap();
    await runs.makeDue(runId);
    await runs.claim(tenantId, runId, "w2");
    await refusal(detect(tenantId, runId, 1), "job_run_fenced");
    expect(await findings(tenantId)).toEqual([]);
    expect(await detect(tenantId, runId, 2)).toEqual({ findings: 3, open: 3 });
  });

  test("a run that waits, has ended, or is not there", async () => {
    await refusal(detect(tenantId, await runs.add(tenantId, "detection"), 0), "job_run_fenced");
    const ended = await running();
    await runs.complete(tenantId, ended, 1, {});
    await refusal(detect(tenantId, ended), "job_run_fenced");
    await refusal(detect(tenantId, randomUUID()), "job_run_not_found");
  });

  test("the worker's own login, with which no task works", async () => {
    const called = database.worker.pool.query(DETECT, [tenantId, database.ticket(tenantId), randomUUID()]);
    await expect(called).rejects.toMatchObject({ code: "42501" });
  });
});

test("a stranger gets nothing", async () => {
  const runId = await running();
  const stranger = await strangerIsRefused(database, database.service, tenantId, DETECT, [runId]);
  await refusal(detect(stranger.tenantId, runId), "job_run_not_found");
  expect(await findings(tenantId)).toEqual([]);
});
