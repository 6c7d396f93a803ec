// sql/app/tiers_derive.sql: cohorts follow from plans and activity, and no turn is taken twice or forgotten on the way.
import { beforeEach, describe, expect, test } from "vitest";
import { besides, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { COHORTS, turnsOf } from "../support/turns.ts";

const database = testDatabase();
const turns = turnsOf(database);
const { rows, addTenants, runsFor } = turns;

const derive = async (maxRows = 5_000): Promise<number> =>
  (await database.worker.pool.query("select app.tiers_derive($1) as n", [maxRows])).rows[0].n;
const cohortOf = async (tenantId: string): Promise<string> =>
  (await rows("select tier from app.tenants where tenant_id = $1", [tenantId]))[0]!["tier"];
const setPlan = (tenantId: string, plan: string) =>
  rows("update app.tenants set plan = $2 where tenant_id = $1", [tenantId, plan]);
const inactive = (tenantId: string, ago: string) =>
  rows("update app.tenants set last_active_at = now() - $2::interval where tenant_id = $1", [tenantId, ago]);

/** The real periods; nobody is due before the first boundary, as after a tick. */
async function ticked(): Promise<void> {
  await rows(
    "update app.tiers set every = case tier when 'HIGH_VALUE' then '1 hour' when 'ACTIVE' then '3 hours' else '6 hours' end::interval",
  );
  await rows(
    `update app.schedules as s set last_slot = n.slot, next_run_at = n.next_run_at
     from app.tiers as c, app.schedules as x
     cross join lateral (select * from app.tiers as y where y.tier = x.tier) as y
     cross join lateral app_private.slot_of(now(), y.every, x.shard) as n
     where c.tier = s.tier and x.tier = s.tier and x.shard = s.shard`,
  );
}
/** A turn of the tenant that began so many seconds ago. */
const hadTurn = (tenantId: string, secondsAgo: number) =>
  rows(
    `insert into app.job_slots (tenant_id, kind, slot, run_id)
     select $1, 'detection', floor(extract(epoch from now()))::bigint - $2::bigint, (left(u.floor::text, 15) || right(gen_random_uuid()::text, 21))::uuid
     from app_private.uuid_v7_floor(now() - $2 * interval '1 second') as u (floor)`,
    [tenantId, secondsAgo],
  );
/** Seconds until the shard of the tenant is due in its cohort. */
const untilNext = async (tenantId: string): Promise<number> =>
  (
    await rows(
      `select ceil(extract(epoch from s.next_run_at - now()))::integer as seconds from app.schedules as s
       join app.tenants as t using (tier, shard) where t.tenant_id = $1`,
      [tenantId],
    )
  )[0]!["seconds"];
/** How many runs the tenant gets when its shard is due the next time. */
async function atNext(tenantId: string): Promise<number> {
  await turns.pass((await untilNext(tenantId)) + 1);
  await turns.tickAll();
  const made = await runsFor([tenantId]);
  await rows("delete from app.job_runs");
  return made.length;
}
/** A tenant of that cohort whose shard is due in so many seconds in another. */
async function tenantDueIn(cohort: string, other: string, from: number, to: number): Promise<string> {
  for (const tenantId of await addTenants(200, cohort)) {
    const [found] = await rows(
      `select t.tenant_id from app.tenants as t join app.schedules as s on s.tier = $2 and s.shard = t.shard
       where t.tenant_id = $1 and s.next_run_at between now() + $3 * interval '1 second' and now() + $4 * interval '1 second'`,
      [tenantId, other, from, to],
    );
    if (found !== undefined) return tenantId;
  }
  return expect.fail("no tenant in such a shard");
}

beforeEach(() => turns.reset());

describe("it works", () => {
  test.each([
    ["pro", "1 minute", "HIGH_VALUE"],
    ["enterprise", "8 days", "DORMANT"],
    ["growth", "6 days", "ACTIVE"],
    ["growth", "8 days", "DORMANT"],
    ["starter", "1 minute", "DORMANT"],
    ["free", "8 days", "DORMANT"],
  ])("plan %s, active %s ago: %s", async (plan, ago, cohort) => {
    const [tenantId] = (await addTenants(1, cohort === "ACTIVE" ? "HIGH_VALUE" : "ACTIVE")) as [string];
    await setPlan(tenantId, plan);
    await inactive(tenantId, ago);
    await derive();
    expect(await cohortOf(tenantId)).toBe(cohort);
    expect(await derive()).toBe(0);
  });

  test("who is pinned stays", async () => {
    const [tenantId] = (await addTenants(1, "HIGH_VALUE")) as [string];
    await rows("update app.tenants set pinned_tier = 'HIGH_VALUE', plan = 'free' where tenant_id = $1", [
      tenantId,
    ]);
    await inactive(tenantId, "1 year");
    expect(await derive()).toBe(0);
    expect(await cohortOf(tenantId)).toBe("HIGH_VALUE");
  });

  test("a plan may say otherwise", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await rows("update app.tenants set plan = 'starter' where plan = 'growth' and tenant_id <> $1", [
      tenantId,
    ]);
    await derive();
    await inactive(tenantId, "2 days");
    await rows("update app.plans set dormant_after = '1 day' where plan = 'growth'");
    expect(await derive()).toBe(1);
    await rows("update app.plans set dormant_after = '7 days' where plan = 'growth'");
    expect(await derive()).toBe(1);
    expect(await cohortOf(tenantId)).toBe("ACTIVE");
  });

  test("no more than asked at a time; it is no change by a person", async () => {
    const tenants = await addTenants(7);
    await rows("update app.tenants set plan = 'pro' where tenant_id = any ($1)", [tenants]);
    expect([await derive(3), await derive(3), await derive(3), await derive(3)]).toEqual([3, 3, 1, 0]);
    expect(
      await rows("select distinct version::int from app.tenants where tenant_id = any ($1)", [tenants]),
    ).toEqual([{ version: 1 }]);
  });

  test("a shard that is being ticked is left for the next time", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await setPlan(tenantId, "pro");
    for (const cohort of ["ACTIVE", "HIGH_VALUE"]) {
      const held = {
        text: "select from app.schedules where tier = $1 and shard = (select shard from app.tenants where tenant_id = $2)",
        values: [cohort, tenantId],
      };
      expect(await besides(database, held, database.worker, "select app.tiers_derive() as n")).toEqual([
        { n: 0 },
      ]);
      expect(await cohortOf(tenantId)).toBe("ACTIVE");
    }
    expect(await derive()).toBe(1);
  });
});

