// sql/app_private/slot_of.sql: which turn of a shard a moment belongs to.
import { expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];

const slotOf = async (at: string, every: string, shard: number) =>
  (
    await rows(
      `select slot::int, seconds::int, to_char(next_run_at at time zone 'UTC', 'HH24:MI:SS') as next,
              extract(epoch from next_run_at)::int as next_slot
       from app_private.slot_of($1, $2, $3::smallint)`,
      [at, every, shard],
    )
  )[0]!;

test.each([
  ["2026-11-20 12:00:00+00", "1 hour", 0, "13:00:00"],
  ["2026-11-20 12:59:59.999+00", "1 hour", 0, "13:00:00"],
  ["2026-11-20 12:00:00+00", "1 hour", 64, "12:15:00"],
  ["2026-11-20 12:15:00+00", "1 hour", 64, "13:15:00"],
  ["2026-11-20 12:14:59.999999+00", "1 hour", 64, "12:15:00"],
  ["2026-11-20 12:00:00+00", "1 hour", 255, "12:59:45"],
  ["2026-11-20 12:00:00+00", "3 hours", 0, "15:00:00"],
  ["2026-11-20 12:00:00+00", "6 hours", 128, "15:00:00"],
  ["2026-11-20 12:00:00+00", "24 hours", 255, "23:54:22"],
])("at %s, every %s, shard %i is next due at %s", async (at, every, shard, next) => {
  const slot = await slotOf(at, every, shard);
  expect(slot["next"]).toBe(next);
  expect(slot["next_slot"] - slot["slot"]).toBe(slot["seconds"]);
});

test("turns follow one another: each begins where the one before said", async () => {
  const before = await slotOf("2026-11-20 12:14:59.999+00", "1 hour", 64);
  const after = await slotOf("2026-11-20 12:15:00+00", "1 hour", 64);
  expect(after["slot"]).toBe(before["next_slot"]);
});

test("the moment lies in its turn, whatever the period, the shard and the moment", async () => {
  expect(
    await rows(
      `select n.*, p.every, s.shard, m.at
       from (values (interval '1 minute'), ('61 seconds'), ('7 hours'), ('31 days')) as p (every)
       cross join generate_series(0, 255, 5) as s (shard)
       cross join generate_series(timestamptz '1969-12-31', '2038-02-01', '777 days 7.7 seconds') as m (at)
       cross join lateral app_private.slot_of(m.at, p.every, s.shard::smallint) as n
       where not (to_timestamp(n.slot) <= m.at and m.at < n.next_run_at
         and extract(epoch from n.next_run_at) = n.slot + n.seconds)`,
    ),
  ).toEqual([]);
});

test("shards of a cohort are due at 256 moments, evenly apart", async () => {
  const due = await rows(
    `select distinct extract(epoch from n.next_run_at)::bigint % 25600 as second
     from generate_series(0, 255) as s (shard)
     cross join lateral app_private.slot_of(now(), '25600 seconds', s.shard::smallint) as n order by 1`,
  );
  expect(due.map((row) => Number(row["second"]))).toEqual(Array.from({ length: 256 }, (_, n) => n * 100));
});

test("a fraction of a second in a period is left out", async () => {
  expect((await slotOf("2026-11-20 12:00:00+00", "90.9 seconds", 3))["seconds"]).toBe(90);
});
