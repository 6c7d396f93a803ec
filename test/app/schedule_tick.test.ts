// sql/app/schedule_tick.sql: the turns that are due, made once, whoever ticks.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { createPool } from "../../src/db.ts";
import { besides, lockWaits, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";
import { COHORTS, type Ticked, turnsOf } from "../support/turns.ts";

const database = testDatabase();
const runs = runsOf(database);
const turns = turnsOf(database);
const { rows, addTenants, makeDue, tick, runsFor } = turns;
const pool = createPool({
  connectionString: database.url("holdfast_worker"),
  application_name: "test",
  max: 32,
});

/** What a shard says, without what changes with the clock. */
const shard = async (tenantId: string): Promise<Row> => {
  const found = await turns.shardOf(tenantId);
  return {
    taken: found["last_slot"] === found["newest"],
    missed: Number(found["missed_slots"]),
    ahead: found["ahead"],
  };
};
/** What a tick answers for a cohort in which no turn was passed over, but for what is named. */
const ticked = (some: Partial<Ticked>): Ticked => ({
  ...{ cohort: "ACTIVE", runs: 0, shards: 0, overlapped: 0, duplicates: 0 },
  ...some,
});
const setCohort = (set: string) => rows(`update app.tiers set ${set} where tier = 'ACTIVE'`);

beforeEach(() => turns.reset());
afterAll(() => pool.end());

describe("it works", () => {
  test("a tenant whose shard is due gets the first run of its turn, with its token", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    expect(await makeDue([tenantId])).toBe(1);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 1 })]);

    const [run, ...others] = await runsFor([tenantId]);
    expect(others).toEqual([]);
    expect(run).toMatchObject({ kind: "detection", state: "PENDING", attempt: 0, input: {}, token_rank: 0 });
    expect(run!["token_at"]).not.toBeNull();
    const [token, ...more] = await runs.tokens(run!["id"]);
    expect(more).toEqual([]);
    expect(token).toMatchObject({
      task: "run",
      payload: { tenant_id: tenantId, run_id: run!["id"] },
      key: `run:${run!["id"]}:0`,
    });
    expect(token!["run_at"].getTime()).toBeLessThanOrEqual(Date.now());
    expect(await runs.history(run!["id"])).toEqual(["PENDING"]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 0, ahead: true });
    expect(await rows("select kind, slot from app.job_slots where run_id = $1", [run!["id"]])).toEqual([
      { kind: "detection", slot: run!["slot"] },
    ]);
  });

  test("who has a source of costs begins with its import", async () => {
    const [sourced, other] = (await addTenants(2)) as [string, string];
    await turns.addSource(sourced);
    await makeDue([sourced, other]);
    await tick();
    const made = await runsFor([sourced, other]);
    const kinds = Object.fromEntries(made.map((run) => [run["tenant_id"], run["kind"]]));
    expect(kinds).toEqual({ [sourced]: "cost_import", [other]: "detection" });
    // A source that comes when the turn has begun already waits for the next one.
    await turns.end(made.map((run) => run["id"]));
    await rows("delete from app.job_runs where state = 'PENDING'");
    await turns.addSource(other);
    await makeDue([other]);
    await tick();
    expect((await runsFor([other])).map((run) => run["kind"])).toEqual(["detection"]);
  });

  test("a row for each cohort, in the order of their ranks; none when nothing is due", async () => {
    expect(await tick()).toEqual([]);
    const tenants = (await Promise.all(COHORTS.map((cohort) => addTenants(2, cohort)))).flat();
    await makeDue(tenants);
    const told = await tick();
    expect(told.map((each) => [each.cohort, each.runs])).toEqual(COHORTS.map((cohort) => [cohort, 2]));
    expect(await tick()).toEqual([]);
  });

  test("no more runs than asked, the longest due first; the next tick goes on, with the same slot", async () => {
    const tenants = await turns.addToOneShard(25);
    const [later] = (await addTenants(1, "HIGH_VALUE")) as [string];
    await makeDue([tenants[0]!, later]);
    await rows(
      "update app.schedules set next_run_at = next_run_at - interval '1 day' where tier = 'ACTIVE' and shard = 77",
    );
    expect(await tick(10)).toEqual([ticked({ runs: 10, shards: 1 })]);
    expect((await runsFor(tenants)).map((run) => run["tenant_id"])).toEqual(tenants.slice(0, 10));
    const open = await turns.shardOf(tenants[0]!);
    expect(open).toMatchObject({ open_slot: open["newest"], resume_after: tenants[9], last_slot: null });

    expect(await tick(10)).toEqual([ticked({ runs: 10, shards: 1 })]);
    expect(await tick(10)).toEqual([
      ticked({ cohort: "HIGH_VALUE", runs: 1, shards: 1 }),
      ticked({ runs: 5, shards: 1 }),
    ]);
    expect(new Set((await runsFor(tenants)).map((run) => run["slot"])).size).toBe(1);
    expect(await turns.shardOf(tenants[0]!)).toMatchObject({
      open_slot: null,
      resume_after: null,
      next_is_first: true,
    });
    expect(await tick(10)).toEqual([]);
    await turns.audit();
  });

  test("exactly as many as fit close the turn", async () => {
    const tenants = await turns.addToOneShard(10);
    await makeDue(tenants);
    expect(await tick(10)).toEqual([ticked({ runs: 10, shards: 1 })]);
    expect(await turns.shardOf(tenants[0]!)).toMatchObject({ open_slot: null, next_is_first: true });
  });

  test("an open turn is brought to its end when the next one has begun meanwhile", async () => {
    const tenants = await turns.addToOneShard(6);
    await makeDue(tenants);
    await tick(2);
    await turns.pass(31 * 86_400);
    expect(await turns.tickAll(50)).toBe(4);
    const bySlot = new Map<string, number>();
    for (const run of await runsFor(tenants)) bySlot.set(run["slot"], (bySlot.get(run["slot"]) ?? 0) + 1);
    // None has ended that turn, so nobody has the new one.
    expect([...bySlot.values()]).toEqual([6]);
    expect(await shard(tenants[0]!)).toEqual({ taken: true, missed: 0, ahead: true });
  });

  test("suspended and paused tenants and paused cohorts have no turn", async () => {
    const [suspended, paused, active] = (await turns.addToOneShard(3)) as [string, string, string];
    const [asleep] = (await addTenants(1, "DORMANT")) as [string];
    await rows("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended]);
    await rows("update app.tenants set jobs_paused_at = now() where tenant_id = $1", [paused]);
    await rows("update app.tiers set paused_at = now() where tier = 'DORMANT'");
    await makeDue([active, asleep]);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 1 })]);
    expect((await runsFor([suspended, paused, active, asleep])).map((run) => run["tenant_id"])).toEqual([
      active,
    ]);
    await rows("update app.tiers set paused_at = null");
    expect(await tick()).toEqual([ticked({ cohort: "DORMANT", runs: 1, shards: 1 })]);
  });

  test("the run of a paused kind is made, and waits without a token until the pause ends", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await rows("update app.job_kinds set paused_at = now() where kind = 'detection'");
    await makeDue([tenantId]);
    await tick();
    const [run] = await runsFor([tenantId]);
    expect(run).toMatchObject({ kind: "detection", token_at: null });
    expect(await runs.tokens(run!["id"])).toEqual([]);
    await rows("update app.job_kinds set paused_at = null");
    await database.worker.pool.query("select app.job_admit()");
    expect(await runs.tokens(run!["id"])).toHaveLength(1);
  });

  test("where the tenant's own run holds the place, the turn's waits for it", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    const [asked] = await rows(
      "insert into app.job_runs (tenant_id, kind, token_at) values ($1, 'detection', now()) returning id",
      [tenantId],
    );
    await makeDue([tenantId]);
    await tick();
    expect(await runsFor([tenantId])).toMatchObject([{ kind: "detection", token_at: null }]);
    await turns.end([asked!["id"]]);
    expect((await runsFor([tenantId]))[0]!["token_at"]).not.toBeNull();
  });
});

