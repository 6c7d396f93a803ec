// sql/ops/tenant_set.sql: a person changes a tenant's plan, pin, time zone, anchor day or policy.
import { beforeEach, describe, expect, test } from "vitest";
import { collide, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { turnsOf } from "../support/turns.ts";

const database = testDatabase();
const turns = turnsOf(database);
const { rows } = turns;

let tenantId: string;
let tenant: string;
/** Sets what is named; gives what changed, as `[setting, before, after]`. */
async function set(args: string, name = tenant, reason = "a new contract"): Promise<string[][]> {
  const text = `select * from ops.tenant_set(tenant => $1, reason => $2${args === "" ? "" : `, ${args}`})`;
  return (await database.ops.query(text, [name, reason])).rows.map((row) => [
    row.setting,
    row.before,
    row.after,
  ]);
}
const row = async (): Promise<Row> =>
  (await rows("select * from app.tenants where tenant_id = $1", [tenantId]))[0]!;
const listed = async (): Promise<Row> =>
  (await database.ops.query("select * from ops.tenants where tenant = $1", [tenant])).rows[0];
const audits = () =>
  rows("select actor, subject, reason, before, after from ops.audit_log where action = 'tenant_set'");

beforeEach(async () => {
  await turns.reset();
  await rows("truncate ops.audit_log");
  [tenantId] = (await turns.addTenants(1)) as [string];
  tenant = (await row())["name"];
});

describe("it works", () => {
  test("a plan, and the cohort that follows from it, with one turn at once", async () => {
    expect(await set("plan => 'pro'")).toEqual([
      ["plan", "growth", "pro"],
      ["tier", "ACTIVE", "HIGH_VALUE"],
    ]);
    expect(await row()).toMatchObject({ plan: "pro", tier: "HIGH_VALUE", pinned_tier: null, version: "2" });
    expect(await turns.runsFor([tenantId])).toHaveLength(1);
    expect(await audits()).toMatchObject([
      {
        actor: "holdfast_ops",
        subject: tenant,
        reason: "a new contract",
        before: { plan: "growth" },
        after: { plan: "pro" },
      },
    ]);
    expect((await database.worker.pool.query("select app.tiers_derive() as n")).rows).toEqual([{ n: 0 }]);
  });

  test("a pin holds against the plan, until it is taken away", async () => {
    expect(await set("tier => 'DORMANT'")).toEqual([
      ["pinned_tier", null, "DORMANT"],
      ["tier", "ACTIVE", "DORMANT"],
    ]);
    expect(await set("plan => 'enterprise'")).toEqual([["plan", "growth", "enterprise"]]);
    expect(await set("unpin => true")).toEqual([
      ["pinned_tier", "DORMANT", null],
      ["tier", "DORMANT", "HIGH_VALUE"],
    ]);
  });

  test("a tenant that is asleep does not wake up with its plan", async () => {
    await rows(
      "update app.tenants set last_active_at = now() - interval '1 year', tier = 'DORMANT' where tenant_id = $1",
      [tenantId],
    );
    expect(await set("plan => 'pro'")).toEqual([["plan", "growth", "pro"]]);
  });

  test("a time zone moves the daily turn: on a date of the new zone that had none", async () => {
    await rows(
      `insert into app.tenant_schedules (tenant_id, daily_at, next_run_at, last_slot)
       values ($1, '09:00', 'tomorrow', extract(epoch from now())::bigint)`,
      [tenantId],
    );
    expect(await set("time_zone => 'Pacific/Auckland'")).toEqual([["time_zone", "UTC", "Pacific/Auckland"]]);
    const [schedule] = await rows(
      `select (next_run_at at time zone 'Pacific/Auckland')::time as at,
              (next_run_at at time zone 'Pacific/Auckland')::date - (now() at time zone 'Pacific/Auckland')::date as days
       from app.tenant_schedules where tenant_id = $1`,
      [tenantId],
    );
    expect(schedule).toEqual({ at: "09:00:00", days: 1 });
    expect(await turns.runsFor([tenantId])).toEqual([]);
  });

  test("the day on which its months begin, with a word on what that does", async () => {
    const call =
      "select * from ops.tenant_set($1, 'as invoiced', anchor_day => 31, time_zone => 'Asia/Kolkata', plan => 'pro')";
    const note = "its budgets may begin another period now, in which nothing is spent yet";
    expect((await database.ops.query(call, [tenant])).rows).toEqual([
      { setting: "anchor_day", before: "1", after: "31", note },
      { setting: "plan", before: "growth", after: "pro", note: null },
      { setting: "tier", before: "ACTIVE", after: "HIGH_VALUE", note: null },
      { setting: "time_zone", before: "UTC", after: "Asia/Kolkata", note },
    ]);
    expect(await row()).toMatchObject({ anchor_day: 31, time_zone: "Asia/Kolkata", version: "2" });
    expect(await listed()).toMatchObject({ anchor_day: 31, time_zone: "Asia/Kolkata" });
    expect(await audits()).toMatchObject([{ before: { anchor_day: 1 }, after: { anchor_day: 31 } }]);
  });

  test("what becomes of its presumed holds: each policy, and the time of the one that has one", async () => {
    expect(await set("presumed_policy => 'release_after', presumed_after => '36 hours'")).toEqual([
      ["presumed_after", null, "36:00:00"],
      ["presumed_policy", "hold", "release_after"],
    ]);
    expect(await listed()).toMatchObject({ presumed_policy: "release_after" });
    expect(await set("presumed_after => '7 days'")).toEqual([["presumed_after", "36:00:00", "7 days"]]);
    expect(await set("plan => 'pro', presumed_policy => 'release_after'")).toHaveLength(2);
    expect(await row()).toMatchObject({ presumed_after: { days: 7 } });
    expect(await set("presumed_policy => 'charge_worst_case'")).toEqual([
      ["presumed_after", "7 days", null],
      ["presumed_policy", "release_after", "charge_worst_case"],
    ]);
    expect(await listed()).toMatchObject({ presumed_policy: "charge_worst_case", presumed_after: null });
    expect(await set("presumed_policy => 'hold'")).toEqual([
      ["presumed_policy", "charge_worst_case", "hold"],
    ]);
    expect((await audits()).map((each) => each["after"].presumed_policy)).toEqual([
      ...["release_after", "release_after", "release_after", "charge_worst_case", "hold"],
    ]);
  });

  test("dry_run shows it and changes nothing", async () => {
    const before = await row();
    expect(await set("plan => 'pro', dry_run => true")).toEqual([
      ["plan", "growth", "pro"],
      ["tier", "ACTIVE", "HIGH_VALUE"],
    ]);
    expect(
      await set("anchor_day => 9, presumed_policy => 'charge_worst_case', dry_run => true"),
    ).toHaveLength(2);
    expect(await row()).toEqual(before);
    expect(await audits()).toEqual([]);
    expect(await turns.runsFor([tenantId])).toEqual([]);
  });
});

describe("it works twice", () => {
  test("the same again changes nothing and leaves no audit row", async () => {
    await set("plan => 'pro'");
    expect(await set("plan => 'pro'")).toEqual([]);
    expect(await set("")).toEqual([]);
    expect(await audits()).toHaveLength(1);
    expect(await turns.runsFor([tenantId])).toHaveLength(1);
  });

  test("the same day and policy again change nothing; the same time in other words is written", async () => {
    const policy = "anchor_day => 9, presumed_policy => 'release_after', presumed_after =>";
    expect(await set(`${policy} '1 day'`)).toHaveLength(3);
    expect(await set(`${policy} '1 day'`)).toEqual([]);
    expect(await set(`${policy} '24 hours'`)).toEqual([["presumed_after", "1 day", "24:00:00"]]);
    expect(await set(`${policy} '24 hours'`)).toEqual([]);
    expect(await audits()).toHaveLength(2);
  });

  test("two people at once, while a tick is at the shard: both changes are made, with one turn", async () => {
    const held = {
      text: "select from app.schedules where tier = 'HIGH_VALUE' and shard = (select shard from app.tenants where tenant_id = $1)",
      values: [tenantId],
    };
    const outcomes = await collide(database, held, [
      () => set("plan => 'pro'"),
      () => set("time_zone => 'Europe/Berlin'"),
    ]);
    expect(outcomes.map((each) => each.status)).toEqual(["fulfilled", "fulfilled"]);
    expect(await row()).toMatchObject({ plan: "pro", time_zone: "Europe/Berlin", version: "3" });
    expect(await turns.runsFor([tenantId])).toHaveLength(1);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each([
    ["TN103", "plan => 'gold'"],
    ["TN103", "tier => 'NOBODY'"],
    ["TN103", "time_zone => 'Mars/Olympus'"],
    ["OP102", "tier => 'DORMANT', unpin => true"],
    ["TN103", "anchor_day => 0"],
    ["TN103", "anchor_day => 32"],
    ["TN103", "anchor_day => -1"],
    ["TN103", "anchor_day => 2147483647"],
    ["TN103", "presumed_policy => 'release'"],
    ["TN103", "presumed_policy => ''"],
    ["TN103", "presumed_policy => 'HOLD'"],
    ["TN103", "presumed_policy => 'release_after'"],
    ["TN103", "presumed_after => '1 day'"],
    ["TN103", "presumed_policy => 'hold', presumed_after => '1 day'"],
    ["TN103", "presumed_policy => 'charge_worst_case', presumed_after => '1 day'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '59 seconds'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '-1 day'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '366 days 1 second'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '2147483647 days'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '1 month'"],
    ["TN103", "presumed_policy => 'release_after', presumed_after => '1 year'"],
    ["TN103", "plan => 'pro', anchor_day => 32"],
  ])("%s: %s", async (sqlstate, args) => {
    const before = await row();
    expect(await raised(set(args))).toMatchObject({ sqlstate });
    expect(await row()).toEqual(before);
    expect(await audits()).toEqual([]);
  });

  test("it says which argument", async () => {
    for (const [argument, args] of Object.entries({
      anchor_day: "anchor_day => 32",
      presumed_policy: "presumed_policy => 'release'",
      presumed_after: "presumed_policy => 'release_after'",
    }))
      expect(await raised(set(args))).toMatchObject({ name: "tenant_invalid", detail: { argument } });
  });

  test("a tenant that is not there, and no reason", async () => {
    expect(await raised(set("plan => 'pro'", "Nobody at all"))).toMatchObject({ sqlstate: "TN101" });
    expect(await raised(set("plan => 'pro'", tenant, ""))).toMatchObject({ sqlstate: "OP101" });
  });

  test.each(["service", "worker"] as const)("the %s", async (login) => {
    const call = database[login].pool.query("select ops.tenant_set($1, 'I want to', plan => 'enterprise')", [
      tenant,
    ]);
    expect(await raised(call)).toMatchObject({ sqlstate: "42501" });
  });
});
