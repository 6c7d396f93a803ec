// sql/app_private/median_and_mad.sql: the middle of some days, and how far days are from it.
import { expect, test } from "vitest";
import { dayAfter } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

async function middle(
  costs: (number | string)[],
  from = 0,
  to = costs.length - 1,
): Promise<Record<string, number | null>> {
  const days = costs.map((_, index) => dayAfter("2026-01-01", index));
  const { rows } = await database.superuser.query(
    "select median::float8, mad::float8, points::int from app_private.median_and_mad($1::date[], $2::numeric[], $3, $4)",
    [days, costs, dayAfter("2026-01-01", from), dayAfter("2026-01-01", to)],
  );
  expect(rows).toHaveLength(1);
  return rows[0];
}

test.each([
  ["an odd count", [1, 9, 2, 8, 5], { median: 5, mad: 3, points: 5 }], // distances 4 4 3 3 0
  ["an even count: between the two in the middle", [1, 2, 3, 10], { median: 2.5, mad: 1, points: 4 }], // 1.5 0.5 0.5 7.5
  ["all alike", [7, 7, 7], { median: 7, mad: 0, points: 3 }],
  ["one", [4], { median: 4, mad: 0, points: 1 }],
  ["below zero", [-5, 5, 0], { median: 0, mad: 5, points: 3 }],
  ["one far out, which moves neither", [10, 11, 12, 13, 1_000_000], { median: 12, mad: 1, points: 5 }],
])("%s", async (_, costs, expected) => {
  expect(await middle(costs)).toEqual(expected);
});

test("only the days between the two, both included", async () => {
  expect(await middle([100, 1, 2, 3, 100], 1, 3)).toEqual({ median: 2, mad: 1, points: 3 });
});

test("no day at all", async () => {
  expect(await middle([1, 2, 3], 5, 9)).toEqual({ median: null, mad: null, points: 0 });
});