describe("turns that overlap", () => {
  const live = [
    ["PENDING", "detection", {}],
    ["RUNNING", "analysis", { attempt: 1, lease_until: "2100-01-01" }],
    ["FAILED", "cost_import", { error_code: "x" }],
  ] as const;

  /** A run of an earlier turn, put there as it is: its way to this state is not what this is about. */
  async function earlier(
    tenantId: string,
    state: string,
    kind: string,
    more: object,
    turnsAgo = 1,
  ): Promise<string> {
    const [run] = await rows(
      `insert into app.job_runs (tenant_id, kind, state, slot, token_at, attempt, lease_until, error_code)
       select $1, $2, $3, n.slot - $5 * n.seconds, now(), coalesce(m.attempt, 0), m.lease_until, m.error_code
       from app.tenants as t
       cross join lateral app_private.slot_of(now(), '31 days', t.shard) as n
       cross join jsonb_to_record($4) as m (attempt integer, lease_until timestamptz, error_code text)
       where t.tenant_id = $1 returning id`,
      [tenantId, kind, state, JSON.stringify(more), turnsAgo],
    );
    return run!["id"];
  }

  test.each(live)("skip: while one is %s, there is no next", async (state, kind, more) => {
    const [tenantId] = (await addTenants(1)) as [string];
    const runId = await earlier(tenantId, state, kind, more);
    await makeDue([tenantId], 0);
    expect(await tick()).toEqual([ticked({ shards: 1, overlapped: 1 })]);
    expect((await runsFor([tenantId])).map((run) => run["id"])).toEqual([runId]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 0, ahead: true });
  });

  test("those that have none are counted, in the part of the turn that they are in, each time", async () => {
    const tenants = await turns.addToOneShard(6);
    for (const tenantId of [0, 1, 4].map((n) => tenants[n]!)) await earlier(tenantId, ...live[0]);
    await makeDue(tenants, 0);
    expect(await tick(2)).toEqual([ticked({ runs: 2, shards: 2, overlapped: 2 })]);
    expect(await tick(2)).toEqual([ticked({ runs: 1, shards: 1, overlapped: 1 })]);
    expect(await tick(2)).toEqual([]);
    // Of the next turn those of this one keep the others, too.
    await turns.pass(31 * 86_400);
    expect(await tick()).toEqual([ticked({ shards: 1, overlapped: 6 })]);
  });

  test("skip: a run that somebody asked for is no turn", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await rows("insert into app.job_runs (tenant_id, kind, token_at) values ($1, 'analysis', now())", [
      tenantId,
    ]);
    await makeDue([tenantId]);
    expect(await tick()).toMatchObject([{ runs: 1 }]);
  });

  test("queue: one waits behind the one at work, and no more", async () => {
    await setCohort("overlap = 'queue'");
    const [tenantId] = (await addTenants(1)) as [string];
    const runId = await earlier(tenantId, ...live[1], 2);
    await makeDue([tenantId], 0);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 1 })]);
    await rows("update app.job_runs set slot = slot - 31 * 86400 where tenant_id = $1 and id <> $2", [
      tenantId,
      runId,
    ]);
    await makeDue([tenantId], 0);
    expect(await tick()).toEqual([ticked({ shards: 1, overlapped: 1 })]);
    await turns.audit();
  });

  test("cancel: what waits ends, what runs is told to, and the new one is made", async () => {
    await setCohort("overlap = 'cancel'");
    const tenants = (await addTenants(3)) as [string, string, string];
    const before = await Promise.all(live.map((each, n) => earlier(tenants[n]!, each[0], each[1], each[2])));
    await makeDue(tenants, 0);
    const [told] = await tick();
    expect(told).toMatchObject({ runs: 3, overlapped: 0, duplicates: 0 });

    const [pending, running, failed] = await Promise.all(before.map(runs.row));
    const ended = { state: "DEAD_LETTER", error_code: "job_cancelled" };
    expect(pending).toMatchObject(ended);
    expect(failed).toMatchObject(ended);
    expect(pending!["discarded_at"]).not.toBeNull();
    expect(running).toMatchObject({ state: "RUNNING", error_code: null, discarded_at: null });
    expect(running!["cancel_requested_at"]).not.toBeNull();
    // The turns that were cancelled do not go on: one run each is left of them, and one of the new turn.
    await turns.end([running!["id"]]);
    expect(await runsFor(tenants)).toHaveLength(6);
    expect((await runsFor(tenants)).filter((run) => run["state"] === "PENDING")).toHaveLength(3);
    expect(await rows("select type from app.events where type = 'run.dead_letter'")).toEqual([]);
  });

  test("cancel: what a worker holds at this moment is left to it", async () => {
    await setCohort("overlap = 'cancel'");
    const [tenantId] = (await addTenants(1)) as [string];
    const runId = await earlier(tenantId, ...live[0]);
    await makeDue([tenantId], 0);
    const held = { text: "select from app.job_runs where id = $1", values: [runId] };
    expect(await besides(database, held, { pool }, "select runs from app.schedule_tick()")).toEqual([
      { runs: 1 },
    ]);
    expect((await runs.row(runId))["state"]).toBe("PENDING");
  });
});

