// sql/ops/queue.sql: each kind of run in one line, by why its runs wait.
import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { queueOf, WIDEST, widthInPsql } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);

const line = async (kind: string) => (await queue.seen("select * from ops.queue where kind = $1", [kind]))[0];

test("a kind without runs has zeros, in the order of a turn", async () => {
  expect(await queue.seen("select kind from ops.queue")).toEqual([
    { kind: "cost_import" },
    { kind: "detection" },
    { kind: "analysis" },
  ]);
  expect(await line("detection")).toEqual({
    kind: "detection",
    parked: "0",
    admitted: "0",
    running: "0",
    retrying: "0",
    later: "0",
    dead: "0",
    tenants: "0",
    waits: null,
    paused: null,
  });
});

test("each run is counted once, where it is", async () => {
  await queue.addKind("solo", { max_running: 1, max_retries: 0 });
  await queue.addKind("again", { max_retries: 3 });
  const [one, two] = [await database.addTenant(), await database.addTenant()];
  const first = await queue.add(one.tenantId, "solo");
  await queue.add(one.tenantId, "solo");
  await queue.add(one.tenantId, "solo", 3_600);
  await queue.add(two.tenantId, "solo");
  expect(await line("solo")).toMatchObject({
    parked: "1",
    admitted: "2",
    later: "1",
    tenants: "2",
    waits: "0s",
  });
  await queue.claim(one.tenantId, first);
  expect(await line("solo")).toMatchObject({ parked: "1", admitted: "1", running: "1", later: "1" });
  await queue.fail(one.tenantId, first, 1, "llm_timeout");
  expect(await line("solo")).toMatchObject({ parked: "0", admitted: "2", running: "0", dead: "1" });

  const retried = await queue.add(one.tenantId, "again");
  await queue.claim(one.tenantId, retried);
  await queue.fail(one.tenantId, retried, 1, "llm_timeout");
  expect(await line("again")).toMatchObject({ retrying: "1", admitted: "0", later: "0", dead: "0" });

  await queue.sql("update app.job_runs set discarded_at = now() where id = $1", [first]);
  await queue.sql("update app.job_runs set available_at = now() - interval '3 h' where kind = 'solo'");
  await queue.seen("select * from ops.job_pause(kind => 'solo', reason => 'a test')");
  expect(await line("solo")).toMatchObject({ dead: "0", waits: "3h", paused: "0s" });
});

test(`is at most ${WIDEST} columns wide`, async () => {
  await queue.addKind("a_kind_with_a_name_that_goes_on_and_on");
  expect(widthInPsql(await queue.seen("select * from ops.queue"))).toBeLessThanOrEqual(WIDEST);
});
