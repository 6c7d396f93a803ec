// sql/ops/schedules.sql: when turns are due, and how late they are.
import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { queueOf, WIDEST, widthInPsql } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);

const line = async (schedule: string) =>
  (await queue.seen("select * from ops.schedules where schedule = $1", [schedule]))[0];

test("a cohort in one line: its tenants, what is due and for how long, when it is due next", async () => {
  await database.addTenant({ tier: "DORMANT" });
  await database.addTenant({ tier: "DORMANT" });
  await queue.sql("update app.schedules set next_run_at = now() + interval '1 h' where tier = 'DORMANT'");
  await queue.sql(
    "update app.schedules set next_run_at = now() - interval '5 min', missed_slots = 3 where tier = 'DORMANT' and shard < 2",
  );
  expect(await line("DORMANT")).toEqual({
    schedule: "DORMANT",
    every: "06:00:00",
    tenants: "2",
    due: "2",
    lag: "5m",
    next_turn: expect.stringMatching(/^\d\d-\d\d \d\d:\d\d$/),
    missed: "6",
    policy: "latest/skip",
    paused: null,
  });
  await queue.sql("update app.schedules set next_run_at = now() + interval '1 h' where tier = 'DORMANT'");
  expect(await line("DORMANT")).toMatchObject({ due: "0", lag: null });
});

test("a cohort that is paused is not late", async () => {
  await queue.sql("update app.schedules set next_run_at = now() - interval '5 min' where tier = 'ACTIVE'");
  await queue.seen("select * from ops.job_pause(cohort => 'ACTIVE', reason => 'a test')");
  expect(await line("ACTIVE")).toMatchObject({ due: "256", lag: null, paused: "0s" });
});

test("a tenant with turns of its own has a line, and is not counted in its cohort", async () => {
  const [hourly, daily] = [
    await database.addTenant({ tier: "HIGH_VALUE" }),
    await database.addTenant({ tier: "HIGH_VALUE" }),
  ];
  await queue.sql(
    `insert into app.tenant_schedules (tenant_id, every, daily_at, next_run_at)
     values ($1, '90 minutes', null, now() - interval '3 min'), ($2, null, '06:30', now() + interval '1 h')`,
    [hourly.tenantId, daily.tenantId],
  );
  expect(await line("HIGH_VALUE")).toMatchObject({ tenants: "0" });
  expect(await line(hourly.name.slice(0, 20))).toMatchObject({
    every: "01:30:00",
    tenants: "1",
    due: "1",
    lag: "3m",
  });
  expect(await line(daily.name.slice(0, 20))).toMatchObject({ every: "daily 06:30", due: "0", lag: null });
});

test(`is at most ${WIDEST} columns wide`, async () => {
  await queue.sql("update app.tiers set every = '30 days 12:34:56.5' where tier = 'DORMANT'");
  expect(widthInPsql(await queue.seen("select * from ops.schedules"))).toBeLessThanOrEqual(WIDEST);
});