describe("turns that were missed", () => {
  test("latest: the newest alone, which says how many", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await makeDue([tenantId], 4);
    expect(await tick()).toMatchObject([{ runs: 1 }]);
    expect(await runsFor([tenantId])).toMatchObject([
      { slot: (await turns.shardOf(tenantId))["newest"], input: { missed_slots: 4 } },
    ]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 4, ahead: true });
    expect(await tick()).toEqual([]);
  });

  test("latest: every tenant of a turn of several ticks hears of them, and they are counted once", async () => {
    const tenants = await turns.addToOneShard(5);
    await makeDue(tenants, 2);
    expect(await turns.tickAll(2)).toBe(5);
    expect((await runsFor(tenants)).map((run) => run["input"])).toEqual(Array(5).fill({ missed_slots: 2 }));
    expect(await shard(tenants[0]!)).toEqual({ taken: true, missed: 2, ahead: true });
  });

  test("after 90 days of downtime there is one run, and the next turn is the first boundary ahead", async () => {
    await setCohort("every = '1 hour'");
    const [tenantId] = (await addTenants(1)) as [string];
    await makeDue([tenantId], 90 * 24);
    await rows("update app.schedules set next_run_at = now() - interval '90 days' where next_run_at < now()");
    expect(await turns.tickAll()).toBe(1);
    expect(await turns.shardOf(tenantId)).toMatchObject({ ahead: true, next_is_first: true });
  });

  test("all: one after the other, up to missed_max of them before the newest", async () => {
    await setCohort("missed = 'all', overlap = 'queue', missed_max = 3");
    const [tenantId] = (await addTenants(1)) as [string];
    await makeDue([tenantId], 5);
    expect(await tick()).toEqual([ticked({ runs: 4, shards: 4 })]);
    const made = await runsFor([tenantId]);
    const { newest, seconds } = await turns.shardOf(tenantId);
    expect(made.map((run) => (Number(newest) - Number(run["slot"])) / Number(seconds))).toEqual([3, 2, 1, 0]);
    expect(made.map((run) => run["input"])).toEqual([{ missed_slots: 2 }, {}, {}, {}]);
    // One at a time holds the place.
    expect(made.map((run) => run["token_at"] !== null)).toEqual([true, false, false, false]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 2, ahead: true });
    expect(await tick()).toEqual([]);
  });

  test("all: in ticks of one run each, no slot is left out or taken twice", async () => {
    await setCohort("missed = 'all', overlap = 'queue', missed_max = 5");
    const tenants = await turns.addToOneShard(3);
    await makeDue(tenants, 2);
    for (let n = 0; n < 9; n += 1) expect(await tick(1), `tick ${n}`).toMatchObject([{ runs: 1 }]);
    expect((await tick(1)).map((each) => each.runs)).toEqual([]);
    expect(await runsFor(tenants)).toHaveLength(9);
    expect(await shard(tenants[0]!)).toEqual({ taken: true, missed: 0, ahead: true });
    await turns.audit();
  });

  test("skip: a turn that began too long ago is counted and left out", async () => {
    await setCohort("missed = 'skip', skip_after = '1 second'");
    const [tenantId] = (await addTenants(1)) as [string];
    await makeDue([tenantId], 2);
    expect(await tick()).toEqual([ticked({ shards: 1 })]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 3, ahead: true });

    await setCohort("skip_after = '31 days'");
    await makeDue([tenantId], 2);
    expect(await tick()).toMatchObject([{ runs: 1 }]);
    expect(await runsFor([tenantId])).toMatchObject([{ input: { missed_slots: 2 } }]);
  });

  test("another period meets no old slot, and forgets nobody", async () => {
    const tenants = await addTenants(20);
    await makeDue(tenants);
    await tick();
    await turns.end((await runsFor(tenants)).map((run) => run["id"]));
    await rows("delete from app.job_runs");
    for (const [n, every] of ["7 hours", "1 hour", "9 days", "61 minutes"].entries()) {
      await setCohort(`every = '${every}'`);
      await turns.pass(400 * 86_400);
      expect(await turns.tickAll(), `${every}, change ${n}`).toBe(20);
      await rows("delete from app.job_runs");
    }
  });
});