describe("turns on the way", () => {
  test("later than a period of its new cohort: at once, and once", async () => {
    await ticked();
    const tenantId = await tenantDueIn("DORMANT", "HIGH_VALUE", 2_000, 3_600);
    await hadTurn(tenantId, 4 * 3_600);
    await setPlan(tenantId, "pro");
    expect(await derive()).toBe(1);
    const [run, ...more] = await runsFor([tenantId]);
    expect(more).toEqual([]);
    expect(run).toMatchObject({ kind: "detection", slot: (await turns.shardOf(tenantId))["newest"] });
    // The same slot, were the shard to be ticked again.
    await rows("update app.schedules set next_run_at = now() where tier = 'HIGH_VALUE'");
    await turns.end([run!["id"]]);
    await rows("delete from app.job_runs");
    expect(await turns.tickAll()).toBe(0);
  });

  test("a tenant that had none at all yet has one at once, too", async () => {
    await ticked();
    const [tenantId] = (await addTenants(1)) as [string];
    await setPlan(tenantId, "pro");
    await derive();
    expect(await runsFor([tenantId])).toHaveLength(1);
  });

  test("sooner: it waits for the next boundary", async () => {
    await ticked();
    const tenantId = await tenantDueIn("HIGH_VALUE", "DORMANT", 3 * 3_600, 6 * 3_600);
    await hadTurn(tenantId, 600);
    await setPlan(tenantId, "free");
    expect(await derive()).toBe(1);
    expect(await runsFor([tenantId])).toEqual([]);
    expect(await atNext(tenantId)).toBe(1);
  });

  test("a boundary less than half a period after its last turn is not taken; the one after it is", async () => {
    await ticked();
    const tenantId = await tenantDueIn("HIGH_VALUE", "DORMANT", 60, 7_000);
    await hadTurn(tenantId, 600);
    await setPlan(tenantId, "free");
    await derive();
    expect(await atNext(tenantId)).toBe(0);
    expect(await atNext(tenantId)).toBe(1);
  });

  test("at once, with the next boundary near: that one is not taken", async () => {
    await ticked();
    const tenantId = await tenantDueIn("DORMANT", "HIGH_VALUE", 60, 1_700);
    await hadTurn(tenantId, 5 * 3_600);
    await setPlan(tenantId, "pro");
    await derive();
    expect(await runsFor([tenantId])).toHaveLength(1);
    await rows("delete from app.job_runs");
    expect(await atNext(tenantId)).toBe(0);
    expect(await atNext(tenantId)).toBe(1);
  });

  test("into a shard that is due: the tick makes it; out of one: its new cohort does", async () => {
    await ticked();
    const [tenantId] = (await addTenants(1)) as [string];
    await hadTurn(tenantId, 4 * 3_600);
    await rows("update app.schedules set next_run_at = now() - interval '1 second'");
    await setPlan(tenantId, "pro");
    await derive();
    expect(await runsFor([tenantId])).toEqual([]);
    expect(await turns.tickAll()).toBe(1);
  });

  test("into an open turn: it is in it, or has its own at once when the turn has gone past it", async () => {
    const cohort = await turns.addToOneShard(6, "HIGH_VALUE");
    const others = await turns.addToOneShard(6);
    await turns.makeDue([cohort[0]!]);
    await turns.tick(3);
    await rows("update app.tenants set plan = 'pro' where tenant_id = any ($1)", [others]);
    const [open] = await rows("select resume_after from app.schedules where open_slot is not null");
    const past = others.filter((id) => id <= open!["resume_after"]);
    expect(await derive()).toBe(6);
    expect((await runsFor(others)).map((run) => run["tenant_id"]).sort()).toEqual(past.sort());
    await turns.tickAll();
    expect(await runsFor(others)).toHaveLength(6);
    await turns.audit();
  });

  test.each([
    ["suspended", "update app.tenants set status = 'SUSPENDED' where tenant_id = $1"],
    ["paused", "update app.tenants set jobs_paused_at = now() where tenant_id = $1"],
    ["in a paused cohort", "update app.tiers set paused_at = now() where $1::uuid is not null"],
    [
      "at work on its last turn",
      "insert into app.job_runs (tenant_id, kind, slot) values ($1, 'analysis', 1)",
    ],
    [
      "on turns of its own",
      "insert into app.tenant_schedules (tenant_id, every, next_run_at) values ($1, '1 hour', 'tomorrow')",
    ],
  ])("who is %s has none at once", async (_, sql) => {
    await ticked();
    const [tenantId] = (await addTenants(1)) as [string];
    await setPlan(tenantId, "pro");
    await rows(sql, [tenantId]);
    const before = await runsFor([tenantId]);
    expect(await derive()).toBe(1);
    expect(await runsFor([tenantId])).toEqual(before);
  });
});

