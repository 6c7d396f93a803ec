// sql/ops/tier_set.sql: a person changes a cohort.
import { beforeEach, describe, expect, test } from "vitest";
import { collide, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { turnsOf } from "../support/turns.ts";

const database = testDatabase();
const turns = turnsOf(database);
const { rows } = turns;

/** Sets what is named of ACTIVE; gives what changed, as `[setting, before, after]`. */
async function set(args: string, tier = "ACTIVE", reason = "busier"): Promise<string[][]> {
  const text = `select * from ops.tier_set(tier => $1, reason => $2${args === "" ? "" : `, ${args}`})`;
  return (await database.ops.query(text, [tier, reason])).rows.map((row) => [
    row.setting,
    row.before,
    row.after,
  ]);
}
const cohort = async (): Promise<Row> => (await rows("select * from app.tiers where tier = 'ACTIVE'"))[0]!;
const audits = () =>
  rows("select actor, subject, reason, before, after from ops.audit_log where action = 'tier_set'");

beforeEach(async () => {
  await turns.reset();
  await rows("update app.tiers set every = '6 hours', weight = 1 where tier = 'ACTIVE'");
  await rows("truncate ops.audit_log");
});

describe("it works", () => {
  test("only what is given changes, and is in the audit log", async () => {
    const before = await cohort();
    expect(await set("weight => 1.5, overlap => 'queue'")).toEqual([
      ["overlap", "skip", "queue"],
      ["weight", "1", "1.5"],
    ]);
    expect(await cohort()).toEqual({ ...before, weight: "1.5", overlap: "queue" });
    expect(await audits()).toMatchObject([
      {
        actor: "holdfast_ops",
        subject: "ACTIVE",
        reason: "busier",
        before: { weight: 1 },
        after: { weight: 1.5 },
      },
    ]);
  });

  test("policies, and what goes with them", async () => {
    expect(await set("missed => 'skip', skip_after => '1 hour'")).toEqual([
      ["missed", "latest", "skip"],
      ["skip_after", null, "01:00:00"],
    ]);
    expect(await set("missed => 'all', overlap => 'queue', missed_max => 3")).toEqual([
      ["missed", "skip", "all"],
      ["missed_max", "10", "3"],
      ["overlap", "skip", "queue"],
      ["skip_after", "01:00:00", null],
    ]);
  });

  test("dry_run shows it and changes nothing", async () => {
    const before = [await cohort(), await rows("select * from app.schedules order by 1, 2")];
    expect(await set("every => '1 hour', dry_run => true")).toEqual([["every", "06:00:00", "01:00:00"]]);
    expect([await cohort(), await rows("select * from app.schedules order by 1, 2")]).toEqual(before);
    expect(await audits()).toEqual([]);
  });

  /** All shards had their last turn when the period before said. */
  async function ticked(): Promise<void> {
    await rows(
      `update app.schedules as s set last_slot = n.slot, next_run_at = n.next_run_at
       from app.schedules as x cross join lateral app_private.slot_of(now(), '6 hours', x.shard) as n
       where s.tier = 'ACTIVE' and x.tier = s.tier and x.shard = s.shard`,
    );
  }

  test.each([
    ["1 hour", 6],
    ["18 hours", 18],
    ["7 days", 168],
  ])(
    "every %s: all shards are due at boundaries of it, none too soon, none later than twice the longer",
    async (every, longer) => {
      await ticked();
      await set(`every => '${every}'`);
      const faults = await rows(
        `select s.*, n.slot from app.schedules as s
       cross join lateral app_private.slot_of(s.next_run_at, $1, s.shard) as n
       where s.tier = 'ACTIVE' and (s.next_run_at <> to_timestamp(n.slot) or s.next_run_at <= now()
         or s.next_run_at < to_timestamp(s.last_slot) + $1::interval / 2
         or s.next_run_at > to_timestamp(s.last_slot) + 2 * $2 * interval '1 hour')`,
        [every, longer],
      );
      expect(faults).toEqual([]);
      expect(await turns.tick()).toEqual([]);
      // And the tick keeps to it.
      await rows("update app.schedules set next_run_at = now() where tier = 'ACTIVE'");
      await turns.tick();
      expect(
        await rows(
          `select from app.schedules as s cross join lateral app_private.slot_of(now(), $1, s.shard) as n
         where s.tier = 'ACTIVE' and s.next_run_at <> n.next_run_at`,
          [every],
        ),
      ).toEqual([]);
    },
  );

  test("what is due stays due, and other cohorts are as they were", async () => {
    await ticked();
    await rows("update app.schedules set next_run_at = now() - interval '1 minute' where shard = 5");
    const others = "select * from app.schedules where tier <> 'ACTIVE' order by 1, 2";
    const before = await rows(others);
    await set("every => '1 hour'");
    expect(
      await rows("select tier from app.schedules where tier = 'ACTIVE' and next_run_at < now()"),
    ).toHaveLength(1);
    expect(await rows(others)).toEqual(before);
  });
});

describe("it works twice", () => {
  test("the same again changes nothing and leaves no audit row", async () => {
    await set("weight => 3");
    expect(await set("weight => 3")).toEqual([]);
    expect(await set("")).toEqual([]);
    expect(await audits()).toHaveLength(1);
  });

  test("two people at once, while a tick is at a shard: one after the other", async () => {
    await rows("update app.schedules set next_run_at = now() + interval '1 hour' where tier = 'ACTIVE'");
    const held = { text: "select from app.schedules where tier = 'ACTIVE' and shard = 200" };
    const outcomes = await collide(database, held, [
      () => set("every => '1 hour'"),
      () => set("every => '2 hours'"),
    ]);
    expect(outcomes.map((each) => each.status)).toEqual(["fulfilled", "fulfilled"]);
    expect(await audits()).toHaveLength(2);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each([
    ["tier", "NOBODY", "weight => 2"],
    ["every", "ACTIVE", "every => '59 seconds'"],
    ["every", "ACTIVE", "every => '32 days'"],
    ["every", "ACTIVE", "every => '1 month'"],
    ["every", "ACTIVE", "every => '90.5 seconds'"],
    ["weight", "ACTIVE", "weight => 0"],
    ["missed", "ACTIVE", "missed => 'none'"],
    ["missed_max", "ACTIVE", "missed_max => 0"],
    ["skip_after", "ACTIVE", "missed => 'skip'"],
    ["skip_after", "ACTIVE", "skip_after => '1 hour'"],
    ["skip_after", "ACTIVE", "missed => 'skip', skip_after => '-1 hour'"],
    ["overlap", "ACTIVE", "overlap => 'both'"],
    ["overlap", "ACTIVE", "missed => 'all'"],
  ])("%s of %s: %s", async (argument, tier, args) => {
    const before = await cohort();
    expect(await raised(set(args, tier))).toEqual({
      name: "argument_invalid",
      sqlstate: "OP102",
      detail: { argument },
    });
    expect(await cohort()).toEqual(before);
    expect(await audits()).toEqual([]);
  });

  test("no reason", async () => {
    expect(await raised(set("weight => 2", "ACTIVE", " "))).toMatchObject({ sqlstate: "OP101" });
  });

  test.each(["service", "worker"] as const)("the %s", async (login) => {
    const call = database[login].pool.query("select ops.tier_set('ACTIVE', 'I want to', weight => 100)");
    expect(await raised(call)).toMatchObject({ sqlstate: "42501" });
  });
});