describe("a clock that jumps", () => {
  test("six hours ahead and back: no turn twice, no flood, nobody forgotten", async () => {
    await setCohort("every = '1 hour'");
    const tenants = await addTenants(10);
    await makeDue(tenants, 0);
    // What the tick wrote while the clock was six hours ahead.
    expect(await turns.tickAll()).toBe(10);
    await turns.pass(-6 * 3_600);
    await rows("delete from app.job_runs");
    expect(await tick()).toEqual([]);
    await database.worker.pool.query("select app.tiers_derive()");
    expect(await turns.shardOf(tenants[0]!)).toMatchObject({ ahead: true, next_is_first: true });
    // The turns between are made, hour by hour; the one that was taken ahead is not made again.
    for (let hour = 1; hour <= 5; hour += 1) {
      await turns.pass(3_600);
      expect(await turns.tickAll(), `hour ${hour}`).toBe(10);
      await rows("delete from app.job_runs");
    }
    await turns.pass(3_600);
    expect(await turns.tickAll()).toBe(0);
  });

  test("a turn that was taken is not taken again, though it is due again and the run has ended", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await makeDue([tenantId]);
    await tick();
    await rows("delete from app.job_runs where tenant_id = $1", [tenantId]);
    await makeDue([tenantId]);
    expect(await tick()).toEqual([ticked({ shards: 1, duplicates: 1 })]);
    await rows(
      "update app.schedules set last_slot = last_slot + 6 * 31 * 86400, next_run_at = now() where last_slot > 0",
    );
    expect(await tick()).toEqual([ticked({ shards: 1 })]);
    expect(await shard(tenantId)).toEqual({ taken: true, missed: 0, ahead: true });
  });

  test("turns that their tenants had already are counted, each time, beside those that are new", async () => {
    const [sourced, other] = (await turns.addToOneShard(2)) as [string, string];
    await turns.addSource(sourced);
    await makeDue([sourced]);
    expect(await tick()).toEqual([ticked({ runs: 2, shards: 1 })]);
    await rows("delete from app.job_runs");
    await rows("delete from app.job_slots where tenant_id = $1", [other]);
    await makeDue([sourced]);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 1, duplicates: 1 })]);
    await rows("delete from app.job_runs");
    // A source that has come since does not make it another turn.
    await turns.addSource(other);
    await makeDue([sourced]);
    expect(await tick()).toEqual([ticked({ shards: 1, duplicates: 2 })]);
  });

  test("where nothing is to be made for a tenant, nothing was there already", async () => {
    const [sourced] = (await turns.addToOneShard(2)) as [string, string];
    await turns.addSource(sourced);
    const orders = await rows("select kind, slot_order from app.job_kinds where slot_order is not null");
    await rows("update app.job_kinds set slot_order = null where kind <> 'cost_import'");
    try {
      await makeDue([sourced]);
      expect(await tick()).toEqual([ticked({ runs: 1, shards: 1 })]);
      await rows("delete from app.job_runs");
      await makeDue([sourced]);
      expect(await tick()).toEqual([ticked({ shards: 1, duplicates: 1 })]);
    } finally {
      for (const { kind, slot_order } of orders)
        await rows("update app.job_kinds set slot_order = $2 where kind = $1", [kind, slot_order]);
    }
  });
});