test("whatever cohorts tenants flap through, ticks beside: turns are half an hour to twelve hours apart", async () => {
  const [STEP, HOURS] = [600, 36];
  await ticked();
  const tenants = (await Promise.all(COHORTS.map((cohort) => addTenants(5, cohort)))).flat();
  await rows(
    `update app.schedules as s set next_run_at = 'infinity' where not exists (
       select from app.tenants as t where t.shard = s.shard and t.tenant_id = any ($1))`,
    [tenants],
  );
  const last = new Map<string, number>(tenants.map((id) => [id, 0]));
  const [gaps, plans] = [[] as number[], ["pro", "growth", "free", "enterprise"]];
  const begun = Date.now();
  let passed = 0;
  for (let step = 0; step < (HOURS * 3_600) / STEP; step += 1) {
    await turns.pass(STEP);
    passed += STEP;
    if (step % 2 === 0)
      await rows(
        `update app.tenants set plan = ($2::text[])[1 + floor(random() * 4)], last_active_at = now() - random() * interval '14 days'
         where tenant_id = any ($1) and random() < 0.4`,
        [tenants, plans],
      );
    await Promise.all([turns.tick(), derive(), turns.tick(4)]);
    await turns.tickAll(); // punctual: what a move held while it was due
    const now = passed + (Date.now() - begun) / 1_000;
    for (const run of await runsFor(tenants)) {
      const before = last.get(run["tenant_id"])!;
      if (before > 0) gaps.push(now - before);
      last.set(run["tenant_id"], now);
    }
    await rows("delete from app.job_runs");
  }
  const now = passed + (Date.now() - begun) / 1_000;
  expect(gaps.length).toBeGreaterThan(100);
  expect(Math.max(...gaps, ...[...last.values()].map((at) => now - at))).toBeLessThanOrEqual(
    12 * 3_600 + STEP,
  );
  expect(Math.min(...gaps)).toBeGreaterThanOrEqual(1_800 - STEP - 60);
}, 240_000);

test("a clock that had run ahead has set turns too far away: they are brought back", async () => {
  await ticked();
  const [tenantId] = (await addTenants(1)) as [string];
  await rows(
    "insert into app.tenant_schedules (tenant_id, every, next_run_at) values ($1, '1 hour', now() + interval '1 day')",
    [tenantId],
  );
  await rows(
    "update app.schedules set next_run_at = next_run_at + interval '1 day', last_slot = last_slot + 86400",
  );
  await derive();
  expect(await turns.shardOf(tenantId)).toMatchObject({ next_is_first: true });
  expect(
    await rows(
      "select from app.schedules as s join app.tiers as c using (tier) where s.next_run_at > now() + c.every",
    ),
  ).toEqual([]);
  expect(await rows("select next_run_at <= now() as due from app.tenant_schedules")).toEqual([{ due: true }]);
});

test("it refuses the service", async () => {
  expect(await raised(database.service.pool.query("select app.tiers_derive()"))).toMatchObject({
    sqlstate: "42501",
  });
});
