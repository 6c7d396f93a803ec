// sql/ops/schedule_set.sql: a person gives a tenant turns of its own.
import { beforeEach, describe, expect, test } from "vitest";
import { collide, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { turnsOf } from "../support/turns.ts";

const database = testDatabase();
const turns = turnsOf(database);
const { rows } = turns;

let tenantId: string;
let tenant: string;
async function set(args: string, name = tenant, reason = "they asked for it"): Promise<Row> {
  const text = `select * from ops.schedule_set(tenant => $1, reason => $2${args === "" ? "" : `, ${args}`})`;
  return (await database.ops.query(text, [name, reason])).rows[0];
}
const schedule = () => rows("select * from app.tenant_schedules where tenant_id = $1", [tenantId]);
const audits = () =>
  rows("select actor, subject, reason, before, after from ops.audit_log where action = 'schedule_set'");
const runs = async () => (await turns.runsFor([tenantId])).length;
/** A turn so many seconds ago. */
const hadTurn = async (secondsAgo: number) => {
  await turns.makeDue([tenantId]);
  await turns.tick();
  await rows("delete from app.job_runs");
  await turns.pass(secondsAgo);
  await rows("update app.schedules set next_run_at = now() + interval '10 days'");
};

beforeEach(async () => {
  await turns.reset();
  await rows("truncate ops.audit_log");
  [tenantId] = (await turns.addTenants(1)) as [string];
  tenant = (await rows("select name from app.tenants where tenant_id = $1", [tenantId]))[0]!["name"];
});

describe("it works", () => {
  test("every so often, instead of the turns of its cohort, and back", async () => {
    await hadTurn(60);
    expect(await set("every => '2 hours'")).toEqual({
      tenant_name: tenant,
      schedule_before: "cohort",
      schedule_after: "every 02:00:00",
      next_turn: expect.any(Date),
    });
    const [own] = await schedule();
    expect(own).toMatchObject({ daily_at: null, last_slot: null, missed_slots: "0" });
    // A boundary of its period, and an hour after its last turn at the soonest.
    const [right] = await rows(
      `select s.next_run_at = to_timestamp(n.slot) and s.next_run_at between now() + interval '58 minutes'
                and now() + interval '3 hours' as right
       from app.tenant_schedules as s join app.tenants as t using (tenant_id)
       cross join lateral app_private.slot_of(s.next_run_at, '2 hours', t.shard) as n`,
    );
    expect(right).toEqual({ right: true });
    await turns.makeDue([tenantId]);
    await turns.tick();
    expect(await runs()).toBe(0);

    expect(await set("")).toMatchObject({ schedule_before: "every 02:00:00", schedule_after: "cohort" });
    expect(await schedule()).toEqual([]);
    expect(await audits()).toMatchObject([
      {
        actor: "holdfast_ops",
        subject: tenant,
        reason: "they asked for it",
        before: null,
        after: { every: "02:00:00" },
      },
      { before: { every: "02:00:00" }, after: null },
    ]);
  });

  test("at once, when its last turn is a period ago and the next boundary is not near", async () => {
    await hadTurn(20 * 86_400);
    await set("every => '30 days'");
    const [own] = await rows(
      "select next_run_at <= now() as due, next_run_at - now() < '15 days' as near from app.tenant_schedules",
    );
    const made = (await turns.tick()).reduce((sum, each) => sum + each.runs, 0);
    expect(made).toBe(own!["due"] ? 1 : 0);

    await rows("truncate app.tenant_schedules");
    await rows("delete from app.job_runs");
    await set("every => '1 minute'");
    await rows("update app.tenant_schedules set next_run_at = least(next_run_at, now())");
    expect(await turns.tickAll()).toBe(1);
  });

  test("daily: at that time of its zone, from the next time on", async () => {
    await rows("update app.tenants set time_zone = 'Asia/Kolkata' where tenant_id = $1", [tenantId]);
    const told = await set("daily_at => '03:15'");
    expect(told).toMatchObject({ schedule_after: "daily at 03:15:00" });
    const [next] = await rows("select app_private.daily_after(now(), 'Asia/Kolkata', '03:15') as at");
    expect(told["next_turn"]).toEqual(next!["at"]);
  });

  test("another hour: a date that had its turn has no second one, one that had none has it at once", async () => {
    await set("daily_at => '00:00'");
    await rows(
      "update app.tenant_schedules set last_slot = extract(epoch from app_private.daily_before(now(), 'UTC', '00:00'))",
    );
    await set("daily_at => '23:59:59'");
    const [today] = await rows(
      "select next_run_at::date - now()::date as days, last_slot is not null as kept from app.tenant_schedules",
    );
    expect(today).toEqual({ days: 1, kept: true });

    await rows("update app.tenant_schedules set last_slot = last_slot - 86400");
    await set("daily_at => '00:00'");
    expect(await turns.tickAll()).toBe(1);
    expect(await turns.tickAll()).toBe(0);
  });

  test("back to the cohort: the turn that it is owed comes at once", async () => {
    await set("every => '31 days'");
    await rows("update app.tiers set every = '1 hour'");
    await rows("update app.schedules set next_run_at = now() + interval '1 hour'");
    await set("");
    expect(await runs()).toBe(1);
  });

  test("dry_run shows it and changes nothing", async () => {
    expect(await set("daily_at => '09:00', dry_run => true")).toMatchObject({
      schedule_after: "daily at 09:00:00",
    });
    expect(await schedule()).toEqual([]);
    expect(await audits()).toEqual([]);
  });
});

describe("it works twice", () => {
  test("the same again changes nothing and leaves no audit row", async () => {
    const first = await set("every => '2 hours'");
    expect(await set("every => '2 hours'")).toMatchObject({ next_turn: first["next_turn"] });
    expect(await audits()).toHaveLength(1);
    await set("");
    await set("");
    expect(await audits()).toHaveLength(2);
  });

  test("two people at once, while a tick is at the shard", async () => {
    const held = {
      text: "select from app.schedules where tier = 'ACTIVE' and shard = (select shard from app.tenants where tenant_id = $1)",
      values: [tenantId],
    };
    const outcomes = await collide(database, held, [
      () => set("every => '2 hours'"),
      () => set("daily_at => '09:00'"),
      () => set("every => '3 hours'"),
    ]);
    expect(outcomes.map((each) => each.status)).toEqual(["fulfilled", "fulfilled", "fulfilled"]);
    expect(await schedule()).toHaveLength(1);
    expect(await audits()).toHaveLength(3);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each([
    "every => '2 hours', daily_at => '09:00'",
    "every => '59 seconds'",
    "every => '32 days'",
    "every => '1 month'",
    "every => '90.5 seconds'",
    "daily_at => '24:00'",
    "daily_at => '09:00:00.5'",
  ])("%s", async (args) => {
    expect(await raised(set(args))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect(await schedule()).toEqual([]);
    expect(await audits()).toEqual([]);
  });

  test("a tenant that is not there, and no reason", async () => {
    expect(await raised(set("every => '1 hour'", "Nobody at all"))).toMatchObject({ sqlstate: "TN101" });
    expect(await raised(set("every => '1 hour'", tenant, ""))).toMatchObject({ sqlstate: "OP101" });
  });

  test.each(["service", "worker"] as const)("the %s", async (login) => {
    const call = database[login].pool.query("select ops.schedule_set($1, 'I want to', every => '1 minute')", [
      tenant,
    ]);
    expect(await raised(call)).toMatchObject({ sqlstate: "42501" });
  });
});