describe("turns of a tenant's own", () => {
  const own = async (
    tenantId: string,
    set: { every?: string; daily_at?: string },
    due: string,
    lastSlot?: number,
  ) =>
    rows(
      "insert into app.tenant_schedules (tenant_id, every, daily_at, next_run_at, last_slot) values ($1, $2, $3, $4, $5)",
      [tenantId, set.every ?? null, set.daily_at ?? null, due, lastSlot ?? null],
    );

  test("instead of those of its cohort, counted under it", async () => {
    const [mine, other] = (await turns.addToOneShard(2)) as [string, string];
    await own(mine, { every: "2 hours" }, "tomorrow");
    await makeDue([mine]);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 1 })]);
    expect((await runsFor([mine, other])).map((run) => run["tenant_id"])).toEqual([other]);

    await rows("update app.tenant_schedules set next_run_at = now()");
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 0 })]);
    const [schedule] = await rows(
      `select s.last_slot = n.slot as taken, s.next_run_at = n.next_run_at as next, n.slot
       from app.tenant_schedules as s join app.tenants as t using (tenant_id)
       cross join lateral app_private.slot_of(now(), '2 hours', t.shard) as n`,
    );
    expect(schedule).toMatchObject({ taken: true, next: true });
    expect((await runsFor([mine]))[0]).toMatchObject({ slot: schedule!["slot"], kind: "detection" });
    expect(await tick()).toEqual([]);
  });

  test("daily, at a time of its zone, with the policies of its cohort", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await rows("update app.tenants set time_zone = 'Asia/Kathmandu' where tenant_id = $1", [tenantId]);
    const [expected] = await rows(
      `select app_private.daily_before(now(), 'Asia/Kathmandu', '09:00') as begun,
              app_private.daily_after(now(), 'Asia/Kathmandu', '09:00') as next`,
    );
    const dayBefore = expected!["begun"].getTime() / 1000 - 3 * 86_400;
    await own(tenantId, { daily_at: "09:00" }, "yesterday", dayBefore);
    expect(await tick()).toEqual([ticked({ runs: 1, shards: 0 })]);
    const begun = String(expected!["begun"].getTime() / 1000);
    expect(await runsFor([tenantId])).toMatchObject([{ slot: begun, input: { missed_slots: 2 } }]);
    expect(await rows("select next_run_at, last_slot, missed_slots::int from app.tenant_schedules")).toEqual([
      { next_run_at: expected!["next"], last_slot: begun, missed_slots: 2 },
    ]);

    await setCohort("missed = 'all', overlap = 'queue', missed_max = 2");
    await rows("truncate app.job_runs, app.job_slots");
    await rows("update app.tenant_schedules set last_slot = $1, next_run_at = now()", [dayBefore]);
    expect(await tick()).toEqual([ticked({ runs: 3, shards: 0 })]);
    expect((await runsFor([tenantId])).map((run) => Number(begun) - run["slot"])).toEqual([
      172_800, 86_400, 0,
    ]);

    await setCohort("missed = 'skip', skip_after = '1 second'");
    await rows("truncate app.job_runs, app.job_slots");
    await rows("update app.tenant_schedules set last_slot = $1, next_run_at = now(), missed_slots = 0", [
      dayBefore,
    ]);
    expect(await tick()).toEqual([]);
    expect(await rows("select missed_slots::int from app.tenant_schedules")).toEqual([{ missed_slots: 3 }]);
  });

  test("as many as are asked for, the longest due first; those of a paused tenant wait for the end of the pause", async () => {
    const tenants = await addTenants(12);
    for (const [n, tenantId] of tenants.entries())
      await own(tenantId, { every: "1 day" }, `2026-01-${String(n + 1).padStart(2, "0")}`);
    await rows("update app.tenants set jobs_paused_at = now() where tenant_id = $1", [tenants[0]]);
    expect(await tick(5)).toMatchObject([{ runs: 5 }]);
    expect((await runsFor(tenants)).map((run) => run["tenant_id"]).sort()).toEqual(
      tenants.slice(1, 6).sort(),
    );
    expect(await turns.tickAll(5)).toBe(6);
    await rows("update app.tenants set jobs_paused_at = null where tenant_id = $1", [tenants[0]]);
    expect(await turns.tickAll(5)).toBe(1);
    await turns.audit();
  });

  test("skip: while the last one has not ended, there is no next", async () => {
    const [tenantId] = (await addTenants(1)) as [string];
    await own(tenantId, { every: "1 day" }, "yesterday");
    expect(await tick()).toMatchObject([{ runs: 1 }]);
    await turns.pass(86_400);
    expect(await tick()).toEqual([ticked({ overlapped: 1 })]);
    expect(await tick()).toEqual([]);
    expect(await runsFor([tenantId])).toHaveLength(1);
    await turns.pass(86_400);
    expect(await tick()).toEqual([ticked({ overlapped: 1 })]);
    // It may have ended meanwhile, and the turn is due once more: that is no new one.
    await turns.end((await runsFor([tenantId])).map((run) => run["id"]));
    await rows("delete from app.job_runs");
    await turns.pass(86_400);
    expect(await tick()).toEqual([ticked({ runs: 1 })]);
    await rows("delete from app.job_runs");
    await rows("update app.tenant_schedules set next_run_at = now(), last_slot = last_slot - 86400");
    expect(await tick()).toEqual([ticked({ duplicates: 1 })]);
  });
});

describe("any number at once", () => {
  test("thirty-two schedulers, all cohorts due: each tenant one run and one token, no deadlock", async () => {
    const tenants = (await Promise.all(COHORTS.map((cohort) => addTenants(400, cohort)))).flat();
    const mine = await addTenants(40);
    await rows(
      "insert into app.tenant_schedules (tenant_id, every, next_run_at) select unnest($1::uuid[]), '1 day', now()",
      [mine],
    );
    await rows("update app.schedules set next_run_at = now() - interval '1 minute'");
    const before = await turns.deadlocks();
    const scheduler = async () => {
      for (let idle = 0, made = 0; ; ) {
        const { rows: told } = await pool.query("select * from app.schedule_tick(15)");
        const more = told.reduce((sum, each) => sum + each.runs, 0);
        made += more;
        for (const each of told) expect(each).toMatchObject({ overlapped: 0, duplicates: 0 });
        idle = more === 0 ? idle + 1 : 0;
        if (idle === 3) return made; // what another holds may come free again
        if (more === 0) await sleep(50);
      }
    };
    const made = await Promise.all(Array.from({ length: 32 }, scheduler));
    expect(made.reduce((sum, each) => sum + each, 0)).toBe(1_240);
    const all = [...tenants, ...mine];
    expect(await runsFor(all)).toHaveLength(1_240);
    const [queued] = await rows(
      "select count(*)::int as n, count(distinct payload ->> 'run_id')::int as runs from graphile_worker._private_jobs",
    );
    expect(queued).toEqual({ n: 1_240, runs: 1_240 });
    await turns.audit();
    expect(await tick()).toEqual([]);
    expect((await turns.deadlocks()) - before).toBe(0);
  });

  test("schedulers, workers that end runs, and moves of tenants beside one another: no deadlock, nothing twice", async () => {
    await rows("update app.tiers set overlap = 'cancel'");
    const tenants = (await Promise.all(COHORTS.map((cohort) => addTenants(60, cohort)))).flat();
    const before = await turns.deadlocks();
    const until = Date.now() + 6_000;
    const again = async (work: () => Promise<unknown>) => {
      while (Date.now() < until) await work();
    };
    const ended = await Promise.allSettled([
      ...Array.from({ length: 4 }, () => again(() => pool.query("select * from app.schedule_tick(40)"))),
      again(async () => {
        // Other periods have other slots: turns are due again and again.
        await rows("update app.tiers set every = (60 + floor(random() * 5000)) * interval '1 second'");
        await rows(
          `update app.schedules as s set next_run_at = now()
           from (select tier, shard from app.schedules order by tier, shard for no key update skip locked) as f
           where s.tier = f.tier and s.shard = f.shard`,
        );
        await sleep(100);
      }),
      again(() =>
        rows(
          `with taken as (select tenant_id, id from app.job_runs where state = 'PENDING' and token_at is not null
             order by tenant_id, id limit 20
             for no key update skip locked)
           update app.job_runs as r set state = 'RUNNING', attempt = attempt + 1, lease_until = now() + interval '1 minute'
           from taken as s where r.tenant_id = s.tenant_id and r.id = s.id`,
        ),
      ),
      again(() =>
        rows(
          `with taken as (select tenant_id, id from app.job_runs where state = 'RUNNING' order by tenant_id, id limit 10
             for no key update skip locked)
           update app.job_runs as r set state = 'COMPLETED', lease_until = null, finished_at = now()
           from taken as s where r.tenant_id = s.tenant_id and r.id = s.id`,
        ),
      ),
      again(async () => {
        await rows(
          "update app.tenants set last_active_at = now() - interval '1 year' * (random() > 0.5)::int where tenant_id = any ($1)",
          [tenants],
        );
        await pool.query("select app.tiers_derive()");
      }),
      again(async () => {
        const tenant = `(select name from app.tenants where tenant_id = '${tenants[Math.floor(Math.random() * 180)]}')`;
        await rows(`select ops.schedule_set(${tenant}, 'test', every => '1 minute')`);
        await rows(`select ops.schedule_set(${tenant}, 'test')`);
      }),
    ]);
    expect(ended.filter((each) => each.status === "rejected")).toEqual([]);
    expect((await turns.deadlocks()) - before).toBe(0);
    await turns.audit();
  }, 60_000);

  test("what another tick is at is passed over, not waited for", async () => {
    const tenants = await addTenants(40);
    const due = await makeDue(tenants);
    const held = {
      text: `select from app.schedules as s where exists (
        select from app.tenants as t where t.tenant_id = $1 and t.tier = s.tier and t.shard = s.shard)`,
      values: [tenants[0]],
    };
    const [told] = await besides(database, held, { pool }, "select shards from app.schedule_tick()");
    expect(told).toEqual({ shards: due - 1 });
    expect(await tick()).toMatchObject([{ shards: 1 }]);
    expect(await runsFor(tenants)).toHaveLength(40);
  });

  test.each([
    ["a kill", "57P01"],
    ["statement_timeout", "57014"],
  ])("%s in the middle leaves nothing half done, and the next tick makes all of it", async (how, code) => {
    const tenants = await addTenants(300);
    await makeDue(tenants);
    const before = await rows("select * from app.schedules order by tier, shard");
    const [blocked] = await rows(
      "select tenant_id from app.tenants where tenant_id = any ($1) order by tenant_id desc",
      [tenants],
    );
    // Another transaction is about to take the turn of one of them: the tick waits in the midst of its inserts.
    const [holder, client] = [await database.superuser.connect(), await pool.connect()];
    client.on("error", () => {});
    try {
      await holder.query("begin");
      await holder.query(
        `insert into app.job_slots (tenant_id, kind, slot, run_id)
         select t.tenant_id, 'detection', n.slot, gen_random_uuid()
         from app.tenants as t cross join lateral app_private.slot_of(now(), '31 days', t.shard) as n
         where t.tenant_id = $1`,
        [blocked!["tenant_id"]],
      );
      if (how === "statement_timeout") await client.query("set statement_timeout = '2s'");
      const [{ pid }] = (await client.query("select pg_backend_pid() as pid")).rows;
      const ticking = raised(client.query("select * from app.schedule_tick()"));
      await expect.poll(() => lockWaits(database), { timeout: 10_000, interval: 10 }).toBe(1);
      if (how === "a kill") await holder.query("select pg_terminate_backend($1)", [pid]);
      expect((await ticking).sqlstate).toBe(code);
    } finally {
      await holder.query("rollback");
      holder.release();
      client.release(true);
    }
    expect(await rows("select * from app.schedules order by tier, shard")).toEqual(before);
    expect(await runsFor(tenants)).toEqual([]);
    expect(
      await rows("select from app.job_slots union all select from graphile_worker._private_jobs"),
    ).toEqual([]);
    expect(await turns.tickAll()).toBe(300);
    await turns.audit();
  });
});

describe("it refuses", () => {
  test.each([0, -1, null, 1_000_001])("max_runs => %s", async (maxRuns) => {
    expect(await raised(pool.query("select * from app.schedule_tick($1)", [maxRuns]))).toEqual({
      name: "argument_invalid",
      sqlstate: "OP102",
      detail: { max_runs: maxRuns },
    });
  });

  test("the service", async () => {
    await expect(database.service.pool.query("select * from app.schedule_tick()")).rejects.toMatchObject({
      code: "42501",
    });
  });
});
